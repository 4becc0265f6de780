"""The main job on real input: pytorch-cuda:v2.7 from its lock, run by Docker and without an engine."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from realimage import REF, ROOT, Real, locked_digest
from sbomagreement import DPKG, compare, debian_of, python_of

from envbuild.engine import ImageRef, Mount, Streams, detect
from envbuild.gate import expect, stage, suite_command
from envbuild.layers.format import SITE
from envbuild.lock import read_lock
from envbuild.progress import SilentProgress
from envbuild.recipe import load_recipe, parse_ref
from envbuild.store import Store

pytestmark = [pytest.mark.real, pytest.mark.docker, pytest.mark.network]
CANDIDATE = f"{REF}-candidate"
DOCKER = "/usr/bin/docker"


def docker(*arguments: str) -> str:
    return subprocess.run([DOCKER, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def in_docker(*argv: str, options: tuple[str, ...] = ()) -> str:
    return docker("run", "--rm", "--network=none", *options, CANDIDATE, *argv)


def test_the_digest_is_the_one_in_the_lock_and_in_the_readme(real: Real) -> None:
    assert real.answer["digest"] == locked_digest(REF)
    assert real.answer["digest"] in (ROOT / "README.md").read_text()
    assert real.answer["candidate"] is True
    assert real.answer["tags"] == [CANDIDATE]
    assert len(real.answer["layers"]) <= 40


def test_skopeo_reads_the_store(real: Real) -> None:
    seen = json.loads(
        subprocess.run(
            ["skopeo", "inspect", f"oci:{real.store}/oci:{CANDIDATE}"], check=True, stdout=subprocess.PIPE
        ).stdout
    )
    assert seen["Digest"] == real.answer["digest"]
    assert seen["Labels"]["io.envbuild.torch"] == "2.7.1"
    assert [layer["digest"] for layer in real.answer["layers"]] == seen["Layers"]


def test_docker_runs_it(real: Real) -> None:
    assert real.answer["engine"] == "docker"
    assert docker("image", "inspect", "--format", "{{.Id}}", CANDIDATE).strip() == real.answer["config"]
    said = in_docker(
        "python",
        "-c",
        "import torch, deepspeed; print(torch.__version__, torch.version.cuda, deepspeed.__version__)",
    )
    assert "2.7.1+cu126 12.6 0.19.8" in said


def test_what_the_table_in_the_docs_promises(real: Real) -> None:
    program = Path(__file__).with_name("promised.py").read_text()
    seen = json.loads(in_docker("python", "-c", program))
    assert seen["entry point"] == ["/usr/bin/tini", "-s", "-g", "--"]
    assert seen["python"] == "/opt/venv/bin/python"
    assert seen["version"] == [3, 11]
    assert seen["programs"] == {
        name: f"/opt/venv/bin/{name}" for name in ("python", "pip", "deepspeed", "torchrun")
    }
    assert seen["packages"] == "/opt/venv/lib/python3.11/site-packages"
    assert seen["folder"] == "/workspace"
    assert seen["in the folder"] == []
    assert seen["user"] == [0, 0, "root"]
    assert seen["envbuild"] == [1000, 1000]
    assert {name: status for name, (status, _) in seen["commands"].items() if status} == {}
    assert "No broken requirements found" in seen["commands"]["pip check"][1]
    assert seen["commands"]["dpkg --audit"][1] == ""
    assert seen["Python.h"] is True
    assert seen["system"] == ["debian", "12"]
    assert seen["secrets"] == []
    assert seen["walked"] > 10_000
    assert seen["of another time"] == []
    assert docker("image", "inspect", "--format", "{{json .Config.Cmd}}", CANDIDATE).strip() == '["bash"]'


def test_the_bill_of_materials_agrees_with_what_is_installed(real: Real) -> None:
    bill = real.envbuild("export", REF, "--format", "sbom").stdout.encode()
    debian = debian_of(in_docker(*DPKG))
    python = python_of(in_docker("python", "-m", "pip", "list", "--format", "json"))
    compare(bill, debian=debian, python=python)
    unnamed = [item["name"] for item in json.loads(bill)["components"] if not item.get("licenses")]
    assert unnamed == []


def test_pip_installs_in_the_image(real: Real, tmp_path: Path) -> None:
    (tmp_path / "hello").mkdir()
    (tmp_path / "hello/pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "hello"\nversion = "1"\n'
    )
    (tmp_path / "hello/hello.py").write_text("print('installed')\n")
    said = in_docker(
        "sh",
        "-c",
        "cp -r /src/hello /tmp && pip install --no-build-isolation --no-index /tmp/hello && python -m hello",
        options=("-v", f"{tmp_path}:/src:ro"),
    )
    assert said.rstrip().endswith("installed")


def test_the_compiler_in_the_image_serves_torch_compile(real: Real) -> None:
    program = (
        "import torch; f = torch.compile(lambda x: torch.sin(x) + 1); print(float(f(torch.zeros(8)).sum()))"
    )
    assert "8.0" in in_docker("python", "-c", program)


def test_a_second_run_makes_nothing(real: Real) -> None:
    again = json.loads(real.envbuild("image", REF, "--json").stdout)
    assert again["digest"] == real.answer["digest"]
    assert again["bytes_fetched"] == 0
    assert not any(layer["made"] for layer in again["layers"])


@pytest.mark.parametrize("engine", ["sandbox", "oci"])
def test_it_runs_where_no_daemon_is(real: Real, engine: str) -> None:
    said = real.envbuild(
        "run",
        REF,
        "--engine",
        engine,
        "--",
        "python",
        "-c",
        "import torch, deepspeed; print(torch.__version__)",
    ).stdout
    assert said.strip().endswith("2.7.1+cu126")


def test_the_part_of_the_suite_that_needs_no_gpu_passes_and_gives_no_tag(real: Real, tmp_path: Path) -> None:
    report = tmp_path / "verdict.json"
    said = real.envbuild("smoke", REF, "--engine", "sandbox", "--report", str(report), "--json").stdout
    verdict = json.loads(said)["verdict"]
    assert verdict["subject"]["manifest"] == real.answer["digest"]
    assert verdict["result"] == "candidate"
    status = {check["id"]: check["status"] for check in verdict["checks"]}
    assert {name for name, text in status.items() if text == "passed"} == {
        "versions", "imports", "loaded", "operator-file", "gloo-all-reduce", "cpp-extension"
    }  # fmt: skip
    assert "failed" not in status.values()
    refused = real.envbuild("promote", REF, "--verdict", str(report), "--json", check=False)
    assert refused.returncode == 6
    assert json.loads(refused.stdout)["error"]["id"] == "verdict-not-a-pass"


def test_its_devel_variant_is_built_to_its_digest_and_makes_the_toolkit_alone(real: Real) -> None:
    answer = json.loads(real.envbuild("image", REF, "--devel", "--no-load", "--json").stdout)
    assert answer["digest"] == locked_digest(f"{REF}-devel")
    shared = {layer["digest"] for layer in real.answer["layers"]}
    assert {x["name"] for x in answer["layers"] if x["digest"] not in shared} == {"toolkit", "programs"}


def test_a_candidate_whose_operator_is_the_cpu_one_is_refused(real: Real, tmp_path: Path) -> None:
    """What DeepSpeed builds on a machine without a GPU unless told otherwise, in place of the shipped file."""
    name = "fused_adam_op.cpython-311-x86_64-linux-gnu.so"
    (tmp_path / "cpu.c").write_text("int PyInit_fused_adam_op(void) { return 0; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / name, tmp_path / "cpu.c"], check=True)
    store = Store.open(real.store)
    recipe = load_recipe(parse_ref(REF), [ROOT / "recipes"])
    expectations = expect(recipe, read_lock(recipe.lock_path), gpus_given=0)
    image = ImageRef.read(store.layout, real.answer["digest"], (CANDIDATE,))
    engine = detect("sandbox", store, os.environ, jobs=2)[0]
    engine.load(image, SilentProgress())
    (tmp_path / "suite").mkdir()
    stage(tmp_path / "suite", expectations)
    command = suite_command(tmp_path / "suite", expectations, gpus=0)
    shipped = f"/{SITE}/deepspeed/ops/adam/{name}"
    command = replace(
        command,
        argv=(*command.argv, "--only", "versions", "--only", "operator-file"),
        mounts=(*command.mounts, Mount(source=tmp_path / name, target=shipped)),
    )
    with (tmp_path / "report").open("w+b") as out:
        status = engine.run(image, command, Streams(stdin=0, stdout=out.fileno(), stderr=2))
        out.seek(0)
        checks = {check["id"]: check for check in json.load(out)["checks"]}
    assert status == 1
    assert checks["operator-file"]["status"] == "failed"
    assert "libcudart" in checks["operator-file"]["expected"]
    assert checks["versions"]["status"] == "failed"
    assert name in checks["versions"]["seen"]
