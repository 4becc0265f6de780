"""The steps of a pull request: does everything agree, and what is to be built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import Checkout
from clirun import ROOT

RENDERED = (
    "dockerfiles",
    "conda-lock.yml",
    "environment.yml",
    "environment.deepspeed.txt",
    "environment.explicit.txt",
)


@pytest.fixture
def agreeing(checkout: Checkout) -> Checkout:
    """All committed recipes with all rendered files."""
    for name in ("recipes", *RENDERED):
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, checkout.folder / name, dirs_exist_ok=True)
        else:
            shutil.copy(place, checkout.folder / name)
    checkout.commit("recipes")
    return checkout


@pytest.fixture
def planned(agreeing: Checkout, tmp_path: Path) -> Callable[..., tuple[bool, list[str]]]:
    """Runs plan.sh as GitHub does; whether there is something to do, and for which tags."""

    def run(checkout: Checkout = agreeing, **variables: str) -> tuple[bool, list[str]]:
        output = tmp_path / "github-output"
        output.write_text("")
        done = checkout.step("plan.sh", GITHUB_OUTPUT=str(output), **variables)
        assert done.returncode == 0, done.stderr
        values = github_output(output)
        assert set(values) == {"any", "matrix"}
        matrix = json.loads(values["matrix"])
        return values["any"] == "true", [entry["tag"] for entry in matrix["include"]]

    return run


def github_output(file: Path) -> dict[str, str]:
    """The file as GitHub reads it: NAME=VALUE, or NAME<<END, lines, END."""
    values = {}
    lines = iter(file.read_text().splitlines())
    for line in lines:
        if "<<" in line and "=" not in line.partition("<<")[0]:
            name, _, end = line.partition("<<")
            values[name] = "\n".join(iter(lambda: next(lines), end))
        else:
            name, _, values_of = line.partition("=")
            values[name] = values_of
    return values


# check.sh


def test_what_is_committed_agrees(agreeing: Checkout) -> None:
    done = agreeing.step("check.sh")
    assert done.returncode == 0, done.stderr
    recipes = len(list((ROOT / "recipes").glob("*/*/recipe.toml")))
    assert done.stdout.count("recipe and lock agree") == recipes
    assert agreeing.git("status", "--porcelain") == ""


def test_every_fault_is_named_in_one_run(agreeing: Checkout) -> None:
    recipe = agreeing.folder / "recipes/pytorch-cuda/v2.8/recipe.toml"
    recipe.write_text(recipe.read_text().replace("gpus = 2", "gpus = 4"))
    (agreeing.folder / "recipes/pytorch-cuda/v2.11/requirements.txt").write_text("torch\n")
    done = agreeing.step("check.sh")
    assert done.returncode == 3
    assert "error[lock-is-stale]: pytorch-cuda:v2.8" in done.stderr
    assert "error[requirements-differ]" in done.stderr
    assert done.stdout.count("recipe and lock agree") >= 2


def test_a_rendered_file_that_was_edited(agreeing: Checkout) -> None:
    with (agreeing.folder / "dockerfiles/pytorch-cuda-v2.7.Dockerfile").open("a") as file:
        file.write("RUN true\n")
    done = agreeing.step("check.sh")
    assert done.returncode == 3
    assert "error[rendering-differs]" in done.stderr
    assert "RUN true" in done.stderr


# plan.sh


def test_everything_is_planned(planned: Callable[..., tuple[bool, list[str]]]) -> None:
    found, tags = planned()
    assert found
    assert tags == ["v2.7", "v2.7-devel", "v2.8", "v2.8-devel", "v2.11", "v2.11-devel"]
    assert planned(ENVBUILD_CHANGED_SINCE="0" * 40) == (found, tags)


def test_patterns_are_envbuild_s(planned: Callable[..., tuple[bool, list[str]]], agreeing: Checkout) -> None:
    (agreeing.folder / "pytorch-cuda:v2.8").write_text("what a shell would make of the pattern")
    assert planned(ENVBUILD_REFS="pytorch-cuda:v2.8* *:v2.11")[1] == ["v2.8", "v2.8-devel", "v2.11"]


def test_what_changed_since_a_commit(
    planned: Callable[..., tuple[bool, list[str]]], agreeing: Checkout
) -> None:
    before = agreeing.git("rev-parse", "HEAD")
    assert planned(ENVBUILD_CHANGED_SINCE=before) == (False, [])
    recipe = agreeing.folder / "recipes/pytorch-cuda/v2.8-devel/recipe.toml"
    recipe.write_text(recipe.read_text() + "\n")
    agreeing.commit()
    assert planned(ENVBUILD_CHANGED_SINCE=before) == (True, ["v2.8-devel"])


def test_a_commit_is_fetched_in_a_shallow_checkout(
    planned: Callable[..., tuple[bool, list[str]]], agreeing: Checkout
) -> None:
    """And one that is nowhere, as after a push with force, plans everything."""
    before = agreeing.git("rev-parse", "HEAD")
    agreeing.git("config", "uploadpack.allowAnySHA1InWant", "true")
    (agreeing.folder / "README.md").write_text("words\n")
    agreeing.commit()
    place = agreeing.folder.parent / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{agreeing.folder}", place], check=True)
    shallow = Checkout(folder=place, env=agreeing.env)
    assert planned(shallow, ENVBUILD_CHANGED_SINCE=before) == (False, [])
    assert len(planned(shallow, ENVBUILD_CHANGED_SINCE="1" * 40)[1]) == 6


def test_a_wrong_pattern_fails_the_step(agreeing: Checkout) -> None:
    done = agreeing.step("plan.sh", ENVBUILD_REFS="pytorch-cuda:v9")
    assert done.returncode == 3
    assert "error[no-recipe]" in done.stderr


# GitLab's child pipeline


def child(checkout: Checkout, tmp_path: Path, **variables: str) -> dict[str, Any]:
    """What plan.sh writes, with the common jobs that it includes: valid by GitLab's schema."""
    file = tmp_path / "images.yml"
    done = checkout.step("plan.sh", ENVBUILD_CHILD_PIPELINE=str(file), **variables)
    assert done.returncode == 0, done.stderr
    schema = ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"]
    subprocess.run([Path(sys.executable).parent / "check-jsonschema", *schema, file], check=True)
    made: dict[str, Any] = yaml.safe_load(file.read_text())
    [common] = made.pop("include")
    hidden = yaml.safe_load((checkout.folder / common["local"].lstrip("/")).read_text())
    for name, job in made.items():
        assert hidden[job["extends"]]["script"], name
        for need in job.get("needs", []):
            assert need["job"] in made, name
    return made


def test_each_image_is_published_then_proven_then_tagged(agreeing: Checkout, tmp_path: Path) -> None:
    made = child(agreeing, tmp_path, ENVBUILD_REFS="*:v2.7*")
    assert list(made) == [
        f"{step} pytorch-cuda:{tag}"
        for tag in ("v2.7", "v2.7-devel")
        for step in ("publish", "gate", "promote")
    ]
    devel = made["publish pytorch-cuda:v2.7-devel"]
    assert devel["needs"] == [{"job": "publish pytorch-cuda:v2.7", "artifacts": False}]
    assert devel["variables"]["ENVBUILD_REF"] == "pytorch-cuda:v2.7-devel"
    promote = made["promote pytorch-cuda:v2.7"]
    assert [need["job"] for need in promote["needs"]] == [
        "publish pytorch-cuda:v2.7",
        "gate pytorch-cuda:v2.7",
    ]
    assert promote["needs"][0]["artifacts"]  # brings ENVBUILD_DIGEST


def test_a_variant_alone_waits_for_nobody(agreeing: Checkout, tmp_path: Path) -> None:
    made = child(agreeing, tmp_path, ENVBUILD_REFS="*:v2.7-devel")
    assert made["publish pytorch-cuda:v2.7-devel"]["needs"] == []


def test_a_pipeline_needs_a_job(agreeing: Checkout, tmp_path: Path) -> None:
    assert list(child(agreeing, tmp_path, ENVBUILD_CHANGED_SINCE="HEAD")) == ["nothing to build"]


def test_a_large_image_goes_to_a_large_runner(agreeing: Checkout) -> None:
    entry = {"ref": "a:v1", "name": "a", "tag": "v1", "needs": None, "runner": "large"}
    done = subprocess.run(
        [sys.executable, "ci/pipeline/child_pipeline.py"],
        cwd=agreeing.folder, input=json.dumps({"include": [entry]}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["publish a:v1"]["tags"] == ["$ENVBUILD_LARGE_RUNNER"]


# make-room.sh


@pytest.mark.parametrize(("scratch", "size", "left"), [
    ("true", 1 << 60, False), ("false", 1 << 60, True), ("true", 0, True),
])  # fmt: skip
def test_a_store_is_emptied_where_the_next_image_does_not_fit(
    agreeing: Checkout, scratch: str, size: int, left: bool
) -> None:
    store = Path(agreeing.env["ENVBUILD_STORE"])
    store.mkdir()
    (store / "store.json").write_text("{}")
    lock = agreeing.folder / "recipes/pytorch-cuda/v2.8/lock.json"
    value = json.loads(lock.read_text())
    value["python"][0]["size"] += size
    lock.write_text(json.dumps(value))
    done = agreeing.step("make-room.sh", ENVBUILD_REF="pytorch-cuda:v2.8", ENVBUILD_SCRATCH_STORE=scratch)
    assert done.returncode == 0, done.stderr
    assert store.exists() == left
    assert ("is emptied" in done.stderr) != left


def test_a_folder_that_is_no_store_is_left_alone(agreeing: Checkout) -> None:
    folder = agreeing.folder / "precious"
    folder.mkdir()
    variables = {"ENVBUILD_STORE": str(folder), "ENVBUILD_SCRATCH_STORE": "true"}
    assert agreeing.step("make-room.sh", ENVBUILD_REF="pytorch-cuda:v2.8", **variables).returncode == 0
    assert folder.exists()


# install.sh, prepare-builder.sh


@pytest.mark.network
def test_envbuild_is_installed_for_the_steps_that_follow(checkout: Checkout, tmp_path: Path) -> None:
    added = tmp_path / "github-path"
    own = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "UV_", "SSL_", "REQUESTS_"))
    }
    done = checkout.step(
        "install.sh", ENVBUILD_PACKAGE=str(ROOT), ENVBUILD_VENV=str(tmp_path / "venv"), GITHUB_PATH=str(added), **own
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("envbuild, version ")
    assert added.read_text() == f"{tmp_path}/venv/bin\n"
    run = [f"{tmp_path}/venv/bin/envbuild", "matrix", "--json"]
    found = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["include"]  # the recipes that come with it


def test_a_builder_is_looked_at(checkout: Checkout) -> None:
    done = checkout.step("prepare-builder.sh")
    assert done.returncode == 0, done.stderr
    assert "sandbox" in done.stdout
