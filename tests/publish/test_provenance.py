"""Provenance and statements: every input, the one image, and the same bytes whenever they are made."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.format import FORMAT as LAYER_FORMAT
from envbuild.lock import ImageLock, Lock, lock_bytes, read_lock
from envbuild.lock.licences import artifacts_of
from envbuild.oci.digest import canonical_json
from envbuild.publish.provenance import exported, provenance
from envbuild.publish.sbom import sbom
from envbuild.publish.statements import sbom_statement

RECIPE = Path(__file__).parents[2] / "recipes/pytorch-cuda/v2.7/recipe.toml"
DIGEST = "sha256:" + "d" * 64
BEFORE = "sha256:" + "b" * 64


@pytest.fixture
def lock() -> Lock:
    image = ImageLock(digest=DIGEST, config=DIGEST, layers=())
    return replace(read_lock(RECIPE.with_name("lock.json")), image=image)


def said(lock: Lock, **more: Any) -> Any:
    """The statement, as a reader has it."""
    arguments: dict[str, Any] = {"name": "example/demo", "digest": DIGEST, "builder_version": "1.2.3", **more}
    return json.loads(canonical_json(provenance(lock, **arguments)))


def test_it_is_a_statement_about_the_one_image(lock: Lock) -> None:
    value = said(lock)
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    assert value["subject"] == [{"name": "example/demo", "digest": {"sha256": "d" * 64}}]
    assert set(value) == {"_type", "predicateType", "subject", "predicate"}


def test_every_input_stands_there_once_with_its_hash(lock: Lock) -> None:
    assert lock.native is not None
    assert lock.native.wheel is not None
    recipe = RECIPE.read_bytes()
    predicate = said(lock, recipe=recipe)["predicate"]
    inputs = predicate["buildDefinition"]["resolvedDependencies"]
    files = {item["name"]: item["digest"]["sha256"] for item in inputs if "uri" not in item}
    assert files == {
        "recipe.toml": hashlib.sha256(recipe).hexdigest(),
        "lock.json": hashlib.sha256(lock_bytes(lock)).hexdigest(),
    }
    locked = sorted(item.sha256 for item in artifacts_of(lock) if item is not lock.native.wheel)
    assert sorted(item["digest"]["sha256"] for item in inputs if "uri" in item) == locked
    assert all(item["uri"].startswith(("pkg:deb/debian/", "pkg:pypi/")) for item in inputs if "uri" in item)
    [built] = predicate["runDetails"]["byproducts"]
    assert built["digest"]["sha256"] == lock.native.wheel.sha256


def test_parameters_and_builder(lock: Lock) -> None:
    predicate = said(lock)["predicate"]
    definition = predicate["buildDefinition"]
    assert definition["externalParameters"] == {"ref": "pytorch-cuda:v2.7", "recipe": lock.recipe}
    assert definition["internalParameters"] == {"lockFormat": lock.format, "layerFormat": LAYER_FORMAT}
    assert predicate["runDetails"]["builder"]["version"] == {"envbuild": "1.2.3"}


def test_a_moved_tag_says_from_where(lock: Lock) -> None:
    def moved(value: Any) -> Any:
        return value["predicate"]["buildDefinition"]["externalParameters"].get("movedFrom")

    assert moved(said(lock)) is None
    assert moved(said(lock, moved_from=BEFORE)) == {"sha256": "b" * 64}


def test_it_holds_no_time_and_no_host(lock: Lock) -> None:
    text = json.dumps(said(lock))
    assert set(re.findall(r"https?://[^/\"]+", text)) == {"https://in-toto.io", "https://slsa.dev"}
    assert not re.search(r"startedOn|finishedOn|\d{4}-\d{2}-\d{2}T", text)
    assert provenance(lock, name="a", digest=DIGEST, builder_version="1") == provenance(
        lock, name="a", digest=DIGEST, builder_version="1"
    )


def test_an_image_without_deepspeed_has_no_byproduct(lock: Lock) -> None:
    assert "byproducts" not in said(replace(lock, native=None))["predicate"]["runDetails"]


def test_of_a_lock_without_an_image_nothing_is_said(lock: Lock) -> None:
    recipe = RECIPE.read_bytes()
    value = exported(lock, builder_version="1", recipe=recipe)
    assert value["subject"] == [{"name": "pytorch-cuda:v2.7", "digest": {"sha256": "d" * 64}}]
    with pytest.raises(EnvbuildError) as caught:
        exported(replace(lock, image=None), builder_version="1", recipe=recipe)
    assert (caught.value.id, caught.value.exit) == ("lock-without-image", Exit.INPUT)


def test_the_bill_of_materials_in_its_statement_is_the_bill(lock: Lock) -> None:
    bill = sbom(lock)
    data = sbom_statement(bill, name="example/demo", digest=DIGEST)
    value = json.loads(data)
    assert value["predicate"] == json.loads(bill)
    assert value["predicateType"] == "https://cyclonedx.org/bom"
    assert value["subject"] == [{"name": "example/demo", "digest": {"sha256": "d" * 64}}]
    assert data == canonical_json(value)
