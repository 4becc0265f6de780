"""The makers of wheels and packages, which lie in the folders of other tests."""

from __future__ import annotations

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
for _name in ("layers", "base"):
    if str(_TESTS / _name) not in sys.path:
        sys.path.append(str(_TESTS / _name))
