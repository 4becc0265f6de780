"""Which names a wheel may use, and where the wheel specification puts them in the image.

Rules: PyPA specification "Binary distribution format", "Installing a wheel", and sysconfig's ``venv`` scheme for
``/opt/venv``; names that an OCI layer would read as whiteouts are barred (OCI image spec, layer.md).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from envbuild.errors import EnvbuildError
from envbuild.layers.files import venv_entries
from envbuild.layers.format import PYTHON, SITE, VENV
from envbuild.layers.refusal import damaged, invalid
from envbuild.oci.trees import too_long

_FRAME = venv_entries("3.11")
_ACTIVATION = ("activate", "activate.csh", "activate.fish", "activate.ps1")
_RESERVED = frozenset(
    [entry.path.casefold() for entry in _FRAME if entry.kind != "dir"]
    + [f"{VENV}/bin/{name}" for name in _ACTIVATION]
)
"""Files and links of the virtual environment itself, case-folded: no wheel may replace one or lie below it."""

_FOLDERS = frozenset(
    folder
    for entry in _FRAME
    for parts in (entry.path.split("/"),)
    for folder in ("/".join(parts[:count]) for count in range(1, len(parts) + (entry.kind == "dir")))
)
"""The folders of the virtual environment itself: no wheel may have a file of such a name."""

INSTALLERS_OWN = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "RECORD.jws", "RECORD.p7s")
"""What only an installer writes into a ``.dist-info`` folder."""

_OWN = frozenset(name.casefold() for name in INSTALLERS_OWN)
_DEPTH = SITE.count("/") + 1

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, line separators, and what turns the direction of text around."""

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
    if reason := too_long(name.removesuffix("/")):
        raise damaged(wheel, "wheel-name-length", f"entry {name[:80]!r}… {reason}")


def check_tree(wheel: str, names: Iterable[str]) -> None:
    """Refuse duplicates, names that differ by Unicode's normalisation only, and a file used as a directory.

    Names that differ by case are two files on Linux.

    Args:
        names: every name; a directory ends with ``/``.
    """
    forms: dict[str, str] = {}
    folders: dict[str, str] = {}
    parents: set[str] = set()
    for name in names:
        other = forms.setdefault(normal(name), name)
        if other is not name:
            if other == name:
                raise damaged(wheel, "wheel-duplicate", f"entry {name!r} is there twice")
            raise _twins(wheel, other, name)
        parent = name.removesuffix("/").rpartition("/")[0]
        while parent and parent not in parents:
            parents.add(parent)
            if folders.setdefault(normal(parent), parent) != parent:
                raise _twins(wheel, folders[normal(parent)], parent)
            parent = parent.rpartition("/")[0]
    for parent in sorted(parents):
        if normal(parent) in forms:
            raise damaged(wheel, "wheel-file-as-directory", f"entry {parent!r} is a file and a directory")


def _twins(wheel: str, one: str, other: str) -> EnvbuildError:
    text = f"{one!a} and {other!a} are one name in two Unicode forms"
    return damaged(wheel, "wheel-name-twins", text)


def normal(name: str) -> str:
    """The name in Unicode's composed form: two names that look alike have one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def check_place(wheel: str, path: str, what: str) -> None:
    """Refuse a file that would stand where the environment has its own, in any case, or below such a file.

    Args:
        wheel: for messages.
        path: where the file goes, below ``/``.
        what: how to call it: ``entry 'demo/a.py'``.
    """
    folded = normal(path).casefold()
    ways = folded.split("/")
    taken = (
        folded in _FOLDERS
        or any("/".join(ways[:count]) in _RESERVED for count in range(1, len(ways) + 1))
        or ways[-1] == "__pycache__"
        or _is_installers(ways)
    )
    if taken:
        raise damaged(wheel, "wheel-reserved-path", f"{what} would replace a part of the environment")


def _is_installers(ways: list[str]) -> bool:
    """Whether only an installer writes a path of these parts (folded). Vendored ``.dist-info`` folders lie deeper."""
    inner = ways[_DEPTH:] if "/".join(ways[:_DEPTH]) == SITE else []
    return len(inner) > 1 and inner[0].endswith(".dist-info") and inner[1] in _OWN


def target(wheel: str, name: str, *, data_dir: str, distribution: str) -> str:
    """Where an entry goes, as a path below ``/``.

    Args:
        wheel: for messages.
        name: the entry's checked name.
        data_dir: the wheel's ``{name}-{version}.data``.
        distribution: the project's name, which the headers' folder has.
    """
    if not name.startswith(data_dir + "/"):
        check_place(wheel, f"{SITE}/{name}", f"entry {name!r}")
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
    check_place(wheel, path, f"entry {name!r}")
    return path
