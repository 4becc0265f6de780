"""The Dockerfile of an image recipe on NVIDIA's base images, and the lists of files beside it.

Everything that a build downloads stands, with its hash, in the lists: what builds, what is installed, DeepSpeed's
source, the interpreter's conda packages.
"""

from __future__ import annotations

from collections.abc import Iterable

from envbuild.errors import EnvbuildError, Exit
from envbuild.image.plan import labels, parts_of, run_config
from envbuild.image.programs import image_facts, programs
from envbuild.layers.format import MTIME, SITE, VENV
from envbuild.lock import Artifact, CondaLock, CondaPackage, Lock
from envbuild.native.verify import MODULES, expected_code
from envbuild.recipe import Recipe
from envbuild.recipe.parts import DEVEL
from envbuild.render.conda import explicit_urls
from envbuild.render.pins import Pins, pins_for
from envbuild.render.text import one_line, template_text

FOLDER = "dockerfiles"

_SHIPPED = ("ca-certificates", "g++", "gcc", "libc6-dev", "tini")
"""Debian's names of what every image has besides the recipe's own packages."""

_BUILDING = ("binutils", "ca-certificates", "g++", "gcc", "libc6-dev")
"""What the first stage needs besides CUDA's compiler; NVIDIA's devel images have all of it."""

_SSH_AS_USER = "2222/tcp"
"""Where envbuild-sshd listens as an ordinary user."""

_DRIVER = "/usr/local/nvidia/lib"
"""Where NVIDIA's images have the loader look for the driver's libraries; there, and in the same with 64 at its end."""


def docker_files(recipe: Recipe, lock: Lock, conda: CondaLock) -> dict[str, str]:
    """The Dockerfile and what lies beside it: relative path → text.

    Args:
        recipe: a recipe that makes an image.
        lock: its lock, made from this recipe.
        conda: its conda lock, for the interpreter.

    Raises:
        EnvbuildError: exit 3; no base image is known for the recipe's CUDA, or the conda lock has no Python.
    """
    pins = pins_for(recipe)
    stem = f"{lock.ref.name}-{lock.ref.tag}"
    common: dict[str, object] = {"lock": lock, "stem": stem, "description": one_line(recipe.description)}
    files = {"Dockerfile": _dockerfile(recipe, lock, conda, pins, common)}
    for name, (what, artifacts) in _requirements(lock, pins).items():
        values = {**common, "what": what, "artifacts": artifacts}
        files[f"{name}.txt"] = template_text("requirements.txt.j2", values)
    urls = explicit_urls(conda, conda.interpreter(), "sha256")
    files["conda.txt"] = template_text("dockerfile/conda.txt.j2", {**common, "urls": urls})
    return {f"{FOLDER}/{stem}.{name}": text for name, text in files.items()}


def build_packages(lock: Lock, pins: Pins) -> tuple[Artifact, ...]:
    """What builds the image and is not in it, by name: pip, and what DeepSpeed's setup.py imports.

    The pip is the image's own where it has one, so that it is fetched once.
    """
    pip = next((item for item in lock.python if item.name == "pip"), pins.pip)
    return _sorted((pip, *(lock.native.build if lock.native else ())))


def _dockerfile(recipe: Recipe, lock: Lock, conda: CondaLock, pins: Pins, common: dict[str, object]) -> str:
    devel = DEVEL in parts_of(lock)
    pip = next(item for item in build_packages(lock, pins) if item.name == "pip")
    values = {
        **common,
        "minor": recipe.python.version,
        "python": f"Python {_python(recipe, conda).version}",
        "conda_packages": conda.interpreter(),
        "channels": [channel.name for channel in conda.channels],
        "channel_url": _channel_url(conda),
        "base": pins.base,
        "ships_on": pins.base.devel if devel else pins.base.final,
        "micromamba": pins.micromamba,
        "pip": pip,
        "build_packages": sorted(_BUILDING),
        "packages": sorted({*_SHIPPED, *recipe.debian_packages}),
        "parts": parts_of(lock),
        "programs": _programs(lock),
        "ca": "/etc/ssl/certs/ca-certificates.crt",
        "epoch": MTIME,
        "venv": f"/{VENV}",
        "site": f"/{SITE}",
        "cuda": recipe.cuda.version,
        "driver": _DRIVER,
        **_operators(recipe, lock),
        **_run(lock, pins.base.devel if devel else pins.base.final),
    }
    return template_text("devel.Dockerfile.j2" if devel else "runtime.Dockerfile.j2", values)


def _python(recipe: Recipe, conda: CondaLock) -> CondaPackage:
    """The interpreter, which must be the recipe's minor version.

    Raises:
        EnvbuildError: exit 3; it is not there or is another.
    """
    found = next((package for package in conda.packages if package.name == "python"), None)
    if found is None or found.version.split(".")[:2] != recipe.python.version.split("."):
        raise EnvbuildError(
            "no-interpreter",
            f"the conda lock has {f'Python {found.version}' if found else 'no Python'}, and {recipe.ref} asks for "
            f"Python {recipe.python.version}",
            where=str(recipe.conda_lock_path),
            hint=f"run `envbuild lock {recipe.ref} --only conda`",
            exit=Exit.INPUT,
        )
    return found


def _operators(recipe: Recipe, lock: Lock) -> dict[str, object]:
    """DeepSpeed's operators, and the GPU code that must be found in each."""
    deepspeed = recipe.deepspeed
    cubins, ptx = expected_code(deepspeed.architectures if deepspeed else ())
    return {
        "deepspeed": deepspeed,
        "sdist": lock.native.source if lock.native else None,
        "modules": [MODULES[operator] for operator in (deepspeed.operators if deepspeed else ())],
        "cubins": cubins,
        "ptx": ptx,
    }


def _run(lock: Lock, base: str) -> dict[str, object]:
    """How containers start: as those of the image that envbuild builds itself, but as an ordinary user."""
    run = run_config(lock)
    name, _, digest = base.partition("@")
    return {
        "run": run,
        "ports": sorted(
            {*run.exposed_ports, *([_SSH_AS_USER] if "22/tcp" in run.exposed_ports else [])}, key=_port
        ),
        "labels": {
            **labels(lock),
            "org.opencontainers.image.base.name": name,
            "org.opencontainers.image.base.digest": digest,
        },
    }


def _port(port: str) -> int:
    return int(port.partition("/")[0])


def _channel_url(conda: CondaLock) -> str:
    """The address of the channel that the interpreter's packages are of, without a slash at its end."""
    name = conda.package("python").channel
    return next(channel.url for channel in conda.channels if channel.name == name).rstrip("/")


def _programs(lock: Lock) -> list[str]:
    """The names of envbuild's own programs in the image that it builds itself."""
    folder = "usr/local/bin/"
    files = programs(parts_of(lock), image_facts(lock))
    return sorted(file.path.removeprefix(folder) for file in files if file.path.startswith(folder))


def _requirements(lock: Lock, pins: Pins) -> dict[str, tuple[str, tuple[Artifact, ...]]]:
    """The hashed requirement files beside the Dockerfile: name → what it is, and its packages by name."""
    files = {
        "requirements": ("The image's packages.", _sorted(lock.python)),
        "build": ("What builds the image and is not in it.", build_packages(lock, pins)),
    }
    if lock.native is not None:
        files["deepspeed"] = ("DeepSpeed's source, compiled in the image's build.", (lock.native.source,))
    return files


def _sorted(artifacts: Iterable[Artifact]) -> tuple[Artifact, ...]:
    return tuple(sorted(artifacts, key=lambda artifact: artifact.name))
