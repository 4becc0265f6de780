"""A tiny root filesystem made of this machine's own programs, and the unprivileged user's side."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import envbuild
from envbuild.sandbox import Sandbox

PROGRAMS = "sh cat id ls sleep env touch mkdir rm rmdir stat chown chmod hostname readlink mount dd mv ln sed uname".split()
USER = "envbuild-test"


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


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    return Sandbox.detect()


@dataclass(frozen=True)
class Unprivileged:
    """An ordinary user with subordinate ids, and a Python that this user may start."""

    name: str
    python: str
    home: Path

    def run(self, code: str, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run Python code as the user; the environment is fresh."""
        packages = [
            str(Path(envbuild.__file__).parents[1]),
            *(p for p in sys.path if p.endswith("-packages")),
        ]
        command = [
            shutil.which("setpriv") or "setpriv",
            f"--reuid={self.name}",
            f"--regid={self.name}",
            "--init-groups",
        ]
        return subprocess.run(
            [*command, self.python, "-c", code, *arguments],
            env={
                "PATH": path or os.defpath + ":/usr/sbin",
                "PYTHONPATH": ":".join(packages),
                "HOME": str(self.home),
            },
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="session")
def unprivileged() -> Unprivileged:
    """Needs root, to make the user; Debian's packages uidmap and python3."""
    assert os.getuid() == 0, "the tests make a user, so they need root"
    assert shutil.which("newuidmap"), "install uidmap"
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--create-home", USER], check=True)
        entry = pwd.getpwnam(USER)
    if USER not in Path("/etc/subuid").read_text():
        ranges = ["--add-subuids", "700000-765535", "--add-subgids", "700000-765535"]
        subprocess.run(["usermod", *ranges, USER], check=True)
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3.11"):
        tried = subprocess.run(
            ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", python, "-c", ""],
            check=False,
            capture_output=True,
        )
        if tried.returncode == 0:
            return Unprivileged(name=USER, python=python, home=Path(entry.pw_dir))
    raise AssertionError(f"{USER} can start no Python 3.11: install Debian's python3")
