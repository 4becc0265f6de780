"""``makes``, ``[conda]``, and a reference without a tag."""

from __future__ import annotations

from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe import Recipe, Ref, find_ref, list_recipes, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
ENVIRONMENT = """\
description = "for tests"
makes = ["environment"]

[python]
version = "3.11"
packages = ["numpy>=2", "Typing_Extensions"]

[torch]
version = "2.7.1"
torchvision = "0.22.0"

[cuda]
version = "12.6"
cudnn = "9.10.1.4"
nccl = "2.27.3.1"

[deepspeed]
version = "0.19.8"
"""
IMAGE = ENVIRONMENT.replace('makes = ["environment"]\n', "").replace(
    '"0.19.8"\n', '"0.19.8"\narchitectures = ["8.0"]\n'
)


def load(folder: Path, text: str, tag: str = "v1") -> Recipe:
    path = folder / "made" / tag / "recipe.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return load_recipe(Ref(name="made", tag=tag), [folder])


def test_an_environment_needs_no_debian_no_operators_and_no_architectures(tmp_path: Path) -> None:
    recipe = load(tmp_path, ENVIRONMENT)
    assert recipe.makes == ("environment",)
    assert not recipe.makes_image
    assert recipe.deepspeed is not None
    assert (recipe.deepspeed.operators, recipe.deepspeed.architectures) == ((), ())
    assert recipe.conda_lock_path == tmp_path / "made/v1/conda.lock.json"


def test_an_image_is_made_where_nothing_is_said(tmp_path: Path) -> None:
    recipe = load(tmp_path, IMAGE)
    assert recipe.makes == ("image",)
    assert recipe.conda.channels == ("conda-forge",)
    assert recipe.conda.glibc == "2.28"


def test_the_order_of_what_is_made_does_not_matter(tmp_path: Path) -> None:
    text = IMAGE.replace("[python]", 'makes = ["environment", "image"]\n[python]', 1)
    assert load(tmp_path, text).makes == ("image", "environment")


def test_an_environment_may_have_another_python_than_debian(tmp_path: Path) -> None:
    assert load(tmp_path, ENVIRONMENT.replace('"3.11"', '"3.12"')).python.version == "3.12"
    with pytest.raises(EnvbuildError, match="does not exist in Debian"):
        load(tmp_path, IMAGE.replace('"3.11"', '"3.12"'))


def test_what_an_environment_alone_uses_leaves_the_images_lock_alone(tmp_path: Path) -> None:
    plain = load(tmp_path, IMAGE)
    both = load(
        tmp_path,
        IMAGE.replace("[python]", 'makes = ["image", "environment"]\n[python]', 1)
        + '[conda]\npackages = ["gxx"]\n[conda.versions]\ncudnn = "9.9"\n',
    )
    assert plain.to_dict() == both.to_dict()
    assert plain.conda_dict() != both.conda_dict()


def test_an_image_asks_conda_for_the_interpreter_alone(tmp_path: Path) -> None:
    one = load(tmp_path, IMAGE).conda_dict()
    other = load(tmp_path, IMAGE.replace("2.7.1", "2.9.1")).conda_dict()
    assert one == other
    assert one["scope"] == "interpreter"


def test_the_table_is_read(tmp_path: Path) -> None:
    table = (
        '[conda]\nchannels = ["own/sub", "conda-forge"]\npackages = ["gxx", "numpy >=2,<3"]\nglibc = "2.31"\n'
        'without = ["typing-extensions"]\n[conda.versions]\nnccl = "2.28"\ncudnn = "9.11"\n'
    )
    with pytest.raises(EnvbuildError, match="not the name of a channel"):
        load(tmp_path, ENVIRONMENT + table)
    conda = load(tmp_path, ENVIRONMENT + table.replace("own/sub", "own")).conda
    assert conda.channels == ("own", "conda-forge")
    assert conda.packages == ("gxx", "numpy >=2,<3")
    assert conda.glibc == "2.31"
    assert list(conda.versions.items()) == [("cudnn", "9.11"), ("nccl", "2.28")]
    assert conda.without == ("typing-extensions",)


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        ('channels = ["defaults"]', "licence", "conda-forge"),
        ('channels = ["conda-forge", "main"]', "licence", "conda-forge"),
        ('channels = ["anaconda"]', "licence", "conda-forge"),
        ('channels = ["r"]', "licence", "conda-forge"),
        ('channels = ["pytorch"]', "is dead", "conda-forge"),
        ('channels = ["pytorch-nightly"]', "is dead", "conda-forge"),
        ('channels = ["conda-forge", "nodefaults"]', "is no channel", "Remove it"),
        ('channels = ["https://x.invalid/conda-forge"]', "names no hosts", "--channel NAME=URL"),
        ('channels = ["/srv/conda"]', "no folders", "--channel"),
        ("channels = []", "names no channel", "conda-forge"),
        ('channels = ["conda-forge", "conda-forge"]', "listed twice", "Keep one"),
        ('packages = ["defaults::gxx"]', "names a channel", "Write the name"),
        ('packages = ["GXX!"]', "is not a conda package", "MatchSpec"),
        ('packages = ["pytorch =2.8"]', "pinned by torch.version", "torch.version"),
        ('packages = ["cudnn"]', "pinned by cuda.cudnn", "cuda.cudnn"),
        ('packages = ["gxx", "gxx >=13"]', "listed twice", "Keep one"),
        ('glibc = "2.5"', "not a version of glibc", "2.28"),
        ('glibc = "new"', "not a version of glibc", "2.28"),
        ('without = ["numpi"]', "nothing that the recipe's image has", '"numpy"'),
        ('without = ["numpy"]\n[conda.versions]\nnumpy = "2.1"', "has a version in", "Keep one"),
        (
            '[conda.versions]\ntorch = "2.8.0"',
            "no pin that an environment may have otherwise",
            '"torchvision"',
        ),
        ('[conda.versions]\nccudnn = "9.1"', "no pin", '"cudnn"'),
        ('[conda.versions]\ncudnn = ">=9"', "not an exact version", "9.10.1.4"),
        ('chanels = ["conda-forge"]', "is not a key", '"channels"'),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, table: str, message: str, hint: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        load(
            tmp_path,
            f"{ENVIRONMENT}[conda]\n{table}\n".replace("[conda]\n[conda.versions]", "[conda.versions]"),
        )
    assert caught.value.exit == Exit.INPUT
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.where is not None
    assert int(caught.value.where.rpartition(":")[2]) > len(ENVIRONMENT.splitlines())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[]", "names nothing"),
        ('["images"]', 'Did you mean "image"?'),
        ('["image", "image"]', "twice"),
        ('"image"', "list"),
    ],
)
def test_what_cannot_be_made(tmp_path: Path, value: str, message: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        load(tmp_path, ENVIRONMENT.replace('["environment"]', value))
    assert message in caught.value.message + caught.value.hint


def test_a_variant_may_make_less(tmp_path: Path) -> None:
    load(tmp_path, IMAGE.replace("[python]", 'makes = ["image", "environment"]\n[python]', 1))
    assert load(tmp_path, 'description = "x"\nextends = "v1"\nmakes = ["image"]\n', "v1-devel").makes == (
        "image",
    )
    assert load(tmp_path, 'description = "x"\nextends = "v1"\n', "v1-more").makes == ("image", "environment")


def test_the_shipped_recipes() -> None:
    made = {str(recipe.ref): recipe.makes for recipe in list_recipes([RECIPES])}
    assert made["ds-train:v2.7"] == ("environment",)
    assert made["pytorch-cuda:v2.7"] == ("image", "environment")
    assert {made[ref] for ref in made if ref.endswith(("v2.8", "v2.11", "-devel"))} == {("image",)}


# a reference without a tag


def test_a_name_with_one_tag_needs_no_tag() -> None:
    assert str(find_ref("ds-train", [RECIPES])) == "ds-train:v2.7"
    assert str(find_ref("ds-train:v2.7", [RECIPES])) == "ds-train:v2.7"


def test_a_name_with_several_tags_lists_them() -> None:
    with pytest.raises(EnvbuildError) as caught:
        find_ref("pytorch-cuda", [RECIPES])
    assert (caught.value.id, caught.value.exit) == ("wrong-reference", Exit.USAGE)
    assert "pytorch-cuda:v2.7, pytorch-cuda:v2.7-devel, pytorch-cuda:v2.8" in caught.value.hint


def test_a_name_that_there_is_not_offers_the_nearest() -> None:
    with pytest.raises(EnvbuildError) as caught:
        find_ref("dstrain", [RECIPES])
    assert (caught.value.id, caught.value.exit) == ("no-recipe", Exit.INPUT)
    assert 'Did you mean "ds-train"?' in caught.value.hint
