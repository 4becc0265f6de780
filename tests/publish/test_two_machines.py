"""Built on one machine, proven on another, named in the registry; and what other machines get of it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from registrywrites import BUNDLE, LOCK, TEST_RESULT, of_kind, put_manifest, replace_proof
from shop import GATE, Shop, run
from smallimage import REF, SmallWorld, wheel_artifact

from envbuild.lock import lock_bytes
from envbuild.store import Store

pytestmark = pytest.mark.network
DOCKER = "/usr/bin/docker"


@pytest.fixture
def far(shop: Shop, small: SmallWorld, tmp_path: Path) -> Iterator[Shop]:
    """A machine with an empty store, no recipes and a key of its own."""
    yield shop.elsewhere(tmp_path / "far-store", tmp_path / "far")
    if (tmp_path / "far-store/roots").is_dir():
        small.remove_roots(Store.open(tmp_path / "far-store"))


def test_pull_by_digest_and_by_tag(shop: Shop, far: Shop) -> None:
    shop.publish("--allow-unverified")
    done = far.cli("pull", shop.pinned, "--json")
    assert done.code == 0, done.err
    assert done.value["digest"] == shop.image.digest
    blobs = far.store / "oci/blobs/sha256"
    expected = {shop.image.digest, shop.image.config.digest, *(layer.digest for layer in shop.image.layers)}
    assert {f"sha256:{path.name}" for path in blobs.iterdir()} == expected
    assert done.value["bytes_fetched"] == shop.image.config.size + sum(
        layer.size for layer in shop.image.layers
    )
    again = far.cli("pull", f"{shop.repo}:v1-candidate", "--json")
    assert (again.value["bytes_fetched"], again.value["name"]) == (0, f"{shop.repo}:v1-candidate")
    seen = json.loads(run("skopeo", "inspect", f"oci:{far.store}/oci:{shop.repo}:v1-candidate"))
    assert seen["Digest"] == shop.image.digest
    names = [done.value["name"], again.value["name"]]
    assert far.cli("gc", "--all", "--json").value["blobs"] == 0
    far.cli.fails(3, "no-such-image", "gc", "--forget", f"{shop.repo}:v1")
    freed = far.cli("gc", "--all", "--json", "--forget", names[0], "--forget", names[1])
    assert freed.value["blobs"] == len(expected)


@pytest.mark.docker
def test_docker_pulls_and_runs_it(shop: Shop) -> None:
    shop.publish("--allow-unverified")
    name = f"{shop.repo}:v1-candidate"
    run(DOCKER, "pull", "-q", name)
    try:
        assert run(DOCKER, "inspect", "--format", "{{.Id}}", name).strip() == shop.image.config.digest
        assert run(DOCKER, "run", "--rm", name, "demo-version").strip() == "1.0"
        assert ".json" not in run(DOCKER, "run", "--rm", name, "ls", "-A", "/")
    finally:
        run(DOCKER, "image", "rm", "--force", name)


@pytest.mark.docker
def test_a_pulled_image_is_loaded_into_docker(shop: Shop, far: Shop) -> None:
    shop.publish("--by-digest")
    done = far.cli("pull", shop.pinned, "--load", "--json")
    assert (done.code, done.value["engine"]) == (0, "docker"), done.err
    try:
        assert run(DOCKER, "run", "--rm", done.value["name"], "other-version").strip() == "2.0"
    finally:
        run(DOCKER, "image", "rm", "--force", done.value["name"])


def test_podman_and_skopeo_read_it(shop: Shop, tmp_path: Path) -> None:
    shop.publish("--allow-unverified")
    source = f"docker://{shop.repo}:v1-candidate"
    run("skopeo", "copy", "-q", "--src-tls-verify=false", source, f"dir:{tmp_path}/copy")
    data = (tmp_path / "copy/manifest.json").read_bytes()
    assert data == shop.image.manifest_bytes
    with tempfile.TemporaryDirectory() as short:  # podman takes no long --runroot
        podman = ["podman", "--root", f"{tmp_path}/podman", "--runroot", short]
        identity = run(*podman, "pull", "-q", "--tls-verify=false", f"{shop.repo}:v1-candidate").strip()
        assert f"sha256:{identity}" == shop.image.config.digest
        run(*podman, "system", "reset", "--force")


def test_a_far_machine_runs_it_and_attaches_its_verdict_which_gives_no_tag(shop: Shop, far: Shop) -> None:
    """It has no recipe. No GPU is here, and no torch in the image: everything but the tag is as on a GPU machine."""
    shop.publish("--by-digest")
    ran = far.cli("run", "--engine", "sandbox", shop.pinned, "--", "demo-version")
    assert (ran.code, ran.out.strip()) == (0, "1.0"), ran.err
    done = far.cli.quoting("smoke", shop.pinned, "--attach", "--engine", "sandbox", "--json")
    assert done.value["verdict"]["result"] == "failed", done.err
    assert done.value["verdict"]["subject"]["manifest"] == shop.image.digest
    [entry] = of_kind(shop, BUNDLE, TEST_RESULT)
    assert done.value["attached"] == [entry["digest"]]
    key = far.cli.folder / "far.pem"
    key.write_text(far.cli("key", "show").out)
    shop.cli.fails(6, "no-verdict", "promote", shop.pinned)
    refused = shop.cli.fails(6, "verdict-not-a-pass", "promote", shop.pinned, "--key", str(key))
    assert done.value["verdict"]["result"] in refused.err
    assert shop.tags() == []


def attach_pass(shop: Shop, **changes: str) -> None:
    """What `envbuild smoke --attach` leaves on a machine with GPUs: the gate's signed pass, as a referrer."""
    from envbuild.progress import SilentProgress
    from envbuild.publish.making import verdict_proofs
    from envbuild.publish.proofs import attach_proofs
    from envbuild.registry.reference import parse_repository
    from envbuild.registry.remote import Remote
    from envbuild.store import Http

    remote = Remote(parse_repository(shop.repo), http=Http(environ={}), environ={})
    verdict = shop.verdict(GATE, **changes).read_bytes()
    attach_proofs(remote, shop.image.manifest, verdict_proofs(verdict), SilentProgress())


def test_promote_gives_the_tag_in_the_registry_and_moves_no_blob(
    shop: Shop, far: Shop, tmp_path: Path
) -> None:
    """The promoting machine has the recipes, and no store."""
    shop.publish("--by-digest")
    attach_pass(shop)
    clerk = shop.with_env(ENVBUILD_STORE=str(tmp_path / "clerk-store"))
    done = clerk.cli("promote", shop.pinned, "--key", shop.pem(GATE), "--json")
    assert done.code == 0, done.err
    assert done.value["tags"] == [f"{shop.repo}:v1"]
    assert done.value["keys"] == [GATE.public.id]
    assert shop.tags() == ["v1"]
    assert not list((tmp_path / "clerk-store").glob("oci/blobs/sha256/*"))
    again = clerk.cli("promote", shop.pinned, "--key", shop.pem(GATE))
    assert again.code == 0


def test_promote_without_recipes_needs_the_publishers_key(shop: Shop, far: Shop) -> None:
    shop.publish("--by-digest")
    attach_pass(shop)
    gate = ["--key", shop.pem(GATE)]
    far.cli.fails(6, "lock-not-vouched-for", "promote", shop.pinned, *gate)
    own = far.cli.folder / "publisher.pem"
    own.write_text(shop.cli("key", "show").out)
    assert far.cli("promote", shop.pinned, *gate, "--key", str(own)).code == 0
    assert shop.tags() == ["v1"]


def test_a_lock_whose_gate_asks_for_less_is_not_taken_for_the_images(shop: Shop, far: Shop) -> None:
    """The same image, and a lock that is content with one GPU, attached by whoever may write there."""
    shop.publish("--by-digest")
    attach_pass(shop)
    weaker = lock_bytes(replace(shop.lock, recipe={**shop.lock.recipe, "gate": {"gpus": 1}}))
    [entry] = of_kind(shop, LOCK)
    replace_proof(shop, entry, lambda _: weaker)
    own = far.cli.folder / "publisher.pem"
    own.write_text(shop.cli("key", "show").out)
    keys = ["--key", shop.pem(GATE), "--key", str(own)]
    far.cli.fails(6, "lock-not-vouched-for", "promote", shop.pinned, *keys)
    assert shop.tags() == []


def test_a_recipe_whose_gate_asks_for_more_by_now_is_not_passed_by_its_old_lock(shop: Shop) -> None:
    shop.publish("--by-digest")
    attach_pass(shop)
    recipe = shop.recipes / REF.replace(":", "/") / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("gpus = 2", "gpus = 4"))
    shop.cli.fails(3, "lock-is-stale", "promote", shop.pinned, "--key", shop.pem(GATE))
    assert shop.tags() == []


def test_promote_with_a_verdicts_file_attaches_it(shop: Shop) -> None:
    shop.publish("--by-digest")
    verdict = str(shop.verdict(GATE))
    done = shop.cli("promote", shop.pinned, "--verdict", verdict, "--key", shop.pem(GATE))
    assert done.code == 0, done.err
    assert len(of_kind(shop, BUNDLE, TEST_RESULT)) == 1
    assert shop.tags() == ["v1"]


def test_promote_does_not_move_a_tag_unless_asked(shop: Shop) -> None:
    shop.publish("--by-digest")
    attach_pass(shop)
    other = shop.ask(f"manifests/{shop.image.digest}")
    other["annotations"]["org.opencontainers.image.title"] = "another"
    before = put_manifest(shop, "v1", other)
    gate = ["--key", shop.pem(GATE)]
    shop.cli.fails(6, "tag-exists", "promote", shop.pinned, *gate)
    done = shop.cli("promote", shop.pinned, *gate, "--move-tag", "--json")
    assert done.value["moved_from"] == before


def test_a_recipes_promote_still_wants_a_file(shop: Shop) -> None:
    shop.cli.fails(2, "usage", "promote", REF)
    shop.cli.fails(2, "usage", "promote", REF, "--verdict", "x", "--move-tag")
    shop.cli.fails(2, "usage", "smoke", REF, "--attach")


def test_image_asks_the_registry_before_it_builds(shop: Shop, far: Shop, tmp_path: Path) -> None:
    """Nothing can be fetched and the store is empty: without the registry this build would fail."""
    configured = shop.with_env(ENVBUILD_STORE=str(tmp_path / "empty"), ENVBUILD_REGISTRY=shop.repo)
    lacking = configured.cli("image", REF, "--no-load", "--json")
    assert lacking.code == 4
    shop.publish("--by-digest")
    there = configured.cli("image", REF, "--json")
    assert there.code == 0, there.err
    assert there.value["registry"] == shop.pinned
    assert (there.value["tags"], there.value["candidate"], there.value["bytes_fetched"]) == ([], True, 0)
    assert not any((tmp_path / "empty/oci/blobs/sha256").iterdir())
    wanting = configured.cli("image", REF, "--require-verdict", "--json")
    assert (wanting.code, wanting.value["error"]["id"]) == (6, "no-verdict")
    attach_pass(shop)
    shop.cli("promote", shop.pinned, "--key", shop.pem(GATE))
    proven = configured.cli("image", REF, "--require-verdict", "--json")
    assert (proven.code, proven.value["tags"], proven.value["candidate"]) == (0, [f"{shop.repo}:v1"], False)


def test_a_registry_that_is_down_does_not_stop_a_build(shop: Shop) -> None:
    down = shop.with_env(ENVBUILD_REGISTRY="127.0.0.1:9/team/x")
    done = down.cli("image", REF, "--no-load", "--json")
    assert (done.code, done.value["digest"]) == (0, shop.image.digest), done.err
    assert "127.0.0.1:9/team/x was not asked for the image" in done.err
    shop.with_env(ENVBUILD_REGISTRY="nonsense").cli.fails(2, "bad-repository", "image", REF)


def test_locked_layers_come_from_the_registry(shop: Shop, tmp_path: Path) -> None:
    """A machine with the recipes and an empty store; the indexes cannot be reached. An archive needs the blobs."""
    shop.publish("--by-digest")
    node = shop.with_env(ENVBUILD_STORE=str(tmp_path / "node"), ENVBUILD_REGISTRY=shop.repo)
    done = node.cli("image", REF, "--no-load", "--output", str(tmp_path / "image.tar"), "--json")
    assert (done.code, done.value["digest"]) == (0, shop.image.digest), done.err
    assert [layer["name"] for layer in done.value["layers"] if layer["made"]] == []
    assert done.value["bytes_fetched"] == sum(layer.size for layer in shop.image.layers)


def test_what_two_published_images_differ_in(shop: Shop, small: SmallWorld, far: Shop) -> None:
    """One package changed: a node that has the first pulls its layer, its byte code and nothing else."""
    shop.publish("--allow-unverified")
    changed = wheel_artifact("other", "2.1", store=small.store)
    wheels = tuple(changed if item.name == "other" else item for item in small.lock.python)
    path = shop.recipes / REF.replace(":", "/") / "lock.json"
    path.write_bytes(lock_bytes(replace(small.lock, python=wheels, image=None)))
    built = shop.cli("image", REF, "--no-load", "--json").value
    assert shop.cli("publish", REF, shop.repo, "--by-digest").code == 0
    second = f"{shop.repo}@{built['digest']}"
    done = far.cli("diff", shop.pinned, second, "--json")
    assert done.code == 0, done.err
    assert [row["name"] for row in done.value["packages"]] == ["other"]
    new = [layer for layer in built["layers"] if layer["digest"] not in {x.digest for x in shop.image.layers}]
    assert done.value["pull"] == {
        "layers": len(new), "of": len(built["layers"]),
        "bytes": sum(layer["size"] for layer in new), "total": built["size"],
    }  # fmt: skip
    assert 0 < len(new) <= 3
    text = far.cli("diff", shop.pinned, second).out
    assert f"A node that has A pulls {len(new)} of {len(built['layers'])} layers for B" in text
    assert not (far.store / "oci/blobs/sha256").exists() or not any(
        (far.store / "oci/blobs/sha256").iterdir()
    )


def test_layers_come_from_a_cache_by_their_inputs(
    shop: Shop, small: SmallWorld, bare_store: Store, tmp_path: Path
) -> None:
    """The first runner builds and fills the cache; the second has nothing, not even a built lock, and makes nothing."""
    path = shop.recipes / REF.replace(":", "/") / "lock.json"
    unbuilt = lock_bytes(replace(shop.lock, image=None))
    path.write_bytes(unbuilt)
    cache = {"ENVBUILD_LAYER_CACHE": shop.repo}
    first = shop.with_env(ENVBUILD_STORE=str(bare_store.root), **cache).cli(
        "image", REF, "--no-load", "--json"
    )
    assert first.code == 0, first.err
    assert len(first.value["layers"]) == sum(layer["made"] for layer in first.value["layers"])
    path.write_bytes(unbuilt)
    second = shop.with_env(ENVBUILD_STORE=str(tmp_path / "second"), **cache).cli(
        "image", REF, "--no-load", "--json"
    )
    assert second.code == 0, second.err
    assert second.value["digest"] == first.value["digest"] == shop.image.digest
    assert [layer["name"] for layer in second.value["layers"] if layer["made"]] == []
    assert second.value["bytes_fetched"] == sum(layer["size"] for layer in second.value["layers"])
    shutil.rmtree(tmp_path / "second")


def test_a_cache_that_is_down_is_told_and_missed(shop: Shop) -> None:
    path = shop.recipes / REF.replace(":", "/") / "lock.json"
    for record in (shop.store / "cache/layer").glob("*.json"):
        record.rename(record.with_suffix(".away"))
    try:
        path.write_bytes(lock_bytes(replace(shop.lock, image=None)))
        done = shop.with_env(ENVBUILD_LAYER_CACHE="127.0.0.1:9/team/cache").cli(
            "image", REF, "--no-load", "--json"
        )
    finally:
        for record in (shop.store / "cache/layer").glob("*.away"):
            record.rename(record.with_suffix(".json"))
    assert (done.code, done.value["digest"]) == (0, shop.image.digest), done.err
    assert done.err.count("without the layers of 127.0.0.1:9/team/cache") == 1


def test_what_the_layer_cache_has_is_mounted_and_nothing_is_fetched(shop: Shop, tmp_path: Path) -> None:
    """A runner with an empty store that reaches nothing but the registry."""
    assert shop.publish("--by-digest").code == 0
    empty = replace(shop, path=f"{shop.path}-second").with_env(
        ENVBUILD_STORE=str(tmp_path / "empty"), ENVBUILD_LAYER_CACHE=shop.repo
    )
    done = empty.publish("--by-digest")
    assert done.code == 0, done.err
    assert {layer["how"] for layer in done.value["layers"]} == {"mounted"}
    assert (done.value["bytes_fetched"], done.value["bytes_sent"], done.value["made"]) == (0, 0, [])
    assert empty.ask(f"manifests/{shop.image.digest}")["config"]["digest"] == shop.image.config.digest
    assert not list((tmp_path / "empty/oci/blobs/sha256").glob("*"))
