"""From the store to a registry: what is sent, in which order, what is attached, and who may have a tag."""

from __future__ import annotations

import json

import pytest
from registrywrites import BUNDLE, PROVENANCE, of_kind, put_manifest, statement
from shop import GATE, Shop, run
from smallimage import REF, SmallWorld

from envbuild.store import Store

pytestmark = pytest.mark.network


def test_without_a_verdict_there_is_no_tag_and_nothing_is_sent(shop: Shop) -> None:
    done = shop.cli.fails(6, "no-verdict", "publish", REF, shop.repo)
    assert "--by-digest" in done.err
    assert shop.tags() == []
    assert shop.ask(f"manifests/{shop.image.digest}") == 404


def test_by_digest_then_again(shop: Shop) -> None:
    first = shop.publish("--by-digest")
    assert first.code == 0, first.err
    assert first.value["digest"] == shop.image.digest
    assert first.value["tag"] is None
    assert first.value["bytes_sent"] == sum(layer.size for layer in shop.image.layers)
    assert shop.tags() == []
    assert shop.ask(f"manifests/{shop.image.digest}")["config"]["digest"] == shop.image.config.digest
    kinds = {entry["artifactType"] for entry in shop.referrers()}
    assert kinds == {
        "application/vnd.cyclonedx+json",
        "application/vnd.dev.sigstore.bundle.v0.3+json",
        "application/vnd.envbuild.lock.v2+json",
    }
    before = sorted(entry["digest"] for entry in shop.referrers())
    again = shop.publish("--by-digest")
    assert again.value["bytes_sent"] == 0
    assert {layer["how"] for layer in again.value["layers"]} == {"present"}
    assert sorted(entry["digest"] for entry in shop.referrers()) == before
    assert sorted(again.value["proofs"]) == before


def test_a_passing_verdict_gives_the_tag(shop: Shop) -> None:
    done = shop.publish("--verdict", str(shop.verdict()))
    assert done.code == 0, done.err
    assert (done.value["tag"], done.value["candidate"]) == ("v1", False)
    assert shop.tags() == ["v1"]
    seen = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{shop.repo}:v1"))
    assert seen["Digest"] == shop.image.digest
    assert seen["Layers"] == [layer.digest for layer in shop.image.layers]


def test_a_strangers_verdict_needs_its_key(shop: Shop) -> None:
    verdict = str(shop.verdict(GATE))
    shop.cli.fails(6, "verdict-by-unknown-key", "publish", REF, shop.repo, "--verdict", verdict)
    assert shop.publish("--verdict", verdict, "--key", shop.pem(GATE)).value["tag"] == "v1"


def test_a_verdict_about_another_image_gives_nothing(shop: Shop) -> None:
    subject = {
        "ref": REF,
        "manifest": "sha256:" + "7" * 64,
        "config": shop.image.config.digest,
        "diff_ids": [layer.diff_id for layer in shop.image.layers],
    }
    verdict = str(shop.verdict(subject=subject))
    shop.cli.fails(6, "verdict-about-another-image", "publish", REF, shop.repo, "--verdict", verdict)
    assert shop.tags() == []


def test_an_unverified_image_gets_the_candidates_name_only(shop: Shop) -> None:
    done = shop.publish("--allow-unverified")
    assert done.value["tag"] == "v1-candidate"
    assert done.value["candidate"] is True
    assert shop.tags() == ["v1-candidate"]


def test_the_verdict_in_the_store_counts_where_it_holds(shop: Shop) -> None:
    kept = shop.store / "verdicts" / f"{shop.image.digest.removeprefix('sha256:')}.json"
    kept.parent.mkdir(exist_ok=True)
    kept.write_bytes(shop.verdict(GATE).read_bytes())
    done = shop.cli.fails(6, "no-verdict", "publish", REF, shop.repo)
    kept.write_bytes(shop.verdict().read_bytes())
    assert shop.publish().value["tag"] == "v1"
    assert "--verdict FILE" in done.err


def test_wheel_layers_that_the_store_lacks_are_streamed_from_the_wheels(
    shop: Shop, small: SmallWorld, bare_store: Store
) -> None:
    """Byte code is made; of the wheels' layers no file is ever written."""
    other = shop.with_env(ENVBUILD_STORE=str(bare_store.root))
    done = other.publish("--by-digest")
    assert done.code == 0, done.err
    assert shop.ask(f"manifests/{shop.image.digest}")["layers"][0]["digest"] == shop.image.layers[0].digest
    views = {layer.digest for layer in shop.image.layers if layer.toc is not None}
    assert views
    assert not views & set(bare_store.layout.blobs())
    sent = {layer["digest"] for layer in done.value["layers"] if layer["how"] == "uploaded"}
    assert views <= sent


def test_a_tag_that_exists_is_not_moved_unless_asked(shop: Shop) -> None:
    shop.publish("--allow-unverified")
    other = json.loads(json.dumps(shop.ask("manifests/v1-candidate")))
    other["annotations"]["org.opencontainers.image.title"] = "another image"
    put_manifest(shop, "v1", other)
    verdict = str(shop.verdict())
    done = shop.cli.fails(6, "tag-exists", "publish", REF, shop.repo, "--verdict", verdict)
    assert "--move-tag" in done.err
    moved = shop.publish("--verdict", verdict, "--move-tag")
    assert moved.value["moved_from"] is not None
    told = [statement(shop, entry)["predicate"] for entry in of_kind(shop, BUNDLE, PROVENANCE)]
    movers = [found["buildDefinition"]["externalParameters"].get("movedFrom") for found in told]
    assert {"sha256": moved.value["moved_from"].removeprefix("sha256:")} in movers
