"""The base layer: a closure of .debs, configured by dpkg in the sandbox, normalised, and packed.

docs/explanation/base.md says what is kept, what is removed, and why the bytes are always the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.debs import Deb, essential, read_deb
from envbuild.layers.format import FORMAT, MTIME
from envbuild.layers.interpreter import ENV, compile_files, run_reporting, tail
from envbuild.layers.packed import pack_folder
from envbuild.lock.model import Artifact
from envbuild.oci import digest as digests
from envbuild.oci.disk import disk_full, ran_out, try_lock
from envbuild.oci.layer import Layer
from envbuild.progress import Progress
from envbuild.sandbox import Bind, Command, Rootfs, Sandbox
from envbuild.sandbox.unpack import unpack_layers
from envbuild.store import Store

NAME = "base"
REVISION = 2
"""Part of the cache key: a change that changes bytes, here or in ``base_tree``, ``base_pack`` or ``packed``, needs a
new one."""

_PASSES = 3
_DPKG = {
    **ENV,
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBCONF_NONINTERACTIVE_SEEN": "true",
    "SOURCE_DATE_EPOCH": str(MTIME),
    "PYTHONDONTWRITEBYTECODE": "1",
    "PERL_HASH_SEED": "0",
}


def base_key(debs: Sequence[Artifact]) -> str:
    """The cache key of the base that these packages give."""
    value = {"format": FORMAT, "revision": REVISION, "debs": sorted(deb.sha256 for deb in debs)}
    return digests.of_bytes(digests.canonical_json(value)).removeprefix("sha256:")


def build_base(
    debs: Sequence[tuple[Artifact, Path]],
    *,
    sandbox: Sandbox,
    store: Store,
    progress: Progress,
    jobs: int | None = None,
) -> Layer:
    """Make the base layer, or take it from the store.

    Args:
        debs: a closed set of packages and where each file lies; one version of each.
        sandbox: where dpkg runs.
        store: gets the blob and the root.
        progress: gets one task a stage.
        jobs: processes; by default one for each core.

    Returns:
        The layer; its root lies at ``store.roots`` (:func:`base_root`).

    Raises:
        EnvbuildError: exit 5, a package file is damaged; 3, dpkg cannot configure the set; 7, the sandbox.
    """
    key = base_key([artifact for artifact, _ in debs])
    with store.lock(f"base-{key}", progress):
        record = store.record("base", key)
        layer = None if record is None else _recorded(record, debs)
        if layer is None or not store.layout.has(layer.digest, layer.size):
            with _scratch(store, sandbox) as work:
                layer = _build(debs, work, sandbox, store, progress, jobs or os.cpu_count() or 1)
            store.put_record(
                "base", key, {"digest": layer.digest, "diff_id": layer.diff_id, "size": layer.size}
            )
        base_root(layer, sandbox=sandbox, store=store, progress=progress)
    return layer


def base_root(layer: Layer, *, sandbox: Sandbox, store: Store, progress: Progress) -> Path:
    """The unpacked base: ``roots/<diff_id>``, unpacked from the blob if it is not there.

    Raises:
        EnvbuildError: those of :func:`envbuild.sandbox.unpack.unpack_layers`.
    """
    blob = store.layout.path(layer.digest)
    return unpack_layers(sandbox, [(layer.diff_id, blob)], store.roots, jobs=1, progress=progress)[0]


def _recorded(record: Mapping[str, object], debs: Sequence[tuple[Artifact, Path]]) -> Layer | None:
    """The layer that a record of the store names; ``None`` where it is no such record."""
    try:
        return Layer(
            name=NAME,
            digest=str(digests.Digest(record["digest"])),
            diff_id=str(digests.Digest(record["diff_id"])),
            size=int(str(record["size"])),
            artifacts=tuple(artifact.name for artifact, _ in debs),
        )
    except (KeyError, ValueError):
        return None


@contextmanager
def _scratch(store: Store, sandbox: Sandbox) -> Iterator[Path]:
    """A scratch folder whose trees may belong to the sandbox's users; removes those of builds that died."""
    for folder in (store.root / "tmp").glob(f"scratch-{NAME}-{'[0-9a-f]' * 12}"):
        if folder.is_dir() and (dead := try_lock(folder.with_name(f"{folder.name}.lock"))) is not None:
            sandbox.remove(folder)
            dead.release(remove=True)
    with store.scratch(NAME) as work:
        try:
            yield work
        finally:
            for entry in work.iterdir():
                sandbox.remove(entry)


def _build(
    debs: Sequence[tuple[Artifact, Path]],
    work: Path,
    sandbox: Sandbox,
    store: Store,
    progress: Progress,
    jobs: int,
) -> Layer:
    with progress.task("read packages", total=len(debs), unit="packages") as task:
        packages = []
        for artifact, path in debs:
            packages.append(read_deb(path, artifact.basename))
            task.advance(1)
    packages.sort(key=lambda deb: deb.name)
    first = essential(packages)
    if "dpkg" not in {deb.name for deb in first}:
        raise EnvbuildError(
            "base-not-debian",
            f"the lock's {len(packages)} Debian packages do not contain dpkg, which installs them",
            hint="lock the recipe again (`envbuild lock REF`), or start from an image: --base IMAGE@sha256:…",
            exit=Exit.INPUT,
        )
    root = work / "root"
    with progress.task("unpack essential packages", total=len(first), unit="packages") as task:
        arguments = {"root": str(root), "essential": [[str(deb.path.absolute()), deb.label] for deb in first]}
        sandbox.call("envbuild.layers.base_tree:prepare", arguments, advance=task.advance)
    _configure(packages, work, sandbox, progress)
    with progress.task("compile the distribution's Python", unit="files"):
        stale = sandbox.call("envbuild.layers.base_tree:normalise", {"root": str(root)})
        assert isinstance(stale, list)
        if stale:
            compile_files(sandbox, Rootfs(lowers=(), upper=root), stale, work=work, jobs=jobs)
            sandbox.call("envbuild.layers.base_tree:fix_times", {"root": str(root)})
    gzip_root = Rootfs(lowers=(), upper=root)
    layer = pack_folder(
        NAME, root, gzip_root=gzip_root, work=work, sandbox=sandbox, store=store, progress=progress, jobs=jobs
    )
    return replace(layer, artifacts=tuple(artifact.name for artifact, _ in debs))


def _configure(packages: Sequence[Deb], work: Path, sandbox: Sandbox, progress: Progress) -> None:
    """Install the packages with dpkg, as debootstrap orders it: base-passwd first, since owners need it."""
    folders = sorted({deb.path.parent.absolute() for deb in packages})
    binds = tuple(Bind(source=path, target=f"/tmp/debs/{number}") for number, path in enumerate(folders))
    places = {
        deb.name: f"/tmp/debs/{folders.index(deb.path.parent.absolute())}/{deb.path.name}" for deb in packages
    }
    log, rootfs = work / "dpkg.log", Rootfs(lowers=(), upper=work / "root")
    with progress.task("install packages", total=2 * len(packages), unit="steps") as task:

        def count(line: bytes) -> None:
            task.advance(line.startswith((b"Unpacking ", b"Setting up ")))

        def dpkg(*arguments: str) -> int:
            command = Command(argv=("dpkg", "--force-unsafe-io", *arguments), env=_DPKG, binds=binds)
            return run_reporting(sandbox, rootfs, command, log=log, on_line=count)

        if "base-passwd" in places:
            dpkg("--force-depends", "--install", places["base-passwd"])
        rest = [place for name, place in places.items() if name != "base-passwd"]
        # A script may need a package that is configured after it: then a later pass succeeds.
        if dpkg("--force-depends", "--unpack", *rest) == 0 and any(
            dpkg("--configure", "-a") == 0 for _ in range(_PASSES)
        ):
            return
    if ran_out(work, tail(log)):
        raise disk_full(work)
    raise EnvbuildError(
        "base-not-configured",
        f"dpkg could not install the locked packages; its last lines:\n{tail(log)}",
        hint="the locked set of packages is not complete: lock the recipe again (`envbuild lock REF`)",
        exit=Exit.INPUT,
    )
