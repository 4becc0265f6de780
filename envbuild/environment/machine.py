"""What this machine has (conda's virtual packages), against what the locked packages need of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import CondaLock

if TYPE_CHECKING:
    from rattler import PackageRecord

_CUDA = "__cuda"
_HINTS = {
    "__glibc": "Make it on a system with a newer C library, or in a container of one. CONDA_OVERRIDE_GLIBC=VERSION "
    "makes it here for another machine.",
    _CUDA: "Update the NVIDIA driver of this machine. CONDA_OVERRIDE_CUDA=VERSION makes it here for another machine.",
}


def virtual_of_machine() -> dict[str, str]:
    """conda's virtual packages of this machine: name to ``version`` or ``version=build``.

    The variables ``CONDA_OVERRIDE_GLIBC``, ``CONDA_OVERRIDE_CUDA`` and so on count, as for conda.
    """
    from rattler import VirtualPackage
    from rattler.virtual_package import VirtualPackageOverrides

    found = {}
    for item in VirtualPackage.detect(VirtualPackageOverrides.from_env()):
        generic = item.into_generic()
        build = str(generic.build_string)
        found[generic.name.normalized] = f"{generic.version}" + ("" if build == "0" else f"={build}")
    return found


def platform_of_machine() -> str:
    """This machine's platform in conda's words (``linux-64``)."""
    from rattler.platform import Subdir

    return str(Subdir.current())


def check_machine(lock: CondaLock, virtual: Mapping[str, str], platform: str) -> tuple[str, ...]:
    """Refuse a machine that the locked packages cannot run on, by what they say themselves.

    A machine without any NVIDIA driver is let through: the environment can be made there.

    Args:
        lock: the environment's lock.
        virtual: what the machine has (:func:`virtual_of_machine`).
        platform: what the machine is (:func:`platform_of_machine`).

    Returns:
        Notes for a person.

    Raises:
        EnvbuildError: exit 2, another platform, or a virtual package that is too old or not there.
    """
    if platform != lock.platform:
        raise EnvbuildError(
            "lock-for-another-platform",
            f"{lock.ref} is locked for {lock.platform}, and this machine is {platform}",
            hint=f"Make the environment on a {lock.platform} machine, or in a container of one.",
            exit=Exit.USAGE,
        )
    records = {name: _record(name, text) for name, text in virtual.items()}
    lacking = _lacking(lock, records)
    driver = _CUDA in records
    wrong = {name: needs for name, needs in lacking.items() if name != _CUDA or driver}
    if wrong:
        name, (spec, package) = next(iter(sorted(wrong.items())))
        has = f"has {name} {virtual[name]}" if name in virtual else f"has no {name}"
        more = "".join(f"; {other}: {s} ({p})" for other, (s, p) in sorted(wrong.items()) if other != name)
        raise EnvbuildError(
            "machine-lacks",
            f"{package} needs {spec}, and this machine {has}{more}",
            hint=_HINTS.get(name, f"Make it on a machine that has {spec}."),
            exit=Exit.USAGE,
            where=name,
        )
    return _notes(lock, virtual, lacking)


def _lacking(lock: CondaLock, records: Mapping[str, PackageRecord]) -> dict[str, tuple[str, str]]:
    """By virtual package: the first requirement that the machine does not meet, and whose it is."""
    from rattler import MatchSpec

    found: dict[str, tuple[str, str]] = {}
    judged: dict[tuple[str, bool], bool] = {}
    for package in lock.packages:
        needs = [(text, True) for text in package.depends] + [(text, False) for text in package.constrains]
        for text, must in needs:
            if not text.startswith("__"):
                continue
            name = text.split(maxsplit=1)[0].partition("=")[0].rstrip("<>!~")
            if (text, must) not in judged:
                record = records.get(name)
                judged[text, must] = not must if record is None else MatchSpec(text).matches(record)
            if not judged[text, must]:
                found.setdefault(name, (text, f"{package.name} {package.version}"))
    return found


def _notes(
    lock: CondaLock, virtual: Mapping[str, str], lacking: Mapping[str, tuple[str, str]]
) -> tuple[str, ...]:
    from rattler import Version

    cuda = lock.virtual.get(_CUDA)
    if _CUDA in lacking:
        return (
            "this machine has no NVIDIA driver: the environment is made, and computes on a machine with GPUs",
        )
    if cuda and _CUDA in virtual and Version(virtual[_CUDA]) < Version(cuda):
        return (
            f"the driver here is for CUDA {virtual[_CUDA]}, the lock for {cuda}: the packages allow it "
            "(minor versions are compatible)",
        )
    return ()


def _record(name: str, text: str) -> PackageRecord:
    from rattler import BuildString, PackageRecord

    version, _, build = text.partition("=")
    return PackageRecord(
        name=name, version=version, build=BuildString(build or "0"), build_number=0, subdir="linux-64"
    )
