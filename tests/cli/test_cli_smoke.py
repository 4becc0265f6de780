"""``smoke``: what it refuses before it starts, ``--here``, and what a person sees; ``verdict``: who signed a file."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from pathlib import Path

import msgspec
import pytest
from clirun import Cli
from needed import lacking
from rich.console import Console
from smallimage import COMMITTED
from test_cli_json import documented
from verdictmaker import own_key, signed, verdict_about

from envbuild.cli.live import LiveSuite
from envbuild.cli.verdict_table import verdict_table
from envbuild.gate import Verdict, read_signed
from envbuild.image.locked import image_of
from envbuild.lock import Lock, read_lock
from envbuild.oci.image import Image
from envbuild.smoke.checks import CHECKS

V27 = "pytorch-cuda:v2.7"


@pytest.fixture
def locked() -> tuple[Image, Lock]:
    lock = read_lock(COMMITTED)
    image = image_of(lock)
    assert image is not None
    return image, lock


# which image, and where


def test_an_image_or_here(cli: Cli) -> None:
    assert "no image was named" in cli.fails(2, "usage", "smoke").err
    cli.fails(2, "usage", "smoke", V27, "--here")
    cli.fails(2, "usage", "smoke", "--here", "--engine", "sandbox")
    cli.fails(2, "usage", "smoke", V27, "--python", "/usr/bin/python3")


def test_a_digest_that_no_lock_names(cli: Cli) -> None:
    done = cli.fails(3, "no-such-image", "smoke", "sha256:" + "0" * 64)
    assert "envbuild list" in done.err


@pytest.mark.parametrize("name", [V27, f"{V27}-candidate"])
def test_a_name_with_another_digest_is_not_run(cli: Cli, name: str, locked: tuple[Image, Lock]) -> None:
    """Nothing is reachable here, so an image that is not in the store cannot be built: what comes first is that."""
    done = cli("smoke", f"{name}@sha256:{'0' * 64}")
    assert done.code in {4, 3}
    assert done.err.count("error[") == 1


def test_more_gpus_than_there_are_is_refused_first(cli: Cli) -> None:
    for where in (["--here"], [V27]):
        done = cli.fails(7, "too-few-gpus", "smoke", *where, "--gpus", "800")
        assert "800 GPUs were asked for, this machine has" in done.err
    assert not (cli.folder / "home/.config").exists()


def test_files_that_cannot_be_written_are_refused_first(cli: Cli) -> None:
    for option in ("--report", "--html"):
        cli.fails(2, "cannot-write", "smoke", "--here", option, "no/such/folder/file")


# here


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_python_that_is_none_or_too_old(cli: Cli) -> None:
    cli.fails(2, "bad-python", "smoke", "--python", "none")
    cli.fails(2, "bad-python", "smoke", "--python", str(script(cli.folder / "false", "exit 1")))
    old = cli.fails(2, "bad-python", "smoke", "--python", str(script(cli.folder / "old", "echo 3 9")))
    assert "needs Python 3.11, this is 3.9" in old.err


def test_a_python_without_torch(cli: Cli) -> None:
    environment = cli.folder / "venv"
    subprocess.run(["/usr/bin/env", "python3", "-m", "venv", "--without-pip", environment], check=True)
    named = cli.fails(2, "environment-cannot-be-asked", "smoke", "--python", str(environment / "bin/python"))
    assert "torch is not installed in this Python" in named.err
    active = cli.fails(
        2, "environment-cannot-be-asked", "smoke", "--here", env={"VIRTUAL_ENV": str(environment)}
    )
    assert str(environment / "bin/python") in active.err
    assert "--python" in active.err


def test_a_suite_that_dies_is_refused_with_what_it_said_last(cli: Cli) -> None:
    dying = script(
        cli.folder / "dying",
        'case "$*" in *smoke*) echo the end is near >&2; kill -9 $$;; *) echo 3 11;; esac',
    )
    done = cli.fails(6, "suite-without-report", "smoke", "--python", str(dying))
    assert "status -9" in done.err
    assert "the end is near" in done.err.partition("error[")[2]


@pytest.mark.torch
def test_here_ends_with_a_verdict_that_promotes_nothing(cli: Cli) -> None:
    """A CPU build of torch: the suite runs, and the verdict is about no image."""
    python = os.environ.get("ENVBUILD_TORCH_PYTHON")
    if python is None:
        lacking("no torch: set ENVBUILD_TORCH_PYTHON to a Python that has it")
    call = ("smoke", "--python", python, "--report", "v.json", "--html", "v.html", "--json", "--gpus", "0")
    done = cli(*call, env={"NCCL_NVLS_ENABLE": "0", "TORCH_NCCL_BLOCKING_WAIT": "1"})
    assert done.code == 6, done  # a CPU build is not what the suite wants
    assert set(done.value) == documented("envbuild smoke")
    verdict = done.value["verdict"]
    assert verdict["subject"] is None
    assert verdict["environment"]["NCCL_NVLS_ENABLE"] == "0"
    assert verdict["environment"]["TORCH_NCCL_BLOCKING_WAIT"] == "1"
    assert {c["id"]: c["status"] for c in verdict["checks"]}["gloo-all-reduce"] == "passed"
    read = read_signed(cli.folder / "v.json", trusted=[own_key(cli.folder / "home").public]).verdict
    assert json.loads(json.dumps(read.to_dict())) == verdict
    assert "About no image" in (cli.folder / "v.html").read_text()
    refused = cli.fails(6, "verdict-about-no-image", "promote", V27, "--verdict", "v.json")
    assert "without --here" in refused.err


# a verdict's file


@pytest.fixture
def file(cli: Cli, locked: tuple[Image, Lock], recipes: Path) -> Path:
    path = cli.folder / "verdict.json"
    path.write_bytes(signed(verdict_about(*locked, V27, recipes), own_key(cli.folder / "home")))
    return path


def test_a_verdict_is_shown_with_who_signed_it(cli: Cli, file: Path, locked: tuple[Image, Lock]) -> None:
    key = own_key(cli.folder / "home").public
    done = cli("verdict", str(file), "--html", "v.html")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{V27}  {locked[0].digest}\n2 × NVIDIA H200, driver 580.159.04")
    assert f"signed by: {key.id}\npage: v.html\n" in done.out
    assert key.id in (cli.folder / "v.html").read_text()
    value = cli("verdict", str(file), "--json").value
    assert set(value) == documented("envbuild verdict")
    assert (value["keys"], value["verdict"]["result"]) == ([key.id], "passed")


def test_a_verdict_that_cannot_be_believed_is_not_shown(cli: Cli, file: Path) -> None:
    foreign = {"ENVBUILD_SIGNING_KEY": subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519"], capture_output=True, check=True, text=True
    ).stdout}  # fmt: skip
    done = cli.fails(6, "verdict-by-unknown-key", "verdict", str(file), "--html", "v.html", env=foreign)
    assert not (cli.folder / "v.html").exists()
    (cli.folder / "pub.pem").write_text(own_key(cli.folder / "home").public.pem)
    done = cli("verdict", str(file), "--key", "pub.pem", env=foreign)
    assert done.code == 0, done


# what a person sees


def test_the_table_has_every_check_its_figure_and_what_to_do(
    locked: tuple[Image, Lock], recipes: Path
) -> None:
    value = verdict_about(*locked, V27, recipes)
    checks = {check["id"]: check for check in value["checks"]}
    checks["versions"]["numbers"] = {"packages": 203, "hashed_files": 13314}
    checks["versions"]["warnings"] = ["one is old"]
    checks["nccl"].update(
        status="failed", expected="240 GB/s", seen="41 GB/s\nby SHM", hint="unset NCCL_P2P_DISABLE"
    )
    checks["ddp"].update(status="not-run", seen="not asked for")
    value["result"] = "failed"
    text = "\n".join(verdict_table(_verdict(value)))
    assert re.search(r"^versions +passed +1\.5  203 packages, 13,314 files hashed$", text, re.MULTILINE)
    assert re.search(r"^ddp +not run +not asked for$", text, re.MULTILINE)
    assert "warning: versions: one is old\n" in text
    assert (
        "  expected: 240 GB/s\n  seen:     41 GB/s\n            by SHM\n  hint:     unset NCCL_P2P_DISABLE\n"
        in text
    )
    assert text.endswith(f"\nfailed: {value['why']}")
    assert "\x1b" not in text


def _verdict(value: dict) -> Verdict:
    return msgspec.convert(value, type=Verdict)


def shown(lines: list[str]) -> str:
    """What a terminal of 100 columns gets; the escape sequences are taken out."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, emoji=False)
    live = LiveSuite(console)
    with live.shown():
        for line in lines:
            live.note(line)
        live._bars.refresh()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_a_terminal_shows_what_runs_and_keeps_what_ended() -> None:
    text = shown(
        [
            "    ddp: not run: it needs two GPUs, and one is here",
            "[1/3] versions: every package is [the] locked one",
            "[2/3] loaded: the CUDA libraries are the pinned ones",
            "    versions: passed in 2.8 s",
            "    nccl: FAILED in 8.7 s",
            "        expected: 240 GB/s [floor]",
            "NCCL WARN something of its own",
        ]
    )
    for line in (
        "– ddp not run it needs two GPUs, and one is here",
        "✓ versions 2.8 s",
        "✗ nccl FAILED 8.7 s",
        "        expected: 240 GB/s [floor]",
        "NCCL WARN something of its own",
    ):
        assert line in text
    assert re.search(r"loaded the CUDA libraries are the pinned ones +0:00:0\d", text)


def test_a_check_that_ended_is_not_drawn_as_running_below_its_end() -> None:
    text = shown(["[1/1] versions: every package", "    versions: passed in 2.8 s"])
    assert "versions every package" not in text.partition("✓ versions")[2]


def test_the_live_view_reads_what_the_suite_says(tmp_path: Path) -> None:
    """The lines are those of the suite itself: every check that ends is marked once."""
    from envbuild.smoke.model import CheckResult
    from envbuild.smoke.runner import tell

    lines = []
    for index, check in enumerate(CHECKS):
        status = ("passed", "failed", "not-run")[index % 3]
        lines.append(f"[{index + 1}/{len(CHECKS)}] {check.id}: {check.reason}")
        lines += tell(
            CheckResult(id=check.id, reason=check.reason, status=status, timeout=9, seconds=1.25, seen="s: t")
        )
    text = shown(lines)
    for index, check in enumerate(CHECKS):
        mark = ("✓", "✗", "–")[index % 3]
        assert len(re.findall(rf"{mark} {check.id}\b", text)) == 1


def test_a_log_gets_plain_lines(cli: Cli) -> None:
    python = script(
        cli.folder / "py",
        'case "$*" in *smoke*) echo "[1/1] versions: all" >&2; exit 9;; *) echo 3 12;; esac',
    )
    done = cli.fails(6, "suite-without-report", "smoke", "--python", str(python))
    assert "\n[1/1] versions: all\n" in done.err
    assert "\x1b" not in done.err
    quiet = cli("smoke", "--python", str(python), "--quiet")
    assert quiet.err.startswith("error[")


def test_a_key_that_is_no_key_stops_before_the_suite(cli: Cli) -> None:
    cli.fails(2, "bad-key", "smoke", "--here", env={"ENVBUILD_SIGNING_KEY": "garbage"})
