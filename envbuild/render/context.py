"""The folder that a rendered Dockerfile is built in: its files, and what the host fetched, as named contexts.

Artifacts are hard links into the store (copies where that is on another file system): nothing is written twice.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.image.plan import parts_of
from envbuild.image.programs import image_facts, programs
from envbuild.layers.format import MTIME
from envbuild.lock import CondaLock, Lock
from envbuild.lock.conda.model import CondaPackage
from envbuild.lock.model import Artifact
from envbuild.recipe import Recipe
from envbuild.render.dockerfile import build_packages
from envbuild.render.pins import pins_for
from envbuild.store import Store

ARTIFACTS = "artifacts"
"""The named context with what the host fetched: ``wheels/`` and ``conda/``."""

PROGRAMS = "programs"
"""The named context with envbuild's own programs, at their places below ``/``."""

_IMAGE_ARGUMENT = re.compile(r"ARG ([A-Z][A-Z0-9_]*)=(\S+)")
_USED = re.compile(r"\$\{?([A-Z][A-Z0-9_]*)\}?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_SECRET = re.compile(r"--mount=type=secret,\S*?\bid=([A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a rendered Dockerfile takes from the host.

    Args:
        dockerfile: its path among the rendered files.
        images: the build arguments that a stage starts from, with their defaults (``name:tag@sha256:…``).
        secrets: the ids of the secrets that its steps mount.
        artifacts: the files of the Python lock that the requirements beside it name.
        conda: the conda packages that the explicit list beside it names.
    """

    dockerfile: str
    images: Mapping[str, str]
    secrets: tuple[str, ...]
    artifacts: tuple[Artifact, ...]
    conda: tuple[CondaPackage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildFolder:
    """What was written: the build context, the Dockerfile's name in it, and the named contexts."""

    folder: Path
    dockerfile: str
    contexts: Mapping[str, Path]


def needs_of(recipe: Recipe, lock: Lock, conda: CondaLock, rendered: Mapping[str, str]) -> Needs:
    """Read from the rendered text what the build will ask for. A pure function.

    Args:
        recipe: a recipe that makes an image.
        lock: its lock.
        conda: its conda lock.
        rendered: what :func:`envbuild.render.files.render` gave for them.

    Raises:
        EnvbuildError: exit 3; the rendered files name a hash that the lock does not have.
    """
    path = next(name for name in sorted(rendered) if name.endswith(".Dockerfile"))
    stem = path.removesuffix("Dockerfile")
    beside = {name: text for name, text in rendered.items() if name.startswith(stem) and name != path}
    sources = (lock.native.source,) if lock.native else ()
    known = {item.sha256: item for item in (*build_packages(lock, pins_for(recipe)), *sources, *lock.python)}
    wanted = dict.fromkeys(hash for text in beside.values() for hash in _HASH.findall(text))
    for hash in wanted:
        if hash not in known:
            raise EnvbuildError(
                "rendered-not-locked",
                f"{path} needs a file with sha256 {hash}, which the lock of {lock.ref} does not have",
                hint=f"run `envbuild lock {lock.ref}`, then `envbuild render {lock.ref}`",
                exit=Exit.INPUT,
            )
    listed = "\n".join(text for name, text in beside.items() if name.endswith(".conda.txt"))
    return Needs(
        dockerfile=path,
        images=base_arguments(rendered[path]),
        secrets=tuple(dict.fromkeys(_SECRET.findall(rendered[path]))),
        artifacts=tuple(known[hash] for hash in wanted),
        conda=tuple(item for item in conda.packages if f"/{item.subdir}/{item.file}" in listed),
    )


def base_arguments(dockerfile: str) -> dict[str, str]:
    """The arguments before the first stage that a ``FROM`` or ``COPY --from`` takes, with their defaults."""
    head: dict[str, str] = {}
    for line in dockerfile.splitlines():
        if line.startswith("FROM "):
            break
        found = _IMAGE_ARGUMENT.fullmatch(line.strip())
        if found:
            head[found[1]] = found[2].strip("\"'")
    used = {
        name for line in dockerfile.splitlines() if line.startswith("FROM ") for name in _USED.findall(line)
    }
    return {name: value for name, value in head.items() if name in used}


def write_build_folder(
    rendered: Mapping[str, str], needs: Needs, lock: Lock, *, store: Store, folder: Path
) -> BuildFolder:
    """Write the rendered files and the named contexts below ``folder``, with fixed times and modes.

    Args:
        rendered: the rendered files.
        needs: what they ask for; all of it must be in the store.
        lock: for the programs of the image's parts.
        store: where the artifacts are.
        folder: an empty folder, best on the store's file system.

    Raises:
        EnvbuildError: the disk is full or not writable (exit 2).
    """
    context, artifacts, own = folder / "context", folder / ARTIFACTS, folder / PROGRAMS
    for place in (context, artifacts / "wheels", artifacts / "conda", own):
        place.mkdir(parents=True)
    root = str(Path(needs.dockerfile).parent)
    for name, text in rendered.items():
        if str(Path(name).parent) == root:
            _write(context / Path(name).name, text.encode(), 0o644)
    _link(store, [(item.sha256, f"wheels/{item.basename}") for item in needs.artifacts], artifacts)
    _link(store, [(item.sha256, f"conda/{item.file}") for item in needs.conda], artifacts)
    for file in programs(parts_of(lock), image_facts(lock)):
        if file.kind == "file":
            _write(own / file.path, file.content, file.mode)
    for place in (folder, *_folders(folder)):
        place.chmod(0o755)
        os.utime(place, (MTIME, MTIME))
    return BuildFolder(
        folder=context,
        dockerfile=Path(needs.dockerfile).name,
        contexts={ARTIFACTS: artifacts, PROGRAMS: own},
    )


def _folders(folder: Path) -> Sequence[Path]:
    return [path for path in folder.rglob("*") if path.is_dir()]


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, (MTIME, MTIME))


def _link(store: Store, files: Iterable[tuple[str, str]], folder: Path) -> None:
    for sha256, name in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = store.artifact(sha256)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
