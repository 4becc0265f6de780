"""Which names a wheel may use, and where the wheel specification puts them in the image.

Rules: PyPA specification "Binary distribution format", "Installing a wheel", and sysconfig's ``venv`` scheme for
``/opt/venv``; names that an OCI layer would read as whiteouts are barred (OCI image spec, layer.md).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from envbuild.layers.format import PYTHON, SITE, VENV
from envbuild.layers.refusal import damaged, invalid
from envbuild.oci.trees import too_long

RESERVED = frozenset(
    f"{VENV}/{name}" for name in ("pyvenv.cfg", "bin/python", "bin/python3", f"bin/{PYTHON}")
)
"""Files of the virtual environment itself, which no wheel may replace."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DRIVE = re.compile(r"[A-Za-z]:")


def check_name(wheel: str, name: str) -> None:
    """Refuse a name that could leave its folder or mean something else to another reader."""
    if _CONTROL.search(name):
        raise damaged(
            wheel, "wheel-name-control", f"entry {name!r} has a NUL or control character in its name"
        )
    if "\\" in name or _DRIVE.match(name):
        raise damaged(wheel, "wheel-windows-path", f"entry {name!r} has a drive letter or a backslash")
    if name.startswith("/"):
        raise damaged(wheel, "wheel-absolute-path", f"entry {name!r} is an absolute path")
    parts = name.removesuffix("/").split("/")
    if ".." in parts:
        raise damaged(wheel, "wheel-parent-path", f"entry {name!r} leaves the folder that it is installed in")
    if "" in parts or "." in parts:
        raise damaged(wheel, "wheel-name-ambiguous", f"entry {name!r} can be spelt in another way")
    if any(part.startswith(".wh.") for part in parts):
        raise damaged(wheel, "wheel-whiteout", f"entry {name!r} would delete a file of another layer")
    if len(name.encode()) > 3072 or any(len(part.encode()) > 255 for part in parts):
        raise damaged(wheel, "wheel-name-length", f"entry {name[:80]!r}… is longer than a file system takes")
    if reason := too_long(name.removesuffix("/")):
        raise damaged(wheel, "wheel-name-length", f"entry {name[:80]!r}… {reason}")


def check_tree(wheel: str, names: Iterable[str]) -> None:
    """Refuse duplicates, names that differ by case or normalisation only, and a file used as a directory.

    Args:
        names: every name; a directory ends with ``/``.
    """
    folded: dict[str, str] = {}
    parents: set[str] = set()
    for name in names:
        other = folded.setdefault(_folded(name), name)
        if other is not name:
            if other == name:
                raise damaged(wheel, "wheel-duplicate", f"entry {name!r} is there twice")
            raise damaged(wheel, "wheel-case-clash", f"entries {other!r} and {name!r} differ by case only")
        parent = name.removesuffix("/").rpartition("/")[0]
        while parent and parent not in parents:
            parents.add(parent)
            parent = parent.rpartition("/")[0]
    for parent in sorted(parents):
        if folded.get(_folded(parent)) == parent:
            raise damaged(wheel, "wheel-file-as-directory", f"entry {parent!r} is a file and a directory")


def _folded(name: str) -> str:
    return (name if name.isascii() else unicodedata.normalize("NFC", name)).casefold()


def target(wheel: str, name: str, *, data_dir: str, distribution: str) -> str:
    """Where an entry goes, as a path below ``/``.

    Args:
        wheel: for messages.
        name: the entry's checked name.
        data_dir: the wheel's ``{name}-{version}.data``.
        distribution: the project's name, which the headers' folder has.
    """
    if not name.startswith(data_dir + "/"):
        return f"{SITE}/{name}"
    scheme, _, rest = name[len(data_dir) + 1 :].partition("/")
    folders = {
        "purelib": SITE,
        "platlib": SITE,
        "data": VENV,
        "scripts": f"{VENV}/bin",
        "headers": f"{VENV}/include/site/{PYTHON}/{distribution}",
    }
    if scheme not in folders or not rest:
        raise invalid(
            wheel, "wheel-data-scheme", f"entry {name!r} lies in no known scheme of the .data folder"
        )
    path = f"{folders[scheme]}/{rest}"
    if path in RESERVED or f"{path}/".startswith(f"{VENV}/lib64/"):
        raise damaged(wheel, "wheel-reserved-path", f"entry {name!r} would replace a part of the environment")
    return path
