"""What `envbuild diff` refuses, what its JSON is, and which names are one thing."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from clirun import ROOT, Cli
from packaging.utils import canonicalize_name

from envbuild.difference import Package
from envbuild.difference.names import common_name, names, same_version
from envbuild.lock import read_conda_lock, read_lock

V27 = "pytorch-cuda:v2.7"


def test_an_unknown_operand_offers_the_nearest_recipe(cli: Cli) -> None:
    done = cli.fails(3, "no-recipe", "diff", V27, "pytorch-cuda:v2.77")
    assert f"Did you mean {V27}?" in done.err
    for word in ("image", "dockerfile", "conda"):
        cli.fails(3, "no-recipe", "diff", V27, f"{word}:pytorch-cuda:v9")


def test_a_folder_needs_a_slash(cli: Cli) -> None:
    done = cli.fails(3, "no-recipe", "diff", V27, "tests")
    assert "write ./tests" in done.err


def test_folders_that_are_no_environment(cli: Cli, tmp_path: Path) -> None:
    cli.fails(3, "no-such-folder", "diff", V27, str(tmp_path / "nowhere"))
    (tmp_path / "env/conda-meta").mkdir(parents=True)
    (tmp_path / "env/lib").mkdir()
    done = cli.fails(3, "not-an-environment", "diff", V27, str(tmp_path / "env/lib"))
    assert f"did you mean {tmp_path}/env?" in done.err
    done = cli.fails(3, "not-an-environment", "diff", V27, str(ROOT / "docs"))
    assert "conda-meta" in done.err


def test_images_that_are_not_there(cli: Cli) -> None:
    cli.fails(3, "no-such-image", "diff", V27, "store:pytorch-cuda:v2.7")
    cli.fails(3, "no-such-image", "diff", V27, f"store:sha256:{'0' * 64}")
    done = cli.fails(2, "wrong-operand", "diff", V27, f"{V27}-candidate")
    assert f"docker:{V27}-candidate" in done.err
    cli.fails(2, "wrong-operand", "diff", V27, "docker:")


@pytest.mark.docker
def test_an_image_that_docker_has_not(cli: Cli) -> None:
    cli.fails(3, "no-such-image", "diff", V27, "docker:envbuild-no-such-image:v1")


def test_an_engine_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    nowhere = {"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"}
    cli.fails(7, "docker-not-running", "diff", V27, "docker:anything:v1", env=nowhere)


def test_a_recipe_that_makes_no_image_has_one_form(cli: Cli) -> None:
    done = cli.fails(3, "makes-no-image", "diff", V27, "image:ds-train:v2.7")
    assert "conda:ds-train:v2.7" in done.err
    forms = [operand["form"] for operand in cli("diff", V27, "ds-train:v2.7", "--json").value["operands"]]
    assert forms == ["image lock", "conda lock"]


def test_images_say_how_many_layers_they_share(cli: Cli) -> None:
    assert "34 layers are the same (36 of A and 35 of B)" in cli("diff", f"{V27}-devel", V27).out
    assert "All layers are the same (35 of A and 35 of B)" in cli("diff", f"image:{V27}", V27).out


def test_one_form_alone_is_held_against_the_recipe_only(cli: Cli) -> None:
    cli.fails(2, "one-operand", "diff", f"conda:{V27}")
    assert cli("diff", "--pins", f"conda:{V27}").code == 0


def test_rendered_files_that_are_gone_or_broken(cli: Cli, rendered: Path) -> None:
    arguments = ("diff", "--pins", V27, "--recipes", str(rendered / "recipes"), "--rendered", str(rendered))
    stem = rendered / "dockerfiles/pytorch-cuda-v2.7"
    required = stem.with_name(f"{stem.name}.requirements.txt")
    text = required.read_text()
    required.write_text(text.replace("==", ">=", 1))
    done = cli.fails(3, "rendered-file-broken", *arguments)
    assert re.search(r"at: .*requirements\.txt:\d+\n", done.err)
    required.write_text(text.replace("    --hash=sha256:", "    --hash=md5:", 1))
    cli.fails(3, "rendered-file-broken", *arguments)
    required.write_text(text)
    conda = stem.with_name(f"{stem.name}.conda.txt")
    conda.write_text(conda.read_text() + "not an address\n")
    cli.fails(3, "rendered-file-broken", *arguments)
    conda.unlink()
    done = cli.fails(3, "no-rendered-file", *arguments)
    assert f"envbuild render {V27}" in done.err
    cli.fails(3, "no-rendered-file", "diff", V27, f"dockerfile:{V27}", "--rendered", "docs")


def test_a_record_that_cannot_be_read_is_left_out(cli: Cli, tmp_path: Path) -> None:
    meta = tmp_path / "env/conda-meta"
    meta.mkdir(parents=True)
    (meta / "good-1-0.json").write_text('{"name": "good", "version": "1", "build": "0", "files": []}')
    for number, text in enumerate(("{", "[]", "")):
        (meta / f"bad{number}.json").write_text(text)
    done = cli("diff", str(tmp_path / "env"), V27, "--json")
    assert done.code == 0, done
    assert done.value["operands"][0]["packages"]["conda"] == 1


def _keys(value: Any, prefix: str = "") -> set[str]:
    """The keys of a document as docs/reference/json.md writes them."""
    found: set[str] = set()
    for key, inner in value.items() if isinstance(value, dict) else ():
        found.add(prefix + key)
        found |= _keys(inner, f"{prefix}{key}.")
        for item in inner if isinstance(inner, list) else ():
            found |= _keys(item, f"{prefix}{key}[].")
            for part in item if isinstance(item, list) else ():
                found |= _keys(part, f"{prefix}{key}[][].")
    return found


def test_the_json_is_what_the_page_says(cli: Cli, tmp_path: Path) -> None:
    page = (ROOT / "docs/reference/json.md").read_text()
    section = page.partition("\n## envbuild diff\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", section, re.MULTILINE)
    documented = {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}
    for name in ("one", "two"):
        meta = tmp_path / name / "conda-meta"
        meta.mkdir(parents=True)
        (meta / f"{name}-1-0.json").write_text(json.dumps({"name": name, "version": "1", "build": "0"}))
    forms = cli("diff", V27, "--json").value
    folders = cli("diff", str(tmp_path / "one"), str(tmp_path / "two"), "--json").value
    assert _keys(forms) | _keys(folders) == documented


def test_every_entry_of_the_names_says_where_it_is_from() -> None:
    text = (ROOT / "envbuild/difference/names.toml").read_text()
    entries = tomllib.loads(text)["same"]
    assert all(entry["source"] for entry in entries)
    assert all("why" in entry for entry in entries if "digits" in entry)
    spelled = [
        (e, name) for entry in entries for e in ("python", "conda", "debian") for name in entry.get(e, ())
    ]
    assert len(spelled) == len(set(spelled))
    assert all(canonicalize_name(name) == name for ecosystem, name in spelled if ecosystem == "python")


def test_no_name_of_the_locks_pairs_what_the_solver_pairs_otherwise() -> None:
    """Two tables for two purposes: what to ask conda for, and what is the same; they must not contradict each other."""
    asked = tomllib.loads((ROOT / "envbuild/lock/conda/names.toml").read_text())
    for python, conda in asked.items():
        pair = [
            Package(ecosystem="python", name=python, version="1"),
            Package(ecosystem="conda", name=conda, version="1"),
        ]
        assert common_name(pair[0]) == common_name(pair[1])


def test_the_names_are_those_of_the_locks() -> None:
    """An entry that no lock uses is a spelling that nobody checked, but for what only other CUDA versions have."""
    locks = [read_lock(path) for path in ROOT.glob("recipes/*/*/lock.json")]
    condas = [read_conda_lock(path) for path in ROOT.glob("recipes/*/*/conda.lock.json")]
    python = {item.name for lock in locks for item in lock.python}
    conda = {item.name for lock in condas for item in lock.packages}
    unused = {
        (e, name)
        for e, name in names().common
        if name not in {"python": python, "conda": conda}.get(e, {name})
    }
    assert unused <= {
        ("python", "brotli"), ("python", "cached-property"), ("python", "nvidia-nvshmem-cu12"),
        ("conda", "libnvshmem3"), ("conda", "cusparselt"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "left", "right", "same"),
    [
        ("nccl", "2.27.3", "2.27.3.1", True),
        ("nccl", "2.27.3", "2.27.5.1", False),
        ("cudnn", "9.10.1.4", "9.10.1.4", True),
        ("cudnn", "9.10.1.4", "9.10.1.5", False),
        ("numpy", "2.0", "2.0.0", True),
        ("torch", "2.7.1+cu126", "2.7.1", True),
        ("torch", "2.7.1", "2.7.0", False),
    ],
)
def test_versions_of_two_ecosystems(name: str, left: str, right: str, *, same: bool) -> None:
    assert same_version(name, left, right, ecosystems=("python", "conda")) is same


def test_versions_of_one_ecosystem_that_is_not_pythons() -> None:
    assert not same_version("openssl", "3.0", "3.0.0", ecosystems=("conda", "conda"))
    assert same_version("tzdata", "2:2025b-1", "2025b", ecosystems=("debian", "conda"))
