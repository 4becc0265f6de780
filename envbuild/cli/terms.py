"""What a verdict must say for a tag, as commands have it: of this lock, by their own suite or one that is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import Terms
from envbuild.lock import Lock, lock_bytes
from envbuild.oci.digest import is_digest, of_bytes
from envbuild.smoke.fingerprint import fingerprint
from envbuild.smoke.model import Expectations

_Function = TypeVar("_Function", bound=Callable[..., Any])


def suite_option(function: _Function) -> _Function:
    """``--suite sha256:…``, given to the command as ``suites``; checked."""
    return click.option(
        "--suite",
        "suites",
        multiple=True,
        metavar="sha256:…",
        callback=_checked,
        help="Take a verdict of this suite too, as `envbuild verdict FILE` shows its hash (repeatable) [default: of "
        "this envbuild's own only].",
    )(function)


def terms(lock: Lock, expected: Expectations, suites: Sequence[str] = ()) -> Terms:
    """What a verdict about the image of ``lock`` must say now.

    Args:
        lock: the image's.
        expected: what the suite must have been asked.
        suites: the hashes of suites that count besides this envbuild's own.
    """
    return Terms(
        expected=expected,
        lock=of_bytes(lock_bytes(lock)),
        suites=frozenset({fingerprint(), *suites}),
        now=datetime.now(UTC),
    )


def _checked(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    del ctx, parameter
    for text in value:
        if not is_digest(text):
            raise EnvbuildError(
                "wrong-suite",
                f"--suite {text!r} is no hash of a suite: sha256: and 64 lower-case hex digits",
                hint="`envbuild verdict FILE` shows the hash of the suite that made a verdict",
                exit=Exit.USAGE,
            )
    return value
