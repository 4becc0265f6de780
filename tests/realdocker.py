"""pytorch-cuda:v2.7 with its real wheels, for a build by Docker on bases of envbuild's own layers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import condachannel
import smallimage
from condapackage import File, files_below, index_channel
from dockerstandin import Bases, build_micromamba, docker, load_layers
from needed import need

from envbuild.engine.docker import Docker
from envbuild.image.toolkit import make_toolkit
from envbuild.layers.base import base_root, build_base
from envbuild.lock import conda_lock_bytes, read_lock
from envbuild.lock.conda.specs import virtual
from envbuild.native.toolkit import toolkit_of
from envbuild.progress import SilentProgress
from envbuild.recipe import load_recipe, parse_ref
from envbuild.sandbox import Sandbox
from envbuild.store import Store

NAME = "envbuild-test-real"
REF = "pytorch-cuda:v2.7"
ROOT = smallimage.COMMITTED.parents[3]
_HEADERS = (Path("/usr/include/python3.11"), Path("/usr/include/x86_64-linux-gnu/python3.11"))


def make_real_bases(store: Store, sandbox: Sandbox, folder: Path) -> Bases:
    """NVIDIA's layout from envbuild's own layers: ``base`` with ``toolkit`` to build in, ``base`` alone to ship on.

    What the store lacks of them is fetched and made.
    """
    lock = read_lock(ROOT / "recipes/pytorch-cuda/v2.7-devel/lock.json")
    toolkit = toolkit_of(lock)
    smallimage.bring(lock, [*lock.debian, *toolkit.artifacts.values()], store)
    silent = SilentProgress()
    base = build_base(
        [(deb, store.artifact(deb.sha256)) for deb in lock.debian],
        sandbox=sandbox, store=store, progress=silent, jobs=2,
    )  # fmt: skip
    root = base_root(base, sandbox=sandbox, store=store, progress=silent)
    cuda = make_toolkit(toolkit, base_root=root, sandbox=sandbox, store=store, progress=silent, jobs=2)
    engine = Docker.connect(os.environ)
    compiler = load_layers(engine, store.layout, f"{NAME}-compiler:1", [base, cuda])
    deb = store.artifact(toolkit.artifacts["nvidia-cuda-toolkit"].sha256)
    return Bases(
        build=_with_cuobjdump(compiler, deb, folder / "devel"),
        ship=load_layers(engine, store.layout, f"{NAME}-base:1", [base]),
        micromamba=build_micromamba(folder / "micromamba", f"{NAME}-micromamba:1"),
    )


def _with_cuobjdump(compiler: str, deb: Path, folder: Path) -> str:
    """What NVIDIA's devel image has and envbuild's toolkit leaves out, of the same Debian package."""
    folder.mkdir()
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as plain:
        subprocess.run(["tar", "-x", "-C", folder, "./usr/bin/cuobjdump"], stdin=plain.stdout, check=True)
    (folder / "Dockerfile").write_text(f"FROM {compiler}\nCOPY usr/bin/cuobjdump /usr/local/cuda/bin/\n")
    docker("buildx", "build", "--quiet", "--tag", f"{NAME}-devel:1", str(folder))
    return f"{NAME}-devel:1"


def make_real_recipe(folder: Path) -> tuple[Path, Path]:
    """A copy of the recipe whose interpreter is Debian's Python in conda packages; its recipes folder and channel."""
    recipes, channel = folder / "recipes", folder / "channel"
    place = recipes / "pytorch-cuda/v2.7"
    shutil.copytree(ROOT / "recipes/pytorch-cuda/v2.7", place)
    text = (place / "recipe.toml").read_text()
    (place / "recipe.toml").write_text(re.sub(r"^makes = .*$", 'makes = ["image"]', text, flags=re.MULTILINE))
    python = condachannel.python_package()
    files = {**python.files, **_rest_of_python()}
    for package in (replace(python, files=files), *condachannel.small_packages()):
        package.write(channel)
    index_channel(channel)
    recipe = load_recipe(parse_ref(REF), [recipes])
    conda = condachannel.locked(channel, names=["python", "libsmall", "tzdata"], ref=REF)
    conda = replace(conda, recipe=recipe.conda_dict(), virtual=virtual(recipe))
    recipe.conda_lock_path.write_bytes(conda_lock_bytes(conda))
    return recipes, channel


def _rest_of_python() -> dict[str, File]:
    """What the small channel's Python leaves out and torch needs: ``unittest``, ``distutils``, the headers."""
    found = {}
    for name in ("unittest", "distutils"):
        found |= files_below(Path("/usr/lib/python3.11") / name, f"lib/python3.11/{name}")
    for (
        folder
    ) in _HEADERS:  # the second one has the real pyconfig.h, which Debian's includes by its place there
        need("python3-dev")
        found |= files_below(folder, "include/python3.11")
    return found
