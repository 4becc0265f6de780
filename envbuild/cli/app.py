"""The entry point: commands by name (imported when called), and the one place that prints errors."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable

import click

from envbuild import __version__
from envbuild.cli.context import Context
from envbuild.cli.terminal import Terminal
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.disk import disk_full, is_full

COMMANDS = {
    "list": "recipes, their pins, lock and verdict state",
    "lock": "write or check the lock of a recipe",
    "image": "build the image of a recipe, prove it, load it",
    "smoke": "run the suite in a container of an image, or in this Python; writes a verdict",
    "run": "run a command in an image, on whatever engine there is",
    "promote": "give an image its tag, here or in a registry, which only a passing verdict allows",
    "publish": "push an image with lock, SBOM, provenance and verdict; then its tag",
    "pull": "bring an image of a registry into the store, verified",
    "verify": "check a published image: digests, proofs, who signed them",
    "verdict": "check who signed a verdict and show it",
    "key": "the key that signs verdicts, and those that are trusted",
    "bundle": "write what a far machine lacks of an image, in pieces",
    "unbundle": "take a bundle in on the far machine: rebuild and prove every layer",
    "inventory": "list a folder's files with their hashes, for bundle --have",
    "render": "Dockerfiles and environment.yml from recipe and lock",
    "env": "a conda environment from the lock, without conda",
    "export": "what is made from a lock at run time, to stdout",
    "diff": "what forms of a recipe, environments or images differ in",
    "matrix": "what CI has to build, as a table or as JSON for a matrix of jobs",
    "doctor": "this machine: engines, GPUs, mirrors; what is missing and how to get it",
    "advise": "DDP, ZeRO or offload for a model and GPUs; check a DeepSpeed config",
    "gc": "shrink the store",
}


class _Commands(click.Group):
    """Commands whose module is imported when it is needed: ``envbuild --help`` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"envbuild.cli.{cmd_name}_command")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from envbuild.recipe.suggest import nearest

            guess = "".join(nearest(args[0], list(COMMANDS)))
            raise EnvbuildError(
                "no-such-command",
                f"there is no command {args[0]!r}" + (f"; did you mean {guess!r}?" if guess else ""),
                hint="`envbuild --help` lists the commands",
                exit=Exit.USAGE,
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a bug, 2 usage, 3 recipe or lock, 4 network, 5 does not verify, "
    "6 the gate refuses, 7 the engine, or a full disk.",
)
@click.version_option(__version__, prog_name="envbuild")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Reproducible deep learning images from one lock, proven on real GPUs before they get their tag."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(int(Exit.USAGE))


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit with a documented code."""
    arguments = sys.argv[1:] if argv is None else argv
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in own
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # what its encoding lacks is written out
    code = _guarded(lambda: app.main(arguments, prog_name="envbuild", standalone_mode=False), as_json)
    _settle_output()
    sys.exit(code)


def _guarded(work: Callable[[], object], as_json: bool) -> int:
    """Run ``work``; print what went wrong once; return the exit code."""
    terminal = Terminal(json=as_json, quiet=True)
    try:
        result = work()
        sys.stdout.flush()
    except EnvbuildError as error:
        terminal.error(error)
        return int(error.exit)
    except click.ClickException as error:
        hint = "see --help"
        if isinstance(error, click.UsageError) and error.ctx is not None:
            hint = f"`{error.ctx.command_path} --help` lists what it takes"
        terminal.error(EnvbuildError("usage", error.format_message(), hint=hint, exit=Exit.USAGE))
        return int(Exit.USAGE)
    except (KeyboardInterrupt, click.Abort):
        terminal.console.print("stopped; running the same command again goes on from here")
        return 130
    except (BrokenPipeError, SystemExit):  # click makes the latter of the former, and of nothing else
        return 0
    except OSError as error:
        found = _from_os(error)
        terminal.error(found)
        return int(Exit.ENGINE if error.errno is None else found.exit)
    return result if isinstance(result, int) else 0


def _settle_output() -> None:
    """Drop what stdout still holds and does not take, so that nothing tries again when the interpreter ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_NO_TEMPORARY = "No usable temporary directory"
_ROOM = "free some space, or name another folder for temporary files with TMPDIR; then run the command again"


def _from_os(error: OSError) -> EnvbuildError:
    where = str(error.filename) if error.filename else None
    if is_full(error) and where:
        return disk_full(where, error.strerror, hint=_ROOM)
    if is_full(error):
        return EnvbuildError(
            "disk-full",
            f"{error.strerror}; the system does not say where",
            hint="`df -h` shows which disk is full; free some space there, then run the command again",
            exit=Exit.ENGINE,
        )
    if _NO_TEMPORARY in str(error):  # of folders that are full, Python says so
        return disk_full("/tmp", "no folder takes temporary files", hint=_ROOM)  # noqa: S108  # it is only named
    return EnvbuildError(
        "operating-system",
        error.strerror or str(error),
        where=where,
        hint="`envbuild doctor` looks at disk, permissions and engines; then run the command again",
        exit=Exit.USAGE,
    )


__all__ = ["Context", "app", "main"]
