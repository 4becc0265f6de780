"""Registries as commands use them: the one that is configured, layer caches, and repositories by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from envbuild.errors import EnvbuildError

if TYPE_CHECKING:
    from envbuild.cli.context import Context
    from envbuild.image.workshop import Elsewhere
    from envbuild.registry.reference import Repository
    from envbuild.registry.remote import Remote
    from envbuild.store import Store

REGISTRY = "ENVBUILD_REGISTRY"
"""The repository that images are published to; asked for the locked digests before anything is built."""

CACHE = "ENVBUILD_LAYER_CACHE"
"""The repository that layers are kept in by their inputs."""


PLAIN = "ENVBUILD_PLAIN_HTTP"
"""The registries besides this machine's that are spoken to without TLS: hosts with their ports, with commas."""


plain_http_option = click.option(
    "--plain-http", is_flag=True, help="Speak HTTP without TLS with the image's registry."
)
"""``--plain-http``, given to the command as ``plain_http``; :func:`plainly` does it."""


def plainly(context: Context, repository: Repository) -> Context:
    """The same call, in which this registry is spoken to without TLS: what ``--plain-http`` asks for."""
    settings = context.settings
    hosts = ",".join(filter(None, (settings.environ.get(PLAIN), repository.registry)))
    return replace(context, settings=replace(settings, environ={**settings.environ, PLAIN: hosts}))


def remote_of(context: Context, repository: Repository) -> Remote:
    """A repository, with this machine's credentials, proxies and certificates."""
    from envbuild.registry.remote import Remote
    from envbuild.store import Http

    environ = context.settings.environ
    return Remote(repository, http=Http(environ=environ), environ=environ)


def configured(context: Context, variable: str) -> Remote | None:
    """The repository that a variable names, if it is set.

    Raises:
        EnvbuildError: exit 2, it names none.
    """
    from envbuild.registry.reference import parse_repository

    text = context.settings.environ.get(variable)
    if not text:
        return None
    try:
        return remote_of(context, parse_repository(text))
    except EnvbuildError as error:
        error.message = f"{variable}: {error.message}"
        raise


def elsewhere_of(context: Context, store: Store) -> Elsewhere:
    """Where layers are looked for that the store lacks: the layer cache, then the registry (by locked digests only)."""
    from envbuild.image.workshop import Nowhere

    remotes = [(configured(context, CACHE), True), (configured(context, REGISTRY), False)]
    found = [(remote, by_key) for remote, by_key in remotes if remote is not None]
    if not found:
        return Nowhere()
    from envbuild.publish.cache import LayerCache, Places

    return Places(
        places=tuple(
            LayerCache(
                remote=remote,
                store=store,
                progress=context.terminal.progress,
                jobs=context.settings.jobs,
                by_key=by_key,
            )
            for remote, by_key in found
        )
    )
