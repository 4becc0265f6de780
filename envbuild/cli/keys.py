"""Keys as commands use them: the one that signs here, and whose verdicts are believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from platformdirs import user_config_path

from envbuild.cli.context import Context
from envbuild.gate import PublicKey, SigningKey, known_key, signing_key, trusted_keys

_Function = TypeVar("_Function", bound=Callable[..., Any])


def key_option(where: str) -> Callable[[_Function], _Function]:
    """``--key PEM``, given to the command as ``keys``; ``where`` says on whose machine the key is to be had."""
    return click.option(
        "--key",
        "keys",
        type=click.Path(path_type=Path),
        multiple=True,
        metavar="PEM",
        help=f"Believe this public key too: what `envbuild key show` printed {where} (repeatable).",
    )


def own_key(context: Context) -> SigningKey:
    """The key that this machine signs with, made on first use, which is told.

    Raises:
        EnvbuildError: exit 2 where none can be had.
    """
    environ, folder = context.settings.environ, _folder()
    known = known_key(environ, folder)
    if known is not None:
        return known
    key = signing_key(environ, folder)
    context.terminal.progress.note(
        f"made a signing key: {key.where} (`envbuild key show` prints its public half)"
    )
    return key


def trusted(context: Context, files: Sequence[Path] = ()) -> tuple[PublicKey, ...]:
    """The own key, those of ``files`` (``--key``) and of ``ENVBUILD_TRUSTED_KEYS``.

    Raises:
        EnvbuildError: exit 2 for a file that is no key.
    """
    return trusted_keys(context.settings.environ, _folder(), files)


def _folder() -> Path:
    return user_config_path("envbuild")
