"""Which engines this machine has, in order of preference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from envbuild.engine.docker import Docker
from envbuild.engine.model import Engine
from envbuild.engine.oci import OciRuntime
from envbuild.engine.roots import Roots
from envbuild.engine.sandbox import SandboxEngine
from envbuild.errors import EnvbuildError, Exit
from envbuild.sandbox import Sandbox
from envbuild.store import Store

NAMES = ("docker", "oci", "sandbox")
"""What ``--engine`` takes, best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One engine that was looked for: it is there, or the reason why it is not."""

    name: str
    engine: Engine | None = None
    error: EnvbuildError | None = None


def survey(store: Store, environ: Mapping[str, str], *, jobs: int) -> tuple[Found, ...]:
    """Try every engine, best first."""
    return tuple(_found(name, store, environ, jobs) for name in NAMES)


def detect(preference: str | None, store: Store, environ: Mapping[str, str], *, jobs: int) -> list[Engine]:
    """The engines that work here, best first; with a ``preference`` that one only.

    Args:
        preference: one of :data:`NAMES`, or None for whatever there is.
        store: where the bare runtime and the sandbox keep unpacked layers.
        environ: the caller's environment.
        jobs: how many layers are unpacked at once.

    Errors: ``unknown-engine`` (exit 2); with a preference its own error, else ``no-engine`` with every reason (7).
    """
    if preference is not None:
        if preference not in NAMES:
            raise EnvbuildError(
                "unknown-engine",
                f"there is no engine {preference!r}",
                hint=f"--engine takes one of {', '.join(NAMES)}",
                exit=Exit.USAGE,
            )
        return [_make(preference, store, environ, jobs)]
    found = survey(store, environ, jobs=jobs)
    engines = [item.engine for item in found if item.engine is not None]
    if not engines:
        reasons = [f"{item.name}: {item.error.message}" for item in found if item.error is not None]
        hints = [f"{item.name}: {item.error.hint}" for item in found if item.error is not None]
        raise EnvbuildError(
            "no-engine",
            "nothing on this machine can run a container\n" + "\n".join(reasons),
            hint="any one of these is enough:\n" + "\n".join(hints),
            exit=Exit.ENGINE,
        )
    return engines


def _found(name: str, store: Store, environ: Mapping[str, str], jobs: int) -> Found:
    try:
        return Found(name=name, engine=_make(name, store, environ, jobs))
    except EnvbuildError as error:
        return Found(name=name, error=error)


def _make(name: str, store: Store, environ: Mapping[str, str], jobs: int) -> Engine:
    def roots() -> Roots:
        return Roots(store=store, sandbox=Sandbox.detect(), jobs=jobs)

    makers: dict[str, Callable[[], Engine]] = {
        "docker": lambda: Docker.connect(environ),
        "oci": lambda: OciRuntime.find(roots(), environ),
        "sandbox": lambda: SandboxEngine(roots(), environ),
    }
    return makers[name]()
