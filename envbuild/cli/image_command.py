"""``envbuild image``: the main job."""

from __future__ import annotations

import time
from pathlib import Path

import click

from envbuild.cli.build import build, layer_values
from envbuild.cli.context import Context, common
from envbuild.cli.files import check_target
from envbuild.cli.image_there import image_there, tell_there
from envbuild.cli.proof import Proof, choose_engine, load_into_docker, prove
from envbuild.cli.terminal import Terminal, size
from envbuild.engine import NAMES
from envbuild.errors import EnvbuildError, Exit
from envbuild.image.assemble import Built
from envbuild.image.verify import Verification, verify
from envbuild.recipe.model import Recipe

_DEVEL = "-devel"
_DEBIAN, _NVIDIA = "debian", "nvidia"


@click.command()
@click.argument("ref")
@click.option(
    "--base",
    metavar="debian|nvidia|IMAGE@sha256:…",
    default=_DEBIAN,
    help="Start from this image of a registry instead of the locked Debian packages; nvidia: with --builder docker.",
)
@click.option(
    "--builder",
    type=click.Choice(("oci", "docker")),
    default="oci",
    help="docker: let Docker build the rendered Dockerfile, on NVIDIA's base; REF-nvidia comes out.",
)
@click.option(
    "--build-arg",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="With --builder docker: another image for BUILD_BASE, BASE or MICROMAMBA; another time of Ubuntu's "
    "archive, or none, for APT_SNAPSHOT (repeatable).",
)
@click.option(
    "--network",
    type=click.Choice(("default", "none", "host")),
    help="With --builder docker: what its steps have; none where the base lacks no package [default: default].",
)
@click.option("--no-cache", is_flag=True, help="With --builder docker: run every step again.")
@click.option(
    "--apt-sources",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="With --builder docker: a sources.list instead of the base's own.",
)
@click.option("--devel", is_flag=True, help="Short for REF-devel: with nvcc, ninja and CUDA's headers.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write one archive to FILE.")
@click.option("--no-load", is_flag=True, help="Do not load the image into a Docker engine.")
@click.option(
    "--engine", type=click.Choice(NAMES), help="What runs the suite [default: the first that works]."
)
@click.option("--verify", "verify_it", is_flag=True, help="Build again from nothing and compare.")
@click.option("--require-verdict", is_flag=True, help="Exit 6 when the image ends as a candidate.")
@common
def command(
    context: Context,
    ref: str,
    base: str,
    builder: str,
    arguments: tuple[str, ...],
    network: str | None,
    apt_sources: Path | None,
    no_cache: bool,
    devel: bool,
    output: Path | None,
    no_load: bool,
    engine: str | None,
    verify_it: bool,
    require_verdict: bool,
) -> int:
    """Build the image of REF (name:tag) from its lock, prove it on this machine's GPUs, load it.

    The image ends in the store, as REF-candidate. With enough GPUs the suite runs in it, and the tag is given if
    every check passes. A second run does only what changed. Where ENVBUILD_REGISTRY names a repository that has the
    locked digest already, nothing is fetched or built.
    """
    ref = _devel(ref) if devel else ref
    check_target(output)
    if builder == "docker":
        _fits_docker(ref, base, no_load=no_load, engine=engine, verify_it=verify_it)
        from envbuild.cli.docker_image import APT_SNAPSHOT, Wish, assignments, image_by_docker

        given = assignments(arguments)
        wish = Wish(
            images={name: value for name, value in given.items() if name != APT_SNAPSHOT},
            arguments={name: value for name, value in given.items() if name == APT_SNAPSHOT},
            network=network or "default",
            apt=apt_sources,
            fresh=no_cache,
            output=output,
            require_verdict=require_verdict,
        )
        return image_by_docker(context, ref, wish)
    docker_only = bool(arguments or network or apt_sources or no_cache)
    _fits_oci(ref, base, docker_only=docker_only, verify_it=verify_it)
    if base == _DEBIAN and output is None and engine is None and not verify_it:
        there = image_there(context, ref)
        if there is not None:
            return tell_there(context, there, require_verdict=require_verdict)
    return _by_envbuild(context, ref, base, output, no_load, engine, verify_it, require_verdict)


def _by_envbuild(
    context: Context,
    ref: str,
    base: str,
    output: Path | None,
    no_load: bool,
    engine: str | None,
    verify_it: bool,
    require_verdict: bool,
) -> int:
    """The image of the lock, without Docker's builder; the exit code."""
    started = time.monotonic()
    ready = build(context, ref, base=None if base == _DEBIAN else base)
    recipe, built, image = ready.recipe, ready.built, ready.image
    verification = verify(ready.lock, built.image, ready.workshop) if verify_it else None
    if output is not None:
        from envbuild.engine import write_archive

        write_archive(image, output, progress=context.terminal.progress)
    loaded = None if no_load else load_into_docker(context, ready)
    if base == _DEBIAN:
        proof = prove(context, ready, engine=lambda: choose_engine(context, ready, engine))
    else:
        proof = _on_another_base(recipe)
    seconds = {**built.seconds, "total": round(time.monotonic() - started, 3)}
    refusal = _refusal(ref, verification, proof, require_verdict)
    _print(context, recipe, built, proof, loaded, output, verification, seconds, refusal)
    if refusal is None:
        return int(Exit.DONE)
    Terminal(json=False, quiet=True).error(refusal)  # the one JSON document holds it already
    return int(refusal.exit)


def _devel(ref: str) -> str:
    """The reference of the variant with the compiler."""
    return ref if ref.endswith(_DEVEL) else f"{ref}{_DEVEL}"


def _fits_docker(ref: str, base: str, *, no_load: bool, engine: str | None, verify_it: bool) -> None:
    """Refuse what cannot be had together with ``--builder docker``."""
    if base != _NVIDIA:
        wrong = f"--builder docker builds on NVIDIA's image, and --base is {base}"
        hint = (
            f"`envbuild image {ref} --builder docker --base nvidia` (--build-arg BASE=IMAGE replaces NVIDIA's image), "
            f"or leave out --builder docker"
        )
    elif verify_it:
        wrong = "--verify builds the lock's image twice, and Docker's build is another image"
        hint = f"`envbuild image {ref} --verify`; docs/reference/render.md says what differs in Docker's"
    elif no_load:
        wrong = "--no-load: Docker builds the image where it is loaded"
        hint = "leave out --no-load; --output FILE writes an archive as well"
    elif engine not in (None, "docker"):
        wrong = f"--engine {engine}: only Docker has the image that it builds"
        hint = "leave out --engine"
    else:
        return
    raise EnvbuildError("options-contradict", wrong, hint=hint, exit=Exit.USAGE)


def _fits_oci(ref: str, base: str, *, docker_only: bool, verify_it: bool) -> None:
    """Refuse what only ``--builder docker`` takes, and a second build of an image that the lock does not name."""
    if base == _NVIDIA:
        raise EnvbuildError(
            "options-contradict",
            "--base nvidia is built by Docker: envbuild's own image needs a Python 3.11, which NVIDIA's has not",
            hint=f"`envbuild image {ref} --builder docker --base nvidia`; `envbuild image {ref}` needs no base image",
            exit=Exit.USAGE,
        )
    if docker_only:
        raise EnvbuildError(
            "options-contradict",
            "--build-arg, --network, --no-cache and --apt-sources are for a build by Docker",
            hint=f"`envbuild image {ref} --builder docker --base nvidia …`, or leave them out",
            exit=Exit.USAGE,
        )
    if verify_it and base != _DEBIAN:
        raise EnvbuildError(
            "verify-another-base",
            "--verify builds what the lock names, and --base is another image",
            hint="leave out one of the two",
            exit=Exit.USAGE,
        )


def _on_another_base(recipe: Recipe) -> Proof:
    """The tag belongs to the image that the lock names: one on another base stays a candidate."""
    why = "it starts from another base than the one that the lock names"
    return Proof(
        tags=(recipe.ref.candidate,), promoted=False, verdict=None, path=None, why=why, other_base=True
    )


def _refusal(
    ref: str, verification: Verification | None, proof: Proof, require_verdict: bool
) -> EnvbuildError | None:
    """Why an image that was made is not what was asked for."""
    if verification is not None and not verification.holds:
        return _not_reproduced(ref, verification)
    if require_verdict and not proof.promoted:
        return EnvbuildError(
            "no-verdict", f"{ref} ends as a candidate: {proof.why}", hint=proof.next_step(ref), exit=Exit.GATE
        )
    return None


def _not_reproduced(ref: str, verification: Verification) -> EnvbuildError:
    shown = "\n  ".join(verification.differences)
    return EnvbuildError(
        "not-reproduced",
        f"a second build of {ref} gave {verification.digest}, not {verification.expected}:\n  {shown}",
        hint="please report it with the paths above: the same lock must give the same bytes",
        exit=Exit.VERIFY,
    )


def _print(
    context: Context,
    recipe: Recipe,
    built: Built,
    proof: Proof,
    loaded: str | None,
    output: Path | None,
    verification: Verification | None,
    seconds: dict[str, float],
    refusal: EnvbuildError | None,
) -> None:
    total = sum(layer.size for layer in built.image.layers)
    value: dict[str, object] = {
        "ref": str(recipe.ref),
        "builder": "oci",
        "digest": built.image.digest,
        "config": built.image.config.digest,
        "tags": list(proof.tags),
        "candidate": not proof.promoted,
        "verdict": proof.to_dict(),
        "size": total,
        "layers": layer_values(built.image, built.made),
        "engine": loaded,
        "output": str(output) if output else None,
        "registry": None,
        "bytes_fetched": built.bytes_fetched,
        "seconds": seconds,
        "verify": None
        if verification is None
        else {
            "holds": verification.holds,
            "digest": verification.digest,
            "conditions": verification.conditions,
            "differences": list(verification.differences),
            "seconds": verification.seconds,
        },
        "docker": None,
    }
    if refusal is not None:
        value["error"] = refusal.to_dict()
    lines = [
        f"{proof.tags[-1]}  {built.image.digest}",
        f"  {len(built.image.layers)} layers, {size(total)}; made {len(built.made)}, "
        f"fetched {size(built.bytes_fetched)}, {seconds['total']:.1f} s",
    ]
    if verification is not None and verification.holds:
        told = ", ".join(f"{key} {text}" for key, text in verification.conditions.items())
        lines.append(f"  built again from nothing ({told}): the same digest")
    if output is not None:
        lines.append(f"  written to {output}")
    context.terminal.data(value, lines)
    if not proof.promoted:
        context.terminal.progress.note(
            f"{recipe.ref.candidate} is a candidate, not {recipe.ref}: {proof.why}.\n{proof.next_step(str(recipe.ref))}"
        )
