"""The verdicts kept under docs/verdicts: signed by the key beside them, enough for the tag of the locked image."""

from __future__ import annotations

from dataclasses import dataclass
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
VERDICTS = ROOT / "docs/verdicts"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A folder of verdicts about the image that a lock names.

    ``suite`` made them, as --suite names it; ``later`` are the checks that the suite has asked since then: what it
    asked then, all of it, must be there.
    """

    folder: str
    ref: str
    suite: str
    later: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return VERDICTS / self.folder

    def keys(self):
        return public_keys((self.path / "key.pem").read_bytes(), where="key.pem")


RECORDS = [
    Record(
        folder="2026-11-28-2xh100-v2.11",
        ref="pytorch-cuda:v2.11",
        suite="sha256:3187924a0d196be040ae02ca5b80ba2b57fe852195149ea61026a7eae75dbafc",
        later=("cpp-extension",),
    ),
    Record(
        folder="2026-11-29-2xh200-v2.7",
        ref="pytorch-cuda:v2.7",
        suite="sha256:69e993e6803050d80dd293d04b7739630127395f481e179f7a575b02b24a36f7",
    ),
]


@pytest.mark.parametrize("engine", ["oci", "sandbox"])
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.folder)
def test_the_record_gives_the_locked_image_its_tag_where_its_suite_is_named(record, engine):
    recipe = load_recipe(parse_ref(record.ref), [ROOT / "recipes"])
    lock = read_lock(recipe.lock_path)
    image = image_of(lock)
    verdict = read_verdict(record.path / f"verdict-{engine}.json", trusted=record.keys())
    assert len(verdict.gpus) == 2
    expected = expect(recipe, lock)
    asked = {check.id for check in applicable(expected)} - set(record.later)
    assert {check.id for check in verdict.checks if check.status == "passed"} == asked
    terms = Terms(
        expected=expected,
        lock=of_bytes(lock_bytes(lock)),
        suites=frozenset({record.suite}),
        now=datetime(2026, 11, 30, tzinfo=UTC),
    )
    tag = promote(verdict, subject_of(str(recipe.ref), image), terms)
    assert tag == record.ref
    assert image.digest in (record.path / "README.md").read_text()


def test_the_record_edited_by_hand_is_refused(tmp_path):
    edited = tmp_path / "verdict.json"
    record = RECORDS[0]
    text = (record.path / "verdict-oci.json").read_text()
    at = text.index('"payload"') + 400
    edited.write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :])
    with pytest.raises(EnvbuildError) as refusal:
        read_verdict(edited, trusted=record.keys())
    assert refusal.value.exit == 6
