"""What is made: an environment that runs, with conda's records, the same on every machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from condachannel import URL
from condapackage import File, Package
from envworld import World, contents, said
from rattler import PrefixRecord
from rattler.shell import ActivationVariables, Shell, activate

from envbuild.environment.prefix import UNFINISHED
from envbuild.lock import conda_lock_bytes


def test_programs_run_and_find_their_own_prefix(world: World) -> None:
    made = world.create(world.whole)
    prefix = made.prefix
    assert said(prefix / "bin/greet") == "hello\n"
    assert said(prefix / "bin/greet-loudly") == "HELLO\n"
    assert said(prefix / "bin/small-home") == f"{prefix}\n"
    assert said(prefix / "bin/python", "-c", "import sys; print(sys.prefix)") == f"{prefix}\n"
    assert (
        (prefix / "lib/libsmall.so")
        .resolve()
        .read_bytes()
        .startswith(b"\x7fSMALL\0" + bytes(prefix) + b"/share")
    )
    assert "pip 2" in said(prefix / "bin/pip", "--version")
    assert not (prefix / UNFINISHED).exists()
    assert made.bytes_fetched == sum(item.size for item in (*world.whole.packages, *world.whole.pip))


def test_deepspeed_comes_by_pip_from_the_locked_source_alone(world: World) -> None:
    made = world.create(
        world.whole, environ={"PIP_NO_INDEX": "1", "PIP_TARGET": "/nowhere", "DS_BUILD_OPS": "1"}
    )
    assert said(made.prefix / "bin/deepspeed") == "cuda ''\n"
    assert said(made.prefix / "bin/ds_report") == "cuda ''\n"
    listed = said(made.prefix / "bin/python", "-m", "pip", "--isolated", "list", "--format", "json")
    assert {"name": "deepspeed", "version": "0.19.8"} in json.loads(listed)
    assert {"name": "ninja", "version": "1.13.2"} in json.loads(listed)
    assert said(made.prefix / "bin/ninja") == "1.13.2\n"
    said(made.prefix / "bin/python", "-m", "pip", "--isolated", "uninstall", "-y", "deepspeed")
    assert not list(made.prefix.glob("lib/python3.11/site-packages/deepspeed*/**/*.py*"))


def test_a_repository_around_the_prefix_is_not_seen(world: World) -> None:
    as_me = ["-c", "user.name=me", "-c", "user.email=me@example.invalid"]
    subprocess.run(["git", "init", "-q", world.folder], check=True)
    commit = ["commit", "-q", "--allow-empty", "-m", "mine"]
    subprocess.run(["git", "-C", world.folder, *as_me, *commit], check=True)
    made = world.create(world.whole)
    (module,) = made.prefix.glob("lib/python3.11/site-packages/deepspeed/__init__.py")
    assert "COMMIT = ''" in module.read_text()


def test_records_are_condas_and_name_the_channels_own_addresses(world: World) -> None:
    prefix = world.create().prefix
    names = {path.name for path in (prefix / "conda-meta").glob("*.json")}
    assert names == {package.file.removesuffix(".conda") + ".json" for package in world.lock.packages}
    owners: dict[str, str] = {}
    for package in world.lock.packages:
        path = prefix / "conda-meta" / f"{package.name}-{package.version}-{package.build}.json"
        record = PrefixRecord.from_path(path)
        assert record.url == f"{URL}{package.subdir}/{package.file}"
        assert record.sha256 == bytes.fromhex(package.sha256)
        assert "127.0.0.1" not in path.read_text()
        assert str(world.folder) not in path.read_text()
        for file in record.files:
            assert owners.setdefault(str(file), package.name) == package.name
    there = {
        str(path.relative_to(prefix)) for path in prefix.rglob("*") if path.is_symlink() or path.is_file()
    }
    made_here = {f"conda-meta/{name}" for name in names} | {"conda-meta/history"}
    assert there == owners.keys() | made_here
    pyc = "lib/python3.11/site-packages/greet/__pycache__/__init__.cpython-311.pyc"
    assert owners[pyc] == "greet"


def altered(prefix: Path) -> list[str]:
    """What `conda doctor` calls altered: files with another hash than ``sha256_in_prefix``, where one is noted."""
    found = []
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        data = json.loads(path.read_bytes())["paths_data"]
        assert data["paths_version"] == 1
        for entry in data["paths"]:
            noted, file = entry.get("sha256_in_prefix"), prefix / entry["_path"]
            if noted is not None and file.is_file() and not entry["_path"].endswith((".pyc", ".pyo")):
                seen = hashlib.sha256(file.read_bytes()).hexdigest()
                found += [] if seen == noted else [f"{path.stem}: {entry['_path']}"]
    return found


def missing(prefix: Path) -> list[str]:
    """What `conda doctor` calls missing files: a link that leads nowhere is one."""
    records = [json.loads(path.read_bytes()) for path in sorted((prefix / "conda-meta").glob("*.json"))]
    names = [name for record in records for name in record["files"] if not name.endswith((".pyc", ".pyo"))]
    return [name for name in names if not (prefix / name).exists()]


def test_conda_doctor_finds_no_file_altered_or_missing(world: World) -> None:
    """The packages hold plain files, symbolic links, the prefix in text and binary files, and entry points."""
    prefix = world.create(world.whole).prefix
    assert altered(prefix) == []
    assert missing(prefix) == []
    (prefix / "share/small/word").write_text("edited\n")
    (prefix / "lib/libsmall.bin").unlink()
    assert altered(prefix) == ["libsmall-1.2.3-h2_1: share/small/word"]
    assert missing(prefix) == ["lib/libsmall.bin", "lib/libsmall.so"]


def test_a_symbolic_link_is_recorded_as_conda_records_it(world: World) -> None:
    """conda keeps what the package says of it (``LinkPathAction``), and notes no hash of its own."""
    prefix = world.create().prefix
    (path,) = (prefix / "conda-meta").glob("libsmall-*.json")
    entries = {entry["_path"]: entry for entry in json.loads(path.read_bytes())["paths_data"]["paths"]}
    link, file = entries["lib/libsmall.so"], entries["share/small/word"]
    assert (link["path_type"], "sha256_in_prefix" in link) == ("softlink", False)
    assert (file["path_type"], file["sha256_in_prefix"]) == ("hardlink", file["sha256"])


def test_a_file_that_two_packages_hold_is_not_altered(world: World) -> None:
    twin = Package(name="twin", version="1", files={"share/small/word": File(data=b"hello\n")})
    prefix = world.create(world.with_package(twin)).prefix
    assert altered(prefix) == []


def test_the_history_tells_conda_what_was_asked_for(world: World) -> None:
    history = (world.create().prefix / "conda-meta/history").read_text().splitlines()
    assert history[0] == "==> 2026-01-01 00:00:00 <=="
    assert "+small/noarch::greet-0.5-pyhd8_0" in history
    assert history[-1] == '# update specs: ["python 3.11.*"]'


def test_two_machines_make_the_same_files(world: World, channel: Path) -> None:
    """Another user's umask and time zone, other caches, a folder instead of a server, one job more: no difference."""
    first = world.start(world.whole, umask=0o077, TZ="Asia/Tokyo", store="store-1")
    assert first.wait() == 0, first.communicate()
    here = contents(world.folder / "env")
    (world.folder / "env").rename(world.folder / "first")
    world.server.files.clear()
    sources = world.folder / "store-2/artifacts/sha256"
    sources.mkdir(parents=True)
    for item in world.whole.pip:
        shutil.copy(world.folder / "store-1/artifacts/sha256" / item.sha256, sources)
    second = world.start(
        world.whole,
        umask=0o002,
        store="store-2",
        TZ="America/Lima",
        ENVBUILD_CONDA_CHANNELS=f"small={channel}",
    )
    assert second.wait() == 0, second.communicate()
    there = contents(world.folder / "env")
    assert here.keys() == there.keys()
    assert [name for name in here if here[name] != there[name]] == []
    assert len(here) > 2000


def test_using_it_changes_nothing_in_it(world: World) -> None:
    """Byte code is there and fresh: Python writes none."""
    prefix = world.create().prefix
    before = contents(prefix)
    code = "import greet, json, email.message, concurrent.futures"
    subprocess.run([prefix / "bin/python", "-c", code], env={}, check=True)
    after = contents(prefix)
    changed = {name for name in after if before.get(name, (0, 0, 0))[2] != after[name][2]}
    assert changed <= {  # these two the test's own Python package has without byte code
        f"lib/python3.11/__pycache__/{name}.cpython-311.pyc" for name in ("sitecustomize", "sysconfig")
    } | {"lib/python3.11/site-packages/__pycache__/small_home.cpython-311.pyc"}


def test_what_is_in_the_store_is_not_fetched_again(world: World) -> None:
    world.create()
    asked = len(world.server.requests)
    again = world.create(prefix="other")
    assert len(world.server.requests) == asked
    assert again.bytes_fetched == 0
    assert said(again.prefix / "bin/small-home") == f"{again.prefix}\n"


def test_environments_do_not_share_files(world: World) -> None:
    """An edit in one must not show up in another, nor in the next."""
    first = world.create(prefix="one").prefix
    (first / "share/small/word").write_text("changed\n")
    second = world.create(prefix="two").prefix
    assert said(second / "bin/greet") == "hello\n"
    assert {
        path.stat().st_nlink for path in second.rglob("*") if path.is_file() and not path.is_symlink()
    } == {1}


def test_an_activated_shell_has_its_programs(world: World) -> None:
    prefix = world.create().prefix
    result = activate(prefix, ActivationVariables(None, [Path("/usr/bin"), Path("/bin")]), Shell.bash)
    script = f"{result.script}\ngreet\necho $CONDA_PREFIX\n"
    done = subprocess.run(["bash", "-c", script], env={}, capture_output=True, text=True, check=True)
    assert done.stdout == f"hello\n{prefix}\n"


AS_SOMEBODY = """
import os, sys
from pathlib import Path
from envbuild.environment import Means, create
from envbuild.lock import Indexes, read_conda_lock
from envbuild.lock.conda.channels import CondaChannels
from envbuild.progress import SilentProgress
from envbuild.store import Store

folder, home = Path(sys.argv[1]), Path(os.environ["HOME"])
means = Means(
    store=Store.open(home / "store"), channels=CondaChannels(places={"small": f"{(folder / 'channel').as_uri()}/"}),
    indexes=Indexes.from_machine({}), jobs=2, progress=SilentProgress(),
)
create(read_conda_lock(folder / "conda.lock.json"), home / "env", means)
"""


def test_an_ordinary_user_makes_one(world: World, channel: Path, unprivileged) -> None:
    """With a umask that shuts everybody out, from a folder that belongs to somebody else."""
    with tempfile.TemporaryDirectory() as name:
        folder, home = Path(name), Path(name, "home")
        shutil.copytree(channel, folder / "channel")
        (folder / "conda.lock.json").write_bytes(conda_lock_bytes(world.lock))
        folder.chmod(0o755)
        (folder / "channel").chmod(0o755)
        home.mkdir()
        shutil.chown(home, unprivileged.name)
        done = unprivileged.run(AS_SOMEBODY, str(folder), env={"HOME": str(home)}, umask=0o077)
        assert done.returncode == 0, done.stderr
        assert said(home / "env/bin/greet") == "hello\n"
        program = (home / "env/bin/greet").stat()
        assert (program.st_mode & 0o777, program.st_uid == os.getuid()) == (0o755, False)


def test_a_folder_serves_as_channel(world: World, channel: Path) -> None:
    made = world.create(channel=f"{channel}")
    assert said(made.prefix / "bin/greet") == "hello\n"
    assert world.fetched() == []


def test_a_script_that_conda_would_run_is_told(world: World) -> None:
    ran = world.folder / "ran"
    script = File(data=f"#!/bin/sh\ntouch {ran}\n".encode(), mode=0o755)
    linky = Package(name="linky", version="1", files={"bin/.linky-post-link.sh": script})
    made = world.create(world.with_package(linky))
    assert [note.split(" has ")[0] for note in made.notes] == ["linky"]
    assert not ran.exists()
