"""Assemble: make every layer of a plan that the store lacks, and the image of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.image.locked import compare, locked_image, recorded, to_record
from envbuild.image.plan import ImageBase, LayerPlan, Plan, interpreter_key, plan_image
from envbuild.image.toolkit import make_toolkit
from envbuild.image.workshop import Workshop
from envbuild.layers.base import base_key, base_root, build_base
from envbuild.layers.base_image import base_from_image
from envbuild.layers.bytecode import bytecode_layer, compile_wheels
from envbuild.layers.files import write_files_layer
from envbuild.layers.splice import check_conflicts, write_known_layer, write_wheel_layer
from envbuild.layers.wheel import WheelPlan, plan_wheel
from envbuild.lock.model import Artifact, ImageLock, Lock
from envbuild.native import build_operator
from envbuild.oci.digest import is_digest
from envbuild.oci.image import Image
from envbuild.oci.layer import Layer
from envbuild.progress import Within
from envbuild.store import Store

_OF_WHEELS = ("wheels", "bytecode")
"""The kinds of layers that are made of wheels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What came out: the image, the operator's wheel, and what it cost.

    ``made`` names the layers that were made in this run (the others were in the store); ``seconds`` is by stage.
    """

    image: Image
    operator: Artifact | None
    made: tuple[str, ...]
    bytes_fetched: int
    seconds: dict[str, float]

    @property
    def lock(self) -> ImageLock:
        """What the lock should remember."""
        return ImageLock(digest=self.image.digest, config=self.image.config.digest, layers=self.image.layers)


@dataclass(slots=True, kw_only=True)
class _Account:
    """Running totals of one assembly."""

    seconds: dict[str, float] = field(default_factory=dict)
    fetched: int = 0
    made: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - started
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)


def assemble(lock: Lock, workshop: Workshop, *, base: ImageBase | None = None) -> Built:
    """Make the image of a lock, with as little work as the store allows.

    With a ``base`` from a registry the image is another one than the lock names, and is not compared with it.

    Returns:
        The image, whose blobs, config and manifest are all in the store's layout.

    Raises:
        EnvbuildError: exit 5 when anything is not what the lock says; what fetching, the sandbox, wheels and the
            compiler raise.
    """
    account = _Account()
    with account.stage("check"):
        finished = locked_image(lock, workshop.store) if base is None else None
    if finished is not None:
        operator = lock.native.wheel if lock.native else None
        return Built(image=finished, operator=operator, made=(), bytes_fetched=0, seconds=account.seconds)
    operator = lock.native.wheel if lock.native else None
    if lock.native is not None and operator is None:
        operator = _operator(lock, workshop, account)
    plan = plan_image(lock, operator=operator, base=base)
    layers = (*plan.given, *_layers(lock, plan, base, workshop, account))
    image = Image(layers=layers, run=plan.run, created=plan.created, annotations=plan.annotations)
    if base is None:
        compare(lock, image)
    workshop.store.layout.put(image.config_bytes)
    workshop.store.layout.put(image.manifest_bytes)
    with account.stage("layer cache"):
        workshop.elsewhere.finish()
    return Built(
        image=image,
        operator=operator,
        made=tuple(account.made),
        bytes_fetched=account.fetched,
        seconds=account.seconds,
    )


def _operator(lock: Lock, workshop: Workshop, account: _Account) -> Artifact:
    """DeepSpeed's compiled wheel: from the store, from elsewhere, or built now."""
    native = lock.native
    assert native is not None
    if native.wheel is not None and workshop.store.has(native.wheel.sha256, native.wheel.size):
        return native.wheel
    with account.stage("fetch"):
        found = workshop.elsewhere.operator(lock)
    if found is not None:
        account.fetched += found.size
        return found
    wheels = {wheel.name: wheel for wheel in lock.python}
    inputs = [native.source, *native.toolchain, *native.build, *wheels.values()]
    _fetch([*lock.debian, *inputs], workshop, account)
    root = _base(lock, workshop, account)[1]
    with account.stage("operator"):
        wheel = build_operator(
            lock,
            base_root=root,
            sandbox=workshop.sandbox(),
            store=workshop.store,
            progress=workshop.progress,
            jobs=workshop.jobs,
        )
    if native.wheel is not None and wheel.sha256 != native.wheel.sha256:
        raise EnvbuildError(
            "operator-differs",
            f"the compiled DeepSpeed wheel is sha256 {wheel.sha256}; the lock says {native.wheel.sha256}",
            where=native.wheel.file,
            hint="the same inputs must give the same bytes: please report both hashes; "
            f"`envbuild lock {lock.ref} --forget-built` accepts the new one",
            exit=Exit.VERIFY,
        )
    workshop.elsewhere.compiled(lock, wheel)
    return wheel


def _base(lock: Lock, workshop: Workshop, account: _Account) -> tuple[Layer, Path]:
    """The base layer and its unpacked root."""
    store = workshop.store
    with account.stage("base"):
        layer = build_base(
            [(deb, store.artifact(deb.sha256)) for deb in lock.debian],
            sandbox=workshop.sandbox(),
            store=store,
            progress=workshop.progress,
            jobs=workshop.jobs,
        )
        return layer, base_root(layer, sandbox=workshop.sandbox(), store=store, progress=workshop.progress)


def _has_base(lock: Lock, store: Store) -> bool:
    """Whether the base was made before and its blob is still there."""
    record = store.record("base", base_key(lock.debian))
    digest = record.get("digest") if record is not None else None
    return is_digest(digest) and store.layout.has(str(digest))


def _image_root(base: ImageBase, workshop: Workshop, account: _Account) -> Path:
    """A registry's image, unpacked into one root."""
    with account.stage("base"):
        return base_from_image(
            base.reference,
            base.layers,
            sandbox=workshop.sandbox(),
            store=workshop.store,
            progress=workshop.progress,
        )


def _layers(
    lock: Lock, plan: Plan, base: ImageBase | None, workshop: Workshop, account: _Account
) -> tuple[Layer, ...]:
    """Every layer of the plan, in order; those that the store has are not made again."""
    known = {layer.name: layer for layer in lock.image.layers} if lock.image and base is None else {}
    done = {layer.name: found for layer in plan.layers if (found := recorded(layer, workshop.store))}
    done |= _elsewhere([layer for layer in plan.layers if layer.name not in done], known, workshop, account)
    missing = [layer for layer in plan.layers if layer.name not in done]
    if any(a.index == "built" for layer in missing for a in layer.artifacts):
        _operator(lock, workshop, account)
    by_kind = {
        kind: [p for p in missing if p.kind == kind]
        for kind in ("base", "files", "wheels", "bytecode", "toolkit")
    }
    inputs = {a.sha256: a for layer in missing for a in layer.artifacts}
    in_root = by_kind["bytecode"] or by_kind["toolkit"]
    if in_root and base is None and not _has_base(lock, workshop.store):
        inputs |= {a.sha256: a for a in lock.debian}
    _fetch(list(inputs.values()), workshop, account)
    account.made += [layer.name for layer in missing]
    made: dict[str, Layer] = {}
    root = Path()
    if base is not None and in_root:
        root = _image_root(base, workshop, account)
    elif by_kind["base"] or in_root:
        made["base"], root = _base(lock, workshop, account)
    for layer in by_kind["files"]:
        made[layer.name] = write_files_layer(layer.name, layer.files, workshop.store.layout)
    for layer in by_kind["toolkit"]:
        made[layer.name] = _toolkit_layer(layer, plan, root, workshop, account)
    if by_kind["wheels"] or by_kind["bytecode"]:
        with account.stage("read wheels"):
            plans = _read_wheels(missing, plan, workshop)
        interpreter = interpreter_key(lock) if base is None else base.digest
        with ThreadPoolExecutor(max_workers=1) as beside:
            code = beside.submit(
                _bytecode_layers, interpreter, by_kind["bytecode"], plans, root, workshop, account
            )
            with account.stage("wheel layers"):
                made |= _wheel_layers(by_kind["wheels"], plans, known, workshop)
            made |= code.result()
    for layer in missing:
        workshop.store.put_record("layer", layer.key, to_record(made[layer.name]))
        workshop.elsewhere.made(layer, made[layer.name])
    return tuple({**done, **made}[layer.name] for layer in plan.layers)


def _elsewhere(
    lacking: Sequence[LayerPlan], known: Mapping[str, Layer], workshop: Workshop, account: _Account
) -> dict[str, Layer]:
    """What need not be made here, with the names of what is in it."""
    if not lacking:
        return {}
    with account.stage("fetch"):
        found, fetched = workshop.elsewhere.layers([(layer, known.get(layer.name)) for layer in lacking])
    account.fetched += fetched
    return {
        layer.name: replace(found[layer.name], artifacts=tuple(a.name for a in layer.artifacts))
        for layer in lacking
        if layer.name in found
    }


def _toolkit_layer(layer: LayerPlan, plan: Plan, root: Path, workshop: Workshop, account: _Account) -> Layer:
    """The CUDA toolkit, packed with the base's gzip."""
    assert plan.toolkit is not None
    with account.stage("toolkit"):
        made = make_toolkit(
            plan.toolkit,
            base_root=root,
            sandbox=workshop.sandbox(),
            store=workshop.store,
            progress=workshop.progress,
            jobs=workshop.jobs,
        )
    return replace(made, artifacts=tuple(a.name for a in layer.artifacts))


def _read_wheels(missing: Sequence[LayerPlan], plan: Plan, workshop: Workshop) -> dict[str, WheelPlan]:
    """Every wheel's plan by sha256, checked singly and against each other.

    The wheels of layers that are not made now are read too, where the store has them: two packages that bring one
    path with different content must not depend on which of them was built first.
    """
    needed = {a.sha256: a for layer in missing if layer.kind in _OF_WHEELS for a in layer.artifacts}
    store = workshop.store
    others = {
        a.sha256: a
        for layer in plan.layers
        if layer.kind == "wheels"
        for a in layer.artifacts
        if store.has(a.sha256, a.size)
    }
    plans = {
        sha: plan_wheel(store.artifact(sha), file=a.basename, sha256=sha)
        for sha, a in (needed | others).items()
    }
    check_conflicts(list(plans.values()))
    return plans


def _wheel_layers(
    layers: Sequence[LayerPlan], plans: dict[str, WheelPlan], known: Mapping[str, Layer], workshop: Workshop
) -> dict[str, Layer]:
    """Splice the wheel layers, ``jobs`` at a time, largest first so that the last ones are small.

    ``known`` are the layers that the lock names: one that comes out with its digest need not be inflated to be sure.
    """
    if not layers:
        return {}
    ordered = sorted(layers, key=lambda layer: -sum(a.size for a in layer.artifacts))
    total = sum(a.size for layer in layers for a in layer.artifacts)
    with workshop.progress.task("wheels to layers", total=total) as task:
        inner = Within(task, workshop.progress)

        def make(layer: LayerPlan) -> Layer:
            with workshop.store.lock(f"layer-{layer.key}", workshop.progress):
                found = recorded(layer, workshop.store)
                if found is not None:
                    return found
                wheels = [plans[a.sha256] for a in layer.artifacts]
                expected = known.get(layer.name)
                if expected is not None and write_known_layer(expected, wheels, workshop.store.layout, inner):
                    made = expected
                else:
                    made = write_wheel_layer(layer.name, wheels, workshop.store.layout, inner)
                workshop.store.put_record("layer", layer.key, to_record(made))
                return replace(made, artifacts=tuple(a.name for a in layer.artifacts))

        with ThreadPoolExecutor(max_workers=workshop.jobs) as pool:
            return {made.name: made for made in pool.map(make, ordered)}


def _bytecode_layers(
    interpreter: str,
    layers: Sequence[LayerPlan],
    plans: dict[str, WheelPlan],
    root: Path,
    workshop: Workshop,
    account: _Account,
) -> dict[str, Layer]:
    """Compile what no earlier run compiled, and put each group's fragments into its layer."""
    if not layers:
        return {}
    with account.stage("byte code"):
        fragments = compile_wheels(
            [[plans[a.sha256] for a in layer.artifacts] for layer in layers],
            base_root=root,
            interpreter=interpreter,
            sandbox=workshop.sandbox(),
            store=workshop.store,
            progress=workshop.progress,
            jobs=workshop.jobs,
        )
        made = [
            bytecode_layer(layer.name, [fragments[a.sha256] for a in layer.artifacts], workshop.store.layout)
            for layer in layers
        ]
    return {
        layer.name: replace(done, artifacts=tuple(a.name for a in layer.artifacts))
        for layer, done in zip(layers, made, strict=True)
    }


def _fetch(artifacts: Sequence[Artifact], workshop: Workshop, account: _Account) -> None:
    missing = [a for a in artifacts if not workshop.store.has(a.sha256, a.size)]
    if missing:
        with account.stage("fetch"):
            account.fetched += workshop.fetch(missing)
