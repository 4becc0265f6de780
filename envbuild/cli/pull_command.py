"""``envbuild pull``."""

from __future__ import annotations

import time

import click

from envbuild.cli.context import Context, common
from envbuild.cli.registries import plain_http_option, plainly
from envbuild.cli.terminal import size


@click.command()
@click.argument("name", metavar="REGISTRY/REPO:TAG|REGISTRY/REPO@sha256:…")
@click.option("--load", is_flag=True, help="Load it into a Docker engine too.")
@plain_http_option
@common
def command(context: Context, name: str, load: bool, plain_http: bool) -> None:
    """Bring an image of a registry into the store; every blob is checked against its digest.

    Of an index of several platforms that is the image for linux/amd64.

    `envbuild run NAME` and `envbuild smoke NAME` pull by themselves. Who published it and what was proven of it,
    `envbuild verify NAME` says.
    """
    from envbuild.cli.pulled import bring, find
    from envbuild.engine.docker import Docker
    from envbuild.registry.reference import parse_image_name

    started = time.monotonic()
    if plain_http:
        context = plainly(context, parse_image_name(name).repository)
    found = find(context, name, proofs=False, of_index=True)
    image, fetched = bring(context, found, context.store())
    if load:
        engine = Docker.connect(context.settings.environ)
        image.check_present()
        engine.load(image, context.terminal.progress)
    seconds = round(time.monotonic() - started, 3)
    context.terminal.data(
        {
            "name": image.names[0],
            "digest": image.manifest,
            "config": image.config,
            "size": image.size,
            "layers": [
                {"digest": layer.digest, "diff_id": diff_id, "size": layer.size}
                for layer, diff_id in zip(image.layers, image.diff_ids, strict=True)
            ],
            "bytes_fetched": fetched,
            "engine": "docker" if load else None,
            "seconds": {"total": seconds},
        },
        f"{image.names[0]}  {image.manifest}\n"
        f"  {len(image.layers)} layers, {size(image.size)}; fetched {size(fetched)}, {seconds:.1f} s",
    )
