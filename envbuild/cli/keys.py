"""Keys as commands use them: the one that signs here, and whose verdicts are believed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_config_path

from envbuild.cli.context import Context
from envbuild.gate import PublicKey, SigningKey, known_key, signing_key, trusted_keys


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
