"""``envbuild run``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from envbuild.cli.context import Context, common
from envbuild.cli.docker_named import candidate_of
from envbuild.engine import NAMES, Gpus, Mount, RunCommand
from envbuild.errors import EnvbuildError, Exit


class _Run(click.Command):
    """Options stand before CMD only: ``envbuild run REF python -u train.py`` hands ``-u`` to python."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = self._start_of_command(args)
        return super().parse_args(ctx, [*args[:at], "--", *args[at:]] if at < len(args) else args)

    def _start_of_command(self, args: list[str]) -> int:
        """The index of the second word that is neither an option nor an option's value."""
        flags = {name for p in self.params if getattr(p, "is_flag", False) for name in p.opts} | {
            "-h",
            "--help",
        }
        words = 0
        value = False
        for index, arg in enumerate(args):
            if value:
                value = False
            elif arg == "--":
                return len(args)
            elif arg.startswith("-") and arg != "-":
                joined = "=" in arg if arg.startswith("--") else len(arg) > 2
                value = not joined and arg not in flags
            else:
                words += 1
                if words == 2:
                    return index
        return len(args)


@click.command(cls=_Run)
@click.argument("ref")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
@click.option("--engine", type=click.Choice(NAMES), help="Which engine [default: the first that works].")
@click.option("--gpus", default=None, metavar="all|N", help="GPUs for the container [default: none].")
@click.option("--volume", "-v", multiple=True, metavar="HOST:PATH[:ro]", help="Mount a file or folder.")
@click.option("--env", "-e", multiple=True, metavar="NAME=VALUE", help="Set a variable.")
@click.option("--user", "-u", help="Name, uid or uid:gid [default: the image's].")
@click.option("--workdir", "-w", help="Working directory [default: the image's].")
@click.option("--shm-size", default=8.0, show_default=True, metavar="GIB", help="Size of /dev/shm.")
@click.option("--no-network", is_flag=True, help="Loopback only.")
@common
def command(
    context: Context,
    ref: str,
    argv: tuple[str, ...],
    engine: str | None,
    gpus: str | None,
    volume: tuple[str, ...],
    env: tuple[str, ...],
    user: str | None,
    workdir: str | None,
    shm_size: float,
    no_network: bool,
) -> int:
    """Run a command in the image of REF: envbuild run REF -- CMD… (the image's own command without CMD).

    The image is built first where the store lacks it. The exit status is the command's.
    """
    request = RunCommand(
        argv=argv,
        env=dict(_assignment(item) for item in env),
        workdir=workdir,
        user=user,
        gpus=parse_gpus(gpus),
        mounts=tuple(_mount(item) for item in volume),
        shm_size=_bytes(shm_size),
        network=not no_network,
        interactive=True,
        tty=sys.stdin.isatty() and sys.stdout.isatty(),
    )
    ready, choose = candidate_of(context, ref, engine)
    return choose().run(ready.image, request)


def parse_gpus(text: str | None) -> Gpus:
    """``all``, a count, or nothing."""
    if text is None:
        return 0
    if text == "all":
        return "all"
    if text.isdigit():
        return int(text)
    raise EnvbuildError(
        "bad-gpus", f"--gpus takes all or a number, not {text!r}", hint="--gpus all", exit=Exit.USAGE
    )


def _bytes(gibibytes: float) -> int:
    if not 0 < gibibytes < 1 << 20:
        raise EnvbuildError(
            "bad-shm-size",
            f"--shm-size takes GiB above 0, not {gibibytes}",
            hint="--shm-size 8",
            exit=Exit.USAGE,
        )
    return int(gibibytes * (1 << 30))


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise EnvbuildError(
            "bad-env", f"--env takes NAME=VALUE, not {text!r}", hint="-e A=1", exit=Exit.USAGE
        )
    return name, value


def _mount(text: str) -> Mount:
    source, colon, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not (source and colon and target) or mode not in {"", "ro", "rw"}:
        raise EnvbuildError(
            "bad-volume",
            f"--volume takes HOST:PATH or HOST:PATH:ro, not {text!r}",
            hint='-v "$PWD":/workspace',
            exit=Exit.USAGE,
        )
    if not Path(source).exists() or not target.startswith("/"):
        wrong = f"{target} is no absolute path" if Path(source).exists() else f"{source} does not exist"
        raise EnvbuildError(
            "bad-volume", f"--volume {text}: {wrong}", hint='-v "$PWD":/workspace', exit=Exit.USAGE
        )
    return Mount(source=Path(source).absolute(), target=target, read_only=mode == "ro")
