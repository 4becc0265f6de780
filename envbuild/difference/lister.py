"""List what is installed, where it is installed. It runs INSIDE images: the standard library only, Python 3.8 or newer.

``python -I -c <this file> [<envbuild/native/objects.py>]`` prints one JSON object. envbuild's own process uses the same
functions for folders of this machine and for wheels, so that one rule says what the files of a package are:

- RECORD's rows (Python packaging specification, "Recording installed projects"), by place: relative to
  site-packages, or ``<data>/…``, ``<scripts>/…``, ``<headers>/…`` for what lies elsewhere in the environment;
- without what an installer writes itself: byte code, RECORD and its signatures, INSTALLER, REQUESTED,
  direct_url.json, uv_cache.json, uv_build.json, and the commands that entry_points.txt declares;
- a script counts without its first line where that names an interpreter.

It is one file, and a long one, because it travels into a container as one argument.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import json
import os
import re
import sys
import types
import zipfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

INSTALLERS_OWN = frozenset(
    (
        "RECORD",
        "RECORD.jws",
        "RECORD.p7s",
        "INSTALLER",
        "REQUESTED",
        "direct_url.json",
        "uv_cache.json",
        "uv_build.json",
    )
)
OPERATOR = re.compile(r"([a-z0-9_]+)_op(\.[^/]*)?\.so")
CHUNK = 1 << 20


def canonical(name: str) -> str:
    """A Python package's name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def hashed(data: bytes) -> str:
    """RECORD's spelling of the sha256 of bytes."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def hashed_file(path: str) -> str | None:
    """RECORD's spelling of the sha256 of a file; None where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for data in iter(lambda: stream.read(CHUNK), b""):
                digest.update(data)
    except (OSError, ValueError):  # a NUL in its path is the latter
        return None
    return "sha256=" + base64.urlsafe_b64encode(digest.digest()).decode().rstrip("=")


def without_shebang(data: bytes) -> bytes:
    """A script's content without the lines that name its interpreter.

    Where the path is long or has a space, conda writes two lines that the shell and Python both read, pip three.
    """
    if data.startswith(b"#!/bin/sh\n'''exec' "):
        lines = data.split(b"\n", 3)
        return b"\n".join(lines[2:]) if lines[1].endswith(b"'''") else lines[-1]
    if data.startswith(b"#!") and b"python" in data.split(b"\n", 1)[0]:
        return data.partition(b"\n")[2]
    return data


def commands(entry_points: str) -> set[str]:
    """The names that entry_points.txt makes scripts of."""
    parser = configparser.ConfigParser(delimiters=("=",), strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as configparser's documentation has it
    try:
        parser.read_string(entry_points)
    except configparser.Error:
        return set()
    sections = [name for name in ("console_scripts", "gui_scripts") if parser.has_section(name)]
    return {name.strip() for section in sections for name in parser.options(section)}


def launched(script: str, launchers: Collection[str]) -> bool:
    """Whether an installer made this script; pip makes ``pip3.11`` of ``pip`` besides, after its own Python."""
    return script in launchers or re.sub(r"^(pip|easy_install)-?3(\.\d+)?$", r"\1", script) in launchers


def rows(record: str) -> list[tuple[str, str]]:
    """Path and hash of RECORD's rows; those without a hash have an empty one. What is no CSV ends the list."""
    found = []
    try:
        for row in csv.reader(io.StringIO(record)):
            if len(row) == 3:
                found.append((row[0], row[1]))
    except csv.Error:
        pass
    return found


def counts(folder: str, base: str, info: str) -> bool:
    """Whether a file is the package's own and not the installer's."""
    if "__pycache__" in folder.split("/") or base.endswith(".pyc"):
        return False
    return not (folder == info and base in INSTALLERS_OWN)


def installed_files(site: str, prefix: str, info: str, *, read_all: bool = False) -> dict[str, str] | None:
    """The files of one installed distribution, by place; None where it has no RECORD.

    ``site`` is the folder that has ``info`` (its .dist-info); ``prefix`` the environment. With ``read_all`` the files
    are hashed, otherwise RECORD is believed; a file that is gone has the hash "missing" then.
    """
    text = read_text(os.path.join(site, info, "RECORD"))
    if text is None:
        return None
    launchers = commands(read_text(os.path.join(site, info, "entry_points.txt")) or "")
    found = {}
    for name, recorded in rows(text):
        path = os.path.normpath(os.path.join(site, name))
        inside = inner(path, site)
        if inside is not None:
            folder, _, base = inside.rpartition("/")
            if not counts(folder, base, info):
                continue
            place = inside
        else:
            place = outside(path, prefix)
            if place.endswith(".pyc") or (place.startswith("<scripts>/") and launched(place[10:], launchers)):
                continue
        if place.startswith("<scripts>/"):
            found[place] = script_hash(path)
        else:
            found[place] = (hashed_file(path) or "missing") if read_all else recorded
    return found


def outside(path: str, prefix: str) -> str:
    """The place of a file that is not in site-packages."""
    inside = inner(path, prefix)
    if inside is None:
        return path
    if inside.startswith("bin/"):
        return "<scripts>/" + inside[4:]
    match = re.match(r"include/(?:site/)?python[0-9.]+/(.+)", inside)
    return "<headers>/" + match.group(1) if match else "<data>/" + inside


def home_of(site: str) -> str | None:
    """The environment that a site-packages folder belongs to; None where it lies in no environment."""
    match = re.fullmatch(r"(.+)/lib/python3[^/]*/(site|dist)-packages", site)
    return match.group(1) if match else None


def inner(path: str, folder: str) -> str | None:
    """``path`` relative to ``folder`` if it lies in it."""
    start = folder.rstrip("/") + "/"
    return path[len(start) :] if path.startswith(start) else None


def script_hash(path: str) -> str:
    """The hash of a script without its first line; of a program as it is."""
    try:
        with open(path, "rb") as stream:
            if stream.read(2) == b"#!":
                stream.seek(0)
                return hashed(without_shebang(stream.read()))
    except (OSError, ValueError):
        return "missing"
    return hashed_file(path) or "missing"


def wheel_files(path: str) -> dict[str, str]:
    """The files that a wheel installs, by place, as :func:`installed_files` gives them.

    A wheel that cannot be read raises OSError, ValueError, KeyError or zipfile.BadZipFile.
    """
    with zipfile.ZipFile(path) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        info = min(top for top in tops if top.endswith(".dist-info"))
        data = info[: -len(".dist-info")] + ".data/"
        found = {}
        for name, recorded in rows(archive.read(info + "/RECORD").decode()):
            scheme, rest = ("", name)
            if name.startswith(data):
                scheme, _, rest = name[len(data) :].partition("/")
            folder, _, base = rest.rpartition("/")
            if not base or not counts(folder, base, info):
                continue
            if scheme == "scripts" and (content := archive.read(name))[:2] == b"#!":
                found[f"<scripts>/{rest}"] = hashed(without_shebang(content))
            elif scheme == "headers":
                found[f"<headers>/{info.partition('-')[0]}/{rest}"] = recorded
            else:
                found[rest if scheme in ("", "purelib", "platlib") else f"<{scheme}>/{rest}"] = recorded
        return found


def python_packages(
    site: str, prefix: str, leave: Collection[str], *, read_all: bool
) -> list[dict[str, Any]]:
    """The distributions in one site-packages folder; ``leave``: .dist-info folders that something else owns."""
    found = []
    for info in sorted(os.listdir(site)):
        if not info.endswith(".dist-info") or info in leave:
            continue
        head = headers(read_text(os.path.join(site, info, "METADATA")) or "")
        if "name" in head and "version" in head:
            files = installed_files(site, prefix, info, read_all=read_all)
            found.append({"name": canonical(head["name"]), "version": head["version"], "files": files})
    return found


def headers(text: str) -> dict[str, str]:
    """The first value of each field of a METADATA file or a paragraph of dpkg's, by its name in lower case."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip():
            break
        name, colon, value = line.partition(":")
        if colon and not line[0].isspace():
            found.setdefault(name.lower(), value.strip())
    return found


def conda_packages(prefix: str) -> tuple[list[dict[str, Any]], set[str]]:
    """What conda-meta says is installed in ``prefix``, and the .dist-info folders that belong to it."""
    folder = os.path.join(prefix, "conda-meta")
    found: list[dict[str, Any]] = []
    owned: set[str] = set()
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if not name.endswith(".json"):
            continue
        try:
            record = json.loads(read_text(os.path.join(folder, name)) or "")
            package = {key: record.get(key) for key in ("name", "version", "build", "sha256")}
        except (ValueError, AttributeError, RecursionError):
            continue
        files = record.get("files")
        if not all(isinstance(package[key], str) for key in ("name", "version")):
            continue
        found.append({key: value if isinstance(value, str) else None for key, value in package.items()})
        owned.update(
            part
            for file in (files if isinstance(files, list) else ())
            for part in str(file).split("/")
            if part.endswith(".dist-info")
        )
    return found, owned


def debian_packages(root: str) -> list[dict[str, Any]]:
    """What dpkg says is installed below ``root``."""
    status = os.path.join(root, "var/lib/dpkg/status")
    more = os.path.join(root, "var/lib/dpkg/status.d")
    texts = [read_text(status) or ""]
    texts += (
        [read_text(os.path.join(more, name)) or "" for name in sorted(os.listdir(more))]
        if os.path.isdir(more)
        else []
    )
    found = []
    for paragraph in re.split(r"\n\s*\n", "\n\n".join(texts)):
        head = headers(paragraph.strip())
        if (
            "package" in head
            and "version" in head
            and head.get("status", "install ok installed").endswith(" installed")
        ):
            found.append({"name": head["package"], "version": head["version"]})
    return found


def operators(site: str, gpu_code: Callable[[bytes], Any] | None) -> dict[str, list[str]]:
    """DeepSpeed's compiled operators: name → the GPU code in it, in the words of TORCH_CUDA_ARCH_LIST.

    ``gpu_code`` reads an ELF object (envbuild.native.objects); None where it cannot be had: the list is empty then.
    """
    found: dict[str, list[str]] = {}
    for folder, names in folders(os.path.join(site, "deepspeed", "ops")):
        for name in names:
            match = OPERATOR.fullmatch(name)
            if not match:
                continue
            try:
                with open(os.path.join(folder, name), "rb") as stream:
                    code = gpu_code(stream.read()) if gpu_code else None
            except (OSError, ValueError):
                code = None
            found[match.group(1)] = words(code.cubin, code.ptx) if code else []
    return found


def folders(top: str) -> Iterator[tuple[str, list[str]]]:
    """Every folder below and with ``top``, and its names. ``os.walk`` would call itself for each folder."""
    pending = [top]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except OSError:
            continue
        yield folder, [name for name, is_folder in found if not is_folder]
        pending += [os.path.join(folder, name) for name, is_folder in reversed(found) if is_folder]


def words(cubin: Sequence[int], ptx: Sequence[int]) -> list[str]:
    """CUDA's numbers of architectures as TORCH_CUDA_ARCH_LIST has them: 90 and PTX for 90 is ``9.0+PTX``."""
    return [f"{n // 10}.{n % 10}{'+PTX' if n in ptx else ''}" for n in sorted({*cubin, *ptx})]


def read_text(path: str) -> str | None:
    """A file's text; None where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as stream:
            return stream.read()
    except OSError:
        return None


def listing(
    *,
    sites: Sequence[str],
    prefix: str,
    base: str,
    root: str | None,
    gpu_code: Callable[[bytes], Any] | None,
    read_all: bool,
) -> dict[str, Any]:
    """Everything, as the JSON object that this program prints."""
    conda: list[dict[str, Any]] = []
    python: list[dict[str, Any]] = []
    owned: dict[str, set[str]] = {}
    for folder in dict.fromkeys([prefix, base]):
        packages, owned[folder] = conda_packages(folder)
        conda += packages
    compiled: dict[str, list[str]] = {}
    seen: set[str] = set()
    for site in sites:
        home = home_of(site) or prefix
        for package in python_packages(site, home, owned.get(home, ()), read_all=read_all):
            if package["name"] not in seen:  # the first on sys.path is what Python imports
                seen.add(package["name"])
                python.append(package)
        compiled.update(operators(site, gpu_code))
    debian = debian_packages(root) if root else []
    return {"format": 1, "python": python, "conda": conda, "debian": debian, "operators": compiled}


def main() -> None:
    """List the environment of the running interpreter."""
    gpu_code = None
    if len(sys.argv) > 1:
        module = types.ModuleType("objects")
        sys.modules["objects"] = module
        try:
            exec(compile(sys.argv[1], "objects.py", "exec"), module.__dict__)  # noqa: S102  # envbuild's own file
            gpu_code = module.gpu_code
        except Exception:  # an older Python: what the operators hold is then not told
            gpu_code = None
    sites = [path for path in sys.path if path.endswith("-packages") and os.path.isdir(path)]
    found = listing(
        sites=sites,
        prefix=sys.prefix,
        base=sys.base_prefix,
        root="/",
        gpu_code=gpu_code,
        read_all=os.environ.get("ENVBUILD_READ_ALL") == "1",
    )
    found["version"] = ".".join(map(str, sys.version_info[:3]))
    found["prefix"] = sys.prefix
    json.dump(found, sys.stdout, separators=(",", ":"))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
