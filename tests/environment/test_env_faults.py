"""What goes wrong: one clear error, and nothing half-made."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from condachannel import deepspeed_sdist
from condapackage import TIME, File, Package
from envworld import World, contents, said
from faulty_server import cut, flipped, status

from envbuild.environment import check_machine, check_path
from envbuild.environment.prefix import LONGEST, UNFINISHED
from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import CondaLock

SMALL = "/small/linux-64/libsmall-1.2.3-h2_1.conda"


def refused(make: Callable[[], object]) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        make()
    assert caught.value.hint
    return caught.value


def nothing_left(world: World, prefix: str = "env") -> bool:
    return not (world.folder / prefix).exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB; the environment needs 40."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "small", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_other_bytes_than_the_locked_ones_are_refused_by_name(world: World) -> None:
    world.server.always[SMALL] = flipped(700)
    error = refused(world.create)
    assert (error.id, error.exit, error.where) == ("wrong-hash", Exit.VERIFY, "libsmall-1.2.3-h2_1.conda")
    assert "libsmall 1.2.3" in error.message
    assert "channel small" in error.message
    assert nothing_left(world)


def test_a_folder_channel_is_checked_as_well(world: World, channel: Path, tmp_path: Path) -> None:
    """py-rattler itself checks no hash of what it reads from a folder."""
    copy = Path(shutil.copytree(channel, tmp_path / "copy"))
    file = copy / "linux-64/libsmall-1.2.3-h2_1.conda"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    error = refused(lambda: world.create(channel=str(copy)))
    assert (error.id, error.where) == ("wrong-hash", file.name)
    assert nothing_left(world)


def test_a_package_that_the_channel_no_longer_has(world: World) -> None:
    del world.server.files[SMALL]
    error = refused(world.create)
    assert (error.id, error.exit, error.where) == ("not-found", Exit.NETWORK, "libsmall-1.2.3-h2_1.conda")
    assert nothing_left(world)


def test_a_cut_download_goes_on_where_it_stopped(world: World) -> None:
    """The server sends half of Python, then nothing more; the next run asks for the other half alone."""
    python = next(package for package in world.lock.packages if package.name == "python")
    path = f"/small/linux-64/{python.file}"
    world.server.always[path] = status(404)
    world.server.faults[path] = [cut(python.size // 2)]
    error = refused(world.create)
    assert (error.exit, error.where) == (Exit.NETWORK, python.file)
    assert nothing_left(world)
    world.server.always.clear()
    world.server.requests.clear()
    made = world.create()
    assert world.fetched() == [python.file]
    assert world.server.ranges(path) == [f"bytes={python.size // 2}-"]
    assert made.bytes_fetched == python.size - python.size // 2
    assert said(made.prefix / "bin/greet") == "hello\n"


def test_the_artifact_mirror_is_asked_first(world: World) -> None:
    for package in world.lock.packages:
        data = world.server.files.pop(f"/small/{package.subdir}/{package.file}")
        world.server.files[f"/mirror/{package.sha256}/{package.file}"] = data
    made = world.create(environ={"ENVBUILD_ARTIFACT_MIRROR": f"{world.server.url}/mirror"})
    assert said(made.prefix / "bin/greet") == "hello\n"


def test_a_disk_that_fills_while_linking(world: World, disk: Path) -> None:
    error = refused(lambda: world.create(prefix="disk/env"))
    assert (error.id, error.exit) == ("disk-full", Exit.ENGINE)
    assert error.message.count("\n") == 0
    assert list(disk.iterdir()) == []


def test_a_store_on_a_disk_that_is_too_small(world: World, disk: Path) -> None:
    (disk / "filler").write_bytes(b"x" * (6 << 20))
    error = refused(lambda: world.create(store="disk/store"))
    assert (error.id, error.exit) == ("disk-full", Exit.ENGINE)
    assert nothing_left(world)


def test_a_prefix_that_holds_something_is_refused_before_anything_is_fetched(world: World) -> None:
    (world.folder / "env").mkdir()
    (world.folder / "env/mine").write_text("mine")
    error = refused(world.create)
    assert (error.id, error.exit) == ("prefix-exists", Exit.USAGE)
    assert world.server.requests == []
    assert (world.folder / "env/mine").read_text() == "mine"


def test_an_environment_is_not_made_twice(world: World) -> None:
    world.create()
    error = refused(world.create)
    assert error.id == "prefix-exists"
    assert "is a conda environment already" in error.message
    assert said(world.folder / "env/bin/greet") == "hello\n"


def test_an_empty_folder_is_taken_and_left_empty_where_it_fails(world: World) -> None:
    prefix = world.folder / "env"
    prefix.mkdir(mode=0o700)
    error = refused(lambda: world.create(world.with_package(Package(name="bad", version="1"), b"no package")))
    assert error.where == "bad-1-0.conda"
    assert list(prefix.iterdir()) == []
    world.create()
    assert prefix.stat().st_mode & 0o777 == 0o700
    assert said(prefix / "bin/greet") == "hello\n"


def test_a_prefix_that_is_a_file(world: World) -> None:
    (world.folder / "env").write_text("mine")
    error = refused(world.create)
    assert (error.id, error.exit) == ("prefix-exists", Exit.USAGE)


def test_a_prefix_on_a_read_only_disk(world: World, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    error = refused(lambda: world.create(prefix="disk/deep/env"))
    assert (error.id, error.exit) == ("prefix-not-writable", Exit.USAGE)


def test_folders_above_the_prefix_go_as_well(world: World) -> None:
    bad = world.with_package(Package(name="bad", version="1"), b"no package")
    refused(lambda: world.create(bad, prefix="new/deep/env"))
    assert nothing_left(world, "new")
    world.create(prefix="new/deep/env")


@pytest.mark.parametrize("name", ["a b", "ünï'(c)", "x" * 130])
def test_awkward_prefixes_work(world: World, name: str) -> None:
    made = world.create(world.whole if " " in name else world.lock, prefix=name)
    assert said(made.prefix / "bin/greet") == "hello\n"
    assert said(made.prefix / "bin/small-home") == f"{made.prefix}\n"
    if " " in name:
        assert said(made.prefix / "bin/ds_report") == "cuda ''\n"


@pytest.mark.parametrize("name", ["a:b", "a\nb", 'a"b', "$HOME", "a`b", "a\\b", "\udcff"])
def test_paths_that_programs_cannot_hold_are_refused(name: str) -> None:
    error = refused(lambda: check_path(Path("/srv") / name))
    assert (error.id, error.exit) == ("bad-prefix", Exit.USAGE)


def test_a_path_longer_than_packages_have_space_for(world: World) -> None:
    folder = Path("/" + "/".join(["x" * 60] * 4))
    fits = folder / ("y" * (LONGEST - len(str(folder)) - 1))
    assert check_path(fits) == fits
    assert refused(lambda: check_path(Path(f"{fits}y"))).id == "prefix-too-long"


def test_the_longest_path_works(world: World) -> None:
    rest = LONGEST - len(str(world.folder)) - 1
    name = "/".join(["z" * 90, "z" * (rest - 91)]) if rest > 180 else "z" * rest
    made = world.create(prefix=name)
    assert len(str(made.prefix)) == LONGEST
    assert said(made.prefix / "bin/greet") == "hello\n"


def test_a_package_that_is_none(world: World) -> None:
    error = refused(lambda: world.create(world.with_package(Package(name="bad", version="1"), b"no package")))
    assert (error.id, error.exit, error.where) == ("link-failed", Exit.VERIFY, "bad-1-0.conda")
    assert nothing_left(world)


def test_two_packages_with_one_file_give_the_same_each_time(world: World) -> None:
    twin = Package(
        name="twin", version="1", files={"share/small/word": File(data=b"hello\n", mtime=TIME + 9)}
    )
    found = []
    for _ in range(3):
        prefix = world.create(world.with_package(twin)).prefix
        found.append(contents(prefix))
        shutil.rmtree(prefix)
    assert found[0] == found[1] == found[2]
    assert found[0]["share/small/word"][1] == TIME * 10**9  # the one that is first by name


def test_a_damaged_copy_in_the_store_is_found_and_removed(world: World) -> None:
    world.create(prefix="first")
    small = next(package for package in world.lock.packages if package.name == "libsmall")
    path = world.folder / "store/artifacts/sha256" / small.sha256
    path.write_bytes(b"x" * small.size)
    error = refused(world.create)
    assert (error.id, error.exit, error.where) == ("store-damaged", Exit.VERIFY, small.file)
    assert nothing_left(world)
    world.create()


def test_what_pip_said_is_told_and_nothing_is_left(world: World) -> None:
    broken = deepspeed_sdist(fails="no torch to be seen")
    broken.serve(world.server)
    error = refused(lambda: world.create(replace(world.whole, pip=(broken.artifact,))))
    assert (error.id, error.exit) == ("pip-failed", Exit.VERIFY)
    assert "deepspeed 0.19.8" in error.message
    assert "no torch to be seen" in error.message
    assert nothing_left(world)


def test_another_sdist_under_the_same_name_is_refused(world: World) -> None:
    deepspeed_sdist(fails="other bytes").serve(world.server)
    error = refused(lambda: world.create(world.whole))
    assert error.exit in (Exit.NETWORK, Exit.VERIFY)
    assert error.where == "deepspeed-0.19.8.tar.gz"
    assert nothing_left(world)


def test_a_python_that_does_not_start(world: World) -> None:
    python = next(package for package in world.lock.packages if package.name == "python")
    files = {"bin/python": File(data=b"\x7fELF no", mode=0o755), "lib/python3.11/os.py": File(data=b"")}
    broken = Package(name="python", version=python.version, build=python.build, files=files)
    error = refused(lambda: world.create(world.with_package(broken)))
    assert (error.id, error.exit) == ("byte-code-failed", Exit.VERIFY)
    assert nothing_left(world)


@pytest.mark.parametrize(
    ("virtual", "needs"),
    [
        ({"__glibc": "2.12"}, "__glibc >=2.17"),
        ({}, "__glibc >=2.17"),
        ({"__glibc": "2.36", "__cuda": "11.8"}, "__cuda >=12"),
    ],
)
def test_a_machine_that_is_too_old(world: World, virtual: dict[str, str], needs: str) -> None:
    error = refused(lambda: check_machine(world.lock, virtual, "linux-64"))
    assert (error.id, error.exit) == ("machine-lacks", Exit.USAGE)
    assert needs in error.message


@pytest.mark.parametrize(
    ("cuda", "note"),
    [({}, "no NVIDIA driver"), ({"__cuda": "12.2"}, "for CUDA 12.2"), ({"__cuda": "13.0"}, None)],
)
def test_a_machine_that_can(world: World, cuda: dict[str, str], note: str | None) -> None:
    notes = check_machine(world.lock, {"__glibc": "2.36", **cuda}, "linux-64")
    assert len(notes) == (note is not None)
    assert all(note is not None and note in text for text in notes)


def test_a_lock_for_another_platform(world: World) -> None:
    error = refused(lambda: check_machine(world.lock, {"__glibc": "2.36"}, "osx-arm64"))
    assert error.id == "lock-for-another-platform"
    assert "osx-arm64" in error.message


def test_unfinished_is_known_by_its_mark_alone(world: World) -> None:
    prefix = world.folder / "env"
    (prefix / UNFINISHED).mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin/python").write_text("half")
    locked: CondaLock = world.lock
    made = world.create(locked)
    assert said(made.prefix / "bin/greet") == "hello\n"
