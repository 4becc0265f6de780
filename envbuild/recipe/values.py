"""What the values of a recipe may be. Each check raises one error that names the file, the line and the cure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from envbuild.recipe.suggest import did_you_mean, listed, nearest, nearest_versions
from envbuild.recipe.table import Table

PYTHON_OF_RELEASE = {"bookworm": "3.11"}
"""Debian releases that envbuild builds a base from, and the Python in each."""

COMPILED_OPERATORS = ("fused_adam",)
"""DeepSpeed operators that envbuild compiles into the image."""

_OTHER_OPERATORS = (
    "async_io", "cpu_adagrad", "cpu_lion", "evoformer_attn", "fp_quantizer", "fused_lamb", "fused_lion", "gds",
    "inference_core_ops", "inference_cutlass_ops", "quantizer", "ragged_device_ops", "ragged_ops", "random_ltd",
    "spatial_inference", "transformer", "transformer_inference", "utils",
)  # fmt: skip

_ARCHITECTURES = (
    "5.0", "5.2", "6.0", "6.1", "7.0", "7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1",
)  # fmt: skip
_FIRST_OF_CUDA = {12: "5.0", 13: "7.5"}
_LAST_OF_CUDA = {12: "9.0", 13: "12.1"}
_KNOWN_CUDA = ("12.6", "12.8", "13.0", "13.2")

_PINNED = {
    "torch": "torch.version", "torchvision": "torch.torchvision", "deepspeed": "deepspeed.version",
    "nvidia-cuda-runtime": "cuda.version", "cuda-toolkit": "cuda.version",
    "nvidia-cudnn": "cuda.cudnn", "nvidia-nccl": "cuda.nccl",
}  # fmt: skip

_ARCHITECTURE = re.compile(r"(\d+\.\d)(\+PTX)?")
_DEBIAN_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")


def description(table: Table) -> str:
    """One line of text: it becomes the image's title."""
    text = table.text("description")
    if not text.strip() or not text.isprintable():
        raise table.wrong(
            "description", "must be one line of text", "Write one line that says what the image is."
        )
    return text


def exact_version(table: Table, key: str, text: str) -> str:
    """A public version (PEP 440) without operators: ``2.7.1``."""
    try:
        version = Version(text)
    except InvalidVersion:
        digits = re.search(r"\d+(\.\d+)*((a|b|rc|\.post|\.dev)\d+)?", text)
        cure = f'Write {key} = "{digits.group()}".' if digits else "Write a version such as 2.7.1."
        raise table.wrong(key, f'"{text}" is not an exact version (PEP 440)', cure) from None
    if version.local:
        cure = f'Write {key} = "{version.public}"; [cuda] says which CUDA it is built for.'
        raise table.wrong(
            key, f'"{text}" has a local part (+{version.local}), which indexes do not offer', cure
        )
    return text


def cuda_version(table: Table) -> str:
    """``major.minor`` of CUDA 12 or 13."""
    text = table.text("version")
    if not re.fullmatch(r"\d+\.\d+", text):
        parts = re.findall(r"\d+", text)
        cure = (
            f'Write version = "{".".join(parts[:2])}".'
            if len(parts) >= 2
            else f"Write one of {listed(_KNOWN_CUDA)}."
        )
        raise table.wrong("version", f'"{text}" is not a CUDA version: major.minor is wanted', cure)
    if int(text.split(".")[0]) not in _FIRST_OF_CUDA:
        offer = listed(sorted(nearest_versions(text, _KNOWN_CUDA, limit=2)))
        raise table.wrong(
            "version", f'CUDA "{text}" is not known here', f"envbuild builds for CUDA 12 and 13: try {offer}."
        )
    return text


def python_version(table: Table, release: str | None) -> str:
    """The Python that the Debian release has: the image uses the distribution's.

    Without a release (nothing but an environment is made) any ``3.N``: the channel decides.
    """
    text = table.text("version")
    if release is None:
        if not re.fullmatch(r"3\.\d+", text):
            raise table.wrong(
                "version", f'"{text}" is not a Python: 3.N is wanted', 'Write version = "3.11".'
            )
        return text
    wanted = PYTHON_OF_RELEASE[release]
    if text != wanted:
        raise table.wrong(
            "version", f'Python "{text}" does not exist in Debian {release}, whose Python is {wanted}',
            f'Write version = "{wanted}".',
        )  # fmt: skip
    return text


def python_packages(table: Table) -> tuple[str, ...]:
    """PEP 508 requirements, none of which is pinned by another table and none by URL."""
    seen: dict[str, str] = {}
    packages = table.texts("packages", default=())
    for position, text in enumerate(packages):
        key = f"packages[{position}]"
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            reason = str(error).splitlines()[0]
            cure = 'Write a requirement such as "numpy>=2" or "rich[jupyter]==14.0.0".'
            raise table.wrong(key, f'"{text}" is not a requirement (PEP 508): {reason}', cure) from None
        if requirement.url:
            cure = f'Write "{requirement.name}==VERSION" and put the file on an index of your own.'
            raise table.wrong(key, f'"{text}" names a URL; a lock names no hosts', cure)
        name = canonicalize_name(requirement.name)
        pinned = _PINNED.get(re.sub(r"-cu\d+$", "", name))
        if pinned:
            raise table.wrong(
                key, f'"{name}" is pinned by {pinned}', f'Remove "{text}" here and set {pinned}.'
            )
        if name in seen:
            raise table.wrong(
                key, f'"{name}" is listed twice ("{seen[name]}" before)', "Keep one of the two."
            )
        seen[name] = text
    return packages


def operators(table: Table, *, default: tuple[str, ...]) -> tuple[str, ...]:
    """Which DeepSpeed operators to compile."""
    words = table.texts("operators", default=default)
    _unique(table, "operators", words)
    for position, word in enumerate(words):
        key = f"operators[{position}]"
        if word in COMPILED_OPERATORS:
            continue
        if word == "cpu_adam":
            raise table.wrong(
                key, '"cpu_adam" cannot be shipped compiled: DeepSpeed compiles it with -march=native for the machine '
                "that builds, with no override, and another CPU stops it with an illegal instruction",
                "Remove it; DeepSpeed compiles it when it is first used (the image has gcc).",
            )  # fmt: skip
        if word in _OTHER_OPERATORS:
            raise table.wrong(
                key, f'"{word}" is an operator of DeepSpeed that envbuild does not compile',
                f"Keep only {listed(COMPILED_OPERATORS)}; DeepSpeed compiles others when they are first used.",
            )  # fmt: skip
        hint = f"{did_you_mean(word, COMPILED_OPERATORS)}envbuild compiles {listed(COMPILED_OPERATORS)}."
        raise table.wrong(key, f'"{word}" is not an operator of DeepSpeed', hint)
    return words


def architectures(table: Table, cuda_major: int, *, required: bool) -> tuple[str, ...]:
    """GPU architectures in TORCH_CUDA_ARCH_LIST's words that CUDA's compiler takes."""
    words = table.texts("architectures", default=None if required else ())
    if not words and (required or "architectures" in table.values):
        raise table.wrong(
            "architectures", "names no GPU architecture", 'Write for example ["8.0", "9.0+PTX"].'
        )
    _unique(table, "architectures", words)
    for position, word in enumerate(words):
        key = f"architectures[{position}]"
        match = _ARCHITECTURE.fullmatch(word)
        if not match:
            spelt = _architecture_spelling(word)
            hint = f'Did you mean "{spelt}"? ' if spelt else ""
            raise table.wrong(
                key, f'"{word}" is not a GPU architecture', f"{hint}Write N.M or N.M+PTX, as in 9.0+PTX."
            )
        number, ptx = match.group(1), match.group(2) or ""
        first, last = _FIRST_OF_CUDA[cuda_major], _LAST_OF_CUDA[cuda_major]
        if number not in _ARCHITECTURES:
            offer = listed(
                item + ptx for item in sorted(nearest_versions(number, _ARCHITECTURES, limit=2), key=Version)
            )
            raise table.wrong(key, f'"{word}" is no GPU architecture that CUDA has', f"Nearest: {offer}.")
        if Version(number) < Version(first):
            raise table.wrong(
                key, f'"{word}" is too old for CUDA {cuda_major}, whose compiler starts at {first}',
                f'Remove it, or write "{first}"; CUDA 12 still compiles for {number}.',
            )  # fmt: skip
        if Version(number) > Version(last):
            raise table.wrong(
                key, f'"{word}" is too new for the CUDA {cuda_major} compiler in use, which ends at {last}',
                f'Write "{last}+PTX", which newer GPUs compile when they load it, or pin a CUDA 13.',
            )  # fmt: skip
    return words


def release(table: Table) -> str:
    """A Debian release by its code name."""
    word = table.text("release", default="bookworm")
    if word not in PYTHON_OF_RELEASE:
        hint = f"{did_you_mean(word, PYTHON_OF_RELEASE)}envbuild builds from {listed(PYTHON_OF_RELEASE)}."
        raise table.wrong("release", f'"{word}" is not a Debian release that envbuild builds from', hint)
    return word


def debian_packages(table: Table) -> tuple[str, ...]:
    """Debian package names (Debian policy 5.6.1), without versions."""
    words = table.texts("packages", default=())
    _unique(table, "packages", words)
    for position, word in enumerate(words):
        if not _DEBIAN_NAME.fullmatch(word):
            name = re.match(r"[a-z0-9][a-z0-9+.-]+", word.strip().lower())
            hint = f'Write "{name.group()}": ' if name else ""
            raise table.wrong(
                f"packages[{position}]", f'"{word}" is not a Debian package name',
                f"{hint}a name only; the release decides the version.",
            )  # fmt: skip
    return words


def _unique(table: Table, key: str, words: Iterable[str]) -> None:
    seen = set()
    for position, word in enumerate(words):
        if word in seen:
            raise table.wrong(f"{key}[{position}]", f'"{word}" is listed twice', "Keep one of the two.")
        seen.add(word)


def _architecture_spelling(word: str) -> str | None:
    ptx = "+PTX" if "ptx" in word.lower() else ""
    digits = re.search(r"(\d+)[._]?(\d)", word)
    if digits and f"{int(digits.group(1))}.{digits.group(2)}" in _ARCHITECTURES:
        return f"{int(digits.group(1))}.{digits.group(2)}{ptx}"
    found = nearest(word, _ARCHITECTURES)
    return found[0] + ptx if found else None
