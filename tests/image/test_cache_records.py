"""A record of the store's cache that is malformed counts as none: what it stood for is made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import envbuild
from envbuild.errors import EnvbuildError
from envbuild.image.assemble import _has_base
from envbuild.image.locked import from_record, recorded
from envbuild.image.plan import plan_image
from envbuild.layers.base import _recorded, base_key
from envbuild.lock import read_lock
from envbuild.native.operator import KIND, _known
from envbuild.oci.digest import of_bytes
from envbuild.store import Store

LOCK = read_lock(Path(envbuild.__file__).parents[1] / "recipes/pytorch-cuda/v2.7/lock.json")
GOOD = {"digest": of_bytes(b"a"), "diff_id": of_bytes(b"b"), "size": 1}
BAD: list[dict[str, Any]] = [
    {},
    {**GOOD, "digest": "/etc"},
    {**GOOD, "digest": ["x"]},
    {**GOOD, "diff_id": "../../x"},
    {**GOOD, "diff_id": "sha256:" + "A" * 64},
    {**GOOD, "size": "x"},
    {**GOOD, "size": None},
]


@pytest.mark.parametrize("record", BAD)
def test_a_record_of_a_layer_that_is_none_counts_as_none(tmp_path: Path, record: dict[str, Any]) -> None:
    assert from_record("x", GOOD).digest == GOOD["digest"]
    assert _recorded(GOOD, ()) is not None
    assert _recorded(record, ()) is None
    with pytest.raises((KeyError, ValueError)):
        from_record("x", record)
    with Store.open(tmp_path / "store") as store:
        layer = plan_image(LOCK, operator=LOCK.native.wheel if LOCK.native else None).layers[0]
        store.put_record("layer", layer.key, record)
        assert recorded(layer, store) is None


@pytest.mark.parametrize("digest", [None, "/etc", "sha256:x", 7, []])
def test_a_record_of_a_base_that_is_none_counts_as_none(tmp_path: Path, digest: object) -> None:
    with Store.open(tmp_path / "store") as store:
        store.put_record("base", base_key(LOCK.debian), {"digest": digest})
        assert not _has_base(LOCK, store)


@pytest.mark.parametrize("sha256", [None, "/etc", "x" * 64, 7, []])
def test_a_record_of_an_operator_that_is_none_counts_as_none(tmp_path: Path, sha256: object) -> None:
    assert LOCK.native is not None
    with Store.open(tmp_path / "store") as store:
        store.put_record(KIND, "key", {"file": "x.whl", "sha256": sha256, "size": 1})
        assert _known(store, "key", LOCK.native.source) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "\0", "[]", "7", "", json.dumps({"a": 1})[:-1]])
def test_a_record_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    with Store.open(tmp_path / "store") as store:
        store.put_record("layer", "key", {})
        (store.root / "cache" / "layer" / "key.json").write_text(text)
        assert store.record("layer", "key") is None


@pytest.mark.parametrize(
    "text", ["", "/etc", "../x", "sha256:" + "0" * 63, "A" * 64, "0" * 64 + "\n", "0" * 64 + "/x"]
)
def test_no_other_text_becomes_a_path_of_the_store(tmp_path: Path, text: str) -> None:
    with Store.open(tmp_path / "store") as store:
        for call in (
            store.artifact,
            store.layout.path,
            store.layout.has,
            store.layout.read,
            store.layout.remove,
        ):
            with pytest.raises(EnvbuildError) as caught:
                call(text)
            assert caught.value.id == "bad-digest"
