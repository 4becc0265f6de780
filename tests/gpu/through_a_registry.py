"""The two-machine pipeline on a machine with GPUs and no network, where the image came in by a bundle.

A registry of the tests' own, in this process, gets what a publisher without GPUs leaves there: manifest, config and
proofs, by digest. Layers are not in it: the store has them unpacked, and `envbuild smoke` fetches none that it has.
Then the real commands: smoke --attach on the GPUs, promote, and verify.

    python tests/gpu/through_a_registry.py NAME:TAG [--engine oci|sandbox] [--gpus N]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from modern_registry import ModernRegistry

from envbuild.gate import SigningKey
from envbuild.image.locked import image_of
from envbuild.lock import read_lock
from envbuild.oci.descriptor import MANIFEST
from envbuild.progress import SilentProgress
from envbuild.publish.making import make_proofs
from envbuild.publish.proofs import attach_proofs
from envbuild.publish.views import in_memory
from envbuild.recipe import load_recipe, parse_ref
from envbuild.registry.reference import parse_repository
from envbuild.registry.remote import Remote, push_all
from envbuild.store import Http

PUBLISHER = SigningKey(seed=b"\x01" * 32, where="a publisher without GPUs")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("ref")
    parser.add_argument("--engine", default="oci")
    parser.add_argument("--gpus", default="2")
    parser.add_argument("--out", type=Path, default=Path())
    asked = parser.parse_args()
    registry = ModernRegistry()
    repository = parse_repository(f"{registry.host}/team/{asked.ref.partition(':')[0]}")
    recipe = load_recipe(parse_ref(asked.ref), [Path("recipes")])
    lock = read_lock(recipe.lock_path)
    image = image_of(lock)
    assert image is not None
    remote = Remote(repository, http=Http(environ={}), environ={})
    silent = SilentProgress()
    config = in_memory(image.config_bytes, image.config.media_type, image.config.digest, "config")
    push_all(remote, [config], jobs=1, progress=silent)
    manifest = remote.put_manifest(image.manifest_bytes, MANIFEST)
    proofs = make_proofs(lock, image, repository=repository, key=PUBLISHER, verdict=None, moved_from=None)
    attach_proofs(remote, manifest, proofs, silent)
    key = asked.out / "publisher.pem"
    key.write_text(PUBLISHER.public.pem)
    pinned = f"{repository}@{image.digest}"
    envbuild("smoke", pinned, "--attach", "--engine", asked.engine, "--gpus", asked.gpus)
    envbuild("promote", pinned, "--key", str(key))
    # The layers are not in this registry, so that is the one thing that verify must find wanting.
    envbuild("verify", f"{repository}:{recipe.ref.tag}", "--key", str(key), expected=5)
    print("tags:", remote.tags())
    registry.close()


def envbuild(*arguments: str, expected: int = 0) -> None:
    print("$ envbuild", *arguments, flush=True)
    done = subprocess.run([sys.executable, "-P", "-m", "envbuild", *arguments], env=os.environ, check=False)
    print(f"exit {done.returncode}", flush=True)
    if done.returncode != expected:
        sys.exit(f"expected {expected}")


if __name__ == "__main__":
    main()
