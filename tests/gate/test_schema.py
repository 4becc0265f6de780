"""The published schema is the one that the types give, and it takes what is signed and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import samples
from jsonschema import Draft202012Validator

import envbuild
from envbuild.gate.schema import schema_text
from envbuild.gate.statement import statement_bytes

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
