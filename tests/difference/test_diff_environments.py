"""Two conda environments, made by envbuild from one lock in two places, differ in nothing; what does differ is named.

The environments are real: a Python that runs, packages with their prefix in text and in a binary.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from clirun import Cli
from condachannel import locked, make_channel

from envbuild.difference import FileDifference, compare, compare_folders, of_conda_lock, of_folder, unexpected
from envbuild.environment import Means, check_path, create
from envbuild.lock import CondaLock, Indexes
from envbuild.lock.conda.channels import CondaChannels
from envbuild.progress import SilentProgress
from envbuild.store import Store

SITE = "lib/python3.11/site-packages"
HISTORY = "conda-meta/history"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[CondaLock, Path, Path]:
    """The lock, and two environments of it: other folders, of other lengths, from stores of their own."""
    root = tmp_path_factory.mktemp("environments")
    channel = make_channel(root / "channel")
    lock = locked(channel, names={"python", "libsmall", "small-home", "greet", "gpu-small", "tzdata"})
    environ = {"PATH": os.environ["PATH"]}
    folders = root / "a", root / "in another place/b"
    folders[1].parent.mkdir()
    for number, folder in enumerate(folders):
        with Store.open(root / f"store{number}") as store:
            means = Means(
                store=store,
                channels=CondaChannels.from_machine(environ, (f"small={channel}",)),
                indexes=Indexes.from_machine(environ),
                jobs=2,
                progress=SilentProgress(),
            )
            create(lock, check_path(folder), means)
    return lock, *folders


@pytest.fixture
def pair(made: tuple[CondaLock, Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same folder twice, to change the second one."""
    second = tmp_path / "b"
    shutil.copytree(made[1], second, symlinks=True)
    return made[1], second


def _compared(first: Path, second: Path) -> tuple[FileDifference, ...]:
    return compare_folders(first, second, SilentProgress())


def _named(first: Path, second: Path) -> dict[str, str]:
    return {item.path: item.what for item in unexpected(_compared(first, second))}


def test_two_places_hold_the_same(made: tuple[CondaLock, Path, Path]) -> None:
    _, first, second = made
    text, binary = f"{SITE}/small_home.py", "lib/libsmall.bin"
    assert (first / text).read_bytes() != (second / text).read_bytes()
    assert (first / binary).read_bytes() != (second / binary).read_bytes()
    found = _compared(first, second)
    assert not list(unexpected(found))
    assert found, "byte code holds its place"
    assert {item.path.rpartition(".")[2] for item in found} == {"pyc"}


def test_an_environment_holds_what_its_lock_says(made: tuple[CondaLock, Path, Path]) -> None:
    lock, first, _ = made
    found = compare([of_conda_lock("lock", lock), of_folder("env", first)], None)
    assert [row.name for row in found.rows] == sorted(row.name for row in found.rows)
    assert len(found.rows) == len(lock.packages)
    for row in found.rows:
        assert not row.differs
        assert row.compared == ("version", "build", "artifact"), row.name


def test_a_date_in_the_history_is_expected(pair: tuple[Path, Path]) -> None:
    path = pair[1] / HISTORY
    path.write_text(path.read_text().replace("2026", "2027", 1) + "# again\n")
    (item,) = (item for item in _compared(*pair) if item.path == HISTORY)
    assert item.what == "content"
    assert "date" in str(item.expected)


def test_where_a_package_came_from_is_no_difference_and_what_it_is_is_one(pair: tuple[Path, Path]) -> None:
    path = next(pair[1].glob("conda-meta/libsmall-*.json"))
    record = json.loads(path.read_bytes())
    path.write_text(json.dumps(record | {"extracted_package_dir": "/elsewhere", "url": "file:///elsewhere"}))
    assert not _named(*pair)
    path.write_text(json.dumps(record | {"license": "GPL"}))
    assert _named(*pair) == {str(path.relative_to(pair[1])): "content"}


CHANGES = {
    "text": (f"{SITE}/small_home.py", "content"),
    "binary": ("lib/libsmall.bin", "content"),
    "gone": ("share/small/word", "only in A"),
    "new": ("share/small/new", "only in B"),
    "mode": ("bin/small-home", "mode"),
    "link": ("lib/libsmall.so", "content"),
    "kind": ("share/gpu-small", "kind"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_differs_is_named(pair: tuple[Path, Path], change: str) -> None:
    name, what = CHANGES[change]
    path = pair[1] / name
    if change in ("text", "binary"):
        data = path.read_bytes()
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    elif change == "gone":
        path.unlink()
    elif change == "new":
        path.write_text("")
    elif change == "mode":
        path.chmod(0o644)
    else:
        path.unlink()
        path.symlink_to("elsewhere")
    assert _named(*pair) == {name: what}


def test_byte_code_of_a_changed_source_is_not_expected(pair: tuple[Path, Path]) -> None:
    source, code = f"{SITE}/greet/__init__.py", f"{SITE}/greet/__pycache__/__init__.cpython-311.pyc"
    for name in (source, code):
        (pair[1] / name).write_bytes((pair[1] / name).read_bytes() + b"#")
    assert _named(*pair) == {source: "content", code: "content"}


def test_byte_code_that_a_program_left_is_expected(pair: tuple[Path, Path]) -> None:
    code, source = (
        pair[1] / f"{SITE}/__pycache__/small_home.cpython-311.pyc",
        pair[1] / f"{SITE}/small_home.py",
    )
    before = pair[0] / code.relative_to(pair[1])
    before.unlink(missing_ok=True)
    subprocess.run([pair[1] / "bin/python", "-m", "compileall", "-q", "-f", source], check=True)
    (item,) = (item for item in _compared(*pair) if item.path.endswith("small_home.cpython-311.pyc"))
    assert item.what == "only in B"
    assert not _named(*pair)


def test_the_command_names_files_and_packages(cli: Cli, pair: tuple[Path, Path]) -> None:
    (pair[1] / "share/small/word").write_text("goodbye\n")
    done = cli("diff", *map(str, pair))
    assert done.code == 0
    assert "6 packages agree in version (6 of them in content, too); 0 differ" in done.out
    assert "Files: 1 differ" in done.out
    assert "share/small/word  content" in done.out
    value = cli("diff", *map(str, pair), "--json").value
    (item,) = [item for item in value["files"] if item["expected"] is None]
    assert item["path"] == "share/small/word"
    assert len(set(item["sha256"])) == 2
    assert value["packages"] == []
    assert value["same"] == 6
