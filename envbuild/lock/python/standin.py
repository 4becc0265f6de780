"""A wheel in place of DeepSpeed's source, so that uv resolves its requirements without running its ``setup.py``."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.tar_reader import entries

BUILT_REQUIREMENTS = ("nvidia-ml-py",)
"""What a DeepSpeed that was built for CUDA requires besides its source's list (its ``setup.py``)."""

_LIMIT = 4 << 20


def requirements_of(sdist: Path, *, name: str, version: str) -> list[str]:
    """The ``Requires-Dist`` of an sdist's PKG-INFO (core metadata 2.1 and later) that hold without an extra.

    Raises:
        EnvbuildError: exit 5, the file is no sdist of ``name`` ``version``.
    """
    fields = HeaderParser().parsestr(_pkg_info(sdist, f"{name} {version}"))
    if (fields.get("Name") or "").lower() != name or fields.get("Version") != version:
        raise _wrong(f"{name} {version}", f"calls itself {fields.get('Name')} {fields.get('Version')}")
    found = []
    for text in fields.get_all("Requires-Dist") or []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            raise _wrong(
                f"{name} {version}", f"has a requirement that is not one (PEP 508): {text}"
            ) from None
        if requirement.marker is None or "extra" not in str(requirement.marker):
            found.append(text)
    return found


def write_standin(folder: Path, *, name: str, version: str, requirements: list[str]) -> None:
    """Write an empty wheel with these requirements into ``folder``, for ``uv --find-links``."""
    base = f"{name}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {text}\n" for text in requirements)
    with zipfile.ZipFile(folder / f"{base}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{base}.dist-info/METADATA", metadata)
        wheel.writestr(
            f"{base}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{base}.dist-info/RECORD", "")


def _pkg_info(sdist: Path, what: str) -> str:
    try:
        with gzip.open(sdist) as stream:
            for member, content in entries(stream):
                if content is None or member.size > _LIMIT:
                    continue
                if member.name.count("/") == 1 and member.name.endswith("/PKG-INFO"):
                    return content.read().decode("utf-8", "replace")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise _wrong(what, f"cannot be read: {error}") from None
    raise _wrong(what, "has no PKG-INFO")


def _wrong(what: str, reason: str) -> EnvbuildError:
    return EnvbuildError(
        "wrong-sdist", f"the source of {what} {reason}", exit=Exit.VERIFY,
        hint="The index serves a damaged file: ask its keeper, or use another (ENVBUILD_PYTHON_INDEX).",
    )  # fmt: skip
