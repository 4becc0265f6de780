"""Folders with other people's owners and modes. Called through :meth:`Sandbox.call`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path


def remove(arguments: Mapping[str, object], _advance: Callable[[int], None]) -> None:
    """Remove the file or tree ``path``; fine if there is none. Folders without permissions are opened first."""
    path = Path(str(arguments["path"]))
    if path.is_dir() and not path.is_symlink():
        for folder, names, _ in os.walk(path):
            for name in names:
                inner = os.path.join(folder, name)
                if not os.path.islink(inner) and not os.access(inner, os.R_OK | os.W_OK | os.X_OK):
                    os.chmod(inner, 0o700)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
