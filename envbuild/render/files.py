"""Render, compare, write. Rendering is a pure function of recipe and lock."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from envbuild.errors import EnvbuildError, Exit
from envbuild.image.plan import labels, parts_of, run_config
from envbuild.image.programs import image_facts, programs
from envbuild.layers.format import MTIME, SITE, VENV
from envbuild.lock.model import Artifact, Lock
from envbuild.native.verify import MODULES, expected_code
from envbuild.recipe.model import Recipe
from envbuild.recipe.parts import DEVEL
from envbuild.render.pins import Pins, pins_for
from envbuild.render.text import one_line, template_text

DEFAULT_STEM = "pytorch-cuda-v2.7"
"""The recipe whose conda environment is the repository's ``environment.yml``."""

_ALWAYS = ("ca-certificates", "g++", "gcc", "libc6-dev", "tini")
_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@")


def render(recipe: Recipe, lock: Lock) -> dict[str, str]:
    """The files of one recipe: relative path → text.

    Args:
        recipe: the recipe.
        lock: its lock, made from this recipe.

    Raises:
        EnvbuildError: exit 3; no base image is known for the recipe's CUDA.
    """
    pins = pins_for(recipe)
    stem = f"{lock.ref.name}-{lock.ref.tag}"
    context: dict[str, object] = {
        "lock": lock,
        "stem": stem,
        "description": one_line(recipe.description),
        "minor": recipe.python.version,
    }

    def text(template: str, values: Mapping[str, object]) -> str:
        return template_text(template, {**context, **values})

    folder = f"dockerfiles/{stem}"
    files = {f"{folder}.Dockerfile": text("Dockerfile.j2", _dockerfile(recipe, lock, pins))}
    for name, (what, artifacts) in _requirements(lock, pins).items():
        files[f"{folder}.{name}.txt"] = text("requirements.txt.j2", {"what": what, "artifacts": artifacts})
    if stem == DEFAULT_STEM:
        requirements = f"recipes/{lock.ref.name}/{lock.ref.tag}/requirements.txt"
        files["environment.yml"] = text("environment.yml.j2", {"requirements": requirements})
    return files


def check(recipe: Recipe, lock: Lock, folder: Path) -> list[str]:
    """Where the files under ``folder`` differ from what recipe and lock give: unified diffs, empty if nowhere.

    Each hunk starts with ``file:line``. A missing file counts as empty.
    """
    differences: list[str] = []
    for name, expected in render(recipe, lock).items():
        path = folder / name
        seen = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
        differences += _diff(name, seen, expected)
    return differences


def write(recipe: Recipe, lock: Lock, folder: Path) -> list[str]:
    """Write the files that differ; returns their relative paths.

    Raises:
        EnvbuildError: exit 2; the folder cannot be written to.
    """
    changed: list[str] = []
    for name, text in render(recipe, lock).items():
        path = folder / name
        if path.is_file() and path.read_bytes() == text.encode():
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        except OSError as error:
            raise EnvbuildError(
                "cannot-write",
                f"{path} cannot be written: {error.strerror}",
                hint="run the command where the repository is yours to write",
                exit=Exit.USAGE,
            ) from error
        changed.append(name)
    return changed


def _dockerfile(recipe: Recipe, lock: Lock, pins: Pins) -> dict[str, object]:
    deepspeed = recipe.deepspeed
    cubins, ptx = expected_code(deepspeed.architectures if deepspeed else ())
    devel = DEVEL in parts_of(lock)
    name, _, digest = (pins.base.devel if devel else pins.base.final).partition("@")
    return {
        "base": pins.base,
        "python": pins.python,
        "cuda": recipe.cuda.version,
        "deepspeed": deepspeed,
        "modules": [MODULES[operator] for operator in (deepspeed.operators if deepspeed else ())],
        "cubins": cubins,
        "ptx": ptx,
        "epoch": MTIME,
        "venv": f"/{VENV}",
        "site": f"/{SITE}",
        "ca": "/etc/ssl/certs/ca-certificates.crt",
        "packages": sorted({*_ALWAYS, *recipe.debian_packages}),
        "run": run_config(lock),
        "devel": devel,
        "programs": _programs(lock),
        "labels": {
            **labels(lock),
            "org.opencontainers.image.base.name": name,
            "org.opencontainers.image.base.digest": digest,
        },
    }


def _programs(lock: Lock) -> list[str]:
    """The names of envbuild's own programs in the image that it builds itself."""
    folder = "usr/local/bin/"
    files = programs(parts_of(lock), image_facts(lock))
    return sorted(file.path.removeprefix(folder) for file in files if file.path.startswith(folder))


def _requirements(lock: Lock, pins: Pins) -> dict[str, tuple[str, tuple[Artifact, ...]]]:
    """The hashed requirement files beside the Dockerfile: suffix → what it is, and its packages by name."""
    uv = Artifact(
        kind="wheel",
        name="uv",
        version=pins.uv_version,
        file="",
        size=0,
        sha256=pins.uv_sha256,
        index="python",
    )
    build = (uv, *(lock.native.build if lock.native else ()))
    files = {
        "requirements": ("The image's packages.", _sorted(lock.python)),
        "build": ("What builds the image and is not in it.", _sorted(build)),
    }
    if lock.native is not None:
        files["deepspeed"] = ("DeepSpeed's source, compiled in the image's build.", (lock.native.source,))
    return files


def _sorted(artifacts: Iterable[Artifact]) -> tuple[Artifact, ...]:
    return tuple(sorted(artifacts, key=lambda artifact: artifact.name))


def _diff(name: str, seen: str, expected: str) -> list[str]:
    lines = list(
        difflib.unified_diff(
            seen.splitlines(),
            expected.splitlines(),
            f"{name} (there)",
            f"{name} (rendered)",
            lineterm="",
            n=1,
        )
    )
    if not lines and seen != expected:
        return [f"{name}:1: line ends differ"]
    marked: list[str] = []
    for line in lines:
        hunk = _HUNK.match(line)
        if hunk:
            marked.append(f"{name}:{hunk.group(1)}:")
        marked.append(line)
    return marked
