"""``envbuild smoke``."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import click

from envbuild.cli.context import Context, common
from envbuild.cli.docker_named import candidate_of
from envbuild.cli.files import check_target, replace_file
from envbuild.cli.keys import own_key
from envbuild.cli.live import suite_progress
from envbuild.cli.named import ref_of
from envbuild.cli.proof import ask_suite, verdict_path
from envbuild.cli.registries import plain_http_option, plainly, remote_of
from envbuild.cli.verdict_table import verdict_table
from envbuild.engine import NAMES
from envbuild.engine.gpus import find_driver
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import (
    SigningKey,
    Verdict,
    find_python,
    make_verdict,
    run_here,
    sign_verdict,
    write_verdict,
)
from envbuild.registry.reference import is_image_name, parse_image_name


@click.command()
@click.argument("image", metavar="[IMAGE|REF]", required=False)
@click.option("--gpus", type=click.IntRange(0), metavar="N", help="GPUs for the container [default: all].")
@click.option("--engine", type=click.Choice(NAMES), help="Which engine [default: the first that works].")
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the signed verdict to FILE."
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write it as a page to FILE.")
@click.option("--here", is_flag=True, help="Ask the active Python environment instead of an image.")
@click.option(
    "--python",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ask the environment of this interpreter.",
)
@click.option("--attach", is_flag=True, help="Attach the verdict to IMAGE in its registry.")
@plain_http_option
@common
def command(
    context: Context,
    image: str | None,
    gpus: int | None,
    engine: str | None,
    report: Path | None,
    html: Path | None,
    here: bool,
    python: Path | None,
    attach: bool,
    plain_http: bool,
) -> int:
    """Run the suite in a container of the unchanged image, and write a signed verdict about it.

    The image is a REF, its candidate, a digest that a lock names, or REGISTRY/REPO@sha256:… as `envbuild publish`
    left it, which is pulled. Without a GPU the checks that need none are run; the result is then `candidate`, which
    gives no tag. A check that fails makes the command end with 6. With --here the suite asks whether this machine
    is healthy: that verdict is about no image and promotes none.
    """
    asks_here = here or python is not None
    _consistent(image, engine, asks_here)
    if attach or plain_http:
        context = _of_registry(context, image, plain_http)
    present = len(find_driver().gpus)
    _enough(gpus, present)
    for target in (report, html):
        check_target(target)
    key = own_key(context)
    if asks_here:
        chosen = python or find_python(os.environ, sys.executable)
        verdict, path = _ask_here(context, chosen, max(1, present) if gpus is None else gpus), report
    else:
        verdict, path = _ask_image(context, str(image), engine, present if gpus is None else gpus, report)
    _keep(verdict, key, path, html)
    attached = _attach(context, str(image), verdict, key) if attach else ()
    _show(context, verdict, key, path, html, attached)
    return int(Exit.GATE if verdict.result == "failed" else Exit.DONE)


def _ask_image(
    context: Context, image: str, engine: str | None, gpus: int, report: Path | None
) -> tuple[Verdict, Path]:
    ref, digest = (image, None) if is_image_name(image) else ref_of(context, image)
    ready, choose = candidate_of(context, ref, engine)
    subject = ready.subject
    if digest is not None and digest not in (subject.manifest, subject.config):
        raise EnvbuildError(
            "another-image",
            f"{ref} is {subject.manifest}, not {digest}",
            hint=f"run `envbuild smoke {ref}`, or take the recipes that {digest} was built from",
            exit=Exit.INPUT,
        )
    return ask_suite(context, ready, choose(), gpus=gpus), report or verdict_path(ready)


def _ask_here(context: Context, python: Path, gpus: int) -> Verdict:
    with (
        tempfile.TemporaryDirectory(prefix="envbuild-here-") as folder,
        suite_progress(context.terminal) as progress,
    ):
        found = run_here(python, gpus=gpus, environ=os.environ, folder=Path(folder), progress=progress)
    return make_verdict(found, None, expected=found.expected, engine=f"no container ({python})", lock=None)


def _of_registry(context: Context, image: str | None, plain_http: bool) -> Context:
    """The call for an image of a registry; exit 2 where it is none."""
    if image is None or not is_image_name(image):
        raise EnvbuildError(
            "usage",
            f"--attach and --plain-http are for an image in a registry, not {image or '--here'}",
            hint="`envbuild smoke REGISTRY/REPO@sha256:… --attach`, as `envbuild publish` printed it",
            exit=Exit.USAGE,
        )
    return plainly(context, parse_image_name(image).repository) if plain_http else context


def _attach(context: Context, image: str, verdict: Verdict, key: SigningKey) -> tuple[str, ...]:
    """Attach the signed verdict to the image that it is about; the referrers' digests."""
    from envbuild.publish.making import verdict_proofs
    from envbuild.publish.proofs import attach_proofs

    assert verdict.subject is not None
    remote = remote_of(context, parse_image_name(image).repository)
    _, subject = remote.manifest(verdict.subject.manifest)
    proofs = verdict_proofs(sign_verdict(verdict, key))
    return tuple(proof.digest for proof in attach_proofs(remote, subject, proofs, context.terminal.progress))


def _keep(verdict: Verdict, key: SigningKey, path: Path | None, html: Path | None) -> None:
    """The signed file and the page, before anything else can fail: a verdict may have cost much time on GPUs."""
    if path is not None:
        write_verdict(path, sign_verdict(verdict, key), key=key.public)
    if html is not None:
        from envbuild.gate.page import page

        replace_file(html, page(verdict, [key.public]).encode())


def _show(
    context: Context,
    verdict: Verdict,
    key: SigningKey,
    path: Path | None,
    html: Path | None,
    attached: tuple[str, ...],
) -> None:
    """What the command prints."""
    written = [f"verdict: {path}"] if path else []
    written += [f"page: {html}"] if html else []
    written += [f"attached: {digest}" for digest in attached]
    context.terminal.data(
        {
            "path": str(path) if path else None,
            "html": str(html) if html else None,
            "keys": [key.public.id],
            "attached": list(attached),
            "verdict": verdict.to_dict(),
        },
        [*verdict_table(verdict), *written],
    )


def _consistent(image: str | None, engine: str | None, here: bool) -> None:
    """An image, or this Python: one of the two."""
    if here and image is not None:
        wrong, hint = "--here asks this Python, and an image was named too", "leave out one of the two"
    elif here and engine is not None:
        wrong, hint = "--here starts no container, so it takes no --engine", "leave out one of the two"
    elif not here and image is None:
        wrong, hint = (
            "no image was named",
            "`envbuild smoke REF`, or `envbuild smoke --here`; `envbuild list` has REFs",
        )
    else:
        return
    raise EnvbuildError("usage", wrong, hint=hint, exit=Exit.USAGE)


def _enough(gpus: int | None, present: int) -> None:
    if gpus is not None and gpus > present:
        raise EnvbuildError(
            "too-few-gpus",
            f"{gpus} GPUs were asked for, this machine has {present}",
            hint=f"--gpus {present}, or run it on another machine; `envbuild doctor` says what it sees",
            exit=Exit.ENGINE,
        )
