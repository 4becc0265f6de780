"""Settings, resolved once: flags > environment (``ENVBUILD_*``) > config file > default."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path, user_config_path

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import read_regular
from envbuild.oci.document import bounded

_LIMIT = 1 << 20
_ENGINES = ("docker", "oci", "sandbox")
_KEYS = {
    "store": "ENVBUILD_STORE",
    "recipes": "ENVBUILD_RECIPES",
    "jobs": "ENVBUILD_JOBS",
    "engine": "ENVBUILD_ENGINE",
    "python-index": "ENVBUILD_PYTHON_INDEX",
    "debian-mirror": "ENVBUILD_DEBIAN_MIRROR",
    "debian-security-mirror": "ENVBUILD_DEBIAN_SECURITY_MIRROR",
    "debian-keyring": "ENVBUILD_DEBIAN_KEYRING",
    "artifact-mirror": "ENVBUILD_ARTIFACT_MIRROR",
    "conda-channels": "ENVBUILD_CONDA_CHANNELS",
    "signing-key-file": "ENVBUILD_SIGNING_KEY_FILE",
    "trusted-keys": "ENVBUILD_TRUSTED_KEYS",
    "registry": "ENVBUILD_REGISTRY",
    "layer-cache": "ENVBUILD_LAYER_CACHE",
    "plain-http": "ENVBUILD_PLAIN_HTTP",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a command needs to know of the machine and of its flags.

    ``environ`` is the process environment with the config file's values filled in under their ``ENVBUILD_*``
    names, so that code below asks one mapping.
    """

    store: Path
    recipes: tuple[Path, ...]
    json: bool
    quiet: bool
    jobs: int
    engine: str | None
    environ: Mapping[str, str]


def resolve(
    environ: Mapping[str, str],
    *,
    store: Path | None = None,
    recipes: tuple[Path, ...] = (),
    json: bool = False,
    quiet: bool = False,
    jobs: int | None = None,
    engine: str | None = None,
) -> Settings:
    """Merge flags, environment and config file.

    The config file is ``ENVBUILD_CONFIG`` or ``envbuild/config.toml`` in the user's config folder.

    Raises:
        EnvbuildError: exit 2 for an unknown key or a value that is no value.
    """
    merged = {**_config(environ), **environ}
    if jobs is None:
        jobs = _jobs(merged.get("ENVBUILD_JOBS"))
    return Settings(
        store=store or Path(merged.get("ENVBUILD_STORE") or user_cache_path("envbuild")).expanduser(),
        recipes=recipes or _recipe_folders(merged.get("ENVBUILD_RECIPES")),
        json=json,
        quiet=quiet,
        jobs=jobs,
        engine=engine or _engine(merged.get("ENVBUILD_ENGINE")),
        environ=merged,
    )


def _engine(text: str | None) -> str | None:
    if text and text not in _ENGINES:
        raise EnvbuildError(
            "bad-setting",
            f"ENVBUILD_ENGINE is {text!r}",
            hint=f"give one of {', '.join(_ENGINES)}, or unset it for the first that works",
            exit=Exit.USAGE,
        )
    return text or None


def _jobs(text: str | None) -> int:
    if not text:
        return len(os.sched_getaffinity(0))
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) < 1:
        raise EnvbuildError(
            "bad-setting",
            f"ENVBUILD_JOBS is {text!r}",
            hint="give a whole number from 1",
            exit=Exit.USAGE,
        )
    return int(text)


def _recipe_folders(text: str | None) -> tuple[Path, ...]:
    """The folders that are searched for recipes, first match wins: given ones, ``./recipes``, the package's."""
    if text:
        return tuple(Path(part).expanduser() for part in text.split(os.pathsep) if part)
    package = Path(__file__).resolve().parents[1]
    places = (Path("recipes"), package / "_recipes", package.parent / "recipes")
    found = [place for place in places if place.is_dir()]
    return tuple(dict.fromkeys(place.resolve() for place in found))


def _config(environ: Mapping[str, str]) -> dict[str, str]:
    given = environ.get("ENVBUILD_CONFIG")
    path = Path(given) if given else user_config_path("envbuild") / "config.toml"
    try:
        with bounded():
            raw = tomllib.loads(read_regular(path, _LIMIT).decode("utf-8"))
    except FileNotFoundError:
        if given:
            raise EnvbuildError(
                "no-config",
                f"ENVBUILD_CONFIG names a file that does not exist: {path}",
                hint="create it or unset ENVBUILD_CONFIG",
                exit=Exit.USAGE,
            ) from None
        return {}
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError among them
        raise EnvbuildError(
            "bad-config", str(error), where=str(path), hint="correct the file", exit=Exit.USAGE
        ) from None
    values: dict[str, str] = {}
    for key, value in raw.items():
        if key not in _KEYS:
            raise EnvbuildError(
                "bad-config",
                f"unknown key {key!r}",
                where=str(path),
                hint="known keys: " + ", ".join(_KEYS),
                exit=Exit.USAGE,
            )
        separator = "," if key == "plain-http" else os.pathsep  # hosts have colons
        try:
            text = separator.join(map(str, value)) if isinstance(value, list) else str(value)
        except ValueError:  # a number of very many digits
            text = "\0"
        if "\0" in text:
            raise EnvbuildError(
                "bad-config",
                f"{key} is not a usable value: it has a NUL, or is too long a number",
                where=str(path),
                hint=f'write {key} = "…"',
                exit=Exit.USAGE,
            )
        values[_KEYS[key]] = text
    return values
