"""The suite in real containers of a small real image: the caller's variables, a container that hangs, one that dies.

The image's torch is a module without content, so the suite says no; that it says so, and about what, is the point.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from clirun import Cli
from smallimage import REF, SmallWorld
from verdictmaker import own_key

from envbuild.engine import Engine, ImageRef, detect
from envbuild.engine.model import RunCommand, Streams
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import Report, expect, read_signed, run_suite
from envbuild.progress import SilentProgress
from envbuild.recipe import load_recipe, parse_ref

pytestmark = pytest.mark.network

SUITE = "the suite's own command"
CALLER = {
    "NCCL_NVLS_ENABLE": "0",
    "NVSHMEM_DISABLE_NVLS": "1",
    "TORCH_NCCL_BLOCKING_WAIT": "1",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
}


@pytest.mark.parametrize("engine", ["sandbox", "oci"])
def test_the_callers_variables_reach_the_suite_and_stand_in_the_verdict(
    on_small: Cli, small: SmallWorld, engine: str
) -> None:
    options = ("--engine", engine, "--report", "v.json", "--html", "v.html")
    done = on_small.quoting("smoke", REF, *options, env={**CALLER, "SECRET_OF_THE_CALLER": "x"})
    assert done.code == 6, done
    assert "[1/" in done.err
    verdict = read_signed(
        on_small.folder / "v.json", trusted=[own_key(on_small.folder / "home").public]
    ).verdict
    assert {name: verdict.environment.get(name) for name in CALLER} == CALLER
    assert "SECRET_OF_THE_CALLER" not in json.dumps(verdict.to_dict())
    assert verdict.subject is not None
    assert verdict.subject.manifest == small.built.image.digest
    assert verdict.result == "failed"
    status = {check.id: check.status for check in verdict.checks}
    assert status["versions"] == "passed"
    assert status["loaded"] == "failed"
    page = (on_small.folder / "v.html").read_text()
    assert all(name in page for name in CALLER)
    assert "failed: " in done.out
    refused = on_small.fails(6, "verdict-not-a-pass", "promote", REF, "--verdict", "v.json")
    assert "small:v1" not in small.store.layout.tags()
    assert "loaded" in refused.err


def test_an_image_is_named_by_its_digest_too(on_small: Cli, small: SmallWorld) -> None:
    on_small("image", REF, "--no-load", "--quiet")
    for name in (small.built.image.config.digest, f"{REF}-candidate@{small.built.image.digest}"):
        done = on_small.quoting("smoke", name, "--engine", "sandbox", "--json", "--quiet")
        assert done.code == 6, done
        assert done.value["verdict"]["subject"]["config"] == small.built.image.config.digest
        assert Path(done.value["path"]).parent == small.store.root / "verdicts"
    on_small.fails(3, "another-image", "smoke", f"{REF}@sha256:{'0' * 64}")


@dataclass
class Instead:
    """A real engine that is told to run something else in the container."""

    engine: Engine
    argv: tuple[str, ...]
    timeout: float = 60

    @property
    def passes(self) -> dict[str, str]:
        return dict(self.engine.passes)

    def run(self, image: ImageRef, command: RunCommand, streams: Streams) -> int:
        argv = tuple(part for text in self.argv for part in (command.argv if text == SUITE else (text,)))
        return self.engine.run(image, replace(command, argv=argv, timeout=self.timeout), streams)


@pytest.fixture
def ask(on_small: Cli, small: SmallWorld, tmp_path: Path) -> Callable[..., Report]:
    """Run the suite in a container of the small image whose command is ``argv``."""
    recipe = load_recipe(parse_ref(REF), [on_small.folder / "small"])
    image = ImageRef.read(small.store.layout, small.built.image.digest, (recipe.ref.candidate,))
    [engine] = detect("sandbox", small.store, CALLER, jobs=2)
    engine.load(image, SilentProgress())

    def run(*argv: str, timeout: float = 60) -> Report:
        folder = tmp_path / "stage"
        folder.mkdir()
        instead: Engine = Instead(engine, argv, timeout)  # type: ignore[assignment]  # only what the gate calls
        expected = expect(recipe, small.lock, gpus_given=0)
        return run_suite(instead, image, expected, gpus=0, folder=folder, progress=SilentProgress())

    return run


def refused(id: str, work, *arguments: str, timeout: float = 60) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        work(*arguments, timeout=timeout)
    assert (caught.value.id, caught.value.exit) == (id, Exit.GATE)
    assert caught.value.where == f"{REF}-candidate"
    assert caught.value.hint
    return caught.value


def test_a_container_that_hangs_is_stopped_and_is_no_pass(ask) -> None:
    assert "after 2 s" in refused("suite-hung", ask, "sleep", "600", timeout=2).message


@pytest.mark.parametrize(
    "argv", [("sh", "-c", "kill -9 $$"), ("false",), ("sh", "-c", "echo lost >&2; exit 139")]
)
def test_a_container_that_dies_is_no_pass(ask, argv: tuple[str, ...]) -> None:
    refused("suite-without-report", ask, *argv)


def test_a_container_that_dies_in_the_middle_of_its_report_is_no_pass(ask) -> None:
    refused("bad-report", ask, "sh", "-c", '"$0" "$@" | head -c 2000', SUITE)


def test_an_image_that_undoes_the_callers_variables_is_refused(ask) -> None:
    error = refused(
        "report-without-variables", ask, "sh", "-c", 'unset NCCL_NVLS_ENABLE; exec "$0" "$@"', SUITE
    )
    assert "NCCL_NVLS_ENABLE is '0' here, None there" in error.message
