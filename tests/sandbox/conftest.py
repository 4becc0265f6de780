"""A tiny root filesystem made of this machine's own programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

# fmt: off
PROGRAMS = [
    "sh", "cat", "id", "ls", "sleep", "env", "touch", "mkdir", "rm", "rmdir", "stat", "chown", "chmod", "hostname",
    "readlink", "mount", "mknod", "dd", "mv", "ln", "sed", "uname",
]
# fmt: on


def make_root(root: Path) -> Path:
    """Copy programs and the libraries that they need to ``root``."""
    for folder in ("usr/bin", "usr/lib", "usr/lib64", "etc", "proc", "dev", "tmp"):
        (root / folder).mkdir(parents=True)
    for link in ("bin", "lib", "lib64"):
        (root / link).symlink_to(f"usr/{link}")
    wanted: set[str] = set()
    for program in PROGRAMS:
        path = shutil.which(program)
        assert path is not None, program
        shutil.copy(os.path.realpath(path), root / "usr/bin" / program)
        linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        wanted |= {word for word in linked.split() if word.startswith("/")}
    for library in wanted:
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(library), target)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nguest:x:1000:1000::/:/bin/sh\n")
    return root


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("root"))
