"""``makes`` and ``[conda]``: what a recipe makes, and what its environment takes from conda channels."""

from __future__ import annotations

import re
from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envbuild.recipe.model import ENVIRONMENT, IMAGE, CondaPins
from envbuild.recipe.suggest import did_you_mean, listed
from envbuild.recipe.table import Table

MAKES = (IMAGE, ENVIRONMENT)
"""What a recipe may make, in canonical order."""

DEFAULT_CHANNELS = ("conda-forge",)
DEFAULT_GLIBC = "2.28"
"""What the newest conda-forge builds ask for (``__glibc >=2.28``): RHEL 8, Ubuntu 20.04, Debian 11 have it."""

_LICENSED = ("defaults", "anaconda", "main", "r", "msys2", "free", "pro", "archive")
_ENDED = ("pytorch", "pytorch-nightly", "pytorch-lts", "pytorch-test")
_CHANNEL = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*")
_SPEC = re.compile(r"(?P<name>[a-z0-9_][a-z0-9_.-]*)(?P<rest>([ =<>!~].*)?)", re.ASCII)
_GLIBC = re.compile(r"2\.(\d{2})")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.!+]*")
PINNED = {
    "python": "python.version", "pytorch": "torch.version", "pytorch-gpu": "torch.version", "libtorch": "torch.version",
    "torchvision": "torch.torchvision", "cuda-version": "cuda.version", "cudnn": "cuda.cudnn", "nccl": "cuda.nccl",
    "deepspeed": "deepspeed.version",
}  # fmt: skip
"""Conda packages whose version another table of the recipe gives, and its key."""


def makes(root: Table) -> tuple[str, ...]:
    """What the recipe makes: ``image``, ``environment`` or both, in this order.

    Raises:
        EnvbuildError: exit 3: nothing, a word that is neither, one twice.
    """
    words = root.texts("makes", default=(IMAGE,))
    if not words:
        raise root.wrong("makes", "names nothing", f'Write makes = ["{IMAGE}"], ["{ENVIRONMENT}"] or both.')
    for position, word in enumerate(words):
        if word not in MAKES:
            raise root.wrong(
                f"makes[{position}]", f'"{word}" is nothing that a recipe makes',
                f"{did_you_mean(word, MAKES)}A recipe makes {listed(MAKES)}.",
            )  # fmt: skip
        if word in words[:position]:
            raise root.wrong(f"makes[{position}]", f'"{word}" is listed twice', "Keep one of the two.")
    return tuple(word for word in MAKES if word in words)


def conda_pins(table: Table, python_packages: Iterable[str], torchvision: str | None) -> CondaPins:
    """The table ``[conda]``, checked.

    Args:
        table: its values; empty where the recipe has no such table.
        python_packages: the recipe's further Python requirements (PEP 508): what may be declared to be another
            version, or left out.
        torchvision: the pin, which likewise may be declared.

    Raises:
        EnvbuildError: exit 3, with ``file:line`` and the key.
    """
    names = {canonicalize_name(Requirement(text).name) for text in python_packages}
    pins = CondaPins(
        channels=_channels(table),
        packages=_packages(table),
        glibc=_glibc(table),
        versions=_versions(table, {*names, "cudnn", "nccl", *(["torchvision"] if torchvision else [])}),
        without=_without(table, {*names, *(["torchvision"] if torchvision else [])}),
    )
    table.finish()
    both = sorted(set(pins.versions) & set(pins.without))
    if both:
        raise table.wrong(
            "without", f'"{both[0]}" has a version in [conda.versions], too', "Keep one of the two."
        )
    return pins


def spec_name(spec: str) -> str:
    """The package's name in a MatchSpec without a channel: ``numpy`` of ``numpy >=2``."""
    match = _SPEC.fullmatch(spec)
    assert match is not None
    return match.group("name")


def _channels(table: Table) -> tuple[str, ...]:
    words = table.texts("channels", default=DEFAULT_CHANNELS)
    if not words:
        raise table.wrong("channels", "names no channel", 'Write channels = ["conda-forge"].')
    for position, word in enumerate(words):
        key = f"channels[{position}]"
        instead = 'Write channels = ["conda-forge"].'
        first = word.split("/")[0]
        if first in _LICENSED:
            raise table.wrong(
                key,
                f'"{word}" is a channel of Anaconda\'s, which needs a paid licence at larger organisations',
                instead,
            )
        if first in _ENDED:
            raise table.wrong(
                key, f'"{word}" is dead: PyTorch builds nothing for it since 2.6',
                instead,
            )  # fmt: skip
        if first == "nodefaults":
            raise table.wrong(
                key, '"nodefaults" is no channel: envbuild never uses the default channels', "Remove it."
            )
        if not _CHANNEL.fullmatch(word):
            raise table.wrong(
                key, f'"{word}" is not the name of a channel; a recipe names no hosts and no folders',
                "Write the name, and say where this machine finds it: `envbuild lock --channel NAME=URL`.",
            )  # fmt: skip
        if word in words[:position]:
            raise table.wrong(key, f'"{word}" is listed twice', "Keep one of the two.")
    return words


def _packages(table: Table) -> tuple[str, ...]:
    words = table.texts("packages", default=())
    seen: dict[str, str] = {}
    for position, word in enumerate(words):
        key = f"packages[{position}]"
        match = _SPEC.fullmatch(word)
        if "::" in word or "/" in word:
            raise table.wrong(
                key,
                f'"{word}" names a channel or an address',
                "Write the name; [conda] channels says from where.",
            )
        if not match:
            raise table.wrong(
                key, f'"{word}" is not a conda package', 'Write a MatchSpec such as "gxx" or "numpy >=2,<3".'
            )
        name = match.group("name")
        if name in PINNED:
            raise table.wrong(
                key,
                f'"{name}" is pinned by {PINNED[name]}',
                f'Remove "{word}" here and set {PINNED[name]}.',
            )
        if name in seen:
            raise table.wrong(
                key, f'"{name}" is listed twice ("{seen[name]}" before)', "Keep one of the two."
            )
        seen[name] = word
    return words


def _glibc(table: Table) -> str:
    text = table.text("glibc", default=DEFAULT_GLIBC)
    match = _GLIBC.fullmatch(text)
    if not match or int(match.group(1)) < 17:
        raise table.wrong(
            "glibc", f'"{text}" is not a version of glibc that conda-forge builds for: 2.17 or newer is wanted',
            f'Write glibc = "{DEFAULT_GLIBC}".',
        )  # fmt: skip
    return text


def _versions(table: Table, may: set[str]) -> dict[str, str]:
    inner = table.table("versions", required=False)
    if inner is None:
        return {}
    found = {}
    for key in inner.values:
        name = canonicalize_name(key)
        text = inner.text(key)
        if name not in may:
            raise inner.wrong(
                key, f'"{key}" is no pin that an environment may have otherwise',
                f"{did_you_mean(name, sorted(may))}Here may stand {listed(sorted(may))}.",
            )  # fmt: skip
        if not _VERSION.fullmatch(text):
            raise inner.wrong(key, f'"{text}" is not an exact version', 'Write a version such as "9.10.1.4".')
        found[name] = text
    return dict(sorted(found.items()))


def _without(table: Table, may: set[str]) -> tuple[str, ...]:
    found = []
    for position, word in enumerate(table.texts("without", default=())):
        name = canonicalize_name(word)
        if name not in may or name in found:
            what = "is listed twice" if name in found else "is nothing that the recipe's image has"
            raise table.wrong(
                f"without[{position}]", f'"{word}" {what}',
                f"{did_you_mean(name, sorted(may))}Here may stand {listed(sorted(may)) or 'nothing'}.",
            )  # fmt: skip
        found.append(name)
    return tuple(sorted(found))
