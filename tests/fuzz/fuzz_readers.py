"""Every reader, by name."""

from __future__ import annotations

import fuzz_conda
import fuzz_debian
import fuzz_images
import fuzz_local
import fuzz_network
import fuzz_proofs
import fuzz_python
from fuzz_engine import Reader

_PARTS = (fuzz_python, fuzz_debian, fuzz_conda, fuzz_local, fuzz_network, fuzz_images, fuzz_proofs)
READERS: dict[str, Reader] = {reader.name: reader for part in _PARTS for reader in part.READERS}
