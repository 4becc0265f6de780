"""``envbuild image REF --builder docker --base nvidia``: the rendered Dockerfile, built by Docker, proven, named."""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from envbuild.cli.context import Context
from envbuild.cli.docker_named import DockerReady, docker_name
from envbuild.cli.proof import Proof, prove
from envbuild.cli.terminal import Terminal, size
from envbuild.engine.buildx import Buildx, Made, Order
from envbuild.engine.docker import Docker
from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import CondaLock, Indexes, Lock
from envbuild.lock.conda.channels import CondaChannels
from envbuild.recipe import Recipe
from envbuild.render import render
from envbuild.render.context import Needs, needs_of, write_build_folder
from envbuild.store import Http, Source, Store, Wanted, fetch

NETWORKS = ("default", "none", "host")
"""What the steps of a build may have of the network."""

APT_SNAPSHOT = "APT_SNAPSHOT"
"""The build argument that is no image: the time in Ubuntu's archive whose packages are installed."""

_SNAPSHOT = re.compile(r"(\d{8}T\d{6}Z)?")
_CA_BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for on the command line.

    ``images`` are the ``--build-arg`` assignments that name images, ``arguments`` the others; ``apt`` is a sources.list
    that replaces the base's own, ``fresh`` is ``--no-cache``.
    """

    images: Mapping[str, str]
    arguments: Mapping[str, str]
    network: str
    apt: Path | None
    fresh: bool
    output: Path | None
    require_verdict: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came out of the build, before the gate was asked."""

    ready: DockerReady
    buildx: Buildx
    made: Made
    images: Mapping[str, str]
    fetched: int
    log: Path


def image_by_docker(context: Context, ref: str, wish: Wish) -> int:
    """Render, fetch, build, run the gate, print. Returns the exit code.

    Raises:
        EnvbuildError: exit 3, recipe or locks; exit 4, a base or an artifact cannot be had; exit 7, the engine, or a
            step that fails.
    """
    seconds: dict[str, float] = {}
    started = time.monotonic()
    outcome = _build(context, ref, wish, seconds)
    ready = outcome.ready
    if wish.output is not None:
        with _stage(seconds, "output"):
            ready.docker.save(ready.built, ready.candidate, wish.output, context.terminal.progress)
    with _stage(seconds, "gate"):
        proof = prove(context, ready, engine=lambda: ready.docker)
    seconds["total"] = round(time.monotonic() - started, 3)
    refusal = None
    if wish.require_verdict and not proof.promoted:
        refusal = EnvbuildError(
            "no-verdict",
            f"{ready.name} ends as a candidate: {proof.why}",
            hint=proof.next_step(ready.name),
            exit=Exit.GATE,
        )
    _print(context, outcome, proof, wish, seconds, refusal)
    if refusal is None:
        return int(Exit.DONE)
    Terminal(json=False, quiet=True).error(refusal)  # the one JSON document holds it already
    return int(refusal.exit)


def assignments(texts: Sequence[str]) -> dict[str, str]:
    """``--build-arg NAME=IMAGE`` and ``--build-arg APT_SNAPSHOT=TIME``, several times.

    Raises:
        EnvbuildError: exit 2.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        hint = "--build-arg BASE=MIRROR/NAME:TAG"
        if name == APT_SNAPSHOT:
            right, form = bool(equals and _SNAPSHOT.fullmatch(value.strip())), "APT_SNAPSHOT=YYYYMMDDTHHMMSSZ"
            hint = (
                "--build-arg APT_SNAPSHOT=20261120T000000Z, or APT_SNAPSHOT= for what the sources offer now"
            )
        else:
            right, form = bool(name and equals and value.strip()), "NAME=IMAGE"
        if not right or name in found:
            wrong = f"{name} is given twice" if name in found else f"{text!r} is not {form}"
            raise EnvbuildError("bad-build-arg", f"--build-arg: {wrong}", hint=hint, exit=Exit.USAGE)
        found[name] = value.strip()
    return found


def _build(context: Context, ref: str, wish: Wish, seconds: dict[str, float]) -> Outcome:
    recipe = context.recipe(ref)
    lock, conda = context.lock(recipe), context.conda_lock(recipe)
    rendered = render(recipe, lock, conda)
    needs = needs_of(recipe, lock, conda, rendered)
    images = _images(needs, wish.images)
    environ = context.settings.environ
    store = context.store()
    buildx, docker = Buildx.find(environ), Docker.connect(environ)
    log = _new_log(store, docker_name(recipe))
    progress = context.terminal.progress
    with _stage(seconds, "bases"), progress.task("look for the bases"):
        buildx.check_bases(images, log=log)
    with _stage(seconds, "fetch"):
        fetched = _fetch(context, store, lock, conda, needs)
    with store.scratch("docker-build") as scratch:
        folder = write_build_folder(rendered, needs, lock, store=store, folder=scratch)
        order = Order(
            name=f"{docker_name(recipe)}-candidate",
            folder=folder.folder,
            dockerfile=folder.dockerfile,
            images=images,
            arguments=wish.arguments,
            contexts=folder.contexts,
            secrets=_secrets(needs, environ, wish.apt),
            network=wish.network,
            epoch=_epoch(lock.created),
            labels=_base_labels(wish.images.get("BASE")),
            fresh=wish.fresh,
        )
        with _stage(seconds, "build"):
            made = buildx.build(order, log=log, progress=progress)
    return Outcome(
        ready=_found(recipe, lock, store, docker),
        buildx=buildx,
        made=made,
        images=images,
        fetched=fetched,
        log=log,
    )


def _found(recipe: Recipe, lock: Lock, store: Store, docker: Docker) -> DockerReady:
    """What was just built, as the engine knows it."""
    name = f"{docker_name(recipe)}-candidate"
    built = docker.built(name, store.layout)
    if built is None:
        raise EnvbuildError(
            "engine-stopped",
            f"the build ended well, and Docker has no image {name}",
            hint="does `docker buildx ls` name a builder of another engine? `docker buildx use default` takes the "
            "engine's own",
            exit=Exit.ENGINE,
        )
    return DockerReady(recipe=recipe, lock=lock, store=store, docker=docker, built=built)


def _images(needs: Needs, given: Mapping[str, str]) -> dict[str, str]:
    """Every image that the build starts from: the Dockerfile's own, or what ``--build-arg`` says."""
    for name in given:
        if name not in needs.images:
            raise EnvbuildError(
                "unknown-build-arg",
                f"--build-arg {name}: the Dockerfile starts from {', '.join(needs.images)}",
                hint="these can be replaced by a mirror's copy or a local image; proxies are passed on by themselves",
                exit=Exit.USAGE,
            )
    return {**needs.images, **given}


def _fetch(context: Context, store: Store, lock: Lock, conda: CondaLock, needs: Needs) -> int:
    """Bring what the build needs into the store; the bytes that came."""
    missing = [item for item in needs.artifacts if not store.has(item.sha256, item.size)]
    fetched = context.workshop(lock, store).fetch(missing) if missing else 0
    packages = [item for item in needs.conda if not store.has(item.sha256, item.size)]
    if not packages:
        return fetched
    environ = context.settings.environ
    channels = CondaChannels.from_machine(environ)
    wanted = [
        Wanted(
            name=item.name,
            file=item.file,
            sha256=item.sha256,
            size=item.size,
            sources=(Source(url=channels.address(conda, item), label=f"the channel {item.channel}"),),
        )
        for item in packages
    ]
    http = Http(environ=Indexes.from_machine(environ).environ)
    jobs = max(4, context.settings.jobs)
    return fetched + fetch(store, wanted, http=http, jobs=jobs, progress=context.terminal.progress)


def _secrets(needs: Needs, environ: Mapping[str, str], apt: Path | None) -> dict[str, Path]:
    """The files that steps with a network may read: certificate authorities, and apt's sources.

    pip's and conda's are not among them: what they would fetch was fetched here.
    """
    merged = Indexes.from_machine(environ).environ
    bundle = next((merged[name] for name in _CA_BUNDLES if merged.get(name)), None)
    found = {}
    if bundle is not None and Path(bundle).is_file():
        found["ca"] = Path(bundle).absolute()
    if apt is not None:
        found["apt"] = apt.absolute()
    return {id: path for id, path in found.items() if id in needs.secrets}


def _base_labels(base: str | None) -> dict[str, str]:
    """What the image says it is shipped on, where that is not what the Dockerfile names."""
    if base is None:
        return {}
    name, _, digest = base.partition("@")
    return {"org.opencontainers.image.base.name": name, "org.opencontainers.image.base.digest": digest}


def _new_log(store: Store, name: str) -> Path:
    """An empty log for this build; the last one's is replaced."""
    folder = store.root / "logs"
    folder.mkdir(exist_ok=True)
    path = folder / f"docker-build-{name.replace(':', '-')}.log"
    path.write_bytes(b"")
    return path


def _epoch(created: str) -> int:
    return calendar.timegm(datetime.fromisoformat(created.replace("Z", "+00:00")).utctimetuple())


@contextmanager
def _stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        seconds[name] = round(time.monotonic() - started, 3)


def _document(outcome: Outcome, proof: Proof, wish: Wish, seconds: Mapping[str, float]) -> dict[str, object]:
    """What ``--json`` prints: the members of ``envbuild image`` (docs/reference/json.md)."""
    ready, built = outcome.ready, outcome.ready.built
    return {
        "ref": ready.name,
        "builder": "docker",
        "digest": built.ref.manifest,
        "config": built.ref.config,
        "tags": list(proof.tags),
        "candidate": not proof.promoted,
        "verdict": proof.to_dict(),
        "size": built.size,
        "layers": [
            {
                "name": item.name,
                "digest": None,
                "diff_id": item.diff_id,
                "size": item.size,
                "artifacts": [],
                "made": None,
            }
            for item in built.layers
        ],
        "engine": "docker",
        "output": str(wish.output) if wish.output else None,
        "registry": None,
        "bytes_fetched": outcome.fetched,
        "seconds": dict(seconds),
        "verify": None,
        "docker": {
            "images": dict(outcome.images),
            "buildx": outcome.buildx.version,
            "driver": outcome.buildx.driver,
            "rewrites_timestamps": outcome.buildx.rewrites,
            "steps": outcome.made.ran,
            "cached": outcome.made.cached,
            "log": str(outcome.log),
        },
    }


def _print(
    context: Context,
    outcome: Outcome,
    proof: Proof,
    wish: Wish,
    seconds: Mapping[str, float],
    refusal: EnvbuildError | None,
) -> None:
    ready, made = outcome.ready, outcome.made
    value = _document(outcome, proof, wish, seconds)
    if refusal is not None:
        value["error"] = refusal.to_dict()
    lines = [
        f"{proof.tags[-1]}  {ready.built.ref.config}",
        f"  {len(ready.built.layers)} layers, {size(ready.built.size)}; {made.ran} steps run, {made.cached} cached, "
        f"fetched {size(outcome.fetched)}, {seconds['total']:.1f} s",
    ]
    if wish.output is not None:
        lines.append(f"  written to {wish.output}")
    context.terminal.data(value, lines)
    if not proof.promoted:
        context.terminal.progress.note(
            f"{ready.candidate} is a candidate, not {ready.name}: {proof.why}.\n{proof.next_step(ready.name)}"
        )
