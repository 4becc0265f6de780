"""What can go wrong in a ``docker buildx build``, in the user's words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from envbuild.engine.build_display import Seen, short
from envbuild.errors import EnvbuildError, Exit

_COMMAND = 1000
_LOADS = re.compile(r"\[internal\] load metadata for (\S+)")
_FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
_REFUSED = re.compile(
    r"denied|unauthori[sz]ed|authori[sz]ation failed|insufficient_scope|40[13] |authentication", re.IGNORECASE
)
_MISSING = re.compile(r"not found|manifest unknown|name unknown|does not exist|404 ", re.IGNORECASE)
_EXIT = re.compile(r"did not complete successfully: exit code: (\d+)")
_GONE = re.compile(
    r"Cannot connect to the Docker daemon|error reading from server|closed the connection|connection error|"
    r"error during connect|transport is closing|no active session|rpc error: code = Unavailable"
)
_KILLED = 137


def failure(
    failed: Seen | None, rest: list[str], *, images: Mapping[str, str], log: Path, name: str
) -> EnvbuildError:
    """Why the build ended without an image.

    Args:
        failed: the step that failed, if one did.
        rest: what buildx wrote outside of any step: the excerpt and the last error.
        images: the build arguments that name images, by argument.
        log: the file with everything that the build wrote.
        name: what was to be built.
    """
    last = next((line for line in reversed(rest) if line.startswith("ERROR: ")), "")
    said = last.removeprefix("ERROR: ") or next((line for line in reversed(rest) if line.strip()), "")
    everything = "\n".join([said, failed.error if failed else "", *(failed.lines if failed else ())])
    if _FULL.search(everything):
        return EnvbuildError(
            "engine-full",
            f"Docker has no room left for {name}: {_first(failed.error if failed else said)}",
            where=str(log),
            hint="`docker system df` shows what takes the room; `docker builder prune` frees the build cache, "
            "`docker image prune` images without a name",
            exit=Exit.ENGINE,
        )
    base = _base(failed, said, images)
    if base is not None:
        return missing_base(base, images, failed.error if failed and failed.error else said)
    if failed is not None and _EXIT.search(failed.error):
        return _step(failed, log, name)
    if _GONE.search(everything):
        return EnvbuildError(
            "engine-stopped",
            f"Docker stopped in the middle of the build of {name}: {said}",
            where=str(log),
            hint="check it with `docker info`, start it (sudo systemctl start docker), then run the command again",
            exit=Exit.ENGINE,
        )
    what = f"{short(failed.name, _COMMAND)}\n{_first(failed.error)}" if failed else said
    return EnvbuildError(
        "build-failed",
        f"Docker could not build {name}: {what}",
        where=str(log),
        hint=f"the whole log is in {log}; run the command again when its cause is gone: what was built stays cached",
        exit=Exit.ENGINE,
    )


def missing_base(reference: str, images: Mapping[str, str], reason: str) -> EnvbuildError:
    """An image to start from cannot be had: which, by which digest, and the ways out. Exit 4."""
    argument = next((key for key, value in images.items() if same_image(value, reference)), None)
    given = images[argument] if argument else reference
    tagged = given.partition("@")[0]
    if _REFUSED.search(reason):
        id, what = "base-refused", "the registry does not give it to this machine"
    elif _MISSING.search(reason):
        id, what = "base-not-found", "the registry does not have it"
    else:
        id, what = "base-unreachable", "its registry cannot be reached"
    name = argument or "NAME"
    return EnvbuildError(
        id,
        f"the image {given} cannot be pulled: {what}\n  {_first(reason)}",
        where=f"--build-arg {name}",
        hint=f"on a machine that can: `docker pull {given} && docker tag {given} {tagged} && docker save {tagged}`, "
        f"here `docker load` and then --build-arg {name}={tagged}; or name a mirror's copy: "
        f"--build-arg {name}=MIRROR/{tagged.rsplit('/', 1)[-1]}{'@' + given.partition('@')[2] if '@' in given else ''}"
        + ("; `docker login` where the registry wants a name and password" if id == "base-refused" else ""),
        exit=Exit.NETWORK,
    )


def _base(failed: Seen | None, said: str, images: Mapping[str, str]) -> str | None:
    """The image that could not be resolved or pulled, if it is that."""
    if failed is not None:
        found = _LOADS.fullmatch(failed.name)
        if found:
            return found[1]
        pulled = re.search(r"\bFROM (\S+)", failed.name)
        if pulled and not failed.name.startswith("[internal]"):
            return pulled[1]
    return next(
        (
            value
            for value in images.values()
            if said.startswith(f"failed to solve: {value}: ") and not _EXIT.search(said)
        ),
        None,
    )


def same_image(one: str, other: str) -> bool:
    """Whether two names mean the same image: Docker writes its default registry and ``library/`` out."""
    return one == other or other.endswith("/" + one) or one.endswith("/" + other)


def _step(failed: Seen, log: Path, name: str) -> EnvbuildError:
    code = int((_EXIT.search(failed.error) or ["", "1"])[1])
    lines = "\n".join(f"  | {line}" for line in failed.lines) or "  | (it wrote nothing)"
    killed = " (killed: most often because memory ran out)" if code == _KILLED else ""
    return EnvbuildError(
        "build-step-failed",
        f"a step of {name} ended with {code}{killed}:\n  {short(failed.name, _COMMAND)}\n{lines}",
        where=str(log),
        hint=f"the whole log is in {log}; the steps before this one stay cached"
        + (
            "; give the engine more memory, or the compiler fewer processes (MAX_JOBS)"
            if code == _KILLED
            else ""
        ),
        exit=Exit.ENGINE,
    )


def _first(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "it does not say why"


def no_buildx(reason: str) -> EnvbuildError:
    """Docker's builder is not there."""
    return EnvbuildError(
        "no-buildx",
        f"`docker buildx` does not work here: {reason}",
        hint="install the package docker-buildx (Debian 13 and Ubuntu; ci/docker-engine.sh puts it on Debian 12) or "
        "docker-buildx-plugin (from Docker's own repository)",
        exit=Exit.ENGINE,
    )


def no_docker() -> EnvbuildError:
    """There is no ``docker`` program."""
    return EnvbuildError(
        "no-docker",
        "there is no `docker` program on the PATH",
        hint="install the packages docker.io (or docker-ce) and docker-buildx; ci/docker-engine.sh does so on Debian. "
        "`envbuild image REF` without --builder docker needs no Docker",
        exit=Exit.ENGINE,
    )


def too_old(engine: str) -> EnvbuildError:
    """An engine whose builder has no named contexts."""
    return EnvbuildError(
        "engine-too-old",
        f"Docker {engine} cannot build this: named build contexts need 23.0 or newer",
        hint="ci/docker-engine.sh installs 26.1 on Debian 12; `envbuild image REF` works with any engine, or none",
        exit=Exit.ENGINE,
    )
