"""``lock.json``: exact, readable, and refused with a path where something in it cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import (
    Artifact,
    ImageLock,
    Lock,
    NativeLock,
    is_older,
    lock_bytes,
    parse_lock,
    read_lock,
    requirements_txt,
)
from envbuild.lock.compare import check
from envbuild.oci.layer import Layer
from envbuild.recipe import Ref, load_recipe

PATH = Path("recipes/tiny/v1/lock.json")
HEX = "0123456789abcdef"
TIME = "2026-01-02T03:04:05Z"


def wheel(name: str, version: str = "1.0", **fields: Any) -> Artifact:
    file = f"{name}-{version}-py3-none-any.whl"
    return Artifact(**{
        "kind": "wheel", "name": name, "version": version, "file": file, "size": 10,
        "sha256": (HEX * 4)[:64], "index": "python", "uploaded": TIME, **fields,
    })  # fmt: skip


def deb(name: str) -> Artifact:
    return wheel(
        name,
        kind="deb",
        file=f"pool/main/{name}/{name}_1.0_amd64.deb",
        index="debian/bookworm/main",
        uploaded=None,
    )


def full(**fields: Any) -> Lock:
    digest = "sha256:" + "a" * 64
    native = NativeLock(
        source=wheel("deepspeed", kind="sdist", file="deepspeed-1.0.tar.gz"), toolchain=(wheel("nvcc"), deb("toolkit")),
        build=(wheel("ninja"),), wheel=wheel("deepspeed", index="built", uploaded=None),
    )  # fmt: skip
    layers = (
        Layer(name="base", digest=digest, diff_id=digest, size=5, artifacts=("base",)),
        Layer(
            name="torch", digest=digest, diff_id=digest, size=5, toc=digest, tar_size=9, artifacts=("torch",)
        ),
    )
    values: dict[str, Any] = {
        "format": 2, "ref": Ref(name="tiny", tag="v1"), "recipe": {"python": {"packages": ["a", "ü"]}, "torch": None},
        "resolved": "2026-01-03", "created": TIME, "debian": (deb("a"), deb("b")), "python": (wheel("torch"),),
        "native": native, "image": ImageLock(digest=digest, config=digest, layers=layers),
    }  # fmt: skip
    return Lock(**{**values, **fields})


def test_what_is_written_is_read_back_exactly() -> None:
    for lock in (full(), full(native=None, image=None), full(debian=(), python=())):
        data = lock_bytes(lock)
        assert parse_lock(data, PATH) == lock
        assert lock_bytes(parse_lock(data, PATH)) == data


def test_every_artifact_and_layer_stands_on_a_line_of_its_own() -> None:
    lines = lock_bytes(full()).decode().splitlines()
    assert sum('"sha256": ' in line for line in lines) == 8
    assert all(line.count('"sha256"') <= 1 for line in lines)
    assert sum('"diff_id"' in line for line in lines) == 2


NAMES = st.from_regex(r"[a-z][a-z0-9+.-]{0,8}[a-z0-9]", fullmatch=True)
ARTIFACTS = st.builds(
    lambda name, version, size, digits, time: wheel(name, version, size=size, sha256=digits, uploaded=time),
    NAMES, st.from_regex(r"[0-9]+(\.[0-9]+){0,2}", fullmatch=True), st.integers(1, 10**12),
    st.text("0123456789abcdef", min_size=64, max_size=64), st.sampled_from([TIME, None]),
)  # fmt: skip
LINES = st.text(max_size=5).filter(str.isprintable)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | LINES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LINES, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(ARTIFACTS, max_size=4, unique_by=lambda item: item.name),
    st.dictionaries(LINES, JSON, max_size=3),
)
def test_any_lock_survives_writing_and_reading(python: list[Artifact], recipe: dict[str, Any]) -> None:
    lock = full(python=tuple(python), recipe=recipe)
    assert parse_lock(lock_bytes(lock), PATH) == lock


def changed(change: Callable[[Any], object]) -> EnvbuildError:
    document = json.loads(lock_bytes(full()))
    change(document)
    with pytest.raises(EnvbuildError) as caught:
        parse_lock(json.dumps(document).encode(), PATH)
    assert caught.value.exit == Exit.INPUT
    assert caught.value.where == str(PATH)
    return caught.value


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda d: d["debian"][1].update(sha256="A" * 64), "$.debian[1].sha256"),
        (lambda d: d["debian"][1].update(sha256="ab"), "$.debian[1].sha256"),
        (lambda d: d["python"][0].update(size="10"), "$.python[0].size"),
        (lambda d: d["python"][0].update(size=0), "$.python[0].size"),
        (lambda d: d["python"][0].pop("file"), "$.python[0]"),
        (lambda d: d["python"][0].update(file="../../etc/passwd"), "$.python[0].file"),
        (lambda d: d["python"][0].update(file="a/b.whl"), "$.python[0].file"),
        (lambda d: d["debian"][0].update(file="/pool/a.deb"), "$.debian[0].file"),
        (lambda d: d["debian"][0].update(file="pool/../../a.deb"), "$.debian[0].file"),
        (lambda d: d["debian"][0].update(index="python"), "$.debian[0].index"),
        (lambda d: d["python"][0].update(index="https://host/"), "$.python[0].index"),
        (lambda d: d["python"][0].update(uploaded="yesterday"), "$.python[0].uploaded"),
        (lambda d: d["python"][0].update(kind="egg"), "$.python[0].kind"),
        (lambda d: d["python"][0].update(url="https://host/"), "$.python[0].url"),
        (lambda d: d["python"].append(d["python"][0]), "$.python[1]"),
        (lambda d: d["native"].update(compiler=1), "$.native.compiler"),
        (lambda d: d["native"].pop("source"), "$.native"),
        (lambda d: d["image"].update(digest="sha256:1"), "$.image.digest"),
        (lambda d: d["image"]["layers"][1].update(diff_id="x"), "$.image.layers[1]"),
        (lambda d: d["image"]["layers"][1].update(toc="x"), "$.image.layers[1].toc"),
        (lambda d: d["image"]["layers"][1].update(tar_size=0), "$.image.layers[1].tar_size"),
        (lambda d: d["image"]["layers"][1].pop("toc"), "$.image.layers[1]"),
        (lambda d: d["image"]["layers"][0].update(tar_size=9), "$.image.layers[0]"),
        (lambda d: d["ref"].update(tag="v2.7\n✓ verdict  passed\x1b[1A"), "$.ref"),
        (lambda d: d["ref"].update(name="Tiny"), "$.ref"),
        (lambda d: d["ref"].update(tag="v1-candidate"), "$.ref"),
        (lambda d: d["recipe"].update(description="a\nb"), "$.recipe.description"),
        (lambda d: d["recipe"].update(more=[{"x": "\u202e"}]), "$.recipe.more[0].x"),
        (lambda d: d["recipe"].update({"a\x9b": 1}), "$.recipe"),
        (lambda d: d["python"][0].update(name="to\x1b[2Jrch"), "$.python[0].name"),
        (lambda d: d["python"][0].update(version="1.0\n"), "$.python[0].name"),
        (lambda d: d["debian"][0].update(version="1 2"), "$.debian[0].name"),
        (lambda d: d["image"]["layers"][1].update(name="torch\r"), "$.image.layers[1]"),
        (lambda d: d["image"]["layers"][1].update(artifacts=["torch\u200b"]), "$.image.layers[1]"),
        (lambda d: d.update(resolved="03.01.2026"), "$.resolved"),
        (lambda d: d.update(created="2026-01-02"), "$.created"),
        (lambda d: d.update(format="1"), "$.format"),
        (lambda d: d.pop("python"), "$"),
    ],
)
def test_what_cannot_be_is_refused_with_its_path(change: Callable[[Any], object], path: str) -> None:
    error = changed(change)
    assert error.id == "lock-wrong"
    assert path in error.message
    assert "envbuild lock tiny:v1" in error.hint


def test_only_layers_that_are_read_by_file_name_a_table_of_contents() -> None:
    base, torch = json.loads(lock_bytes(full()))["image"]["layers"]
    assert not {"toc", "tar_size"} & base.keys()
    assert {"toc", "tar_size"} < torch.keys()


def test_a_lock_of_format_1_is_one_whose_image_was_not_built_yet(tmp_path: Path) -> None:
    """Its layers had other bytes; its inputs and the compiled operator are what they were."""
    document = json.loads(lock_bytes(full()))
    for layer in document["image"]["layers"]:
        layer.pop("toc", None)
        layer.pop("tar_size", None)
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({**document, "format": 1}))
    assert read_lock(path) == full(image=None)
    assert is_older(path)
    path.write_bytes(lock_bytes(read_lock(path)))
    assert json.loads(path.read_bytes())["format"] == 2
    assert not is_older(path)


def test_no_format_is_guessed() -> None:
    for number in (0, True, 1.0, "1", None):
        error = changed(lambda document, number=number: document.update(format=number))
        assert (error.id, "$.format" in error.message) == ("lock-wrong", True)


def test_a_lock_of_a_newer_envbuild_says_so() -> None:
    error = changed(lambda document: document.update(format=99, unknown=1))
    assert error.id == "lock-too-new"
    assert "99" in error.message


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_lock_that_is_cut_off_is_refused(keep: float) -> None:
    data = lock_bytes(full())
    with pytest.raises(EnvbuildError) as caught:
        parse_lock(data[: int(keep if keep >= 1 or keep == 0 else keep * len(data))], PATH)
    assert caught.value.id == "lock-broken"


def test_something_else_than_a_lock_is_refused(tmp_path: Path) -> None:
    for data in (b"[]", b"null", b"\xff\xfe", b"{}"):
        with pytest.raises(EnvbuildError):
            parse_lock(data, PATH)
    with pytest.raises(EnvbuildError) as caught:
        read_lock(tmp_path / "lock.json")
    assert caught.value.id == "no-lock"


def test_requirements_hold_hashes_and_no_addresses() -> None:
    text = requirements_txt(full())
    assert "torch==1.0 \\\n    --hash=sha256:0123" in text
    assert text.index("deepspeed==1.0") < text.index("torch==1.0")
    assert "://" not in text
    assert "nvcc" not in text


RECIPES = Path(__file__).parents[2] / "recipes"


class TestCommittedLock:
    """The lock beside the shipped recipe."""

    def test_recipe_lock_and_requirements_agree(self) -> None:
        recipe = load_recipe(Ref(name="pytorch-cuda", tag="v2.7"), [RECIPES])
        lock = read_lock(recipe.lock_path)
        assert check(recipe, lock) == []
        assert recipe.lock_path.read_bytes() == lock_bytes(lock)
        assert recipe.path.with_name("requirements.txt").read_text("utf-8") == requirements_txt(lock)

    def test_every_change_of_the_recipe_is_a_difference(self, tmp_path: Path) -> None:
        text = (RECIPES / "pytorch-cuda/v2.7/recipe.toml").read_text("utf-8")
        lock = read_lock(RECIPES / "pytorch-cuda/v2.7/lock.json")
        changes = {
            'version = "2.7.1"': "torch.version", '"0.22.1"': "torch.torchvision", '"9.5.1.17"': "cuda.cudnn",
            '"less", ': "debian.packages", '"7.0", ': "deepspeed.architectures", "gpus = 2": "gate.gpus",
        }  # fmt: skip
        for old, key in changes.items():
            assert old in text
            new = {"gpus = 2": "gpus = 4", '"less", ': "", '"7.0", ': ""}.get(old, old.rstrip('"') + '9"')
            path = tmp_path / "pytorch-cuda/v2.7/recipe.toml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace(old, new), "utf-8")
            differences = check(load_recipe(lock.ref, [tmp_path]), lock)
            assert [item.split(":")[0] for item in differences] == [key]

    def test_a_lock_that_was_edited_does_not_agree(self) -> None:
        recipe = load_recipe(Ref(name="pytorch-cuda", tag="v2.7"), [RECIPES])
        text = recipe.lock_path.read_text("utf-8")
        torch = '"name": "torch", "version": "2.7.1"'
        assert torch in text
        lock = parse_lock(text.replace(torch, torch.replace("2.7.1", "2.7.0")).encode(), recipe.lock_path)
        assert check(recipe, lock) == ["torch: the recipe has 2.7.1, the lock holds 2.7.0"]
