"""What cannot be meant so, what is said on stderr, and errors as JSON."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from registrywrites import INDEX, LOCK, MANIFEST, put_manifest
from shop import GATE, Shop
from smallimage import RECIPE, REF, SmallWorld
from verdictmaker import own_key

from envbuild.store import Store

pytestmark = pytest.mark.network


@pytest.mark.parametrize(
    ("arguments", "code", "id", "told"),
    [
        (["nothing:v1", "REPO"], 3, "no-recipe", "There are: small:v1"),
        (["small:v9", "REPO"], 3, "no-recipe", "Did you mean small:v1?"),
        (["small:v1"], 2, "usage", "REGISTRY/REPO"),
        (["small:v1", "team/app"], 2, "bad-repository", "names no registry"),
        (["small:v1", "HOST"], 2, "bad-repository", "names a registry and no repository"),
        (["small:v1", "http://REPO"], 2, "bad-repository", "is an address"),
        (["small:v1", "REPO:v1"], 2, "bad-repository", "names a tag or a digest"),
        (["small:v1", "HOST/Team/App"], 2, "bad-repository", "lower-case"),
        (["small:v1", "REPO", "--by-digest", "--move-tag"], 2, "options-contradict", "leave out one"),
        (["small:v1", "REPO", "--by-digest", "--allow-unverified"], 2, "options-contradict", "leave out one"),
        (["small:v1", "REPO", "--verdict", "missing"], 6, "no-verdict", "cannot be read"),
        (["small:v1", "REPO", "--verdict", "garbage"], 6, "bad-verdict", "no signed verdict"),
        (["small:v1", "REPO", "--verdict", "garbage", "--by-digest"], 6, "bad-verdict", "no signed verdict"),
        (["small:v1", "REPO", "--verdict", "folder"], 2, "usage", "is a directory"),
        (["small:v1", "REPO", "--allow-unverified", "--key", "garbage"], 2, "bad-key", "no public key"),
        (["small:v1", "REPO", "--allow-unverified", "--key", "missing"], 2, "bad-key", "cannot be read"),
    ],
    ids=lambda value: "",
)  # fmt: skip
def test_what_cannot_be_published(shop: Shop, arguments: list[str], code: int, id: str, told: str) -> None:
    """Nothing is sent before it is seen."""
    folder = shop.cli.folder
    (folder / "garbage").write_bytes(b"\xff\xfe no verdict and no key")
    (folder / "folder").mkdir()
    words = [word.replace("REPO", shop.repo).replace("HOST", shop.host) for word in arguments]
    done = shop.cli.fails(code, id, "publish", *words)
    assert told in done.err
    assert shop.ask("tags/list") == 404


def test_a_recipe_that_makes_only_an_environment(shop: Shop) -> None:
    place = shop.recipes / "small/env"
    place.mkdir()
    (place / "recipe.toml").write_text('makes = ["environment"]\n' + RECIPE)
    done = shop.cli.fails(2, "makes-no-image", "publish", "small:env", shop.repo, "--by-digest")
    assert "envbuild env create small:env" in done.err


def test_a_lock_that_is_older_than_its_recipe(shop: Shop) -> None:
    path = shop.recipes / REF.replace(":", "/") / "recipe.toml"
    path.write_text(path.read_text().replace("gpus = 2", "gpus = 4"))
    done = shop.cli.fails(3, "lock-is-stale", "publish", REF, shop.repo, "--by-digest")
    assert f"envbuild lock {REF}" in done.err


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("REPO", "neither a tag nor a digest"),
        ("REPO@sha256:abc", "64 lower-case hex digits"),
        ("team/app:v1", "not the name of an image in a registry"),
        ("small:v1", "not the name of an image in a registry"),
        ("REPO:a tag", "not the name of an image in a registry"),
    ],
    ids=["bare", "digest", "no-registry", "ref", "blank"],
)
def test_names_that_are_no_images(shop: Shop, name: str, told: str) -> None:
    name = name.replace("REPO", shop.repo)
    for command in ("pull", "verify"):
        done = shop.cli.fails(2, "bad-image-reference", command, name)
        assert told in done.err
        assert "write it as" in done.err


def test_what_promote_does_not_take(shelf: Shop) -> None:
    bare = shelf.cli.fails(2, "bad-image-reference", "promote", shelf.repo)
    assert f"{shelf.repo}@sha256:DIGEST" in bare.err
    (shelf.cli.folder / "garbage").write_text("{}")
    shelf.cli.fails(6, "bad-verdict", "promote", shelf.pinned, "--verdict", "garbage")
    shelf.cli.fails(6, "no-verdict", "promote", shelf.pinned, "--verdict", "missing")
    shelf.cli.fails(2, "bad-key", "promote", shelf.pinned, "--key", "garbage")
    away = shelf.cli.fails(4, "not-found", "promote", f"{shelf.repo}@sha256:{'7' * 64}")
    assert "has no image sha256:777" in away.err


def entry(shop: Shop, architecture: str) -> dict[str, object]:
    """The image in an index, as one for some architecture."""
    return {
        "mediaType": MANIFEST,
        "digest": shop.image.digest,
        "size": len(shop.image.manifest_bytes),
        "platform": {"os": "linux", "architecture": architecture},
    }


def put_index(shop: Shop, tag: str, *architectures: str) -> None:
    manifests = [entry(shop, architecture) for architecture in architectures]
    put_manifest(shop, tag, {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})


def test_an_index_of_several_platforms(shop: Shop, small: SmallWorld, tmp_path: Path) -> None:
    """Pulled and run as its image for linux/amd64; who asks for proofs has to name one image."""
    assert shop.publish("--by-digest").code == 0
    put_index(shop, "several", "arm64", "amd64")
    put_index(shop, "other", "arm64", "s390x")
    far = shop.elsewhere(tmp_path / "store", tmp_path / "far")
    name = f"{shop.repo}:several"
    done = far.cli("pull", name, "--json")
    assert (done.value["digest"], done.value["name"]) == (shop.image.digest, name), done.err
    ran = far.cli("run", "--engine", "sandbox", name, "--", "demo-version")
    assert (ran.code, ran.out.strip()) == (0, "1.0"), ran.err
    small.remove_roots(Store.open(far.store))
    for command in ("verify", "promote"):
        refused = far.cli.fails(3, "unusable-image", command, name)
        assert "is an index of several images" in refused.err
        assert f"{shop.pinned} is the one for linux/amd64" in refused.err
    for command in ("pull", "verify"):
        refused = far.cli.fails(3, "unusable-image", command, f"{shop.repo}:other")
        assert "no image for linux/amd64 (it has linux/arm64, linux/s390x)" in refused.err


def test_an_image_whose_proofs_are_nonsense_can_be_pulled(shop: Shop, tmp_path: Path) -> None:
    """Anybody may attach anything who may write there; what is pulled is checked by its digest."""
    assert shop.publish("--by-digest").code == 0
    fallback = shop.image.digest.replace(":", "-")
    index = shop.ask(f"manifests/{fallback}")
    index["manifests"].append({**entry(shop, "amd64"), "artifactType": LOCK})  # the image as its own lock
    put_manifest(shop, fallback, index)
    far = shop.elsewhere(tmp_path / "store", tmp_path / "far")
    assert far.cli("pull", shop.pinned, "--json").value["digest"] == shop.image.digest
    done = far.cli.fails(5, "bad-referrer", "verify", shop.pinned)
    assert f"the referrer {shop.image.digest} is attached to another image" in done.err


def test_errors_as_json(shop: Shop, shelf: Shop) -> None:
    """One document on stdout, the same on stderr for people."""
    cases: list[tuple[int, str, str | None, list[str]]] = [
        (2, "usage", None, ["publish", REF, "--json"]),
        (2, "bad-repository", "team/app", ["publish", REF, "team/app", "--json"]),
        (3, "no-recipe", None, ["publish", "nothing:v1", shop.repo, "--json", "--quiet"]),
        (6, "no-verdict", REF, ["publish", REF, shop.repo, "--json"]),
        (4, "not-found", shop.repo, ["pull", f"{shop.repo}:v1", "--json"]),
        (2, "bad-image-reference", "small:v1", ["verify", "small:v1", "--json"]),
        (6, "no-verdict", "missing", ["promote", shelf.pinned, "--verdict", "missing", "--json"]),
    ]
    for code, id, where, arguments in cases:
        done = shop.cli.fails(code, id, *arguments)
        assert set(done.value) == {"error"}
        error = done.value["error"]
        assert set(error) == {"id", "message", "where", "hint"}
        assert (error["id"], error["where"]) == (id, where)
        assert f"error[{id}]: {error['message']}" in done.err
        assert f" hint: {error['hint']}" in done.err


def test_what_is_said_on_stderr(shop: Shop, tmp_path: Path) -> None:
    """Progress and notes, unless it is to be quiet; then errors only. stdout has the result either way."""
    far = shop.elsewhere(tmp_path / "store", tmp_path / "far")
    told = shop.cli("publish", REF, shop.repo, "--allow-unverified")
    for line in (
        "✓ push 14 blobs ",
        "✓ push config ",
        "✓ attach proofs ",
        "made a signing key: ",
        "envbuild smoke",
    ):
        assert line in told.err
    assert told.out.startswith(f"{shop.repo}:v1-candidate  {shop.image.digest}\n")
    assert "sent 14 (37 MB)" in told.out
    assert "✓ fetch 14 files " in far.cli("pull", shop.pinned).err
    quiet = [
        shop.cli("publish", REF, f"{shop.repo}/quiet", "--by-digest", "--quiet"),
        far.with_env(ENVBUILD_STORE=str(tmp_path / "third")).cli("pull", shop.pinned, "--quiet"),
    ]
    for done in quiet:
        assert (done.code, done.err) == (0, "")
        assert shop.image.digest in done.out
    done = shop.cli.fails(4, "not-found", "pull", f"{shop.repo}:v1", "--quiet")
    assert done.err.startswith("error[not-found]: ")
    as_json = shop.publish("--by-digest", "--quiet")
    assert (as_json.err, as_json.value["digest"]) == ("", shop.image.digest)


def test_verify_is_quiet_and_promote_too(shelf: Shop) -> None:
    key = shelf.pem(own_key(Path(shelf.cli.env["HOME"])))
    done = shelf.cli("verify", f"{shelf.repo}:v1", "--key", key, "--quiet")
    assert (done.code, done.err) == (0, ""), done
    assert "✓ verdict" in done.out
    again = shelf.cli("promote", shelf.pinned, "--quiet")
    assert (again.code, again.err) == (0, ""), again
    stranger = replace(
        shelf, cli=replace(shelf.cli, env={**shelf.cli.env, "HOME": str(shelf.cli.folder / "nobody")})
    )
    failed = stranger.cli("verify", f"{shelf.repo}:v1", "--key", shelf.pem(GATE), "--quiet")
    assert failed.code == 5
    assert failed.err.startswith("error[not-verified]: ")
