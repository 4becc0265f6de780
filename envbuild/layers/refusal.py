"""How a wheel is refused: one error, the wheel named, with a hint that fits the kind of fault."""

from __future__ import annotations

from envbuild.errors import EnvbuildError, Exit

_DAMAGED = (
    "if the store's copy is damaged, delete it and run the command again; if the published file itself is like "
    "this, pin another version and run `envbuild lock REF`"
)
_INVALID = "pin another version of this package in the recipe and run `envbuild lock REF`"


def damaged(wheel: str, id: str, text: str) -> EnvbuildError:
    """A wheel whose bytes do not verify, or that tries to do what a wheel must not (exit 5)."""
    return EnvbuildError(id, f"{wheel}: {text}", hint=_DAMAGED, exit=Exit.VERIFY, where=wheel)


def invalid(wheel: str, id: str, text: str) -> EnvbuildError:
    """A file that is no wheel, or none that this image can use (exit 3)."""
    return EnvbuildError(id, f"{wheel}: {text}", hint=_INVALID, exit=Exit.INPUT, where=wheel)
