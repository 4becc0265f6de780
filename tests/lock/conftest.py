"""A world on 127.0.0.1 that has what the recipe of the tests needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from condaworld import NEEDS, CondaLocker
from lockworld import DebianArchive, Keys, PythonIndex, Server, World, handler, serve
from needed import need
from tinyrecipe import CP311, MANYLINUX, RECIPE, REF, Locker, Notes, impatient

from envbuild.lock import Indexes, Lock, resolve
from envbuild.lock.python.uv import index_urls
from envbuild.recipe import load_recipe
from envbuild.store import Store

LINUX = "; platform_system == 'Linux' and platform_machine == 'x86_64'"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """A signing key. GnuPG's sockets want a short path."""
    need("gpg", "gpgv")
    made = Keys.make(tmp_path_factory.mktemp("k"), "archive")
    yield made
    made.stop()


def fill_index(index: PythonIndex) -> None:
    """What torch 2.7.1 with CUDA 12.6 looks like, in small."""
    cuda = ["nvidia-cuda-runtime-cu12==12.6.77", "nvidia-cudnn-cu12==9.5.1.17", "nvidia-nccl-cu12==2.26.2"]
    index.wheel("torch", "2.7.1", [*(item + LINUX for item in cuda), "numpy>=1", "setuptools"], tag=CP311)
    index.wheel("torch", "2.7.0", tag=CP311)
    index.wheel("torch", "2.8.0", tag=CP311)
    for name, version in (
        ("nvidia-cuda-runtime-cu12", "12.6.77"), ("nvidia-cudnn-cu12", "9.5.1.17"), ("nvidia-nccl-cu12", "2.26.2"),
        ("nvidia-cuda-nvcc-cu12", "12.4.131"), ("nvidia-cuda-cccl-cu12", "12.6.77"),
        ("nvidia-cuda-cccl-cu12", "12.8.90"),
    ):  # fmt: skip
        index.wheel(name, version, tag="py3-none-manylinux2014_x86_64")
    for tag in (
        CP311,
        "cp311-cp311-manylinux_2_17_x86_64",
        "cp312-cp312-manylinux_2_28_x86_64",
        "cp311-cp311-win_amd64",
    ):
        index.wheel("numpy", "2.1.0", tag=tag)
    for name in (
        "setuptools",
        "wheel",
        "ninja",
        "packaging",
        "nvidia-ml-py",
        "hjson",
        "rich",
        "typing-extensions",
    ):
        index.wheel(name, "1.0")
    index.wheel("tqdm", "4.0")
    index.sdist("deepspeed", "0.19.8", ["hjson", "ninja", "torch>=2"])
    index.sdist("deepspeed", "0.19.7", ["hjson"])


def fill_debian(debian: DebianArchive) -> None:
    """Debian in small: an essential package, what every image has, something virtual, a choice."""
    debian.add("base-files", essential="yes", priority="required", pre_depends="awk")
    debian.add("libc6", "2.36-9")
    debian.add("mawk", provides="awk", priority="required", depends="libc6 (>= 2.30)")
    debian.add("gawk", provides="awk")
    for name in (
        "base-passwd",
        "ca-certificates",
        "libc6-dev",
        "passwd",
        "python3",
        "tini",
        "tzdata",
        "usr-is-merged",
    ):
        debian.add(name, depends="libc6")
    debian.add("gcc", "4:12.2.0-3", depends="gcc-12 (>= 12.2.0-1~)")
    debian.add("gcc-12", "12.2.0-14+deb12u1", depends="libc6 (>= 2.36)")
    debian.add("g++", depends="gcc")
    debian.add(
        "python3.11", "3.11.2-6+deb12u8", depends="libc6, media-types | mime-support", recommends="gawk"
    )
    debian.add("libpython3.11-dev", "3.11.2-6+deb12u8", depends="libc6:any")
    debian.add("media-types", arch="all")
    debian.add("mime-support", arch="all")
    debian.add("less", "590-2.1~deb12u2")
    debian.add("lesspipe")
    debian.add(
        "nvidia-cuda-toolkit", "12.4.131~12.4.1-2", suite="trixie", component="non-free", depends="gone"
    )


@pytest.fixture
def world(keys: Keys) -> Iterator[World]:
    """The servers, filled; a test changes what it wants and publishes Debian's indexes again."""
    cell: list[World] = []
    server = Server(("127.0.0.1", 0), handler(cell))
    made = World(index=PythonIndex(), debian=DebianArchive(keys=keys), mirror={}, server=server)
    cell.append(made)
    fill_index(made.index)
    fill_debian(made.debian)
    made.debian.publish()
    serve(made)
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def warm_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uv's cache once it knows this Python, without any index in it."""
    folder = tmp_path_factory.mktemp("uv")
    index_urls({"PATH": os.environ["PATH"], "HOME": str(folder), "UV_CACHE_DIR": str(folder / "cache")})
    return folder / "cache"


@pytest.fixture
def environ(world: World, tmp_path: Path, warm_cache: Path) -> dict[str, str]:
    """An environment in which only the world is known."""
    shutil.copytree(warm_cache, tmp_path / "uv-cache")
    return {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "UV_CACHE_DIR": str(tmp_path / "uv-cache"),
        "PIP_CONFIG_FILE": "/dev/null", "XDG_CONFIG_DIRS": str(tmp_path), "UV_HTTP_RETRIES": "0",
        "ENVBUILD_PYTHON_INDEX": world.simple, "ENVBUILD_DEBIAN_MIRROR": f"{world.address}/debian",
        "ENVBUILD_DEBIAN_KEYRING": str(world.debian.keys.keyring),
    }  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def lock(environ: dict[str, str], store: Store, tmp_path: Path, notes: Notes) -> Locker:
    """Write a recipe (the tests' own, with replacements) and resolve it."""

    def run(
        *replace: tuple[str, str],
        previous: Lock | None = None,
        parent: Lock | None = None,
        upgrade: Sequence[str] = (),
        date: str = "2026-06-01",
    ) -> Lock:
        text = RECIPE
        for old, new in replace:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "recipes" / REF.name / REF.tag / "recipe.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        indexes = Indexes.from_machine(environ)
        return resolve(
            load_recipe(REF, [tmp_path / "recipes"]), indexes=indexes, http=impatient(dict(indexes.environ)),
            previous=previous, parent=parent, upgrade=upgrade, date=date, store=store, progress=notes,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def deepspeed_index(keys: Keys) -> Iterator[str]:
    """The address of an index that has DeepSpeed's source, with its real requirements, and ninja, but nothing else."""
    cell: list[World] = []
    server = Server(("127.0.0.1", 0), handler(cell))
    made = World(index=PythonIndex(), debian=DebianArchive(keys=keys), mirror={}, server=server)
    cell.append(made)
    made.index.sdist("deepspeed", "0.19.8", NEEDS)
    made.index.wheel("ninja", "1.10.0", tag="py3-none-manylinux_2_34_x86_64")
    made.index.wheel("ninja", "1.11.1", tag=MANYLINUX)
    made.index.wheel("ninja", "1.13.2", tag=MANYLINUX)
    made.index.wheel("ninja", "1.13.2", tag="py3-none-manylinux_2_34_x86_64")
    serve(made)
    yield made.simple
    server.shutdown()
    server.server_close()


@pytest.fixture
def conda(deepspeed_index: str, tmp_path: Path) -> Iterator[CondaLocker]:
    """What locks conda environments, on a machine that knows nothing but the index."""
    environ = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null",
        "XDG_CONFIG_DIRS": str(tmp_path), "ENVBUILD_PYTHON_INDEX": deepspeed_index,
    }  # fmt: skip
    with Store.open(tmp_path / "store") as opened:
        yield CondaLocker(folder=tmp_path, environ=environ, store=opened)
