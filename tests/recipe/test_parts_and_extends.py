"""``parts`` and ``extends``: what they bring together, and the one error for each way to get them wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe import Recipe, Ref, list_recipes, load_recipe, parse_ref
from envbuild.recipe.parts import known_parts

SHIPPED = Path(__file__).parents[2] / "recipes"
PARENT = """\
description = "the parent"
parts = ["ssh"]

[python]
version = "3.11"
packages = ["pip==26.0.1", "rich"]

[torch]
version = "2.7.1"
torchvision = "0.22.1"

[cuda]
version = "12.6"
cudnn = "9.5.1.17"
nccl = "2.26.2"

[deepspeed]
version = "0.19.8"
architectures = ["9.0+PTX"]

[debian]
packages = ["git", "openssh-client"]
"""


def write(folder: Path, tag: str, text: str, name: str = "tiny") -> Path:
    path = folder / name / tag / "recipe.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def load(folder: Path, tag: str, *more: Path) -> Recipe:
    return load_recipe(Ref(name="tiny", tag=tag), [folder, *more])


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    write(tmp_path, "v1", PARENT)
    return tmp_path


class TestParts:
    def test_a_part_brings_its_packages_after_the_recipe_s_own_and_none_twice(self, recipes: Path) -> None:
        recipe = load(recipes, "v1")
        assert [part.name for part in recipe.parts] == ["ssh"]
        assert recipe.debian_packages[:2] == ("git", "openssh-client")
        assert {"openssh-server", "pdsh"} < set(recipe.debian_packages)
        assert recipe.debian_packages.count("openssh-client") == 1
        assert recipe.python_packages == ("pip==26.0.1", "rich")

    def test_the_order_in_the_recipe_does_not_matter(self, recipes: Path) -> None:
        write(recipes, "v2", PARENT.replace('["ssh"]', '["jupyter", "ssh"]'))
        write(recipes, "v3", PARENT.replace('["ssh"]', '["ssh", "jupyter"]'))
        assert load(recipes, "v2").to_dict() == load(recipes, "v3").to_dict()
        assert any(text.startswith("jupyterlab") for text in load(recipes, "v2").python_packages)

    def test_what_the_lock_remembers_says_what_each_part_brought(self, recipes: Path) -> None:
        ssh = known_parts()["ssh"]
        assert load(recipes, "v1").to_dict()["parts"] == {
            "ssh": {"debian": list(ssh.debian), "python": list(ssh.python)}
        }

    def test_a_recipe_without_parts_remembers_none(self, recipes: Path) -> None:
        write(recipes, "v2", PARENT.replace('parts = ["ssh"]\n', ""))
        assert "parts" not in load(recipes, "v2").to_dict()

    @pytest.mark.parametrize(
        ("parts", "id", "said"),
        [
            ('["jupiter"]', "recipe-wrong-value", 'Did you mean "jupyter"?'),
            ('["ssh", "ssh"]', "recipe-wrong-value", "listed twice"),
            ('"ssh"', "recipe-wrong-type", "a list of texts"),
            ("[1]", "recipe-wrong-type", "a text"),
        ],
    )
    def test_a_wrong_part_is_one_error_with_its_line(
        self, recipes: Path, parts: str, id: str, said: str
    ) -> None:
        path = write(recipes, "v1", PARENT.replace('["ssh"]', parts))
        with pytest.raises(EnvbuildError) as caught:
            load(recipes, "v1")
        assert (caught.value.id, caught.value.exit) == (id, Exit.INPUT)
        assert caught.value.where == f"{path}:2"
        assert said in f"{caught.value.message} {caught.value.hint}"

    def test_the_compiler_without_deepspeed_is_refused(self, recipes: Path) -> None:
        text = PARENT.replace('["ssh"]', '["devel"]')
        begin, end = text.index("[deepspeed]"), text.index("[debian]")
        path = write(recipes, "v1", text[:begin] + text[end:])
        with pytest.raises(EnvbuildError) as caught:
            load(recipes, "v1")
        assert caught.value.where == f"{path}:2"
        assert "[deepspeed]" in caught.value.hint


class TestExtends:
    def test_tables_are_merged_key_by_key_lists_replaced_and_parts_added(self, recipes: Path) -> None:
        write(
            recipes,
            "v1-devel",
            'extends = "v1"\nparts = ["devel"]\n[cuda]\nnccl = "2.27.0"\n[python]\npackages = ["pip==26.0.1"]\n',
        )
        parent, child = load(recipes, "v1"), load(recipes, "v1-devel")
        assert child.parent == parent.ref
        assert child.description == "the parent"
        assert (child.cuda.nccl, child.cuda.cudnn) == ("2.27.0", "9.5.1.17")
        assert child.python.packages == ("pip==26.0.1",)
        assert [part.name for part in child.parts] == ["ssh", "devel"]
        assert child.debian == parent.debian
        assert child.ref.tag == "v1-devel"
        assert child.lock_path == recipes / "tiny/v1-devel/lock.json"

    def test_each_value_is_where_it_is_written(self, recipes: Path) -> None:
        path = write(recipes, "v2", 'extends = "v1"\n[cuda]\nnccl = "2.27.0"\n')
        child = load(recipes, "v2")
        assert child.where("cuda.nccl") == f"{path}:3"
        assert child.where("cuda.cudnn") == f"{recipes / 'tiny/v1/recipe.toml'}:14"

    def test_a_child_of_a_child(self, recipes: Path) -> None:
        write(recipes, "v2", 'extends = "v1"\ndescription = "second"\n')
        write(recipes, "v3", 'extends = "v2"\nparts = ["jupyter"]\n')
        child = load(recipes, "v3")
        assert child.description == "second"
        assert [part.name for part in child.parts] == ["jupyter", "ssh"]
        assert str(child.parent) == "tiny:v2"

    def test_a_recipe_of_one_s_own_extends_one_in_another_folder(self, recipes: Path, tmp_path: Path) -> None:
        mine = tmp_path / "mine"
        write(mine, "v1-mine", 'extends = "v1"\n[gate]\ngpus = 8\n')
        assert load(mine, "v1-mine", recipes).gate.gpus == 8
        assert {str(item.ref) for item in list_recipes([mine, recipes])} == {"tiny:v1", "tiny:v1-mine"}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('extends = "v11"\n', 'Did you mean "v1"?'),
            ('extends = "other:v1"\n', "another tag of its own name, tiny"),
            ('extends = "tiny:v1"\n', 'Write extends = "v1".'),
            ('extends = "v2"\n', "v2 extends v2"),
            ("extends = 1\n", "must be a text"),
            ('extends = "v1"\n[cuda]\ncudn = "9"\n', 'Did you mean "cudnn"?'),
            ('extends = "v1"\n[cudas]\n', 'Did you mean "cuda"?'),
            ('extends = "v1"\ncuda = "12.6"\n', "must be a table"),
        ],
    )
    def test_what_is_wrong_is_one_error_in_the_child_s_file(
        self, recipes: Path, text: str, said: str
    ) -> None:
        path = write(recipes, "v2", text)
        with pytest.raises(EnvbuildError) as caught:
            load(recipes, "v2")
        assert caught.value.exit == Exit.INPUT
        assert str(caught.value.where).startswith(f"{path}:")
        assert said in f"{caught.value.message} {caught.value.hint}"

    def test_a_circle_is_told_whole(self, recipes: Path) -> None:
        write(recipes, "v1", 'extends = "v3"\n')
        write(recipes, "v2", 'extends = "v1"\n')
        write(recipes, "v3", 'extends = "v2"\n')
        with pytest.raises(EnvbuildError) as caught:
            load(recipes, "v2")
        assert "v2 extends v1 extends v3 extends v2" in caught.value.message

    def test_a_mistake_in_the_parent_is_told_in_the_parent_s_file(self, recipes: Path) -> None:
        path = write(recipes, "v1", PARENT.replace("cudnn =", "cudn ="))
        write(recipes, "v2", 'extends = "v1"\n')
        with pytest.raises(EnvbuildError) as caught:
            load(recipes, "v2")
        assert caught.value.where == f"{path}:14"


@pytest.mark.parametrize("tag", ["v2.7", "v2.8", "v2.11"])
def test_a_shipped_devel_recipe_is_its_parent_with_one_part_more(tag: str) -> None:
    parent = load_recipe(parse_ref(f"pytorch-cuda:{tag}"), [SHIPPED])
    child = load_recipe(parse_ref(f"pytorch-cuda:{tag}-devel"), [SHIPPED])
    mine, theirs = child.to_dict(), parent.to_dict()
    assert [part.name for part in parent.parts] == ["jupyter", "ssh"]
    assert [part.name for part in child.parts] == ["jupyter", "ssh", "devel"]
    for key in ("description", "parts"):
        del mine[key], theirs[key]
    assert mine == theirs
