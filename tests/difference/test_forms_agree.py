"""The forms of every recipe agree in the recipe's pins; each form that is wrong by one pin is noticed.

The files are read as they are committed. What ``--pins`` says is held against a second reading of them, here, with
nothing but the standard library.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from clirun import ROOT, Cli

from envbuild.cli import main

REFS = sorted(
    f"{path.parent.parent.name}:{path.parent.name}" for path in ROOT.glob("recipes/*/*/recipe.toml")
)
V27 = "pytorch-cuda:v2.7"


def test_there_are_recipes_of_every_kind() -> None:
    made = {ref: _recipe(ROOT, ref).get("makes") for ref in REFS}
    assert made[V27] == ["image", "environment"]
    assert made["ds-train:v2.7"] == ["environment"]
    assert len(REFS) >= 7


@pytest.mark.parametrize("ref", REFS)
def test_the_forms_of_a_recipe_agree(cli: Cli, ref: str) -> None:
    done = cli("diff", "--pins", ref, "--json")
    assert done.code == 0, done
    value = done.value
    assert value["agree"] is True
    forms = [operand["form"] for operand in value["operands"]]
    makes = _merged(ref).get("makes", ["image"])
    assert forms == (["image lock", "Dockerfile", "conda lock"] if "image" in makes else ["conda lock"])


def _recipe(root: Path, ref: str) -> dict[str, object]:
    name, tag = ref.split(":")
    return tomllib.loads((root / "recipes" / name / tag / "recipe.toml").read_text())


def _merged(ref: str) -> dict[str, object]:
    """A recipe over the one that it extends, by its top-level tables."""
    own = _recipe(ROOT, ref)
    extended = own.get("extends")
    name = ref.partition(":")[0]
    return {**_merged(f"{name}:{extended}"), **own} if isinstance(extended, str) else own


@pytest.mark.parametrize("ref", [ref for ref in REFS if not ref.startswith("ds-train")])
def test_the_pins_that_are_shown_are_those_in_the_files(cli: Cli, ref: str) -> None:
    shown = {pin["name"]: pin["forms"] for pin in cli("diff", "--pins", ref, "--json").value["pins"]}
    stem = ref.replace(":", "-")
    locked = json.loads((ROOT / "recipes" / ref.replace(":", "/") / "lock.json").read_bytes())
    python = {item["name"]: item["version"] for item in locked["python"]}
    required = dict(
        re.findall(
            r"^(\S+)==(\S+)", (ROOT / f"dockerfiles/{stem}.requirements.txt").read_text(), re.MULTILINE
        )
    )
    dockerfile = (ROOT / f"dockerfiles/{stem}.Dockerfile").read_text()
    for pin, names in {
        "torch": ["torch"],
        "torchvision": ["torchvision"],
        "cudnn": ["nvidia-cudnn-cu12", "nvidia-cudnn-cu13"],
        "nccl": ["nvidia-nccl-cu12", "nvidia-nccl-cu13"],
    }.items():
        for form, versions in enumerate((python, required)):
            expected = [versions[name] for name in names if name in versions]
            assert shown[pin][form]["values"] == expected, (pin, form)
    assert shown["deepspeed"][0]["values"] == [locked["native"]["source"]["version"]]
    minors = {".".join(v.split(".")[:2]) for v in re.findall(r"nvidia/cuda:([0-9.]+)-", dockerfile)}
    assert set(shown["cuda"][1]["values"]) == minors
    built = re.findall(r"TORCH_CUDA_ARCH_LIST=['\"]?([0-9.+PTX; ]+)", dockerfile)
    assert built
    for words in built:
        assert set(words.replace(";", " ").split()) == set(shown["architectures"][1]["values"][0].split())


Edit = Callable[[Path], None]


def _sub(file: str, pattern: str, replacement: str) -> Edit:
    """An edit that must change the file."""

    def edit(root: Path) -> None:
        path = root / file
        text = path.read_text()
        changed = re.sub(pattern, replacement, text)
        assert changed != text, f"{file} has no {pattern}"
        path.write_text(changed)

    return edit


def _record(name: str, *, version: str | None = None, build: str | None = None) -> Edit:
    """Another version or build of a package in the conda lock."""

    def edit(root: Path) -> None:
        path = root / CONDA
        lock = json.loads(path.read_bytes())
        (package,) = [item for item in lock["packages"] if item["name"] == name]
        before = dict(package)
        package |= {"version": version or package["version"], "build": build or package["build"]}
        package["file"] = f"{name}-{package['version']}-{package['build']}.conda"
        assert package != before
        path.write_text(json.dumps(lock))

    return edit


LOCK, CONDA = "recipes/pytorch-cuda/v2.7/lock.json", "recipes/pytorch-cuda/v2.7/conda.lock.json"
STEM = "dockerfiles/pytorch-cuda-v2.7"
SEEDED: dict[str, tuple[str, str, Edit]] = {
    "another torch in the image": (
        "torch",
        "image:",
        _sub(LOCK, r'("name": "torch", "version": )"2.7.1"', r'\1"2.7.0"'),
    ),
    "another NCCL in the image": (
        "nccl",
        "image:",
        _sub(LOCK, r'("name": "nvidia-nccl-cu12", "version": )"[^"]+"', r'\1"2.27.3"'),
    ),
    "another DeepSpeed in the image": (
        "deepspeed",
        "image:",
        _sub(LOCK, r'("kind": "sdist", "name": "deepspeed", "version": )"[^"]+"', r'\1"0.18.0"'),
    ),
    "an architecture less in the image": ("architectures", "image:", _sub(LOCK, r'"7.0", "8.0"', '"8.0"')),
    "another pip in the image": (
        "pip",
        "image:",
        _sub(LOCK, r'("name": "pip", "version": )"[^"]+"', r'\1"25.0"'),
    ),
    "another torch in the Dockerfile": (
        "torch",
        "dockerfile:",
        _sub(f"{STEM}.requirements.txt", r"(?m)^torch==\S+", "torch==2.7.0"),
    ),
    "no torchvision in the Dockerfile": (
        "torchvision",
        "dockerfile:",
        _sub(f"{STEM}.requirements.txt", r"(?m)^torchvision==\S+ \\\n.*\n", ""),
    ),
    "another cuDNN in the Dockerfile": (
        "cudnn",
        "dockerfile:",
        _sub(f"{STEM}.requirements.txt", r"nvidia-cudnn-cu12==\S+", "nvidia-cudnn-cu12==9.10.2.21"),
    ),
    "another base in the Dockerfile": (
        "cuda",
        "dockerfile:",
        _sub(f"{STEM}.Dockerfile", r"nvidia/cuda:12\.6\.\d-base", "nvidia/cuda:12.8.1-base"),
    ),
    "another compiler in the Dockerfile": (
        "cuda",
        "dockerfile:",
        _sub(f"{STEM}.Dockerfile", r"nvidia/cuda:12\.6\.\d-devel", "nvidia/cuda:12.4.1-devel"),
    ),
    "another CUDA runtime in the Dockerfile": (
        "cuda",
        "dockerfile:",
        _sub(
            f"{STEM}.requirements.txt", r"nvidia-cuda-runtime-cu12==\S+", "nvidia-cuda-runtime-cu12==12.8.90"
        ),
    ),
    "no code for an architecture in the Dockerfile": (
        "architectures",
        "dockerfile:",
        _sub(f"{STEM}.Dockerfile", r"(TORCH_CUDA_ARCH_LIST=.)7\.0;", r"\1"),
    ),
    "an operator not built in the Dockerfile": (
        "operators",
        "dockerfile:",
        _sub(f"{STEM}.Dockerfile", r"DS_BUILD_FUSED_ADAM=1", "DS_BUILD_FUSED_LAMB=1"),
    ),
    "another Python in the Dockerfile": (
        "python",
        "dockerfile:",
        _sub(f"{STEM}.conda.txt", r"/python-3\.11\.", "/python-3.12."),
    ),
    "another DeepSpeed in the Dockerfile": (
        "deepspeed",
        "dockerfile:",
        _sub(f"{STEM}.deepspeed.txt", r"deepspeed==\S+", "deepspeed==0.18.0"),
    ),
    "another torch in the environment": ("torch", "conda:", _record("pytorch", version="2.6.0")),
    "torch for the CPU in the environment": (
        "cuda",
        "conda:",
        _record("pytorch", build="cpu_mkl_py311_hcada2b2_300"),
    ),
    "torch for another CUDA in the environment": (
        "cuda",
        "conda:",
        _record("pytorch", build="cuda129_mkl_py311_hcada2b2_300"),
    ),
    "another CUDA in the environment": ("cuda", "conda:", _record("cuda-version", version="12.9")),
    "neither the pinned nor the declared cuDNN": ("cudnn", "conda:", _record("cudnn", version="9.8.0.87")),
    "another Python in the environment": ("python", "conda:", _record("python", version="3.12.9")),
    "another DeepSpeed in the environment": (
        "deepspeed",
        "conda:",
        _sub(CONDA, r'("name": "deepspeed", "version": )"[^"]+"', r'\1"0.18.0"'),
    ),
    "a declaration taken back": (
        "nccl",
        "conda:",
        _sub("recipes/pytorch-cuda/v2.7/recipe.toml", r'(?m)^nccl = "2\.27.*\n', ""),
    ),
    "an absence taken back": (
        "safetensors",
        "conda:",
        _sub("recipes/pytorch-cuda/v2.7/recipe.toml", r'(without = .*), "safetensors"\]', r"\1]"),
    ),
}


@pytest.mark.parametrize("name", SEEDED)
def test_a_form_that_is_wrong_by_one_pin_is_noticed(
    rendered: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    pin, form, edit = SEEDED[name]
    edit(rendered)
    arguments = [
        "diff",
        "--pins",
        V27,
        "--json",
        "--recipes",
        str(rendered / "recipes"),
        "--rendered",
        str(rendered),
    ]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out = capsys.readouterr().out
    assert ended.value.code == 5, out
    value = json.loads(out)
    assert value["error"]["id"] == "pins-differ"
    assert value["agree"] is False
    wrong = [p["name"] for p in value["pins"] if not p["agrees"]]
    assert wrong == [pin]
    cells = next(p["forms"] for p in value["pins"] if p["name"] == pin)
    labels = [operand["operand"] for operand in value["operands"]]
    assert [labels[i] for i, cell in enumerate(cells) if cell["status"] == "differ"] == [f"{form}{V27}"]
    assert f"{pin} of {form}{V27}" in value["error"]["message"]


def test_a_declared_difference_is_shown_as_declared(cli: Cli) -> None:
    text = cli("diff", "--pins", V27).out
    assert re.search(
        r"^cudnn +9\.5\.1\.17 +9\.5\.1\.17 +9\.5\.1\.17 +9\.10\.1\.4 +declared$", text, re.MULTILINE
    )
    assert re.search(r"^torch +2\.7\.1 +2\.7\.1 +2\.7\.1 +2\.7\.1 +agree$", text, re.MULTILINE)
    assert 'cudnn, C: [conda.versions] says cudnn = "9.10.1.4"' in text


def test_another_recipes_form_does_not_agree(cli: Cli) -> None:
    done = cli.quoting("diff", "--pins", V27, "dockerfile:pytorch-cuda:v2.8")
    assert done.code == 5
    assert "torch of dockerfile:pytorch-cuda:v2.8: 2.7.1 is pinned, here is 2.8.0" in done.err
