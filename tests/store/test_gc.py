"""Garbage collection: what is named stays whole, the rest goes, and never under a running build."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.descriptor import MANIFEST, Descriptor
from envbuild.oci.image import Image, RunConfig
from envbuild.oci.layer import Layer
from envbuild.progress import SilentProgress
from envbuild.store import Keep, Store, collect

FORK = multiprocessing.get_context("fork")


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image_in(store: Store, *contents: bytes) -> Image:
    """An image whose layers are in the layout and unpacked in roots."""
    layers = []
    for content in contents:
        diff_id = digest(b"tar of " + content)
        root = store.roots / diff_id.removeprefix("sha256:")
        (root / "usr").mkdir(parents=True, exist_ok=True)
        (root / "usr" / "file").write_bytes(content)
        layers.append(Layer(name="l", digest=store.layout.put(content), diff_id=diff_id, size=len(content)))
    run = RunConfig(env={}, entrypoint=(), cmd=("sh",), working_dir="/", user="root", labels={})
    image = Image(layers=tuple(layers), run=run, created="2020-01-01T00:00:00Z")
    store.layout.put(image.config_bytes)
    store.layout.put(image.manifest_bytes)
    return image


def artifact_in(store: Store, tmp_path: Path, data: bytes) -> str:
    (tmp_path / "incoming").write_bytes(data)
    return store.adopt(tmp_path / "incoming")


def test_named_images_stay_whole_and_the_rest_goes(store: Store, tmp_path: Path) -> None:
    kept = image_in(store, b"base", b"torch 2.7")
    old = image_in(store, b"base", b"torch 2.6")
    store.layout.tag("new", kept.manifest)
    artifact = artifact_in(store, tmp_path, b"wheel 2.7")
    artifact_in(store, tmp_path, b"wheel 2.6")
    freed = collect(store, Keep(artifacts=frozenset({artifact})), progress=SilentProgress())
    assert set(store.layout.blobs()) == {
        kept.digest,
        kept.config.digest,
        *(layer.digest for layer in kept.layers),
    }
    assert {path.name for path in store.roots.iterdir()} == {
        layer.diff_id.removeprefix("sha256:") for layer in kept.layers
    }
    assert [path.name for path in (store.root / "artifacts" / "sha256").iterdir()] == [artifact]
    assert (freed.blobs, freed.roots, freed.artifacts) == (3, 1, 1)
    assert freed.bytes >= len(b"wheel 2.6") + len(b"torch 2.6") + len(old.manifest_bytes)
    again = collect(store, Keep(artifacts=frozenset({artifact})), progress=SilentProgress())
    assert set(again.to_dict().values()) == {0}


def test_what_a_lock_names_stays_without_a_name(store: Store) -> None:
    image = image_in(store, b"base")
    single = store.layout.put(b"a layer that a lock names")
    collect(store, Keep(digests=frozenset({image.digest, single})), progress=SilentProgress())
    assert store.layout.has(image.layers[0].digest)
    assert store.layout.has(single)
    assert len(list(store.roots.iterdir())) == 1


def test_roots_can_be_kept_by_themselves(store: Store) -> None:
    image = image_in(store, b"base")
    collect(store, Keep(roots=frozenset({image.layers[0].diff_id})), progress=SilentProgress())
    assert list(store.layout.blobs()) == []
    assert len(list(store.roots.iterdir())) == 1


def test_records_of_what_is_gone_go_too(store: Store) -> None:
    kept, gone = store.layout.put(b"kept"), store.layout.put(b"gone")
    store.put_record("layer", "a", {"digest": kept})
    store.put_record("layer", "b", {"nested": [{"digest": gone}]})
    store.put_record("wheel", gone.removeprefix("sha256:"), {"n": 1})
    freed = collect(store, Keep(digests=frozenset({kept})), progress=SilentProgress())
    assert store.record("layer", "a") == {"digest": kept}
    assert store.record("layer", "b") is None
    assert store.record("wheel", gone.removeprefix("sha256:")) is None
    assert freed.records == 2


def test_what_the_conda_solver_keeps_is_no_record(store: Store) -> None:
    """A channel that is read from a folder is a folder among the records."""
    image_in(store, b"old")
    kept = store.root / "cache/conda/folders/abc/noarch/repodata.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    assert collect(store, Keep(), progress=SilentProgress()).blobs == 3
    assert kept.exists()


def test_what_was_made_of_a_kept_artifact_stays_with_it(store: Store, tmp_path: Path) -> None:
    names = {}
    for name in ("wheel", "its byte code", "another wheel", "the other's byte code"):
        (tmp_path / "file").write_text(name)
        names[name] = store.adopt(tmp_path / "file")
    store.put_record("bytecode", "a", {"of": names["wheel"], "sha256": names["its byte code"]})
    store.put_record(
        "bytecode", "b", {"of": names["another wheel"], "sha256": names["the other's byte code"]}
    )
    collect(store, Keep(artifacts=frozenset({names["wheel"]})), progress=SilentProgress())
    assert [name for name, sha256 in names.items() if store.has(sha256)] == ["wheel", "its byte code"]
    assert store.record("bytecode", "a") is not None
    assert store.record("bytecode", "b") is None


def test_unfinished_downloads_stay_for_kept_artifacts(store: Store) -> None:
    for name in ("a" * 64, "b" * 64):
        (store.partial / f"{name}.part").write_bytes(b"half")
        (store.partial / f"{name}.origin").write_bytes(b"{}")
    collect(store, Keep(artifacts=frozenset({"a" * 64})), progress=SilentProgress())
    assert {path.name[0] for path in store.partial.iterdir()} == {"a"}


def test_a_remover_of_its_own_takes_the_roots(store: Store) -> None:
    image_in(store, b"base")
    seen: list[Path] = []

    def remove(path: Path) -> None:
        seen.append(path)
        shutil.rmtree(path)

    collect(store, Keep(), progress=SilentProgress(), remove_root=remove)
    assert len(seen) == 1
    assert list(store.roots.iterdir()) == []


class Notes(SilentProgress):
    """What was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("harm", ["damaged", "cut", "empty", "lost"])
def test_what_a_named_image_needs_stays_where_its_manifest_does_not_tell(store: Store, harm: str) -> None:
    image = image_in(store, b"base")
    store.layout.tag("a", image.manifest)
    path = store.layout.path(image.digest)
    if harm == "lost":
        path.unlink()
    else:
        path.write_bytes(
            {"damaged": b'{"layers": [{"digest": "sha256:../../x"}, 7]}', "cut": b"{", "empty": b""}[harm]
        )
    before, roots = set(store.layout.blobs()), set(store.roots.iterdir())
    notes = Notes()
    collect(store, Keep(), progress=notes)
    assert set(store.layout.blobs()) == before
    assert set(store.roots.iterdir()) == roots
    assert "all blobs stay" in notes.said[0]
    assert "--forget" in notes.said[0]
    store.layout.untag("a")
    collect(store, Keep(), progress=notes)
    assert set(store.layout.blobs()) == set()


def test_an_image_that_names_its_layer_as_a_document_keeps_nothing_else(store: Store) -> None:
    image = image_in(store, b"base", bytes(5 << 20))
    value = {**json.loads(image.manifest_bytes), "subject": {"digest": image.layers[1].digest, "size": 1}}
    data = json.dumps(value).encode()
    store.layout.tag("a", Descriptor(media_type=MANIFEST, digest=store.layout.put(data), size=len(data)))
    rubbish = store.layout.put(b"rubbish")
    notes = Notes()
    collect(store, Keep(), progress=notes)
    assert (notes.said, store.layout.has(rubbish)) == ([], False)
    assert all(store.layout.has(layer.digest) for layer in image.layers)
    path = store.layout.path(image.layers[1].digest)
    path.write_bytes(b"x" * (5 << 20))
    collect(store, Keep(), progress=notes)
    assert "is damaged" in notes.said[0]


@pytest.mark.parametrize("space", [b"", b"\n  ", b"\t"])
def test_a_manifest_may_begin_with_white_space(store: Store, space: bytes) -> None:
    image = image_in(store, b"base")
    data = space + image.manifest_bytes
    manifest = Descriptor(media_type=MANIFEST, digest=store.layout.put(data), size=len(data))
    store.layout.tag("a", manifest)
    collect(store, Keep(), progress=SilentProgress())
    assert store.layout.has(image.layers[0].digest)
    assert len(list(store.roots.iterdir())) == 1


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "x",
        "sha256:",
        "sha256:../../x",
        "sha256:" + "A" * 64,
        "sha512:" + "0" * 128,
        7,
        ["sha256:" + "0" * 64],
        {},
    ],
)
@pytest.mark.parametrize("member", ["subject", "config", "layers", "manifests", "blobs"])
def test_a_manifest_with_a_malformed_digest_does_not_stop_the_collection(
    store: Store, member: str, bad: object
) -> None:
    image = image_in(store, b"base")
    entry: object = {"mediaType": MANIFEST, "digest": bad, "size": 1}
    listed = [entry, {"digest": image.layers[0].digest}]
    extra = {member: entry if member in {"subject", "config"} else listed}
    value = {"schemaVersion": 2, **json.loads(image.manifest_bytes), **extra}
    data = json.dumps(value).encode()
    store.layout.tag("a", Descriptor(media_type=MANIFEST, digest=store.layout.put(data), size=len(data)))
    notes = Notes()
    garbage = store.layout.put(b"garbage")
    collect(store, Keep(), progress=notes)
    assert store.layout.has(image.layers[0].digest)
    assert not store.layout.has(garbage)
    assert bool(notes.said) == (bad is not None)


@pytest.mark.parametrize(
    "data", [b"{" * 100_000, b'{"layers": ' + b"[" * 100_000, b"\0", b"[]", b'{"config": 7}']
)
def test_a_named_blob_that_is_no_manifest_does_not_stop_the_collection(store: Store, data: bytes) -> None:
    store.layout.tag("a", Descriptor(media_type=MANIFEST, digest=store.layout.put(data), size=len(data)))
    garbage = store.layout.put(b"garbage")
    collect(store, Keep(), progress=SilentProgress())
    assert not store.layout.has(garbage)


@pytest.mark.parametrize("digest", ["", "/etc", "sha256:x", 7])
def test_an_index_that_names_no_digest_is_told_and_nothing_goes(store: Store, digest: object) -> None:
    image = image_in(store, b"base")
    store.layout.tag("a", image.manifest)
    index = store.layout.root / "index.json"
    value = json.loads(index.read_bytes())
    value["manifests"][0]["digest"] = digest
    index.write_text(json.dumps(value))
    before = set(store.layout.blobs())
    with pytest.raises(EnvbuildError) as caught:
        collect(store, Keep(), progress=SilentProgress())
    assert (caught.value.id, caught.value.exit) == ("broken-index", Exit.USAGE)
    assert set(store.layout.blobs()) == before
    with pytest.raises(EnvbuildError, match="sha256 digest"):
        store.layout.tag("b", Descriptor(media_type=MANIFEST, digest=str(digest), size=1))


def test_what_envbuild_did_not_name_stays(store: Store) -> None:
    strangers = [
        store.layout.blob_folder / "README",
        store.root / "artifacts/sha256/notes.txt",
        store.roots / ".ssh",
        store.roots / "mine",
        store.root / "locks" / "mine.txt",
        store.root / "tmp" / "new-letter.txt",
        store.root / "tmp" / "scratch-pad",
        store.layout.root / ".envbuild" / "new-letter.txt",
    ]
    for path in strangers[:2] + strangers[4:6] + strangers[7:]:
        path.write_text("mine")
    for path in [*strangers[2:4], strangers[6]]:
        (path / "deep").mkdir(parents=True)
    (store.root / "cache" / "a file").write_text("{")
    collect(store, Keep(), progress=SilentProgress())
    store.sweep()
    store.layout.sweep()
    assert [path for path in strangers if not path.exists()] == []


@pytest.mark.parametrize(
    "text", ['{"of": []}', '{"of": {}}', "[" * 100_000, '{"of": "x", "sha256": 7}', "\0", "1" * 9999]
)
def test_a_malformed_record_does_not_stop_the_collection(store: Store, text: str) -> None:
    (store.root / "cache" / "licence").mkdir()
    (store.root / "cache" / "licence" / "a.json").write_text(text)
    collect(store, Keep(), progress=SilentProgress())
    assert store.record("licence", "a") in (None, *([json.loads(text)] if text.startswith("{") else []))


def test_lock_files_of_killed_processes_go(store: Store) -> None:
    (store.root / "locks" / "dead.lock").touch()
    collect(store, Keep(), progress=SilentProgress())
    assert [path.name for path in (store.root / "locks").iterdir()] == ["use.lock"]


def _use(root: Path, ready: Connection) -> None:
    with Store.open(root):
        ready.send("open")
        signal.pause()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_it_waits_for_a_running_build(store: Store, ending: signal.Signals) -> None:
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=_use, args=(store.root, theirs))
    child.start()
    ours.recv()
    store.layout.put(b"the build has just written this")
    said, done = threading.Event(), threading.Event()
    notes: list[str] = []

    class Notes(SilentProgress):
        def note(self, text: str) -> None:
            notes.append(text)
            said.set()

    def work() -> None:
        collect(store, Keep(), progress=Notes())
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert said.wait(20)
    assert not done.is_set()
    assert len(list(store.layout.blobs())) == 1
    assert child.pid is not None
    assert f"waiting for process {child.pid} (" in notes[0]
    os.kill(child.pid, ending)
    child.join()
    thread.join(20)
    assert done.is_set()
    assert list(store.layout.blobs()) == []


def _open_and_tell(root: Path, ready: Connection) -> None:
    with Store.open(root) as store:
        ready.send(len(list(store.layout.blobs())))


def test_a_build_waits_for_the_collection(store: Store) -> None:
    store.layout.put(b"old")
    ours, theirs = FORK.Pipe()
    with store.alone(SilentProgress()):
        child = FORK.Process(target=_open_and_tell, args=(store.root, theirs))
        child.start()
        assert not ours.poll(0.3)
        store.layout.remove(digest(b"old"))
    assert ours.recv() == 0
    child.join()
