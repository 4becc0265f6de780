"""What the rendered Dockerfile of a recipe pins, read from the committed files and from nothing else.

Nothing here knows how they are rendered: a wrong value in one of them is seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from envbuild.difference.inventory import Fact, Inventory, Package
from envbuild.errors import EnvbuildError, Exit
from envbuild.recipe.model import Ref

_HASH = re.compile(r"\s+--hash=sha256:([0-9a-f]{64})\b")
_EXPLICIT = re.compile(
    r"(?P<url>\S+/)(?P<name>[^/#\s]+)-(?P<version>[^-/#\s]+)-(?P<build>[^-/#\s]+)"
    r"\.(?:conda|tar\.bz2)(?:#(?:sha256:)?(?P<hash>[0-9a-f]+))?"
)
_BASE = re.compile(r"\bnvidia/cuda:(\d+\.\d+)(?:\.\d+)?-[a-z0-9.-]+")
_ARCHITECTURES = re.compile(r"\bTORCH_CUDA_ARCH_LIST=(?:\"([^\"]*)\"|'([^']*)'|(\S+))")
_OPERATOR = re.compile(r"\bDS_BUILD_([A-Z0-9_]+)=1\b")
_NO_OPERATOR = frozenset({"OPS"})


def of_dockerfile(label: str, ref: Ref, folder: Path) -> Inventory:
    """What ``dockerfiles/<name>-<tag>.*`` below ``folder`` pins.

    Raises:
        EnvbuildError: exit 3: a file is not there or cannot be understood (``no-rendered-file``,
            ``rendered-file-broken``).
    """
    stem = folder / "dockerfiles" / f"{ref.name}-{ref.tag}"
    dockerfile = _read(stem, ".Dockerfile", ref)
    packages = list(_requirements(stem, ".requirements.txt", ref))
    if _beside(stem, ".deepspeed.txt").is_file():
        packages += _requirements(stem, ".deepspeed.txt", ref)
    packages += _explicit(stem, ".conda.txt", ref)
    return Inventory(
        label=label,
        form="Dockerfile",
        ref=str(ref),
        packages=tuple(packages),
        facts=_facts(dockerfile, _beside(stem, ".Dockerfile").name),
    )


def _facts(text: str, name: str) -> dict[str, tuple[Fact, ...]]:
    """The CUDA of each base image that is named, the operators that are built, and for which architectures."""
    bases, architectures, operators = [], [], []
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{name}:{number}"
        if line.lstrip().startswith("#"):
            continue
        bases += [Fact(value=m[1], source=f"{where} {m[0]}") for m in _BASE.finditer(line)]
        for match in _ARCHITECTURES.finditer(line):
            words = next(group for group in match.groups() if group is not None)
            architectures.append(Fact(value=" ".join(re.split(r"[;\s]+", words.strip())), source=where))
        operators += [m[1].lower() for m in _OPERATOR.finditer(line) if m[1] not in _NO_OPERATOR]
    found = {"cuda": tuple(bases), "architectures": tuple(architectures)}
    if operators:
        found["operators"] = (Fact(value=" ".join(sorted(set(operators))), source=f"{name} DS_BUILD_*"),)
    return {key: facts for key, facts in found.items() if facts}


def _requirements(stem: Path, suffix: str, ref: Ref) -> Iterator[Package]:
    """The packages of a hashed requirements file (pip's format: one requirement a logical line)."""
    for number, line in _logical_lines(_read(stem, suffix, ref)):
        hashes = _HASH.findall(line)
        try:
            requirement = Requirement(_HASH.sub("", line).strip())
        except InvalidRequirement:
            raise _broken(stem, suffix, number, f"{line!r} is not a requirement", ref) from None
        pins = list(requirement.specifier)
        if len(pins) != 1 or pins[0].operator != "==" or len(hashes) != 1:
            what = f"{requirement.name} has not exactly one version and one sha256"
            raise _broken(stem, suffix, number, what, ref)
        yield Package(
            ecosystem="python",
            name=canonicalize_name(requirement.name),
            version=pins[0].version,
            sha256=hashes[0],
        )


def _explicit(stem: Path, suffix: str, ref: Ref) -> Iterator[Package]:
    """The packages of an explicit list (``conda create --file``): an address a line, with a hash after ``#``."""
    for number, line in enumerate(_read(stem, suffix, ref).splitlines(), 1):
        text = line.strip()
        if not text or text.startswith(("#", "@EXPLICIT")):
            continue
        match = _EXPLICIT.fullmatch(text)
        if match is None:
            raise _broken(stem, suffix, number, f"{text!r} is not a conda package's address", ref)
        digest = match["hash"]
        yield Package(
            ecosystem="conda",
            name=match["name"],
            version=match["version"],
            build=match["build"],
            sha256=digest if digest and len(digest) == 64 else None,
        )


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, joined where one ends with a backslash, without comments and empty ones."""
    held: list[str] = []
    first = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", raw).rstrip()
        first = first if held else number
        held.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            joined = " ".join(held).strip()
            held = []
            if joined:
                yield first, joined


def _beside(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _read(stem: Path, suffix: str, ref: Ref) -> str:
    path = _beside(stem, suffix)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise EnvbuildError(
            "no-rendered-file",
            f"a rendered file of {ref} cannot be read: {reason}",
            where=str(path),
            hint=f"`envbuild render {ref}` writes it; `--rendered DIR` says where the folder dockerfiles/ is",
            exit=Exit.INPUT,
        ) from None


def _broken(stem: Path, suffix: str, line: int, what: str, ref: Ref) -> EnvbuildError:

    return EnvbuildError(
        "rendered-file-broken",
        what,
        where=f"{_beside(stem, suffix)}:{line}",
        hint=f"`envbuild render {ref} --check` shows what was changed; `envbuild render {ref}` writes it again",
        exit=Exit.INPUT,
    )
