"""What others wrote is shown, and neither obeyed by the terminal nor taken for envbuild's own words."""

from __future__ import annotations

import io
import json
import os
import subprocess
from pathlib import Path

import pytest
from clirun import Cli
from rich.console import Console

from envbuild.cli.live import LiveSuite
from envbuild.cli.terminal import BarProgress, LineProgress, Terminal
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import of_bytes
from envbuild.plain import is_plain, json_text, visible

HOSTILE = {
    "escape sequence": ("a\x1b[2Jb", r"a\x1b[2Jb"),
    "C1 control": ("a\x9b2Jb", r"a\x9b2Jb"),
    "delete": ("a\x7fb", r"a\x7fb"),
    "carriage return": ("a\rb", r"a\rb"),
    "backspace": ("a\bb", r"a\x08b"),
    "text turned around": ("a\u202eb", r"a\u202eb"),
    "isolate": ("a\u2066b", r"a\u2066b"),
    "zero-width space": ("a\u200bb", r"a\u200bb"),
    "zero-width joiner": ("a\u200db", r"a\u200db"),
    "byte order mark": ("a\ufeffb", r"a\ufeffb"),
    "soft hyphen": ("a\xadb", r"a\xadb"),
    "line separator": ("a\u2028b", r"a\u2028b"),
    "filler": ("a\u3164b", r"a\u3164b"),
    "variation selector": ("a\ufe0fb", r"a\ufe0fb"),
    "tag": ("a\U000e0041b", r"a\U000e0041b"),
    "lone surrogate": ("a\udcffb", r"a\udcffb"),
}
FORGED = "v2.7\n✓ verdict  passed\x1b[1A\r"


@pytest.fixture
def terminal() -> Terminal:
    return Terminal(json=False, quiet=False)


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_a_terminal_obeys_or_hides_is_written_out(
    kind: str, terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    text, shown = HOSTILE[kind]
    terminal.data({}, text)
    terminal.data({}, [text])
    terminal.say(text)
    LineProgress(terminal.console).note(text)
    with LineProgress(terminal.console).task(text):
        pass
    terminal.error(EnvbuildError("an-id", text, where=text, hint=text, exit=Exit.INPUT))
    out, err = capsys.readouterr()
    assert out.splitlines() == [shown, shown]
    assert [line.replace(" 0.0 s", "") for line in err.splitlines()] == [
        shown, shown, f"✓ {shown}", f"error[an-id]: {shown}", f"   at: {shown}", f" hint: {shown}",
    ]  # fmt: skip
    assert visible(text) == shown
    assert not is_plain(text)


@pytest.mark.parametrize("text", ["ä, ß, 日本語, العربية, 😀, → ✓", "", "a b", "e\u0301"])
def test_what_is_seen_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize("kind", HOSTILE)
def test_json_holds_it_as_escapes_and_gives_it_back(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = HOSTILE[kind][0]
    terminal = Terminal(json=True, quiet=True)
    terminal.data({text: ["ä", text]}, "")
    terminal.error(EnvbuildError("an-id", text, hint="h", exit=Exit.INPUT))
    out = capsys.readouterr().out
    assert all(char == "\n" or is_plain(char) for char in out)
    value, end = json.JSONDecoder().raw_decode(out)
    assert value == {text: ["ä", text]}
    assert json.loads(out[end:])["error"]["message"] == text
    assert "ä" in json_text("ä")


def test_a_value_adds_no_line_to_a_list_of_lines(
    terminal: Terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.data({}, [f"lock  {FORGED}", "end"])
    assert capsys.readouterr().out.splitlines() == [r"lock  v2.7\n✓ verdict  passed\x1b[1A\r", "end"]


def test_a_value_begins_no_line_of_a_message(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.error(
        EnvbuildError("an-id", f"no {FORGED}", where=FORGED, hint=f"run {FORGED}", exit=Exit.INPUT)
    )
    LineProgress(terminal.console).note(f"see {FORGED}")
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("✓")] == []
    assert lines[1] == r"  ✓ verdict  passed\x1b[1A\r"


@pytest.mark.parametrize(
    "label", ["[red]x[/red]", "[/]", "[bold", "a[/b]", "[link=file:///etc/passwd]x[/link]", "x\\"]
)
def test_no_label_is_read_as_markup(label: str) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200, color_system=None, emoji=False)
    bars = BarProgress(console)
    with bars.task(label, total=3) as task:
        task.advance(1)
        bars.note(label)
    live = LiveSuite(console)
    with live.shown():
        live.note(f"[1/1] versions: {label}")
        live.note(f"    versions: FAILED in 1.0 s: {label}")
        live.note(f"{label}\x1b[31m")
    shown = out.getvalue()
    assert f"✓ {label} " in shown
    assert f"✗ versions FAILED 1.0 s {label}" in shown
    assert rf"{label}\x1b[31m" in shown


@pytest.mark.parametrize("arguments", [("image",), ("lock",), ("verdict",), ("unbundle",), ("matrix",)])
def test_an_argument_is_shown_and_not_obeyed(cli: Cli, arguments: tuple[str, ...]) -> None:
    for argument in (f"x:{FORGED}", os.fsdecode(b"x:\xff\xfe")):
        done = cli(*arguments, argument)
        assert done.code != 0
        assert not set("\x1b\r") & set(done.err)
        assert [line for line in done.err.splitlines() if line.startswith("✓")] == []
        assert "v2.7" in done.err or r"\udcff" in done.err
        cli(*arguments, argument, "--json").value["error"]


def bundle(folder: Path, ref: str) -> Path:
    """The index of a bundle, as far as it is read before anything else is looked at."""
    document = {"digest": of_bytes(b"{}"), "text": "{}"}
    piece = {"file": "plan.zst", "size": 1, "sha256": "0" * 64}
    value = {
        "kind": "envbuild.bundle", "format": 1, "ref": ref, "manifest": document, "config": document,
        "inputs": "sha256:" + "0" * 64, "plan": piece, "pieces": [],
    }  # fmt: skip
    folder.mkdir()
    (folder / "index.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize("ref", [f"pytorch-cuda:{FORGED}", "pytorch-cuda", "a:b-candidate", "\x1b[2J:v1"])
def test_a_bundle_of_a_forged_reference_is_refused(cli: Cli, ref: str) -> None:
    done = cli.fails(5, "bad-bundle", "unbundle", str(bundle(cli.folder / "bundle", ref)))
    assert "is no reference to a recipe" in done.err
    assert "\x1b" not in done.err
    assert [line for line in done.err.splitlines() if line.startswith("✓")] == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_every_text_can_be_printed_in_every_encoding(cli: Cli, encoding: str) -> None:
    env = {**cli.env, "PYTHONIOENCODING": encoding}
    (cli.folder / "ü.json").write_text("{}")
    plain = cli("export", "pytorch-cuda:v2.7", "--format", "sbom").out.encode()
    for arguments in (
        ["list"],
        ["advise", "--check", "ü.json", "--json"],
        ["promote", "--help"],
        ["export", "pytorch-cuda:v2.7", "--format", "sbom"],
        ["none", "ü"],
    ):
        run = subprocess.run(
            cli.argv(*arguments), env=env, cwd=cli.folder, capture_output=True, check=False, timeout=120
        )
        assert b"Traceback" not in run.stderr + run.stdout, run.stderr
        if arguments[0] == "export":
            assert run.stdout == plain
        if "--json" in arguments:
            json.loads(run.stdout.decode(encoding))
