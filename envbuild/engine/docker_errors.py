"""What can go wrong between us and a Docker engine, in the user's words. All are exit 7."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from envbuild.engine.model import ImageRef
from envbuild.errors import EnvbuildError, Exit


@contextmanager
def engine_errors(doing: str, *, gpus: bool = False, quiet: bool = False) -> Iterator[None]:
    """Turn docker-py's and requests' exceptions into one :class:`EnvbuildError` that says what was tried.

    ``ImageNotFound`` passes through: callers ask for it. With ``quiet`` everything of the engine is swallowed:
    for cleaning up after another error.
    """
    import docker.errors
    import requests
    import urllib3

    try:
        yield
    except docker.errors.ImageNotFound:
        if not quiet:
            raise
    except (
        docker.errors.DockerException,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        if not quiet:
            raise _translated(doing, error, gpus=gpus) from error
    except ValueError as error:  # a JSON event that was cut off: requests' and docker-py's decoders
        if not quiet:
            raise _stopped(doing, str(error)) from error


def loaded_wrong(image: ImageRef) -> EnvbuildError:
    """The engine said that all went well and still does not have the image."""
    return EnvbuildError(
        "engine-stopped",
        f"Docker ended the transfer without the image {image.config}",
        hint="the engine may have stopped in the middle: start it, then run the command again",
        exit=Exit.ENGINE,
    )


def _translated(doing: str, error: Exception, *, gpus: bool) -> EnvbuildError:
    import docker.errors

    cause = _innermost(error)
    if isinstance(cause, PermissionError):
        return EnvbuildError(
            "docker-permission",
            f"cannot {doing}: this user may not use Docker's socket",
            hint="join the group with `sudo usermod -aG docker $USER` and log in again, or use --engine sandbox",
            exit=Exit.ENGINE,
        )
    if isinstance(cause, FileNotFoundError):
        return EnvbuildError(
            "docker-not-running",
            f"cannot {doing}: there is no Docker socket",
            hint="start the engine (sudo systemctl start docker, or ci/docker-engine.sh on Debian), "
            "set DOCKER_HOST, or use --engine sandbox",
            exit=Exit.ENGINE,
        )
    if isinstance(error, docker.errors.APIError):
        return _refused(doing, str(error.explanation or error), gpus=gpus)
    return _stopped(doing, str(cause))


def _refused(doing: str, text: str, *, gpus: bool) -> EnvbuildError:
    if gpus and ("device driver" in text or "nvidia" in text.lower()):
        return EnvbuildError(
            "docker-no-gpus",
            f"Docker cannot give a container GPUs: {text}",
            hint="install the NVIDIA container toolkit for Docker, or use --engine oci or --engine sandbox, "
            "which need none",
            exit=Exit.ENGINE,
        )
    return EnvbuildError(
        "engine-refused",
        f"Docker refused to {doing}: {text}",
        hint="see what it says above and in the engine's log; `envbuild doctor` shows the engine's state",
        exit=Exit.ENGINE,
    )


def _stopped(doing: str, text: str) -> EnvbuildError:
    return EnvbuildError(
        "engine-stopped",
        f"cannot {doing}: Docker does not answer or stopped in the middle ({text})",
        hint="check it with `docker info`, start it (sudo systemctl start docker), then run the command again",
        exit=Exit.ENGINE,
    )


def _innermost(error: BaseException) -> BaseException:
    """The first cause: docker-py wraps requests', which wraps urllib3's, which wraps the socket's."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = (
            error.__cause__
            or error.__context__
            or next((a for a in error.args if isinstance(a, Exception)), None)
        )
        reason = getattr(error, "reason", None)
        if inner is None and isinstance(reason, Exception):
            inner = reason
        if inner is None:
            return error
        error = inner
    return error
