"""What is written can be read again; what cannot be leaves the file as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from smallimage import COMMITTED
from verdictmaker import verdict_about

from envbuild.cli.files import write_conda_lock, write_lock
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import SigningKey, sign_verdict, write_verdict
from envbuild.image.locked import image_of
from envbuild.lock import conda_lock_bytes, lock_bytes, read_conda_lock, read_lock
from envbuild.recipe.model import Ref
from envbuild.store import Store

KEY = SigningKey(seed=bytes(32), where="test")
OTHER = SigningKey(seed=b"\x01" * 32, where="test")


def refused(exit: Exit, write: Callable[[], object]) -> str:
    with pytest.raises(EnvbuildError) as caught:
        write()
    assert (caught.value.id, caught.value.exit) == ("not-readable-again", exit)
    assert "the file stays as it was" in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("licence", ["MIT\x1b[2J", "MIT\n", "\x00", "MIT \ud800"])
def test_a_lock_that_could_not_be_read_again_is_not_written(tmp_path: Path, licence: str) -> None:
    lock = read_lock(COMMITTED)
    path = tmp_path / "lock.json"
    write_lock(path, lock)
    assert path.read_bytes() == COMMITTED.read_bytes() == lock_bytes(lock)
    first, *rest = lock.python
    spoilt = replace(lock, python=(replace(first, licence=licence), *rest))
    refused(Exit.INPUT, lambda: write_lock(path, spoilt))
    assert path.read_bytes() == COMMITTED.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_a_conda_lock_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    committed = COMMITTED.with_name("conda.lock.json")
    lock = read_conda_lock(committed)
    path = tmp_path / "conda.lock.json"
    write_conda_lock(path, lock)
    assert path.read_bytes() == committed.read_bytes() == conda_lock_bytes(lock)
    said = refused(Exit.INPUT, lambda: write_conda_lock(path, replace(lock, ref=Ref(name="a", tag="\n"))))
    assert "$.ref" in said
    assert path.read_bytes() == committed.read_bytes()


def test_a_verdict_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    import msgspec

    from envbuild.gate import Verdict

    lock = read_lock(COMMITTED)
    recipes = COMMITTED.parents[2]
    value = verdict_about(image_of(lock), lock, "pytorch-cuda:v2.7", recipes)
    verdict = msgspec.convert(value, type=Verdict)
    path = tmp_path / "verdict.json"
    good = sign_verdict(verdict, KEY)
    write_verdict(path, good, key=KEY.public)
    spoilt = msgspec.structs.replace(verdict, why="a\nb")
    refused(Exit.GATE, lambda: write_verdict(path, sign_verdict(spoilt, KEY), key=KEY.public))
    refused(Exit.GATE, lambda: write_verdict(path, good, key=OTHER.public))
    assert path.read_bytes() == good
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", object()])
def test_a_record_that_could_not_be_read_again_is_not_written(tmp_path: Path, value: object) -> None:
    with Store.open(tmp_path / "store") as store:
        store.put_record("kind", "key", {"a": 1})
        refused(Exit.INPUT, lambda: store.put_record("kind", "key", {"a": value}))
        assert store.record("kind", "key") == {"a": 1}
