"""conda.lock.json: written and read back, and what cannot be in it refused with the file and the JSON path."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from condaworld import RECIPES, committed

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import (
    CondaLock,
    CondaPackage,
    check_conda,
    conda_lock_bytes,
    parse_conda_lock,
    read_conda_lock,
)
from envbuild.recipe import list_recipes

REFS = [str(recipe.ref) for recipe in list_recipes([RECIPES])]
PATH = Path("recipes/made/v1/conda.lock.json")
Document = dict[str, Any]


def document(ref: str = "ds-train:v2.7") -> Document:
    value: Document = json.loads(committed(ref).conda_lock_path.read_bytes())
    return value


def refused(value: Document | bytes) -> EnvbuildError:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(EnvbuildError) as caught:
        parse_conda_lock(data, PATH)
    assert caught.value.exit == Exit.INPUT
    assert caught.value.where == str(PATH)
    return caught.value


@pytest.mark.parametrize("ref", REFS)
def test_reading_and_writing_are_inverse(ref: str) -> None:
    path = committed(ref).conda_lock_path
    data = path.read_bytes()
    assert conda_lock_bytes(parse_conda_lock(data, path)) == data


@pytest.mark.parametrize("ref", REFS)
def test_the_committed_locks_agree_with_their_recipes(ref: str) -> None:
    recipe = committed(ref)
    assert check_conda(recipe, read_conda_lock(recipe.conda_lock_path)) == []


def test_one_package_stands_on_one_line() -> None:
    lines = committed("ds-train:v2.7").conda_lock_path.read_text("utf-8").splitlines()
    named = [line for line in lines if re.match(r'    \{"name": "[^"]+", "version": ', line)]
    assert len(named) == len(document()["packages"])


def _package(value: Document, name: str = "python") -> Document:
    found: Document = next(item for item in value["packages"] if item["name"] == name)
    return found


WRONG: list[tuple[str, Callable[[Document], object], str]] = [
    (
        "hash",
        lambda v: _package(v).update(sha256="ABC"),
        r"\$\.packages\[\d+\] \(python\): sha256 is \"ABC\"",
    ),
    ("md5", lambda v: _package(v).update(md5="0"), r"\(python\): md5 is"),
    ("size", lambda v: _package(v).update(size=0), r"\(python\): size is 0"),
    (
        "text for a number",
        lambda v: _package(v).update(size="9"),
        r"\$\.packages\[\d+\]\.size: Expected `int`",
    ),
    ("subdir", lambda v: _package(v).update(subdir="osx-64"), r"subdir is \"osx-64\""),
    ("version", lambda v: _package(v).update(version="3.11.99"), r"file is .*must be python-3\.11\.99"),
    ("file", lambda v: _package(v).update(file="../python.conda"), r"file is \"\.\./python\.conda\""),
    ("noarch", lambda v: _package(v).update(noarch="yes"), r"noarch is \"yes\""),
    ("channel", lambda v: _package(v).update(channel="defaults"), r"channel is \"defaults\""),
    ("member", lambda v: _package(v).update(url="x"), r"\$\.packages\[\d+\]\.url is not a member"),
    ("top member", lambda v: v.update(more=1), r"\$\.more is not a member"),
    ("missing", lambda v: v.pop("virtual"), r"missing required field `virtual`"),
    (
        "twice",
        lambda v: v["packages"].insert(1, v["packages"][0]),
        r"\$\.packages\[1\] \(.*\) is there twice",
    ),
    ("order", lambda v: v["packages"].reverse(), r"does not stand in order of names"),
    (
        "gone",
        lambda v: v["packages"].remove(_package(v, "openssl")),
        r"depends on openssl, which the lock does not",
    ),
    ("no python", lambda v: v.update(packages=[]), r"\$\.packages holds no python"),
    (
        "channel address",
        lambda v: v["channels"][0].update(url="file:///srv/x/"),
        r"\$\.channels\[0\]\.url is",
    ),
    (
        "credentials",
        lambda v: v["channels"][0].update(url="https://a:b@c.invalid/x/"),
        r"\$\.channels\[0\]\.url is",
    ),
    ("time", lambda v: v.update(exclude_newer="today"), r"\$\.exclude_newer is \"today\""),
    ("virtual", lambda v: v["virtual"].update(cuda="12"), r"\$\.virtual\.cuda is \"12\""),
    ("pip", lambda v: v["pip"][0].update(sha256="0"), r"\$\.pip\[0\]\.sha256 is \"0\""),
    (
        "pip kind",
        lambda v: v["pip"][0].update(kind="deb", file="pool/a.deb", index="debian/bookworm/main"),
        r"\$\.pip\[0\]\.kind is",
    ),
    ("ref", lambda v: v["ref"].update(tag="v1\n\x1b[2J"), r"\$\.ref is .*no reference"),
    (
        "channel name",
        lambda v: v["channels"][0].update(name="conda\x9bforge"),
        r"\$\.channels\[0\] has a name",
    ),
    (
        "pip index",
        lambda v: v["pip"][0].update(kind="wheel", file="a-1-py3-none-any.whl", index="built"),
        r"\$\.pip\[0\]\.index is \"built\", but must be python",
    ),
    ("pip twice", lambda v: v["pip"].append(v["pip"][0]), r"\$\.pip\[2\]: deepspeed is there twice"),
    ("format", lambda v: v.update(format=0), r"\$\.format is 0, but must be 1"),
]


@pytest.mark.parametrize(("change", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_cannot_be_is_refused_with_its_path(change: Callable[[Document], object], message: str) -> None:
    value = document()
    change(value)
    error = refused(value)
    assert error.id == "lock-wrong"
    assert re.search(message, error.message), error.message
    assert "envbuild lock made:v1" in error.hint


def test_a_lock_for_another_platform() -> None:
    error = refused({**document(), "platform": "linux-aarch64"})
    assert error.id == "lock-for-another-platform"
    assert "linux-aarch64" in error.message
    assert "linux-64" in error.message


def test_a_lock_from_a_newer_envbuild() -> None:
    error = refused({**document(), "format": 7, "news": True})
    assert error.id == "lock-too-new"
    assert "format 7" in error.message


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"<html>"])
def test_what_is_no_lock_at_all(data: bytes) -> None:
    assert refused(data).id == "lock-broken"


def test_a_lock_that_is_cut_off() -> None:
    data = committed("ds-train:v2.7").conda_lock_path.read_bytes()
    error = refused(data[: len(data) // 2])
    assert error.id == "lock-broken"
    assert "is cut off" in error.message


def test_a_lock_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnvbuildError) as caught:
        read_conda_lock(tmp_path / "made/v1/conda.lock.json")
    assert caught.value.id == "no-lock"
    assert "envbuild lock made:v1" in caught.value.hint


# edited by hand: what is well-formed, and not what the recipe asks for


def edited(lock: CondaLock, name: str, **changes: Any) -> CondaLock:
    package = lock.package(name)
    changed: CondaPackage = replace(package, **changes)
    file = f"{changed.name}-{changed.version}-{changed.build}.conda"
    packages = [replace(changed, file=file) if item is package else item for item in lock.packages]
    return replace(lock, packages=tuple(packages))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda lock: edited(lock, "nccl", version="2.26.2.1"),
            r"nccl 2\.27\.3\.1\.\*: asked for, the lock holds 2\.26",
        ),
        (
            lambda lock: edited(lock, "pytorch", build="cpu_1"),
            r"pytorch ==2\.7\.1 cuda126\*: asked for, .* cpu_1",
        ),
        (
            lambda lock: edited(lock, "openssl", version="1.1.1"),
            r"python 3\.11\.\d+ needs openssl .* holds 1\.1\.1",
        ),
        (lambda lock: edited(lock, "numpy", constrains=("python <3",)), r"numpy .* goes with python <3 only"),
        (
            lambda lock: replace(lock, virtual={**lock.virtual, "__glibc": "2.17"}),
            r"virtual packages: .*__glibc=2\.28",
        ),
        (lambda lock: replace(lock, specs=lock.specs[:-1]), r"wheel: the recipe asks for it"),
        (lambda lock: replace(lock, pip=()), r"deepspeed: the recipe has 0\.19\.8, the lock holds none"),
        (
            lambda lock: replace(lock, pip=(lock.pip[0], replace(lock.pip[1], version="1.10"))),
            r"ninja>=1\.11: the recipe asks for it, the lock holds 1\.10 for pip",
        ),
        (
            lambda lock: replace(lock, recipe={**lock.recipe, "scope": "interpreter"}),
            r"scope: the recipe has",
        ),
    ],
    ids=["pin", "build", "dependency", "constraint", "virtual", "specs", "pip", "ninja", "recipe"],
)
def test_a_lock_edited_by_hand_does_not_pass(change: Callable[[CondaLock], CondaLock], line: str) -> None:
    recipe = committed("ds-train:v2.7")
    lock = parse_conda_lock(conda_lock_bytes(change(read_conda_lock(recipe.conda_lock_path))), PATH)
    assert any(re.search(line, found) for found in check_conda(recipe, lock)), check_conda(recipe, lock)


def test_the_lock_of_another_recipe_does_not_pass() -> None:
    lock = read_conda_lock(committed("pytorch-cuda:v2.8").conda_lock_path)
    found = check_conda(committed("pytorch-cuda:v2.11"), lock)
    assert found == ["the conda lock is that of pytorch-cuda:v2.8"]
