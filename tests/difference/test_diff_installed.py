"""What is installed, in folders and in images, is held against other installations and against locked wheels."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from clirun import ROOT, Cli
from differencemaker import SITE, files_of, image, put_wheel, python_files, rich_wheel, venv, wheel

from envbuild.difference import Inventory, Package, compare, of_folder, of_lock, with_files
from envbuild.difference.lister import wheel_files, without_shebang
from envbuild.engine.docker import Docker
from envbuild.lock import Artifact, read_lock
from envbuild.progress import SilentProgress
from envbuild.store import Store


def _python(inventory: Inventory, name: str) -> Package:
    package = inventory.package("python", name)
    assert package is not None
    return package


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_an_installed_wheel_has_the_content_of_the_wheel(tmp_path: Path, installer: str) -> None:
    made = rich_wheel(tmp_path)
    folder = venv(tmp_path / "env", made, installer=installer)
    assert (folder / "bin/rich-hello").exists()
    assert (folder / "bin/rich-script").read_bytes().startswith(b"#!/")
    for read_all in (False, True):
        files = _python(of_folder("env", folder, read_all=read_all), "rich").files
        assert files == wheel_files(str(made))
    assert set(wheel_files(str(made))) == {
        "rich/__init__.py",
        "rich/empty.py",
        "rich/_vendor/other-9.dist-info/RECORD",
        "rich/_vendor/other-9.dist-info/INSTALLER",
        "rich_more.py",
        "<data>/share/rich/data.txt",
        "<scripts>/rich-script",
        "<scripts>/rich-program",
        "<headers>/rich/rich.h",
        "rich-1.0.dist-info/METADATA",
        "rich-1.0.dist-info/WHEEL",
        "rich-1.0.dist-info/entry_points.txt",
    }


@pytest.mark.parametrize(
    ("file", "place"),
    [
        (f"{SITE}/rich/__init__.py", "rich/__init__.py"),
        ("bin/rich-script", "<scripts>/rich-script"),
        ("bin/rich-program", "<scripts>/rich-program"),
        ("share/rich/data.txt", "<data>/share/rich/data.txt"),
    ],
)
def test_a_file_that_was_changed_is_named(tmp_path: Path, file: str, place: str) -> None:
    made = rich_wheel(tmp_path)
    folders = [venv(tmp_path / name, made) for name in ("one", "two")]
    (folders[1] / file).write_bytes((folders[1] / file).read_bytes() + b"\n# changed\n")
    found = compare([of_folder(str(f), f, read_all=True) for f in folders], None)
    (row,) = found.differing
    assert (row.name, row.differs, row.files) == ("rich", ("files",), (place,))


def test_what_record_says_is_believed_unless_files_are_read(tmp_path: Path) -> None:
    made = rich_wheel(tmp_path)
    folders = [venv(tmp_path / name, made) for name in ("one", "two")]
    (folders[1] / SITE / "rich/__init__.py").write_text("WORD = 'changed'\n")
    assert not compare([of_folder("", f) for f in folders], None).differing
    (folders[1] / SITE / "rich/__init__.py").unlink()
    (row,) = compare([of_folder("", f, read_all=True) for f in folders], None).differing
    assert row.files == ("rich/__init__.py",)


def test_a_locked_wheel_of_the_store_is_held_against_what_is_installed(tmp_path: Path, store: Store) -> None:
    good, other = rich_wheel(tmp_path / "good"), rich_wheel(tmp_path / "other", word="bye")
    lock = read_lock(ROOT / "recipes/pytorch-cuda/v2.7/lock.json")
    lock = replace(lock, python=(_artifact(good),), debian=(), native=None)
    put_wheel(store, good)
    locked = with_files(of_lock("lock", lock), lock, store)
    same = compare([of_folder("env", venv(tmp_path / "a", good)), locked], None)
    assert [(row.name, row.compared) for row in same.rows] == [("rich", ("version", "files"))]
    assert not same.differing
    (row,) = compare([of_folder("env", venv(tmp_path / "b", other)), locked], None).differing
    assert (row.differs, row.files) == (("files",), ("rich/__init__.py",))


def _artifact(path: Path) -> Artifact:
    data = path.read_bytes()
    return Artifact(
        kind="wheel",
        name="rich",
        version="1.0",
        file=path.name,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        index="python",
    )


def test_without_the_wheel_only_the_version_is_compared(tmp_path: Path, store: Store) -> None:
    made = rich_wheel(tmp_path)
    lock = read_lock(ROOT / "recipes/pytorch-cuda/v2.7/lock.json")
    lock = replace(lock, python=(_artifact(made),), debian=(), native=None)
    locked = with_files(of_lock("lock", lock), lock, store)
    (row,) = compare([of_folder("env", venv(tmp_path / "env", made)), locked], None).rows
    assert (row.differs, row.compared) == ((), ("version",))


def test_a_site_packages_folder_is_an_environment_too(tmp_path: Path) -> None:
    made = rich_wheel(tmp_path)
    folder = venv(tmp_path / "env", made)
    target = tmp_path / "target"
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--target", target, made]
    subprocess.run(command, check=True, capture_output=True)
    whole = of_folder("env", folder)
    for place in (folder / SITE, target):
        found = of_folder(str(place), place)
        assert [(p.name, p.version) for p in found.packages] == [("rich", "1.0")]
    assert of_folder("", folder / SITE).packages == whole.packages
    assert whole.facts["python"][0].value == "3.11.2"


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two environments: a package less, one in another version, one with other files, one the same."""
    folder = tmp_path / "wheels"
    same, mine, theirs = (
        wheel(folder, "same", "1.0", {"same.py": b""}),
        rich_wheel(folder / "a"),
        rich_wheel(folder / "b", word="bye"),
    )
    moved = [wheel(folder, "moved", version, {"moved.py": b""}) for version in ("1.0", "1.1")]
    alone = wheel(folder, "alone", "3.0", {"alone.py": b""})
    torch = wheel(folder, "torch", "2.7.1+cu126", {"torch.py": b""})
    return (
        venv(tmp_path / "one", same, mine, moved[0], alone, torch),
        venv(tmp_path / "two", same, theirs, moved[1], torch),
    )


def _packages(value: dict[str, list[dict[str, object]]]) -> dict[object, object]:
    return {row["name"]: row["differs"] for row in value["packages"]}


EXPECTED = {"alone": ["missing"], "moved": ["version"], "rich": ["files"]}


def test_two_folders_as_a_table_and_as_json(cli: Cli, two: tuple[Path, Path]) -> None:
    value = cli("diff", str(two[0]), str(two[1]), "--json").value
    assert _packages(value) == EXPECTED
    assert value["same"] == 2
    assert [operand["form"] for operand in value["operands"]] == ["Python environment"] * 2
    paths = {item["path"]: item for item in value["files"] if item["expected"] is None}
    assert paths[f"{SITE}/rich/__init__.py"]["what"] == "content"
    assert paths[f"{SITE}/alone.py"]["what"] == "only in A"
    for item, folder in zip(paths[f"{SITE}/rich/__init__.py"]["sha256"], two, strict=True):
        assert item == hashlib.sha256((folder / SITE / "rich/__init__.py").read_bytes()).hexdigest()
    text = cli("diff", str(two[0]), str(two[1])).out
    assert "moved    1.0  1.1  version" in text
    assert "rich: 1 files: rich/__init__.py" in text
    assert "Only in A: 1 of python\n  alone 3.0" in text


def test_three_operands_have_a_column_each(cli: Cli, two: tuple[Path, Path]) -> None:
    done = cli("diff", str(two[0]), str(two[1]), "pytorch-cuda:v2.7")
    assert done.code == 0
    assert "PIN              RECIPE               A" in done.out
    assert any(line.split()[:3] == ["moved", "1.0", "1.1"] for line in done.out.splitlines())
    assert "Only in C: 176 of debian" in done.out
    assert "Only in A and B: 2 of python\n  rich 1.0, same 1.0" in done.out.replace(
        "moved 1.0, ", ""
    ).replace("3 of", "2 of")


@pytest.mark.docker
def test_images_of_the_store_and_of_docker_list_themselves(
    cli: Cli, two: tuple[Path, Path], store: Store, docker_name: str
) -> None:
    """The store's in the sandbox, Docker's in Docker; without a network; the image's own Python and entry point."""
    status = (
        b"Package: base-files\nStatus: install ok installed\nVersion: 12.4\n\n"
        b"Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    labels = {"io.envbuild.ref": "pytorch-cuda:v2.7"}
    made = [
        image(
            store.layout,
            {**files_of(folder, "opt/venv"), "var/lib/dpkg/status": status},
            name=name,
            labels=labels,
        )
        for folder, name in zip(two, ("diff-test:v1", docker_name), strict=True)
    ]
    Docker.connect({}).load(made[1], SilentProgress())
    done = cli("diff", "store:diff-test:v1", f"docker:{docker_name}", "--engine", "sandbox", "--json")
    assert done.code == 0, done
    value = done.value
    assert _packages(value) == EXPECTED
    operands = value["operands"]
    assert [operand["packages"] for operand in operands] == [
        {"python": 5, "conda": 0, "debian": 1},
        {"python": 4, "conda": 0, "debian": 1},
    ]
    assert value["recipe"] == "pytorch-cuda:v2.7"
    assert [operand["digest"] for operand in operands] == [ref.config for ref in made]
    assert [tuple(operand["layers"]) for operand in operands] == [ref.diff_ids for ref in made]
    pins = {pin["name"]: pin for pin in value["pins"]}
    assert pins["python"]["forms"][0]["values"] == ["3.11.2"]
    assert pins["torch"]["agrees"]
    assert pins["cuda"]["forms"][0] == {
        "values": ["12.6"],
        "status": "agree",
        "why": None,
        "sources": ["torch 2.7.1+cu126"],
    }
    assert not pins["deepspeed"]["agrees"]
    again = cli("diff", f"docker:{docker_name}", str(two[1]), "--read-files", "--json").value
    assert _packages(again) == {"base-files (Debian)": ["missing"]}


WITHOUT: dict[str, Callable[[], Mapping[str, bytes]]] = {
    "with a shell": lambda: {"bin/sh": python_files()["bin/sh"]},
    "with nothing": lambda: {"etc/mark": b""},
}


@pytest.mark.parametrize("engine", ["sandbox", "oci"])
@pytest.mark.parametrize("files", WITHOUT.values(), ids=WITHOUT)
def test_an_image_without_python_is_one_error(
    cli: Cli, store: Store, engine: str, files: Callable[[], Mapping[str, bytes]]
) -> None:
    image(store.layout, files(), python=False, labels={})
    arguments = ("diff", "--engine", engine, "store:diff-test:v1", "pytorch-cuda:v2.7")
    assert "docker cp" in cli.fails(3, "image-without-python", *arguments).err


@pytest.mark.docker
@pytest.mark.parametrize("files", WITHOUT.values(), ids=WITHOUT)
def test_an_image_without_python_in_docker_is_one_error(
    cli: Cli, store: Store, docker_name: str, files: Callable[[], Mapping[str, bytes]]
) -> None:
    made = image(store.layout, files(), name=docker_name, python=False, labels={})
    Docker.connect({}).load(made, SilentProgress())
    cli.fails(3, "image-without-python", "diff", f"docker:{docker_name}", "pytorch-cuda:v2.7")


def test_conda_packages_of_an_image_are_listed_beside_pythons(
    cli: Cli, two: tuple[Path, Path], store: Store
) -> None:
    """As in the image of the Dockerfile: a virtual environment made from conda's interpreter."""
    record = {"name": "openssl", "version": "3.6.3", "build": "h1_0", "sha256": "0" * 64, "files": []}
    files = files_of(two[0], "opt/venv") | {
        "usr/conda-meta/openssl-3.6.3-h1_0.json": json.dumps(record).encode()
    }
    image(store.layout, files, labels={})
    value = cli("diff", "--engine", "sandbox", "store:diff-test:v1", str(two[0]), "--json").value
    assert _packages(value) == {"openssl": ["missing"]}
    assert value["packages"][0]["packages"][0]["sha256"] == "0" * 64


@pytest.mark.parametrize(
    "start",
    [
        b"#!/opt/venv/bin/python\n",
        b"#!/usr/bin/env python3.11\n",
        b"#!/bin/sh\n'''exec' \"/a b/bin/python\" \"$0\" \"$@\" #'''\n",
        b"#!/bin/sh\n'''exec' /a b/bin/python \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_a_script_is_the_same_whatever_interpreter_it_names(start: bytes) -> None:
    """As pip, conda and envbuild write the first line, and pip and conda for a path with a space."""
    assert without_shebang(start + b"import rich\n") == b"import rich\n"


def test_a_script_of_the_shell_keeps_its_first_line() -> None:
    assert without_shebang(b"#!/bin/sh\necho\n") == b"#!/bin/sh\necho\n"
