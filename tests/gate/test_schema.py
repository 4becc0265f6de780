"""The published schema takes what the types that read a verdict take, and nothing else; its texts are for readers."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import samples
from jsonschema import Draft202012Validator

import envbuild
from envbuild.gate.schema import schema_text, structs
from envbuild.gate.schematexts import FIELDS, TYPES
from envbuild.gate.statement import Statement, statement_bytes

FILE = Path(envbuild.__file__).parents[1] / "docs/reference/verdict.schema.json"


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(FILE.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_published_file_is_what_the_types_give():
    assert FILE.read_text() == schema_text(), (
        "python -m envbuild.gate.schema > docs/reference/verdict.schema.json"
    )


@pytest.mark.parametrize("kind", [samples.full, samples.failing, samples.candidate])
def test_what_is_signed_follows_it(validator, report, verdict_of, kind):
    statement = json.loads(statement_bytes(verdict_of(kind(report))))
    assert list(validator.iter_errors(statement)) == []


def test_a_verdict_about_no_image_follows_it(validator, report, verdict_of):
    statement = json.loads(statement_bytes(verdict_of(report, about=None, lock=None)))
    assert list(validator.iter_errors(statement)) == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda s: s.pop("_type"), ""),
        (lambda s: s.update(predicateType="x"), "predicateType"),
        (lambda s: s["predicate"].update(result="GREAT"), "predicate/result"),
        (lambda s: s["predicate"]["envbuild"].update(format=1), "predicate/envbuild/format"),
        (lambda s: s["predicate"]["envbuild"].pop("gpus"), "predicate/envbuild"),
        (lambda s: s["predicate"]["envbuild"].update(surprise=1), "predicate/envbuild"),
        (
            lambda s: s["predicate"]["envbuild"]["checks"][2].update(seconds="1"),
            "predicate/envbuild/checks/2/seconds",
        ),
    ],
)
def test_what_could_not_be_read_does_not_follow_it(validator, report, verdict_of, change, path):
    statement = json.loads(statement_bytes(verdict_of(report)))
    change(statement)
    [error] = validator.iter_errors(statement)
    assert "/".join(map(str, error.absolute_path)) == path


PROBES: list[Any] = [
    None, "", "text", 2, -1, 1.5, True, [], {}, [1], [1, 2], [1, 2, 3], [1, "2"], ["a"], [None], [[]], [{}],
    {"a": "b"}, {"a": 1}, {"a": None}, {"a": {}}, "PASSED", "WARNED", "FAILED", "passed", "candidate", "failed",
    "not-run", "answer", "crash", "timeout", "machine code", "PTX", "envbuild.verdict",
]  # fmt: skip
"""Values of every kind, and every word that some field takes. Each is tried in every place."""

Path_ = tuple[str | int, ...]


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The path of every value in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def at(value: Any, path: Path_) -> Any:
    for key in path:
        value = value[key]
    return value


def changed(statement: Any, path: Path_, new: Any) -> Any:
    if not path:
        return new
    other = copy.deepcopy(statement)
    at(other, path[:-1])[path[-1]] = new
    return other


def edits(statement: Any) -> Iterator[tuple[str, Any]]:
    """Every edit of one place: another value, a key less, a key more, an element less or more."""
    for path in places(statement):
        name = "/".join(map(str, path))
        for probe in PROBES:
            yield f"{name} = {probe!r}", changed(statement, path, probe)
        here = at(statement, path)
        if isinstance(here, dict):
            yield f"{name} + surprise", changed(statement, path, {**here, "surprise": 1})
            for key in here:
                yield f"{name} - {key}", changed(statement, path, {k: v for k, v in here.items() if k != key})
        if isinstance(here, list):
            yield f"{name} - last", changed(statement, path, here[:-1])
            yield f"{name} + first", changed(statement, path, here + here[:1])


def readable(value: Any) -> bool:
    try:
        msgspec.convert(value, type=Statement)
    except msgspec.ValidationError:
        return False
    return True


@pytest.fixture
def statement(report, verdict_of) -> Any:
    """One that has every key; of lists one element is enough."""
    statement = json.loads(statement_bytes(verdict_of(samples.failing(report))))
    predicate = statement["predicate"]
    for name in ("configuration", "passedTests", "failedTests"):
        predicate[name] = predicate[name][:1]
    verdict = predicate["envbuild"]
    for name in ("gpus", "checks"):
        verdict[name] = verdict[name][:1]
    verdict["subject"]["diff_ids"] = verdict["subject"]["diff_ids"][:1]
    verdict["expectations"] = {"python": "3.11"}
    verdict["checks"][0]["warnings"] = ["hot"]
    return statement


def test_the_types_take_what_the_schema_takes_and_refuse_what_it_refuses(validator, statement):
    assert readable(statement)
    assert validator.is_valid(statement)
    outcomes = set()
    wrong = []
    for name, value in edits(statement):
        taken = readable(value)
        outcomes.add(taken)
        if validator.is_valid(value) != taken:
            wrong.append(f"{name}: the types {'take' if taken else 'refuse'} it")
    assert wrong == []
    assert outcomes == {True, False}


def test_the_edits_reach_every_key_of_every_type(statement):
    seen = {key for path in places(statement) for key in path if isinstance(key, str)}
    assert {
        field.encode_name for struct in structs(Statement) for field in msgspec.structs.fields(struct)
    } <= seen


def test_every_definition_and_every_key_has_a_text_and_no_text_is_left_over():
    keys = {
        struct.__name__: [field.encode_name for field in msgspec.structs.fields(struct)]
        for struct in structs(Statement)
    }
    assert {name: list(texts) for name, texts in FIELDS.items()} == keys
    assert list(TYPES) == list(keys)


def test_the_texts_are_for_readers_of_the_file(validator):
    for name, definition in validator.schema["$defs"].items():
        for text in (definition, *definition["properties"].values()):
            said = text["description"]
            assert said.endswith("."), said
            assert "``" not in said, said
            assert "None" not in said, said
        assert definition["title"] != name
