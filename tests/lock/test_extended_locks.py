"""A lock of a recipe that extends another follows that one's lock, and says where it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from lockworld import World
from tinyrecipe import REF, Locker

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import check, follows
from envbuild.lock.model import Artifact, Lock, NativeLock
from envbuild.recipe import Ref, load_recipe

CHILD = ('description = "PyTorch for tests"', 'description = "the child"\nparts = ["devel"]')


@pytest.fixture(autouse=True)
def what_devel_brings(world: World) -> None:
    world.index.wheel("ninja", "1.13")


def as_parent(lock: Lock) -> Lock:
    return replace(lock, ref=Ref(name="tiny", tag="v0"))


def native(lock: Lock) -> NativeLock:
    assert lock.native is not None
    return lock.native


def versions(artifacts: tuple[Artifact, ...]) -> dict[str, str]:
    return {item.name: item.version for item in artifacts}


def moved(world: World) -> None:
    """Everything has a newer version on the indexes."""
    for name in ("tqdm", "numpy", "hjson", "setuptools", "packaging"):
        world.index.wheel(name, "9.0")


def test_a_first_lock_takes_the_parent_s_files(lock: Locker, world: World) -> None:
    parent = as_parent(lock())
    moved(world)
    child = lock(CHILD, parent=parent, date="2026-08-01")
    assert (child.python, child.debian, child.native) == (parent.python, parent.debian, parent.native)
    assert follows(child, parent) == []
    assert "devel" in child.recipe["parts"]


def test_what_the_child_adds_is_resolved_around_the_parent_s_versions(lock: Locker, world: World) -> None:
    parent = as_parent(lock())
    moved(world)
    child = lock(CHILD, ('["tqdm"]', '["tqdm", "rich"]'), parent=parent, date="2026-08-01")
    assert versions(child.python) == {**versions(parent.python), "rich": "1.0"}
    assert versions(native(child).build) == versions(native(parent).build)
    assert child.debian == parent.debian


def test_the_parent_s_operator_is_the_child_s(lock: Locker) -> None:
    parent = as_parent(lock())
    wheel = replace(native(parent).source, kind="wheel", index="built")
    built = replace(parent, native=replace(native(parent), wheel=wheel))
    assert native(lock(CHILD, parent=built)).wheel == wheel
    assert native(lock(CHILD, ('["8.0", ', "["), parent=built)).wheel is None


def test_a_child_s_lock_moves_after_its_parent_s(lock: Locker, world: World) -> None:
    first = as_parent(lock())
    child = lock(CHILD, parent=first)
    assert lock(CHILD, previous=child, parent=first, date="2026-08-01") is child
    world.index.wheel("tqdm", "5.0")
    second = as_parent(lock(previous=first, upgrade=["tqdm"], date="2026-08-01"))
    assert follows(child, second) == ["tqdm: tiny:v0 locks 5.0, this lock holds 4.0"]
    assert versions(lock(CHILD, previous=child, parent=second).python)["tqdm"] == "5.0"


def test_a_child_that_pins_another_torch_need_not_follow_it(lock: Locker) -> None:
    parent = as_parent(lock())
    child = lock(CHILD, parent=parent)
    torch = {**child.recipe, "torch": {"version": "2.8.0", "torchvision": None}}
    other = replace(child, recipe=torch, python=tuple(replace(p, sha256="0" * 64) for p in child.python))
    assert follows(other, parent) == []


def test_a_name_of_the_parent_s_lock_is_upgraded_there(lock: Locker) -> None:
    parent = as_parent(lock())
    child = lock(CHILD, parent=parent)
    for name in ("tqdm", "debian", "mawk"):
        with pytest.raises(EnvbuildError) as caught:
            lock(CHILD, previous=child, parent=parent, upgrade=[name])
        assert (caught.value.id, caught.value.exit) == ("locked-by-parent", Exit.INPUT)
        assert f"envbuild lock tiny:v0 --upgrade {name}" in caught.value.hint


def test_a_new_part_keeps_debian_where_it_brings_none_and_python_likewise(lock: Locker, world: World) -> None:
    for name in ("openssh-server", "openssh-client", "pdsh"):
        world.debian.add(name)
    world.debian.publish()
    first = lock()
    moved(world)
    text = ('description = "PyTorch for tests"', 'description = "PyTorch for tests"\nparts = ["ssh"]')
    second = lock(text, previous=first, date="2026-08-01")
    assert second.python == first.python
    assert set(versions(second.debian)) == {
        *versions(first.debian),
        "openssh-server",
        "openssh-client",
        "pdsh",
    }


def test_another_list_of_parts_is_a_difference(lock: Locker, tmp_path: Path) -> None:
    child = lock(CHILD)
    lock_without = replace(
        child, recipe={key: value for key, value in child.recipe.items() if key != "parts"}
    )
    recipe = load_recipe(REF, [tmp_path / "recipes"])
    assert check(recipe, child) == []
    [difference] = check(recipe, lock_without)
    assert difference.startswith("parts: the recipe has ")
    fewer = replace(child, recipe={**child.recipe, "parts": {"devel": {"debian": [], "python": []}}})
    assert check(recipe, fewer)[0].startswith("parts.devel.python: the recipe has ")
