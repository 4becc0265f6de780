"""From a runner without GPUs to a tag: the steps of one image, against a real registry."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from checkout import Checkout
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from smallimage import REF, SmallWorld
from verdictmaker import signed, verdict_about

from envbuild.gate import SigningKey
from envbuild.lock import read_lock
from envbuild.lock.model import Artifact
from envbuild.store import Store

pytestmark = pytest.mark.network

GATE = SigningKey(seed=bytes(range(32)), where="the gate's")
BUILD = SigningKey(seed=bytes(range(1, 33)), where="the builder's")


@pytest.fixture
def pipeline(on_small: Checkout, registry: str) -> Checkout:
    """The variables of one image's jobs, and the gate's public key in the checkout."""
    (on_small.folder / "release-gate.pem").write_text(GATE.public.pem)
    (on_small.folder / "release-build.pem").write_text(BUILD.public.pem)
    return on_small.with_env(ENVBUILD_IMAGES=f"{registry}/Team", ENVBUILD_REF=REF)


@pytest.fixture
def ask(registry: str) -> Callable[[str], Any]:
    """The registry's answer to a path below /v2/, as JSON; the status where it refuses."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(path: str) -> Any:
        accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
        request = urllib.request.Request(f"http://{registry}/v2/{path}", headers={"Accept": accept})
        try:
            with opener.open(request) as answer:
                return json.load(answer)
        except HTTPError as error:
            return error.code

    return get


def secret(key: SigningKey) -> str:
    """The PEM text that a CI system keeps."""
    private = Ed25519PrivateKey.from_private_bytes(key.seed)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def published(pipeline: Checkout, tmp_path: Path, **variables: str) -> str:
    """The digest that publish.sh hands to the jobs that follow, in both systems' ways."""
    github, gitlab = tmp_path / "github-output", tmp_path / "image.env"
    outputs = {"GITHUB_OUTPUT": str(github), "ENVBUILD_DOTENV": str(gitlab)}
    done = pipeline.step("publish.sh", ENVBUILD_SIGNING_KEY=secret(BUILD), **outputs, **variables)
    assert done.returncode == 0, done.stderr
    digest = github.read_text().splitlines()[-1].removeprefix("digest=")
    assert gitlab.read_text() == f"ENVBUILD_DIGEST={digest}\n"
    assert done.stdout == f"{pipeline.env['ENVBUILD_IMAGES'].lower()}/small@{digest}\n"
    return digest


def locked_digest(pipeline: Checkout) -> str:
    lock = read_lock(pipeline.folder / "recipes/small/v1/lock.json")
    assert lock.image is not None
    return lock.image.digest


def passing(pipeline: Checkout, small: SmallWorld, file: Path, key: SigningKey, **changes: Any) -> None:
    """What a machine with two GPUs would say."""
    recipes = pipeline.folder / "recipes"
    lock = read_lock(recipes / "small/v1/lock.json")
    file.write_bytes(signed(verdict_about(small.built.image, lock, REF, recipes, **changes), key))


def tags(ask: Callable[[str], Any]) -> list[str] | None:
    """The tags of the image's repository; the registry keeps referrers under `sha256-…`, which are none of ours."""
    found = ask("team/small/tags/list")
    return (
        [tag for tag in found["tags"] or [] if not tag.startswith("sha256-")]
        if isinstance(found, dict)
        else None
    )


def test_an_image_is_pushed_by_its_digest_and_has_no_tag(
    pipeline: Checkout, tmp_path: Path, ask: Callable[[str], Any]
) -> None:
    digest = published(pipeline, tmp_path)
    assert digest == locked_digest(pipeline)
    manifest = ask(f"team/small/manifests/{digest}")
    assert manifest["layers"]
    assert not tags(ask)


def test_a_second_runner_sends_nothing(pipeline: Checkout, tmp_path: Path, ask: Callable[[str], Any]) -> None:
    first = published(pipeline, tmp_path)
    bare = pipeline.with_env(ENVBUILD_STORE=str(tmp_path / "another-store"))
    assert published(bare, tmp_path) == first
    stored = tmp_path / "another-store"
    kept = sum(f.stat().st_size for f in stored.rglob("*") if f.is_file())
    size = sum(layer["size"] for layer in ask(f"team/small/manifests/{first}")["layers"])
    assert kept < size / 2


def test_a_registry_that_is_not_there_fails_the_step(pipeline: Checkout, tmp_path: Path) -> None:
    output = tmp_path / "github-output"
    done = pipeline.step("publish.sh", ENVBUILD_IMAGES="127.0.0.1:9/team", GITHUB_OUTPUT=str(output))
    assert done.returncode == 4, done.stderr
    assert not output.exists()


@pytest.mark.parametrize("missing", ["ENVBUILD_IMAGES", "ENVBUILD_REF"])
def test_a_variable_that_is_missing_is_named(pipeline: Checkout, missing: str) -> None:
    env = {name: value for name, value in pipeline.env.items() if name != missing}
    done = replace(pipeline, env=env).step("publish.sh")
    assert done.returncode == 2
    assert f"{missing}: is not set" in done.stderr


def test_without_gpus_the_gate_refuses(pipeline: Checkout, tmp_path: Path, ask: Callable[[str], Any]) -> None:
    digest = published(pipeline, tmp_path)
    done = pipeline.step("gate.sh", ENVBUILD_DIGEST=digest)
    assert done.returncode == 6, done.stderr
    assert (pipeline.folder / "verdict.json").exists()
    done = pipeline.step("promote.sh", ENVBUILD_DIGEST=digest)
    assert done.returncode == 6, done.stderr
    assert not tags(ask)


def test_a_candidate_s_verdict_is_no_pass(pipeline: Checkout, small: SmallWorld, tmp_path: Path) -> None:
    """Where every check passes that needs no GPU. Only that run is a stand-in: the verdict is a signed one."""
    digest = published(pipeline, tmp_path)
    verdict = tmp_path / "candidate.json"
    home = Path(pipeline.env["HOME"])
    passing(pipeline, small, verdict, own(home), result="candidate", why="no GPU", gpus=[])
    place = tmp_path / "bin"
    place.mkdir()
    real = shutil.which("envbuild", path=pipeline.env["PATH"])
    (place / "envbuild").write_text(
        f'#!/bin/sh\nif [ "$1" = smoke ]; then cp {verdict} "$5"; else exec {real} "$@"; fi\n'
    )
    (place / "envbuild").chmod(0o755)
    done = pipeline.step("gate.sh", ENVBUILD_DIGEST=digest, PATH=f"{place}:{pipeline.env['PATH']}")
    assert done.returncode == 6, done.stderr
    assert 'the verdict is "candidate"' in done.stderr


def own(home: Path) -> SigningKey:
    from verdictmaker import own_key

    return own_key(home)


@pytest.fixture
def proven(pipeline: Checkout, small: SmallWorld, tmp_path: Path) -> str:
    """The digest of an image that two GPUs passed: the gate's verdict is attached to it."""
    digest = published(pipeline, tmp_path)
    verdict = tmp_path / "verdict.json"
    passing(pipeline, small, verdict, GATE)
    attach(pipeline, verdict)
    return digest


def attach(pipeline: Checkout, verdict: Path) -> None:
    """As `envbuild smoke --attach` does on a machine with GPUs."""
    repository = pipeline.env["ENVBUILD_IMAGES"].lower() + "/small"
    command = [
        "publish",
        REF,
        repository,
        "--by-digest",
        "--verdict",
        str(verdict),
        "--key",
        "release-gate.pem",
    ]
    script = pipeline.folder / "ci/pipeline/attach-for-the-test.sh"
    script.write_text("#!/bin/sh\nexec envbuild " + " ".join(command) + "\n")
    script.chmod(0o755)
    done = pipeline.step(script.name, ENVBUILD_RECIPES="recipes", ENVBUILD_SIGNING_KEY=secret(BUILD))
    assert done.returncode == 0, done.stderr


def test_a_pass_gives_the_tag_and_moves_no_blob(
    pipeline: Checkout, proven: str, ask: Callable[[str], Any], tmp_path: Path
) -> None:
    bare = pipeline.with_env(ENVBUILD_STORE=str(tmp_path / "another-store"))
    done = bare.step("promote.sh", ENVBUILD_DIGEST=proven, ENVBUILD_SIGNING_KEY=secret(GATE))
    assert done.returncode == 0, done.stderr
    assert tags(ask) == ["v1"]
    assert ask("team/small/manifests/v1") == ask(f"team/small/manifests/{proven}")
    again = bare.step("promote.sh", ENVBUILD_DIGEST=proven, ENVBUILD_SIGNING_KEY=secret(GATE))
    assert again.returncode == 0, again.stderr


def test_another_key_s_pass_gives_none(pipeline: Checkout, proven: str, ask: Callable[[str], Any]) -> None:
    stranger = SigningKey(seed=bytes(32), where="a stranger's")
    (pipeline.folder / "release-gate.pem").write_text(stranger.public.pem)
    done = pipeline.step("promote.sh", ENVBUILD_DIGEST=proven, ENVBUILD_SIGNING_KEY=secret(stranger))
    assert done.returncode == 6, done.stderr
    assert not tags(ask)


def test_the_builder_s_pass_gives_none(
    pipeline: Checkout, small: SmallWorld, tmp_path: Path, ask: Callable[[str], Any]
) -> None:
    """Whoever broke into the builder has its key, and may write to the registry."""
    digest = published(pipeline, tmp_path)
    verdict = tmp_path / "verdict.json"
    passing(pipeline, small, verdict, BUILD)
    attach(pipeline, verdict)
    done = pipeline.step("promote.sh", ENVBUILD_DIGEST=digest, ENVBUILD_SIGNING_KEY=secret(GATE))
    assert done.returncode == 6, done.stderr
    assert not tags(ask)


def test_a_tag_moves_only_when_it_is_said(
    pipeline: Checkout, proven: str, registry: str, ask: Callable[[str], Any]
) -> None:
    """Another image has the tag: the first manifest under another name of the same repository."""
    other = ask(f"team/small/manifests/{proven}")
    data = json.dumps({**other, "annotations": {"another": "image"}}).encode()
    request = urllib.request.Request(
        f"http://{registry}/v2/team/small/manifests/v1", data=data, method="PUT",
        headers={"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
    )  # fmt: skip
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()
    done = pipeline.step("promote.sh", ENVBUILD_DIGEST=proven, ENVBUILD_SIGNING_KEY=secret(GATE))
    assert done.returncode != 0
    assert "--move-tag" in done.stderr
    assert ask("team/small/manifests/v1")["annotations"] == {"another": "image"}
    done = pipeline.step(
        "promote.sh", ENVBUILD_DIGEST=proven, ENVBUILD_MOVE_TAG="true", ENVBUILD_SIGNING_KEY=secret(GATE)
    )
    assert done.returncode == 0, done.stderr
    assert ask("team/small/manifests/v1") == other


def test_a_pull_request_builds_and_pushes_nothing(pipeline: Checkout, ask: Callable[[str], Any]) -> None:
    done = pipeline.step("try.sh")
    assert done.returncode == 0, done.stderr
    assert ask("_catalog") == {"repositories": []}


def test_a_runner_publishes_what_another_one_made(
    pipeline: Checkout, small: SmallWorld, registry: str, tmp_path: Path, ask: Callable[[str], Any]
) -> None:
    """Base, byte code and operator come from the layer cache: no .deb can be had on the second runner."""
    first = with_artifacts(tmp_path / "first-store", small, [*small.lock.debian, *small.lock.python])
    cache = f"{registry}/team/layers"
    done = pipeline.step("try.sh", ENVBUILD_STORE=str(first), ENVBUILD_LAYER_CACHE=cache)
    assert done.returncode == 0, done.stderr
    with Store.open(first) as store:
        small.remove_roots(store)
    wheels = list(small.lock.python)
    alone = with_artifacts(tmp_path / "alone", small, wheels)
    done = pipeline.step("publish.sh", ENVBUILD_STORE=str(alone), ENVBUILD_LAYER_CACHE="none")
    assert done.returncode == 4, done.stderr
    second = with_artifacts(tmp_path / "second-store", small, wheels)
    digest = published(pipeline.with_env(ENVBUILD_STORE=str(second)), tmp_path)
    assert digest == small.built.image.digest
    assert ask(f"team/small/manifests/{digest}")["layers"]


def with_artifacts(folder: Path, small: SmallWorld, artifacts: Sequence[Artifact]) -> Path:
    """A store that has these files and nothing that was made of them."""
    with Store.open(folder) as store:
        for artifact in artifacts:
            store.artifact(artifact.sha256).hardlink_to(small.store.artifact(artifact.sha256))
    return folder
