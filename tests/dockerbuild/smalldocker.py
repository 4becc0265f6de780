"""A small recipe with its locks on small stand-in bases: what `envbuild image --builder docker` needs to run."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import condachannel
import smallimage
from clirun import Cli, Done
from dockerstandin import Bases, add_debs, build_micromamba, empty_deb, load_layers

from envbuild.engine.docker import Docker
from envbuild.lock import Lock, conda_lock_bytes, lock_bytes, read_lock
from envbuild.lock.conda.specs import virtual
from envbuild.lock.model import Artifact
from envbuild.recipe import load_recipe, parse_ref
from envbuild.render.dockerfile import build_packages
from envbuild.render.pins import pins_for

NAME = "envbuild-test-small"
REF = f"{NAME}:v1"
CANDIDATE = f"{REF}-nvidia-candidate"
SECRET = "hunter2-in-a-secret"
PROXY = f"http://user:{SECRET}@127.0.0.1:9"
TORCH = """

class version:
    cuda = "12.6"
"""
_NEEDED = ("passwd", "libsemanage2", "libsemanage-common", "libsepol2")
_STOOD_IN = ("binutils", "g++", "gcc", "libc6-dev")


@dataclass(frozen=True)
class Small:
    """A recipe with its locks, a store with its wheels, local bases, and the command line."""

    cli: Cli
    recipes: Path
    store: Path
    bases: Bases

    def arguments(self, *more: str) -> list[str]:
        return [
            "image",
            REF,
            "--builder",
            "docker",
            "--base",
            "nvidia",
            *self.bases.options(),
            *self.places,
            *more,
        ]

    @property
    def places(self) -> list[str]:
        return ["--recipes", str(self.recipes), "--store", str(self.store)]

    @property
    def secret(self) -> Path:
        """Certificate authorities with something in them that must not get out."""
        path = self.cli.folder / "ca.pem"
        if not path.exists():
            path.write_text(f"# {SECRET}\n" + Path("/etc/ssl/certs/ca-certificates.crt").read_text())
        return path

    def build(self, *more: str) -> Done:
        """Without a network, with a proxy and a bundle whose content is a secret."""
        environ = {"SSL_CERT_FILE": str(self.secret), "https_proxy": PROXY}
        return self.cli(*self.arguments("--network", "none", "--json", *more), env=environ)


@dataclass(frozen=True)
class Built:
    """What the first build printed."""

    small: Small
    value: dict[str, Any]
    progress: str


def make_bases(world: smallimage.SmallWorld, folder: Path) -> Bases:
    """The base layer of the small image with a few packages more: real ones, and empty ones in place of compilers."""
    lock = read_lock(smallimage.COMMITTED)
    wanted = [deb for deb in lock.debian if deb.name in _NEEDED]
    smallimage.bring(lock, wanted, world.store)
    debs = []
    for deb in wanted:
        debs.append(folder / deb.basename)
        shutil.copyfile(world.store.artifact(deb.sha256), debs[-1])
    debs += [empty_deb(folder / "empty", name) for name in _STOOD_IN]
    engine = Docker.connect(os.environ)
    bare = load_layers(engine, world.store.layout, f"{NAME}-bare:1", world.built.image.layers[:1])
    base = add_debs(bare, f"{NAME}-base:1", debs, folder / "base")
    return Bases(
        build=base, ship=base, micromamba=build_micromamba(folder / "micromamba", f"{NAME}-micromamba:1")
    )


def make_small(world: smallimage.SmallWorld, bases: Bases, folder: Path) -> Small:
    """The recipe ``envbuild-test-small:v1``, locked; its wheels are in the world's store, its channel is a folder."""
    recipes = folder / "recipes"
    place = recipes / NAME / "v1"
    place.mkdir(parents=True)
    (place / "recipe.toml").write_text(smallimage.RECIPE)
    recipe = load_recipe(parse_ref(REF), [recipes])
    lock = _lock(world, recipes)
    recipe.lock_path.write_bytes(lock_bytes(lock))
    smallimage.bring(lock, build_packages(lock, pins_for(recipe)), world.store)
    channel = condachannel.make_channel(folder / "channel")
    conda = condachannel.locked(channel, names=["python", "libsmall", "tzdata"], ref=REF)
    conda = replace(conda, recipe=recipe.conda_dict(), virtual=virtual(recipe))
    recipe.conda_lock_path.write_bytes(conda_lock_bytes(conda))
    home = folder / "home"
    home.mkdir()
    env = {
        **{key: value for key, value in os.environ.items() if key.startswith(("PATH", "LANG", "DOCKER_"))},
        "HOME": str(home),
        "ENVBUILD_CONDA_CHANNELS": f"{condachannel.CHANNEL}={channel}",
    }
    return Small(cli=Cli(folder=folder, env=env), recipes=recipes, store=world.store.root, bases=bases)


def _lock(world: smallimage.SmallWorld, recipes: Path) -> Lock:
    recipe = load_recipe(parse_ref(REF), [recipes])
    wheels: list[Artifact] = [
        smallimage.wheel_artifact(name, version, TORCH if name == "torch" else "", store=world.store)
        for name, version in smallimage.WHEELS.items()
    ]
    python = tuple(sorted(wheels, key=lambda item: item.name))
    return replace(world.lock, ref=recipe.ref, recipe=recipe.to_dict(), python=python, image=None)


def first_build(small: Small) -> Built:
    done = small.build("--no-cache")
    assert done.code == 0, done
    return Built(small=small, value=json.loads(done.out), progress=done.err)
