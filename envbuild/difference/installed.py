"""What is installed: in a folder of this machine, or in an image, where a container lists it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import msgspec

from envbuild.difference import lister
from envbuild.difference.inventory import Fact, Form, Inventory, Package
from envbuild.engine import Engine, ImageRef, RunCommand, Streams
from envbuild.errors import EnvbuildError, Exit
from envbuild.native.objects import gpu_code
from envbuild.progress import Progress

REF_LABEL = "io.envbuild.ref"
NO_PYTHON = 86
_TIMEOUT = 600.0
"""Seconds for a container to list what it has; reading every file of 6 GB takes some 30."""

_START = f"""\
for python in python python3 /opt/venv/bin/python /opt/conda/bin/python /usr/local/bin/python3 /usr/bin/python3; do
    if command -v "$python" > /dev/null 2>&1; then exec "$python" -I -c "$1" "$2"; fi
done
exit {NO_PYTHON}
"""
_NO_SHELL = re.compile(r"""["`]sh["`]|cannot run sh:""")
"""What Docker, crun and runc, and the sandbox say of a program that they cannot start."""
_VERSION = re.compile(r"^version(?:_info)?\s*=\s*(\d+\.\d+(?:\.\d+)?)", re.MULTILINE)


class _Python(msgspec.Struct, frozen=True):
    name: str
    version: str
    files: dict[str, str] | None


class _Conda(msgspec.Struct, frozen=True):
    name: str
    version: str
    build: str | None
    sha256: str | None


class _Debian(msgspec.Struct, frozen=True):
    name: str
    version: str


class _Listing(msgspec.Struct, frozen=True):
    """What :mod:`envbuild.difference.lister` prints."""

    format: Literal[1]
    python: list[_Python]
    conda: list[_Conda]
    debian: list[_Debian]
    operators: dict[str, list[str]]
    version: str


def of_folder(label: str, path: Path, *, read_all: bool = False) -> Inventory:
    """A conda environment, a virtual environment, or a site-packages folder.

    Args:
        label: what the caller wrote.
        path: the folder.
        read_all: hash every file instead of believing RECORD.

    Raises:
        EnvbuildError: exit 3: there is no such folder (``no-such-folder``), or it is none of these
            (``not-an-environment``).
    """
    if not path.is_dir():
        raise EnvbuildError(
            "no-such-folder",
            f"there is no folder {path}",
            where=label,
            hint="give the folder of a conda or virtual environment, or a site-packages; a recipe is NAME:TAG",
            exit=Exit.INPUT,
        )
    place = Path(os.path.normpath(path.absolute()))
    prefix, sites = _environment(place)
    conda = (prefix / "conda-meta").is_dir()
    if not conda and not any(site.glob("*.dist-info") for site in sites):
        raise EnvbuildError(
            "not-an-environment",
            f"{path} is no environment: it has no conda-meta, no pyvenv.cfg and no site-packages",
            where=label,
            hint=_nearby(place),
            exit=Exit.INPUT,
        )
    found = lister.listing(
        sites=[str(site) for site in sites],
        prefix=str(prefix),
        base=str(prefix),
        root=None,
        gpu_code=gpu_code,
        read_all=read_all,
    )
    form: Form = "conda environment" if conda else "Python environment"
    version = None if conda else _python_of(prefix, sites)
    return replace(_inventory(label, form, found, version), prefix=prefix)


def of_image(
    label: str,
    engine: Engine,
    image: ImageRef,
    *,
    progress: Progress,
    read_all: bool = False,
    size: int | None = None,
) -> Inventory:
    """An image as it is: its own Python lists what it holds, in a container without a network.

    Nothing is mounted, so that a remote engine will do. The container is read as root.

    Args:
        label: what the caller wrote.
        engine: has the image.
        image: which.
        progress: told how long it takes.
        read_all: hash every file instead of believing RECORD.
        size: the image's bytes, as the engine counts them.

    Raises:
        EnvbuildError: exit 3: ``image-without-python``; exit 7: what the engine raises, ``image-not-listed``.
    """
    folder = resources.files("envbuild")
    code = folder.joinpath("difference/lister.py").read_text(encoding="utf-8")
    objects = folder.joinpath("native/objects.py").read_text(encoding="utf-8")
    command = RunCommand(
        argv=("sh", "-c", _START, "sh", code, objects),
        env={"ENVBUILD_READ_ALL": "1" if read_all else "0"},
        user="0",
        workdir="/",
        network=False,
        entrypoint=False,
        timeout=_TIMEOUT,
    )
    with TemporaryFile() as out, TemporaryFile() as err, Path(os.devnull).open("rb") as nothing:
        streams = Streams(stdin=nothing.fileno(), stdout=out.fileno(), stderr=err.fileno())
        with progress.task(f"List {label}", unit="packages"):
            status = _run(engine, image, command, streams, label)
        out.seek(0)
        err.seek(0)
        found = _parse(out.read(), err.read(), status, label)
    inventory = _inventory(label, "image", found, str(found["version"]))
    return replace(
        inventory,
        ref=dict(_labels(image)).get(REF_LABEL),
        digest=image.config,
        layers=image.diff_ids,
        size=size,
    )


def _run(engine: Engine, image: ImageRef, command: RunCommand, streams: Streams, label: str) -> int:
    try:
        return engine.run(image, command, streams)
    except EnvbuildError as error:
        if _NO_SHELL.search(error.message):
            raise _no_python(label) from error
        raise


def _parse(out: bytes, err: bytes, status: int, label: str) -> dict[str, Any]:
    if status in (NO_PYTHON, 126, 127):
        raise _no_python(label)
    try:
        found = msgspec.json.decode(
            out.strip().rpartition(b"\n")[2], type=_Listing
        )  # others may print before it
        if status == 0:
            return msgspec.to_builtins(found)  # type: ignore[no-any-return]  # an object, as it came
    except (ValueError, RecursionError):
        pass
    told = err.decode(errors="replace").strip().splitlines()
    raise EnvbuildError(
        "image-not-listed",
        f"the Python of {label} did not list what it has (status {status})"
        + (f": {told[-1]}" if told else ""),
        where=label,
        hint="envbuild asks it with `python -I -c …`, which Python 3.8 and newer take; `docker run IMAGE python "
        "--version` shows which it is",
        exit=Exit.ENGINE,
    )


def _no_python(label: str) -> EnvbuildError:
    return EnvbuildError(
        "image-without-python",
        f"{label} has no Python that `sh` finds, so nothing can list what it holds",
        where=label,
        hint="compare an image that has Python, or a folder: `docker cp` brings one out of a container",
        exit=Exit.INPUT,
    )


def _labels(image: ImageRef) -> Mapping[str, str]:
    labels = image.settings.get("Labels")
    return {str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {}


def _inventory(label: str, form: Form, found: Mapping[str, Any], version: str | None) -> Inventory:
    packages = [
        *(
            Package(ecosystem="python", name=item["name"], version=item["version"], files=item["files"])
            for item in found["python"]
        ),
        *(
            Package(
                ecosystem="conda",
                name=item["name"],
                version=item["version"],
                build=item["build"],
                sha256=item["sha256"],
            )
            for item in found["conda"]
        ),
        *(
            Package(ecosystem="debian", name=item["name"], version=item["version"])
            for item in found["debian"]
        ),
    ]
    facts: dict[str, tuple[Fact, ...]] = {}
    operators: Mapping[str, list[str]] = found["operators"]
    if operators:
        facts["operators"] = (Fact(value=" ".join(sorted(operators)), source="deepspeed/ops"),)
        facts["architectures"] = tuple(
            Fact(value=" ".join(words), source=f"GPU code in {name}")
            for name, words in sorted(operators.items())
            if words
        )
    if version:
        facts["python"] = (Fact(value=version, source="the interpreter"),)
    return Inventory(label=label, form=form, ref=None, packages=tuple(packages), facts=facts)


def _environment(place: Path) -> tuple[Path, list[Path]]:
    """The environment's folder and its site-packages, of either of the two."""
    if place.name in ("site-packages", "dist-packages") and place.parent.parent.name in ("lib", "lib64"):
        return place.parents[2], [place]
    sites = sorted({*place.glob("lib/python3.*/site-packages"), *place.glob("lib/python3/dist-packages")})
    if not sites and any(place.glob("*.dist-info")):
        return place, [place]  # what `pip install --target` makes
    return place, [site for site in sites if site.is_dir()]


def _python_of(prefix: Path, sites: Sequence[Path]) -> str | None:
    text = lister.read_text(str(prefix / "pyvenv.cfg")) or ""
    match = _VERSION.search(text)
    if match:
        return match[1]
    names = [site.parent.name.removeprefix("python") for site in sites]
    return names[0] if names and names[0].count(".") == 1 else None


def _nearby(place: Path) -> str:
    """An environment beside, in or above the folder that was given, for the hint."""
    for folder in (*place.parents[:3], *sorted(p for p in place.glob("*") if p.is_dir())[:50]):
        if (folder / "conda-meta").is_dir() or (folder / "pyvenv.cfg").is_file():
            return f"did you mean {folder}?"
    return "give the folder that holds conda-meta/ (conda), pyvenv.cfg (venv) or *.dist-info/ (site-packages)"
