"""What is typed: help, mistakes, and where output goes."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import click
import pytest
from clirun import Cli

import envbuild
from envbuild.cli.app import COMMANDS, app

REFERENCE = Path(envbuild.__file__).parents[1] / "docs/reference/command-line.md"


def loaded(name: str) -> click.Command:
    """The command of that name; of a group's the words have a space between them."""
    command: click.Command | None = app
    for word in name.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    return command


def leaves() -> list[str]:
    """All commands that do something: ``image``, ``env create``."""
    found = []
    for name in COMMANDS:
        command = loaded(name)
        inner = sorted(command.commands) if isinstance(command, click.Group) else []
        found += [f"{name} {word}" for word in inner] or [name]
    return found


LEAVES = leaves()


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_has_help(cli: Cli, name: str) -> None:
    done = cli(*name.split(), "--help")
    assert done.code == 0
    assert done.err == ""
    assert done.out.startswith(f"Usage: envbuild {name} ")
    for option in ("--json", "--quiet", "--recipes", "--store", "--jobs"):
        assert option in done.out


@pytest.mark.parametrize("name", LEAVES)
def test_every_option_says_what_it_does(name: str) -> None:
    for parameter in loaded(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"
            assert parameter.help.rstrip().endswith((".", "]")), f"{name} {parameter.opts}"


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_and_option_is_in_the_reference(name: str) -> None:
    page = REFERENCE.read_text()
    own = page.partition(f"\n## envbuild {name}\n")[2].partition("\n## ")[0]
    assert own, f"docs/reference/command-line.md has no section on {name}"
    shared = {"--json", "--quiet", "--recipes", "--store", "--jobs"}
    everywhere = page.partition("\n## Everywhere\n")[2].partition("\n## ")[0]
    for parameter in loaded(name).params:
        if isinstance(parameter, click.Option):
            text = everywhere if parameter.opts[0] in shared else own
            for spelling in parameter.opts:
                assert f"`{spelling}" in text, f"{name} {spelling}"


def test_the_reference_names_no_option_that_is_not_there() -> None:
    known = {"--help", "--version"} | {o for name in LEAVES for p in loaded(name).params for o in p.opts}
    for section in re.split(r"\n## ", REFERENCE.read_text()):
        for row in re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE):
            assert row in known, row


def test_without_a_command_the_help_is_shown(cli: Cli) -> None:
    done = cli()
    assert done.code == 2
    assert done.out == ""
    for name, what in COMMANDS.items():
        assert name in done.err
        assert what.split()[0] in done.err


def test_the_version(cli: Cli) -> None:
    assert cli("--version").out == f"envbuild, version {envbuild.__version__}\n"


def test_an_unknown_command_names_the_nearest(cli: Cli) -> None:
    assert "did you mean 'image'?" in cli.fails(2, "no-such-command", "imgae").err


def test_an_unknown_option_names_the_nearest(cli: Cli) -> None:
    assert "--verify" in cli.fails(2, "usage", "image", "pytorch-cuda:v2.7", "--verfy").err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["image"], "Missing argument 'REF'"),
        (["export", "pytorch-cuda:v2.7"], "Missing option '--format'"),
        (["export", "pytorch-cuda:v2.7", "--format", "spdx"], "'requirements', 'layers'"),
        (["list", "--jobs", "0"], "--jobs"),
        (["list", "--recipes", "/nonexistent"], "/nonexistent"),
        (["list", "surplus"], "surplus"),
        (["image", "pytorch-cuda:v2.7", "--engine", "lxc"], "'docker', 'oci', 'sandbox'"),
        (["lock", "pytorch-cuda:v2.7", "--date", "yesterday"], "--date"),
        (["smoke", "pytorch-cuda:v2.7", "--gpus", "-1"], "--gpus"),
        (["run", "--gpu", "all", "pytorch-cuda:v2.7"], "--gpus"),
    ],
)
def test_wrong_usage_exits_with_2(cli: Cli, arguments: list[str], says: str) -> None:
    done = cli.fails(2, "usage", *arguments)
    assert says in done.err
    assert f"`envbuild {arguments[0]} --help`" in done.err


@pytest.mark.parametrize(
    ("options", "id"),
    [
        (["--volume", "foo"], "bad-volume"),
        (["--volume", "/:relative"], "bad-volume"),
        (["--volume", "/:/x:rx"], "bad-volume"),
        (["--volume", "/nonexistent:/x"], "bad-volume"),
        (["--env", "=1"], "bad-env"),
        (["--env", "NAME"], "bad-env"),
        (["--gpus", "some"], "bad-gpus"),
        (["--shm-size", "nan"], "bad-shm-size"),
        (["--shm-size", "inf"], "bad-shm-size"),
        (["--shm-size=-1"], "bad-shm-size"),
    ],
)
def test_run_refuses_bad_options_before_it_builds(cli: Cli, options: list[str], id: str) -> None:
    cli.fails(2, id, "run", *options, "pytorch-cuda:v2.7", "true")
    assert not (cli.folder / "store").exists()


def test_options_after_the_command_of_run_are_the_command_s(cli: Cli) -> None:
    # An unknown recipe: all arguments were accepted.
    cli.fails(3, "no-recipe", "run", "no:such", "python", "-u", "--gpus", "-x", "--volume")
    cli.fails(3, "no-recipe", "run", "-e", "A=1", "no:such", "--gpus=all", "--", "--volume", "x")
    cli.fails(2, "usage", "run", "no:such", "--volumes", "x", "python")


@pytest.mark.parametrize("option", ["--output", "--report"])
def test_where_the_result_goes_is_looked_at_before_the_work(cli: Cli, option: str) -> None:
    command = {"--output": "image", "--report": "smoke"}[option]
    done = cli.fails(2, "cannot-write", command, "pytorch-cuda:v2.7", option, str(cli.folder / "none/file"))
    assert f"mkdir -p {cli.folder}/none" in done.err
    cli.fails(2, "usage", command, "pytorch-cuda:v2.7", option, str(cli.folder))
    assert not (cli.folder / "store").exists()


def test_errors_are_objects_on_stdout_with_json(cli: Cli) -> None:
    for arguments in (["image", "no:such"], ["image", "--nope"], ["imgae"], ["list", "--jobs", "0"]):
        done = cli(*arguments, "--json")
        assert set(done.value) == {"error"}
        assert set(done.value["error"]) == {"id", "message", "where", "hint"}
        assert done.value["error"]["message"].splitlines()[0] in done.err


def test_json_of_the_command_in_the_container_is_not_envbuild_s(cli: Cli) -> None:
    cli.fails(3, "no-recipe", "run", "no:such", "--", "python", "--json")


def test_what_the_user_typed_is_printed_as_it_is(cli: Cli) -> None:
    assert '"[bold]a:b:c"' in cli.fails(2, "wrong-reference", "image", "[bold]a:b:c").err.replace(
        'tag "b:c"', ""
    )


def on_a_terminal(cli: Cli, *arguments: str, env: dict[str, str]) -> str:
    """What a terminal on stderr receives."""
    reader, writer = pty.openpty()
    with subprocess.Popen(
        cli.argv(*arguments), env={**cli.env, "TERM": "xterm", **env}, cwd=cli.folder, stderr=writer,
        stdout=subprocess.DEVNULL,
    ):  # fmt: skip
        os.close(writer)
        received = b""
        while True:
            try:
                data = os.read(reader, 65536)
            except OSError:
                break
            if not data:
                break
            received += data
    os.close(reader)
    return received.decode()


def test_no_color_is_honoured(cli: Cli) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    assert colour.search(on_a_terminal(cli, "image", "no:such", env={}))
    assert not colour.search(on_a_terminal(cli, "image", "no:such", env={"NO_COLOR": "1"}))


def test_a_closed_pipe_is_no_error(cli: Cli) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        cli.argv("export", "pytorch-cuda:v2.7", "--format", "requirements"),
        env=cli.env, cwd=cli.folder, stdout=writer, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode in {0, 141}


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_stdout_on_a_full_disk_is_one_error(cli: Cli, options: list[str], unbuffered: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            cli.argv("list", *options),
            env={**cli.env, "PYTHONUNBUFFERED": unbuffered},
            cwd=cli.folder,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 7
    assert done.stderr.startswith(
        b"error[disk-full]: standard output cannot be written: No space left on device\n   at: stdout\n"
    )
    assert b"Exception" not in done.stderr
    assert b"Traceback" not in done.stderr
