"""``envbuild export --format sbom|provenance``, and the licences that the first build writes into the lock."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from clirun import Cli

from envbuild import __version__
from envbuild.lock import lock_bytes, read_lock
from envbuild.publish.sbom import sbom

pytestmark = pytest.mark.network


def lock_path(cli: Cli) -> Path:
    return Path(cli.env["ENVBUILD_RECIPES"]) / "small/v1/lock.json"


def test_the_first_build_writes_licences_and_a_second_one_nothing(on_small: Cli) -> None:
    path = lock_path(on_small)
    committed = read_lock(path)  # with the .debs of a committed lock, whose licences it has
    before = replace(committed, debian=tuple(replace(item, licence=None) for item in committed.debian))
    path.write_bytes(lock_bytes(before))
    assert b'"licence"' not in path.read_bytes()
    assert on_small("image", "small:v1", "--no-load").code == 0
    after = read_lock(path)
    assert all(item.licence for item in after.debian)
    assert [item.licence for item in after.python] == [None] * len(after.python)  # their METADATA says none
    assert replace(after, image=None) == before
    written = path.read_bytes()
    assert on_small("image", "small:v1", "--no-load").code == 0
    assert path.read_bytes() == written


def test_a_lock_without_licences_stays_valid_and_gives_the_same_image(on_small: Cli) -> None:
    path = lock_path(on_small)
    first = on_small("image", "small:v1", "--no-load", "--json").value["digest"]
    lock = read_lock(path)
    bare = replace(lock, debian=tuple(replace(item, licence=None) for item in lock.debian))
    path.write_bytes(lock_bytes(bare))
    assert on_small("image", "small:v1", "--no-load", "--json").value["digest"] == first


def test_what_is_exported_is_what_is_published(on_small: Cli) -> None:
    refused = on_small("export", "small:v1", "--format", "provenance", "--json")
    assert refused.code == 3
    assert refused.value["error"]["id"] == "lock-without-image"
    assert json.loads(on_small("export", "small:v1", "--format", "sbom").out)["bomFormat"] == "CycloneDX"
    digest = on_small("image", "small:v1", "--no-load", "--json").value["digest"]
    assert on_small("export", "small:v1", "--format", "sbom").out.encode() == sbom(
        read_lock(lock_path(on_small))
    )
    origin = on_small("export", "small:v1", "--format", "provenance").value
    assert origin["subject"] == [{"name": "small:v1", "digest": {"sha256": digest.removeprefix("sha256:")}}]
    assert origin["predicate"]["runDetails"]["builder"]["version"] == {"envbuild": __version__}
