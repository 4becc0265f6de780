"""uv as a process: it resolves Python packages with the user's own configuration."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import msgspec

from envbuild.errors import EnvbuildError, Exit

PLATFORM = "x86_64-manylinux_2_36"
"""The image's platform: Debian 12 has glibc 2.36."""

_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_CONFIG_FILE")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_OFFLINE = (
    "Failed to fetch",
    "error sending request",
    "Request failed after",
    "dns error",
    "operation timed out",
)
_REFUSED = re.compile(r"lack of valid authentication credentials|\b(401|403) (Unauthorized|Forbidden)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a package as an index offers it. ``url`` may point anywhere; ``uploaded`` is RFC 3339."""

    url: str = field(repr=False)
    sha256: str | None
    size: int | None
    uploaded: str | None

    @property
    def name(self) -> str:
        """The file's name, from its address."""
        return _unquoted(self.url.split("#")[0].split("?")[0].rsplit("/", 1)[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A resolved package with the wheels that fit the platform."""

    name: str
    version: str
    wheels: tuple[RemoteFile, ...]
    sdist: RemoteFile | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What uv is asked. ``prefer`` are versions to keep where they still fit, ``upgrade`` the names that move.

    ``before`` is the RFC 3339 time after which uploads do not count. ``find_links`` is a folder of further
    wheels, ``omit`` names left out of the answer.
    """

    requirements: str
    python: str
    before: str | None = None
    prefer: Mapping[str, str] = field(default_factory=dict)
    upgrade: Sequence[str] = ()
    find_links: Path | None = None
    omit: Sequence[str] = ()
    dependencies: bool = True


class Unsolvable(Exception):
    """There is no answer: uv's explanation, condensed."""


class NotDated(Exception):
    """The index tells no upload times, so that a cut-off date excludes everything."""


def solve(question: Question, environ: Mapping[str, str]) -> list[Package]:
    """Ask uv.

    Raises:
        Unsolvable: no set of versions fits, or uv does not take the requirements.
        NotDated: the index has no upload times and ``before`` is given.
        EnvbuildError: exit 4, the index cannot be read; exit 5, it serves other bytes than it says.
    """
    with tempfile.TemporaryDirectory(prefix="envbuild-uv-") as name:
        folder = Path(name)
        (folder / "requirements.in").write_text(question.requirements, "utf-8")
        output = folder / "pylock.toml"
        if question.prefer:
            output.write_text(_preferences(question.prefer), "utf-8")
        result = _run([*_arguments(question), "-o", str(output), "requirements.in"], environ, folder)
        if result.returncode == 0:
            return answer(output.read_bytes())
    raise _failure(result.stderr, dated=question.before is not None)


class _File(msgspec.Struct, frozen=True, rename="kebab"):
    """A wheel or source of PEP 751."""

    url: str | None = None
    path: str | None = None
    size: int | None = None
    upload_time: datetime | None = None
    hashes: dict[str, str] = {}


class _Package(msgspec.Struct, frozen=True):
    name: str
    version: str = ""
    wheels: tuple[_File, ...] = ()
    sdist: _File | None = None
    archive: _File | None = None


class _Answer(msgspec.Struct, frozen=True):
    packages: tuple[_Package, ...] = ()


def answer(data: bytes) -> list[Package]:
    """The packages in a ``pylock.toml`` (PEP 751).

    Raises:
        EnvbuildError: exit 3, it is none: this uv writes what envbuild does not know.
    """
    try:
        found = msgspec.convert(tomllib.loads(data.decode()), _Answer)
        return [_package(item) for item in found.packages]
    except (ValueError, RecursionError) as error:  # tomllib's and msgspec's own, and UnicodeDecodeError
        raise EnvbuildError(
            "uv-answer-wrong", f"uv's answer cannot be read: {error}", exit=Exit.INPUT,
            hint="Install envbuild again: a uv that it knows comes with it.",
        ) from None  # fmt: skip


def index_urls(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The simple indexes that uv is configured with, credentials included: further ones first, the default last."""
    return _emitted(environ, [])


def has_own_index(environ: Mapping[str, str]) -> bool:
    """Whether uv's own files or variables name an index."""
    if any(environ.get(name) for name in _INDEX_VARIABLES):
        return True
    return _emitted(environ, []) != _emitted(environ, ["--no-config"])


def _emitted(environ: Mapping[str, str], options: list[str]) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(prefix="envbuild-uv-") as name:
        folder = Path(name)
        (folder / "requirements.in").write_text("", "utf-8")
        command = ["--emit-index-url", "--no-header", "--quiet", *_common(), *options, "requirements.in"]
        result = _run(command, environ, folder)
    if result.returncode != 0:
        raise _failure(result.stderr, dated=False)
    found = [line.split(" ", 1) for line in result.stdout.splitlines() if line.startswith("--")]
    further = [url for option, url in found if option == "--extra-index-url"]
    return (*further, *(url for option, url in found if option == "--index-url"))


def _common() -> list[str]:
    return ["--python", sys.executable, "--no-python-downloads", "--color", "never", "--no-progress"]


def _arguments(question: Question) -> list[str]:
    arguments = [
        *_common(),
        "--format",
        "pylock.toml",
        "--no-header",
        "--no-annotate",
        "--only-binary",
        ":all:",
    ]
    arguments += ["--python-version", question.python, "--python-platform", PLATFORM]
    if question.before:
        arguments += ["--exclude-newer", question.before]
    if question.find_links:
        arguments += ["--find-links", str(question.find_links)]
    if not question.dependencies:
        arguments += ["--no-deps"]
    for name in question.upgrade:
        arguments += ["--upgrade-package", name]
    for name in question.omit:
        arguments += ["--no-emit-package", name]
    return arguments


def _run(arguments: list[str], environ: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``uv pip compile`` in a folder of its own: no project's configuration takes part, the user's does."""
    try:
        from uv import find_uv_bin  # only locking needs it: a far machine may run images without uv

        program = find_uv_bin()
        return subprocess.run(
            [program, "pip", "compile", *arguments],
            cwd=folder, env=dict(environ), capture_output=True, text=True, encoding="utf-8", check=False,
        )  # fmt: skip
    except (OSError, ImportError) as error:
        raise EnvbuildError(
            "no-uv",
            f"uv cannot be started: {error}",
            hint="Install envbuild again: uv comes with it.",
            exit=Exit.INPUT,
        ) from None


def _preferences(prefer: Mapping[str, str]) -> str:
    blocks = [f'[[packages]]\nname = "{name}"\nversion = "{prefer[name]}"\n' for name in sorted(prefer)]
    return 'lock-version = "1.0"\ncreated-by = "envbuild"\n\n' + "\n".join(blocks)


def _package(item: _Package) -> Package:
    sdist = item.sdist or item.archive
    return Package(
        name=item.name, version=item.version, wheels=tuple(_file(wheel) for wheel in item.wheels),
        sdist=_file(sdist) if sdist else None,
    )  # fmt: skip


def _file(item: _File) -> RemoteFile:
    url = item.url or Path(item.path or "").absolute().as_uri()
    stamp = item.upload_time.strftime("%Y-%m-%dT%H:%M:%SZ") if item.upload_time is not None else None
    return RemoteFile(url=url, sha256=item.hashes.get("sha256"), size=item.size, uploaded=stamp)


def _failure(stderr: str, *, dated: bool) -> Exception:
    text = _CREDENTIALS.sub("", stderr).strip()
    if dated and "missing an upload date" in text:
        return NotDated()
    if "Hash mismatch" in text:
        return EnvbuildError(
            "wrong-hash", f"Python's index serves other bytes than it says:\n{_condensed(text)}",
            hint="Something between here and the index changes files: check mirrors and proxies.", exit=Exit.VERIFY,
        )  # fmt: skip
    if _REFUSED.search(text):
        return EnvbuildError(
            "index-refused", f"Python's index wants credentials:\n{_condensed(text)}",
            hint="Put them into the index's address, ~/.netrc or uv's configuration.", exit=Exit.NETWORK,
        )  # fmt: skip
    if any(word in text for word in _OFFLINE):
        return EnvbuildError(
            "index-down", f"Python's index cannot be read:\n{_condensed(text)}",
            hint="Check the network, pip's and uv's configuration or ENVBUILD_PYTHON_INDEX; then run it again.",
            exit=Exit.NETWORK,
        )  # fmt: skip
    return Unsolvable(_condensed(text))


def _condensed(text: str) -> str:
    """uv's explanation without its frame: at most twelve lines, each once."""
    lines: list[str] = []
    for raw in text.splitlines():
        if raw.startswith(("warning:", "Resolved ")):
            continue
        line = re.sub(r"^(error|cause|warning|hint):\s*", "", raw.strip().lstrip("×╰─▶│ "))
        if line and line not in lines and not line.startswith("No solution found"):
            lines.append(line)
    return "\n".join(lines[:12])


def _unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)
