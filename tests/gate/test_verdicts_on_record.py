"""The verdict kept under docs/verdicts: signed by the key beside it, enough for the tag of the locked image."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError
from envbuild.gate import Terms, expect, promote, read_verdict, subject_of
from envbuild.gate.keys import public_keys
from envbuild.image.locked import image_of
from envbuild.lock import lock_bytes, read_lock
from envbuild.oci.digest import of_bytes
from envbuild.recipe import load_recipe, parse_ref
from envbuild.smoke.checks import applicable

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "docs/verdicts/2026-11-28-2xh100-v2.11"
SUITE = "sha256:3187924a0d196be040ae02ca5b80ba2b57fe852195149ea61026a7eae75dbafc"
"""The suite that made it, as --suite names it."""


def keys():
    return public_keys((RECORD / "key.pem").read_bytes(), where="key.pem")


LATER = ("cpp-extension",)
"""Checks that the suite has asked since the record was made; what it asked then, all of it, must be there."""


@pytest.mark.parametrize("engine", ["oci", "sandbox"])
def test_the_record_gives_the_locked_image_its_tag_where_its_suite_is_named(engine):
    recipe = load_recipe(parse_ref("pytorch-cuda:v2.11"), [ROOT / "recipes"])
    lock = read_lock(recipe.lock_path)
    image = image_of(lock)
    verdict = read_verdict(RECORD / f"verdict-{engine}.json", trusted=keys())
    assert len(verdict.gpus) == 2
    expected = expect(recipe, lock)
    asked = {check.id for check in applicable(expected)} - set(LATER)
    assert {check.id for check in verdict.checks if check.status == "passed"} == asked
    terms = Terms(
        expected=expected,
        lock=of_bytes(lock_bytes(lock)),
        suites=frozenset({SUITE}),
        now=datetime(2026, 11, 29, tzinfo=UTC),
    )
    tag = promote(verdict, subject_of(str(recipe.ref), image), terms)
    assert tag == "pytorch-cuda:v2.11"
    assert image.digest in (RECORD / "README.md").read_text()


def test_the_record_edited_by_hand_is_refused(tmp_path):
    edited = tmp_path / "verdict.json"
    text = (RECORD / "verdict-oci.json").read_text()
    at = text.index('"payload"') + 400
    edited.write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])
    with pytest.raises(EnvbuildError) as refusal:
        read_verdict(edited, trusted=keys())
    assert refusal.value.exit == 6
