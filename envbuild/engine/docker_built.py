"""An image that a Docker engine has and envbuild's store has not: what ``docker buildx build`` left there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envbuild.engine.docker_errors import engine_errors
from envbuild.engine.model import ImageRef
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.disk import unless_full
from envbuild.oci.layout import Layout
from envbuild.progress import Progress

_MAKES_LAYER = ("RUN ", "COPY ", "ADD ", "WORKDIR ")
"""The steps of a Dockerfile that BuildKit makes a layer for, even an empty one."""

_NAME = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltLayer:
    """One layer as the engine tells of it: the step that made it, its plain digest, its plain size in bytes.

    ``name`` is empty and ``size`` is ``None`` where the engine does not tell which step made it.
    """

    name: str
    diff_id: str
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """An image in the engine.

    ``ref`` is what engines run; its manifest and config are both the engine's ID of the image: the digest of the
    config, or, in an engine that keeps images in containerd, that of the manifest. ``size`` is in bytes, unpacked.
    """

    ref: ImageRef
    names: tuple[str, ...]
    labels: Mapping[str, str]
    size: int
    layers: tuple[BuiltLayer, ...]


def inspect_built(client: Any, name: str, layout: Layout) -> BuiltImage | None:
    """What the engine has under ``name`` (``repository:tag`` or an ID); ``None`` where it has nothing.

    Args:
        client: a connected ``docker.APIClient``.
        name: the image's.
        layout: an :class:`ImageRef` belongs to one; nothing is read from it.

    Errors (exit 7): as of the engine.
    """
    from docker.errors import ImageNotFound

    try:
        with engine_errors("look for the image"):
            told = client.inspect_image(name)
            history = client.history(told["Id"])
    except ImageNotFound:
        return None
    settings = told.get("Config") or {}
    diff_ids = tuple(str(item) for item in told["RootFS"].get("Layers") or ())
    names = tuple(told.get("RepoTags") or ())
    identity = str(told["Id"])
    ref = ImageRef(
        names=(name,),
        manifest=identity,
        config=identity,
        layers=(),
        diff_ids=diff_ids,
        settings=settings,
        layout=layout,
    )
    return BuiltImage(
        ref=ref,
        names=names,
        labels=dict(settings.get("Labels") or {}),
        size=int(told.get("Size") or 0),
        layers=_layers(diff_ids, history),
    )


def _layers(diff_ids: tuple[str, ...], history: list[dict[str, Any]]) -> tuple[BuiltLayer, ...]:
    """Bottom first. The history does not say which of its entries have a layer: some that have one are empty.

    Where the numbers do not agree, layers go without name and size.
    """
    steps = [
        (" ".join(str(entry.get("CreatedBy") or "").split()), int(entry.get("Size") or 0))
        for entry in reversed(history)
    ]
    made = [(name, size) for name, size in steps if size or name.startswith(_MAKES_LAYER)]
    if len(made) != len(diff_ids):
        return tuple(BuiltLayer(name="", diff_id=diff_id, size=None) for diff_id in diff_ids)
    return tuple(
        BuiltLayer(name=name[:_NAME], diff_id=diff_id, size=size)
        for diff_id, (name, size) in zip(diff_ids, made, strict=True)
    )


def save_built(client: Any, image: BuiltImage, name: str, path: Path, progress: Progress) -> None:
    """Write ``docker save`` of the image under ``name`` to ``path``.

    A file that is cut off does not stay. Errors: the engine's (exit 7); ``cannot-write`` (exit 2), ``disk-full``
    (exit 7).
    """
    finished = False
    try:
        with (
            progress.task(f"write {path.name}", total=image.size) as task,
            engine_errors("save the image"),
            path.open("wb") as out,
        ):
            for chunk in client.get_image(name):
                try:
                    out.write(chunk)
                except OSError as error:
                    room = "make room, or name a file elsewhere: the image itself is in Docker"
                    other = EnvbuildError(
                        "cannot-write",
                        f"cannot write {path}: {error.strerror}",
                        where=str(path),
                        hint=room,
                        exit=Exit.USAGE,
                    )
                    raise unless_full(error, path, other, hint=room) from error
                task.advance(len(chunk))
        finished = True
    finally:
        if not finished and path.is_file():
            path.unlink()
