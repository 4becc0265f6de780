"""The suite's values: expectations (what the lock says) and results (what was seen)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from . import FORMAT

Status = Literal["passed", "failed", "not-run"]
Outcome = Literal["passed", "candidate", "failed"]


class BadExpectations(ValueError):
    """The file of expectations cannot be used; the message says which key and why."""


class Failure(Exception):
    """A check's answer is no.

    Args:
        expected: what should have been seen, one or a few lines.
        seen: what was seen instead.
        hint: what to do about it.
        numbers: what was measured all the same.
    """

    def __init__(
        self, *, expected: str, seen: str, hint: str, numbers: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(f"expected {expected}; seen {seen}")
        self.expected = expected
        self.seen = seen
        self.hint = hint
        self.numbers = dict(numbers or {})


class NotRun(Exception):
    """The check cannot be run here; the text is the reason. Never a pass.

    Args:
        reason: why, in one line.
        numbers: what was measured all the same.
    """

    def __init__(self, reason: str, *, numbers: Mapping[str, object] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.numbers = dict(numbers or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """One CUDA library that a process must load from exactly one file: ``libcudart`` of package, in version."""

    stem: str
    package: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """The compiled operator: DeepSpeed's name for it, module, file below site-packages, architectures.

    ``architectures`` are in TORCH_CUDA_ARCH_LIST's words: ``8.0`` is machine code, ``9.0+PTX`` that and PTX.
    """

    name: str
    module: str
    file: str
    architectures: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What must be true inside the image. Written by the host from recipe and lock, or by ``--here``.

    ``packages`` maps every locked Python package to its version; ``hashed`` names those whose files are hashed
    against RECORD; ``imports`` the modules to import. ``cuda`` is the toolkit's ``major.minor`` as torch reports it.
    ``declared`` is what a person pinned in the recipe (``torch``, ``triton``, ``deepspeed``, ``libcudart``,
    ``libcublas``, ``libcudnn``, ``libnccl``, as far as the recipe names them); empty under ``--here``.
    ``gpus_wanted`` is what the recipe's gate asks for; ``gpus_given`` how many the host handed to the
    container (``None``: unknown). ``complete`` says that nothing but ``packages`` may be installed.
    """

    ref: str | None
    complete: bool
    declared: Mapping[str, str]
    packages: Mapping[str, str]
    hashed: tuple[str, ...]
    imports: tuple[str, ...]
    cuda: str | None
    libraries: tuple[Library, ...]
    operator: Operator | None
    driver_floor: str | None
    gpus_wanted: int
    gpus_given: int | None

    def to_dict(self) -> dict[str, object]:
        """The JSON object, ``format`` 2; :func:`parse_expectations` is the inverse."""
        operator = self.operator
        return {
            "format": FORMAT,
            "ref": self.ref,
            "complete": self.complete,
            "declared": dict(sorted(self.declared.items())),
            "packages": dict(sorted(self.packages.items())),
            "hashed": list(self.hashed),
            "imports": list(self.imports),
            "cuda": self.cuda,
            "libraries": [
                {"stem": lib.stem, "package": lib.package, "version": lib.version} for lib in self.libraries
            ],
            "operator": None
            if operator is None
            else {
                "name": operator.name,
                "module": operator.module,
                "file": operator.file,
                "architectures": list(operator.architectures),
            },
            "driver_floor": self.driver_floor,
            "gpus": {"wanted": self.gpus_wanted, "given": self.gpus_given},
        }


def _get(value: object, where: str, key: str, *types: type) -> Any:
    if not isinstance(value, dict) or key not in value:
        raise BadExpectations(f"{where}.{key} is missing")
    found = value[key]
    if not isinstance(found, types) or (isinstance(found, bool) and bool not in types):
        names = " or ".join("null" if t is type(None) else t.__name__ for t in types)
        raise BadExpectations(f"{where}.{key} is {found!r}; {names} is needed")
    return found


def _texts(value: object, where: str, key: str) -> tuple[str, ...]:
    found = _get(value, where, key, list)
    if not all(isinstance(item, str) for item in found):
        raise BadExpectations(f"{where}.{key} must hold strings only")
    return tuple(found)


def _versions(value: object, key: str) -> Mapping[str, str]:
    found: Mapping[str, str] = _get(value, "$", key, dict)
    if not all(isinstance(text, str) for text in found.values()):
        raise BadExpectations(f"$.{key} must map names to versions")
    return found


def parse_expectations(value: object) -> Expectations:
    """Check a parsed JSON value and make it :class:`Expectations`.

    Raises:
        BadExpectations: a key is missing, unknown or of the wrong type, or the format number is another one.
    """
    known = {
        *("format", "ref", "complete", "declared", "packages", "hashed", "imports", "cuda", "libraries"),
        *("operator", "driver_floor", "gpus"),
    }
    if _get(value, "$", "format", int) != FORMAT:
        raise BadExpectations(f"$.format is not {FORMAT}: suite and expectations are of different versions")
    if isinstance(value, dict) and (unknown := set(value) - known):
        raise BadExpectations(f"$ has unknown keys: {', '.join(sorted(map(str, unknown)))}")
    declared, packages = _versions(value, "declared"), _versions(value, "packages")
    operator = _get(value, "$", "operator", dict, type(None))
    gpus = _get(value, "$", "gpus", dict)
    return Expectations(
        ref=_get(value, "$", "ref", str, type(None)),
        complete=_get(value, "$", "complete", bool),
        declared=declared,
        packages=packages,
        hashed=_texts(value, "$", "hashed"),
        imports=_texts(value, "$", "imports"),
        cuda=_get(value, "$", "cuda", str, type(None)),
        libraries=tuple(
            Library(
                stem=_get(item, "$.libraries[]", "stem", str),
                package=_get(item, "$.libraries[]", "package", str),
                version=_get(item, "$.libraries[]", "version", str),
            )
            for item in _get(value, "$", "libraries", list)
        ),
        operator=None
        if operator is None
        else Operator(
            name=_get(operator, "$.operator", "name", str),
            module=_get(operator, "$.operator", "module", str),
            file=_get(operator, "$.operator", "file", str),
            architectures=_texts(operator, "$.operator", "architectures"),
        ),
        driver_floor=_get(value, "$", "driver_floor", str, type(None)),
        gpus_wanted=_get(gpus, "$.gpus", "wanted", int),
        gpus_given=_get(gpus, "$.gpus", "given", int, type(None)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One check's answer. ``seconds`` is wall time; ``timeout`` its limit in seconds.

    ``cause`` of a failure: ``answer`` (the check said no), ``crash`` or ``timeout``. ``output`` is the end of what
    the process printed, kept where the answer is not a pass. A warning never fails a check: it says what a person
    should know, in one line.
    """

    id: str
    reason: str
    status: Status
    timeout: float
    seconds: float = 0.0
    cause: str | None = None
    expected: str | None = None
    seen: str | None = None
    hint: str | None = None
    warnings: tuple[str, ...] = ()
    numbers: Mapping[str, object] = field(default_factory=dict)
    output: str = ""

    def to_dict(self) -> dict[str, object]:
        """The entry in the report's ``checks``."""
        return {
            "id": self.id,
            "reason": self.reason,
            "status": self.status,
            "timeout": self.timeout,
            "seconds": round(self.seconds, 3),
            "cause": self.cause,
            "expected": self.expected,
            "seen": self.seen,
            "hint": self.hint,
            "warnings": list(self.warnings),
            "numbers": dict(self.numbers),
            "output": self.output,
        }
