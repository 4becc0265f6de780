"""recipe.toml: what is read, and the one error for what is wrong, with its line and the nearest valid spelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe import Recipe, Ref, list_recipes, load_recipe, parse_ref

RECIPES = Path(__file__).parents[2] / "recipes"
GOOD = """\
description = "PyTorch for tests"

[python]
version = "3.11"
packages = [
  "pip==26.0.1",
  "rich[jupyter]>=13; python_version < '4'",
]

[torch]
version = "2.7.1"
torchvision = "0.22.1"

[cuda]
version = "12.6"
cudnn = "9.5.1.17"
nccl = "2.26.2"

[deepspeed]
version = "0.19.8"
operators = ["fused_adam"]
architectures = ["7.0", "9.0+PTX"]

[debian]
release = "bookworm"
packages = ["git", "g++"]
security-updates = false

[gate]
gpus = 2
"""
REF = Ref(name="tiny", tag="v1")


def load(folder: Path, text: str) -> Recipe:
    path = folder / "tiny" / "v1" / "recipe.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return load_recipe(REF, [folder])


def test_the_shipped_recipe_is_read() -> None:
    recipe = load_recipe(parse_ref("pytorch-cuda:v2.7"), [RECIPES])
    assert recipe.torch.version == "2.7.1"
    assert recipe.cuda.major == 12
    assert recipe.deepspeed is not None
    assert recipe.deepspeed.architectures == ("7.0", "8.0", "8.6", "9.0+PTX")
    assert recipe.lock_path == RECIPES / "pytorch-cuda/v2.7/lock.json"


def test_every_value_is_read(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert recipe.to_dict() == {
        "description": "PyTorch for tests",
        "python": {"version": "3.11", "packages": ["pip==26.0.1", "rich[jupyter]>=13; python_version < '4'"]},
        "torch": {"version": "2.7.1", "torchvision": "0.22.1"},
        "cuda": {"version": "12.6", "cudnn": "9.5.1.17", "nccl": "2.26.2"},
        "deepspeed": {"version": "0.19.8", "operators": ["fused_adam"], "architectures": ["7.0", "9.0+PTX"]},
        "debian": {"release": "bookworm", "packages": ["git", "g++"], "security-updates": False},
        "gate": {"gpus": 2},
    }
    assert recipe.where("cuda.nccl").endswith("recipe.toml:17")


def test_what_may_be_left_out_has_defaults(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("[deepspeed]")].replace('torchvision = "0.22.1"\n', "")
    recipe = load(tmp_path, text)
    assert recipe.deepspeed is None
    assert recipe.torch.torchvision is None
    assert recipe.debian.release == "bookworm"
    assert recipe.debian.packages == ()
    assert recipe.gate.gpus == 1


WRONG = {
    "unknown key": ('cudnn = "9', 'cudn = "9', "recipe-missing-key", 16, 'Did you mean "cudnn"?'),
    "unknown extra key": ('nccl = "2.26.2"', 'nccl = "2.26.2"\nnvcc = "1"', "recipe-unknown-key", 18, '"nccl"'),
    "unknown table": ("[gate]", "[gates]", "recipe-unknown-key", 29, '"gate"'),
    "missing table": ("[cuda]", "[cudas]", "recipe-missing-key", 14, '"cuda"'),
    "missing key": ('version = "12.6"\n', "", "recipe-missing-key", None, "version"),
    "number for text": ('"12.6"', "12.6", "recipe-wrong-type", 15, 'version = "12.6", in quotes'),
    "text for number": ("gpus = 2", 'gpus = "2"', "recipe-wrong-type", 30, "without quotes"),
    "truth for number": ("gpus = 2", "gpus = true", "recipe-wrong-type", 30, "without quotes"),
    "text for truth": ("= false", '= "false"', "recipe-wrong-type", 27, "true or"),
    "text for list": ('["git", "g++"]', '"git"', "recipe-wrong-type", 26, '["…"]'),
    "number in list": ('"7.0", ', "7.0, ", "recipe-wrong-type", 22, '"7.0", in quotes'),
    "text for table": ("[gate]\ngpus = 2", "", None, None, ""),
    "no gpus": ("gpus = 2", "gpus = 0", "recipe-wrong-value", 30, "gpus = 1"),
    "python": ('"3.11"', '"3.12"', "recipe-wrong-value", 4, '"3.11"'),
    "pep 508": ('"pip==26.0.1"', '"pip=26.0.1"', "recipe-wrong-value", 6, "requirement such as"),
    "url": ('"pip==26.0.1"', '"pip @ https://x.example/p.whl"', "recipe-wrong-value", 6, "pip==VERSION"),
    "pinned torch": ('"pip==26.0.1"', '"Torch>=2"', "recipe-wrong-value", 6, "torch.version"),
    "pinned cudnn": ('"pip==26.0.1"', '"nvidia_cudnn.cu12==9.1"', "recipe-wrong-value", 6, "cuda.cudnn"),
    "twice": ('"pip==26.0.1"', '"RICH"', "recipe-wrong-value", 7, "one of the two"),
    "torch operator": ('"2.7.1"', '">=2.7.1"', "recipe-wrong-value", 11, 'version = "2.7.1"'),
    "torch local": ('"2.7.1"', '"2.7.1+cu126"', "recipe-wrong-value", 11, 'version = "2.7.1"'),
    "torch word": ('"2.7.1"', '"latest"', "recipe-wrong-value", 11, "2.7.1"),
    "cuda patch": ('"12.6"', '"12.6.3"', "recipe-wrong-value", 15, '"12.6"'),
    "cuda word": ('"12.6"', '"cu126"', "recipe-wrong-value", 15, '"12.6"'),
    "cuda 11": ('"12.6"', '"11.8"', "recipe-wrong-value", 15, '"12.6"'),
    "operator typo": ('"fused_adam"', '"fused-adam"', "recipe-wrong-value", 21, 'mean "fused_adam"'),
    "operator cpu": ('"fused_adam"', '"fused_adam", "cpu_adam"', "recipe-wrong-value", 21, "first used"),
    "operator other": ('"fused_adam"', '"async_io"', "recipe-wrong-value", 21, '"fused_adam"'),
    "arch word": ('"9.0+PTX"', '"sm_90"', "recipe-wrong-value", 22, 'mean "9.0"'),
    "arch case": ('"9.0+PTX"', '"9.0+ptx"', "recipe-wrong-value", 22, 'mean "9.0+PTX"'),
    "arch unknown": ('"7.0"', '"8.1"', "recipe-wrong-value", 22, '"8.0"'),
    "arch new": ('"9.0+PTX"', '"12.0"', "recipe-wrong-value", 22, '"9.0+PTX"'),
    "arch twice": ('"9.0+PTX"', '"7.0"', "recipe-wrong-value", 22, "one of the two"),
    "arch none": ('["7.0", "9.0+PTX"]', "[]", "recipe-wrong-value", 22, '"9.0+PTX"'),
    "release": ('"bookworm"', '"bookwrom"', "recipe-wrong-value", 25, 'mean "bookworm"'),
    "deb version": ('"git"', '"git=1:2"', "recipe-wrong-value", 26, 'Write "git"'),
    "deb twice": ('"g++"', '"git"', "recipe-wrong-value", 26, "one of the two"),
    "description": ('"PyTorch for tests"', '""', "recipe-wrong-value", 1, "one line"),
    "description lines": ('"PyTorch for tests"', '"a\\nb"', "recipe-wrong-value", 1, "one line"),
    "syntax": ('nccl = "2.26.2"', "nccl = 2.26.2", "recipe-syntax", 17, "quotes"),
    "syntax at the end": ("gpus = 2\n", "gpus = [2", "recipe-syntax", 30, "bracket"),
    "key twice": ('nccl = "2.26.2"', 'nccl = "1"\nnccl = "2"', "recipe-syntax", 18, ""),
}  # fmt: skip
del WRONG["text for table"]


@pytest.mark.parametrize("kind", WRONG)
def test_one_error_names_the_line_and_the_cure(tmp_path: Path, kind: str) -> None:
    old, new, id, line, hint = WRONG[kind]
    assert GOOD.count(old) >= 1
    with pytest.raises(EnvbuildError) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    error = caught.value
    assert (error.id, error.exit) == (id, Exit.INPUT)
    assert error.where is not None
    assert error.where.startswith(str(tmp_path / "tiny/v1/recipe.toml"))
    if line is not None:
        assert error.where.endswith(f":{line}")
    assert hint in error.hint


def test_cuda_13_takes_no_architecture_before_7_5(tmp_path: Path) -> None:
    text = GOOD.replace('"12.6"', '"13.0"')
    with pytest.raises(EnvbuildError, match=r'deepspeed.architectures\[0\]: "7.0" is too old for CUDA 13'):
        load(tmp_path, text)
    recipe = load(tmp_path, text.replace('"7.0", "9.0+PTX"', '"7.5", "12.0+PTX"'))
    assert recipe.deepspeed is not None
    assert recipe.deepspeed.architectures == ("7.5", "12.0+PTX")


def test_cpu_adam_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(EnvbuildError, match="-march=native"):
        load(tmp_path, GOOD.replace('"fused_adam"', '"cpu_adam"'))


def test_a_deepspeed_too_old_for_torch_is_refused(tmp_path: Path) -> None:
    text = (
        GOOD.replace('"2.7.1"', '"2.12.1"')
        .replace('torchvision = "0.22.1"\n', "")
        .replace("0.19.8", "0.19.4")
    )
    with pytest.raises(EnvbuildError, match=r"DeepSpeed 0\.19\.4 does not compile with torch 2\.12\.1"):
        load(tmp_path, text)


def test_a_file_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    load(tmp_path, GOOD)
    path = tmp_path / "tiny/v1/recipe.toml"
    path.write_bytes(GOOD.encode().replace(b"12.6", b"12\xff6"))
    with pytest.raises(EnvbuildError) as caught:
        load_recipe(REF, [tmp_path])
    assert (caught.value.id, caught.value.where) == ("recipe-not-utf-8", f"{path}:15")


class TestReferences:
    @pytest.mark.parametrize("text", ["pytorch-cuda:v2.7", "a:1", "a_b.c--d:V_1.0-x"])
    def test_name_and_tag_are_read(self, text: str) -> None:
        assert str(parse_ref(text)) == text

    @pytest.mark.parametrize(
        "text",
        ["", ":", "a", "a:", ":b", "A:b", "a/b:c", "../x:y", "a:b:c", "a:-b", "a:..", "a:" + "x" * 129, "a b:c",
         "a:b-candidate", "a:b\n"],
    )  # fmt: skip
    def test_what_is_no_reference_is_a_wrong_use(self, text: str) -> None:
        with pytest.raises(EnvbuildError) as caught:
            parse_ref(text)
        assert (caught.value.id, caught.value.exit) == ("wrong-reference", Exit.USAGE)

    def test_a_recipe_that_does_not_exist_offers_the_nearest_and_names_the_folders(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(EnvbuildError) as caught:
            load_recipe(parse_ref("pytorch-coda:v2.7"), [tmp_path, RECIPES])
        assert (caught.value.id, caught.value.exit) == ("no-recipe", Exit.INPUT)
        assert "Did you mean pytorch-cuda:v2.7?" in caught.value.hint
        assert str(tmp_path) in caught.value.message
        assert str(RECIPES) in caught.value.message

    def test_the_first_folder_that_has_the_recipe_wins(self, tmp_path: Path) -> None:
        load(tmp_path / "a", GOOD)
        load(tmp_path / "b", GOOD.replace("tests", "nobody"))
        folders = [tmp_path / "none", tmp_path / "a", tmp_path / "b"]
        assert load_recipe(REF, folders).description == "PyTorch for tests"
        assert [recipe.description for recipe in list_recipes(folders)] == ["PyTorch for tests"]

    def test_recipes_are_listed_in_natural_order(self, tmp_path: Path) -> None:
        for tag in ("v2.10", "v2.9", "v2.9-a"):
            path = tmp_path / "x" / tag / "recipe.toml"
            path.parent.mkdir(parents=True)
            path.write_text(GOOD, "utf-8")
        (tmp_path / "Not A Name" / "v1").mkdir(parents=True)
        (tmp_path / "Not A Name" / "v1" / "recipe.toml").write_text("", "utf-8")
        assert [recipe.ref.tag for recipe in list_recipes([tmp_path])] == ["v2.9", "v2.9-a", "v2.10"]
