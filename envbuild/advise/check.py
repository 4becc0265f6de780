"""Check a DeepSpeed configuration without DeepSpeed: its JSON, its keys, its types, and what contradicts itself.

DeepSpeed reads the top level key by key, so that a misspelt one there is silently without effect; it refuses
unknown keys only in sections that are pydantic models. Here both are found, with line and column.
"""

from __future__ import annotations

from collections.abc import Iterator

from envbuild.advise.document import Member, Value, read
from envbuild.advise.known import Key, Known, Section, known_keys
from envbuild.advise.problem import Level, Problem, at
from envbuild.advise.rules import contradictions
from envbuild.recipe.suggest import nearest

LARGEST = 1_000_000
"""Characters. The largest configurations that people publish have some 5,000."""

HUGGING_FACE = frozenset(
    (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "optimizer.params.lr",
        "optimizer.params.betas",
        "optimizer.params.eps",
        "optimizer.params.weight_decay",
        "scheduler.params.warmup_min_lr",
        "scheduler.params.warmup_max_lr",
        "scheduler.params.warmup_num_steps",
        "scheduler.params.total_num_steps",
        "fp16.enabled",
        "bf16.enabled",
        "zero_optimization.reduce_bucket_size",
        "zero_optimization.stage3_prefetch_bucket_size",
        "zero_optimization.stage3_param_persistence_threshold",
    )
)
"""The keys in which transformers' Trainer replaces "auto" (its integrations/deepspeed.py)."""

_JSON_TYPES = {"boolean": bool, "integer": int, "number": float, "string": str, "array": list, "object": dict}


def check_config(text: str, *, gpus: int | None = None, hugging_face: bool = False) -> tuple[Problem, ...]:
    """Every problem of the configuration in ``text``, in the order of its lines.

    Args:
        text: the file's content.
        gpus: how many processes will train; None where that is not known.
        hugging_face: transformers' Trainer or Accelerate will fill in "auto".
    """
    if len(text) > LARGEST:
        return (
            _whole("too-large", f"{len(text):,} characters: no DeepSpeed configuration has over {LARGEST:,}"),
        )
    value, faults = read(text)
    problems = [
        Problem(id="not-json", path="", line=fault.line, column=fault.column, message=fault.what, fix="")
        for fault in faults
    ]
    if value is None:
        return tuple(problems)
    if not isinstance(value.data, dict):
        shown = _kind(value)
        problems.append(
            at(value, "not-an-object", "", f"the configuration is {shown}, not an object", "write { … }")
        )
        return tuple(problems)
    known = known_keys()
    walk = _Walk(known=known, hugging_face=hugging_face)
    problems += walk.section(value, known.top, "")
    problems += contradictions(value, known, gpus=gpus)
    return tuple(sorted(problems, key=lambda problem: (problem.line, problem.column, problem.id)))


def _whole(id: str, message: str) -> Problem:
    return Problem(
        id=id, path="", line=1, column=1, message=message, fix="give the file that deepspeed is given"
    )


class _Walk:
    """Compares a configuration with what is known, key by key."""

    def __init__(self, *, known: Known, hugging_face: bool) -> None:
        self._known = known
        self._hugging_face = hugging_face
        self._everywhere = dict(_paths(known.top, ""))

    def section(self, value: Value, section: Section, path: str) -> Iterator[Problem]:
        seen: dict[str, str] = {}
        for name, member in value.members().items():
            where = f"{path}.{name}" if path else name
            if where in self._known.removed:
                yield at(member, "removed-key", where, self._known.removed[where], "delete it")
            elif name not in section.keys:
                yield self._unknown(member, name, where, section)
            else:
                key = section.keys[name]
                other = seen.setdefault(key.alias or name, name)
                if other != name:
                    text = f"is another spelling of {other}, which is there too"
                    yield at(
                        member, "two-spellings", where, text, f"delete one; {key.alias or name} is documented"
                    )
                if key.deprecated is not None:
                    fix = f"write {key.deprecated}" if key.deprecated else ""
                    yield at(member, "deprecated-key", where, "is deprecated", fix, Level.WARNING)
                yield from self._value(member.value, key, where)

    def _unknown(self, member: Member, name: str, where: str, section: Section) -> Problem:
        effect = "DeepSpeed refuses it" if section.strict else "DeepSpeed ignores it silently"
        elsewhere = [path for path, last in self._everywhere.items() if last == name]
        guess = nearest(name, section.keys)
        if elsewhere:
            fix = f"it belongs in {' or '.join(path.rpartition('.')[0] or 'the top level' for path in elsewhere[:3])}"
        elif guess:
            fix = f"did you mean {guess[0]!r}?"
        else:
            fix = f"known here: {', '.join(sorted(section.keys)[:40])}"
        return at(member, "unknown-key", where, f"there is no such key; {effect}", fix)

    def _value(self, value: Value, key: Key, where: str) -> Iterator[Problem]:
        if value.data == "auto" and not key.auto:
            yield from self._auto(value, where)
            return
        if value.data is None or not key.types:
            if value.data is None and key.types and not key.null:
                yield at(
                    value, "wrong-type", where, f"null, where {_expected(key)} belongs", "delete the key"
                )
            return
        if not any(_is(value.data, name) for name in key.types):
            fix = f"write {_repaired(value.data, key)}" if _repaired(value.data, key) else ""
            yield at(value, "wrong-type", where, f"{_kind(value)}, where {_expected(key)} belongs", fix)
            return
        yield from self._bounds(value, key, where)
        if isinstance(value.data, dict):
            yield from self._open(value, where)
            if key.section is not None:
                yield from self.section(value, key.section, where)

    def _auto(self, value: Value, where: str) -> Iterator[Problem]:
        fills = where in HUGGING_FACE
        if fills and self._hugging_face:
            return
        if fills:
            fix = (
                "write a value, or give --hugging-face if transformers' Trainer or Accelerate reads this file: "
                "they replace it"
            )
            text = '"auto" is of the Hugging Face integration; DeepSpeed alone does not know it here'
        else:
            fix = "write a value, or delete the key for DeepSpeed's default"
            text = '"auto" is filled in by nothing here, not even by the Hugging Face integration'
        yield at(value, "auto", where, text, fix)

    def _bounds(self, value: Value, key: Key, where: str) -> Iterator[Problem]:
        data = value.data
        if key.choices and data not in key.choices:
            fix = f"it must be one of {', '.join(repr(choice) for choice in key.choices)}"
            yield at(value, "wrong-value", where, f"{data!r} is not allowed", fix)
        if isinstance(data, bool) or not isinstance(data, int | float):
            return
        for word, bound, holds in (
            ("at least", key.at_least, key.at_least is None or data >= key.at_least),
            ("more than", key.above, key.above is None or data > key.above),
            ("at most", key.at_most, key.at_most is None or data <= key.at_most),
            ("less than", key.below, key.below is None or data < key.below),
        ):
            if not holds:
                yield at(value, "wrong-value", where, f"{data} is not allowed", f"it must be {word} {bound}")

    def _open(self, value: Value, where: str) -> Iterator[Problem]:
        """Look for "auto" in sections that take any key: the parameters of optimizer and scheduler."""
        if where in ("optimizer.params", "scheduler.params"):
            for name, member in value.members().items():
                if member.value.data == "auto":
                    yield from self._auto(member.value, f"{where}.{name}")


def _paths(section: Section, path: str) -> Iterator[tuple[str, str]]:
    for name, key in section.keys.items():
        where = f"{path}.{name}" if path else name
        yield where, name
        if key.section is not None and key.alias is None:
            yield from _paths(key.section, where)


def _is(data: object, name: str) -> bool:
    if isinstance(data, bool):
        return name == "boolean"
    if name == "integer":
        return isinstance(data, int) or (isinstance(data, float) and data.is_integer())
    if name == "number":
        return isinstance(data, int | float)
    return isinstance(data, _JSON_TYPES[name])


def _kind(value: Value) -> str:
    data = value.data
    if isinstance(data, bool) or data is None:
        return {True: "true", False: "false", None: "null"}[data]
    if isinstance(data, str):
        return f'the string "{data}"'
    if isinstance(data, int | float):
        return f"the number {data}"
    return "an array" if isinstance(data, list) else "an object"


def _expected(key: Key) -> str:
    names = {
        "boolean": "true or false",
        "integer": "a whole number",
        "number": "a number",
        "string": "a string",
    }
    return " or ".join(names.get(name, f"an {name}") for name in key.types)


def _repaired(data: object, key: Key) -> str:
    """What was probably meant: "2" is 2, "true" is true, 1 is true."""
    if isinstance(data, str) and data.lower() in ("true", "false") and "boolean" in key.types:
        return data.lower()
    if isinstance(data, int | float) and "boolean" in key.types and data in (0, 1):
        return "true" if data else "false"
    if isinstance(data, str) and {"integer", "number"} & set(key.types):
        try:
            number = float(data)
        except ValueError:
            return ""
        return str(int(number)) if number.is_integer() else str(number)
    return ""
