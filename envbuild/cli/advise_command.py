"""``envbuild advise``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from envbuild.advise import (
    VERSION,
    Job,
    Level,
    Problem,
    Wish,
    check_config,
    choose,
    configuration,
    parse_memory,
    parse_parameters,
    shape,
)
from envbuild.advise import report as reports
from envbuild.cli.context import Context, common
from envbuild.cli.terminal import Terminal
from envbuild.errors import EnvbuildError, Exit

_COUNT = click.IntRange(1)
_MACHINE = "[default: this machine's]"


@click.command()
@click.option("--params", metavar="N", help="Parameters of the model: 7b, 350m, 6.7B, 1.3e9.")
@click.option("--gpus", type=_COUNT, metavar="N", help=f"GPUs that train, eight to a node {_MACHINE}.")
@click.option(
    "--gpu-memory", metavar="GB", help=f"Memory of one GPU: 80, 80GiB, or its name (h100, t4, …) {_MACHINE}."
)
@click.option("--cpu-memory", metavar="GB", help="Memory of one node, for offloading [default: not checked].")
@click.option(
    "--sequence", type=_COUNT, metavar="N", help="Tokens of a sequence [default: the published model's]."
)
@click.option(
    "--hidden", type=_COUNT, metavar="H", help="Width of the model [default: the published model's]."
)
@click.option(
    "--layers", type=_COUNT, metavar="L", help="Layers of the model [default: the published model's]."
)
@click.option("--vocabulary", type=_COUNT, metavar="V", help="Words [default: the published model's].")
@click.option("--batch", type=_COUNT, metavar="B", help="Sequences per GPU at once [default: what fits].")
@click.option("--global-batch", type=_COUNT, metavar="G", help="Sequences of a step [default: 0.5M tokens].")
@click.option(
    "--dtype", type=click.Choice(["bf16", "fp16"]), default="bf16", help="Precision [default: bf16]."
)
@click.option(
    "--optimizer", type=click.Choice(["adamw", "adam", "sgd"]), default="adamw", help="[default: adamw]."
)
@click.option(
    "--checkpointing/--no-checkpointing", default=None, help="Recompute activations [default: where needed]."
)
@click.option(
    "--flash-attention/--no-flash-attention",
    default=True,
    help="Attention keeps no s×s scores, as torch's scaled_dot_product_attention [default: yes].",
)
@click.option(
    "--check",
    type=click.Path(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Check this DeepSpeed configuration instead; - is stdin. Exit 3 if anything is wrong.",
)
@click.option(
    "--hugging-face",
    is_flag=True,
    help='With --check: transformers\' Trainer or Accelerate reads the file, and fills in "auto".',
)
@common
def command(
    context: Context,
    params: str | None,
    gpus: int | None,
    gpu_memory: str | None,
    cpu_memory: str | None,
    sequence: int | None,
    hidden: int | None,
    layers: int | None,
    vocabulary: int | None,
    batch: int | None,
    global_batch: int | None,
    dtype: str,
    optimizer: str,
    checkpointing: bool | None,
    flash_attention: bool,
    check: str | None,
    hugging_face: bool,
) -> int:
    """Say how to train a model of that size: DDP or a ZeRO stage, offload, batch, memory; print a DeepSpeed config.

    With --check FILE, find what is wrong in a DeepSpeed config: unknown keys, types, contradictions.
    """
    if check is not None:
        if params is not None:
            raise _usage("--check and --params exclude each other", "run the command once for each")
        return _check(context, check, gpus, hugging_face)
    if hugging_face:
        raise _usage("--hugging-face goes with --check", "add --check FILE")
    size = None if params is None else parse_parameters(params)
    model = shape(size, layers=layers, hidden=hidden, vocabulary=vocabulary, sequence=sequence)
    count, memory, cpu = _machine(gpus, gpu_memory, cpu_memory)
    job = Job(
        model=model,
        gpus=count,
        gpu_memory=memory,
        cpu_memory=cpu,
        dtype=dtype,
        optimizer=optimizer,
        flash=flash_attention,
    )
    wish = Wish(micro_batch=batch, global_batch=global_batch, checkpointing=checkpointing)
    choice = choose(job, wish)
    if (
        not context.settings.quiet
    ):  # soft_wrap: a table that rich breaks at the terminal's width cannot be read
        text = reports.text(choice, wish)
        context.terminal.say(text)
    context.terminal.data(reports.to_dict(choice, wish), json.dumps(configuration(choice), indent=2))
    return int(Exit.DONE)


def _usage(message: str, hint: str) -> EnvbuildError:
    return EnvbuildError("usage", message, hint=hint, exit=Exit.USAGE)


def _machine(gpus: int | None, gpu_memory: str | None, cpu_memory: str | None) -> tuple[int, int, int | None]:
    """Number of GPUs, bytes of one, bytes of the node; this machine's GPUs where neither was said."""
    cpu = None if cpu_memory is None else parse_memory(cpu_memory, "--cpu-memory")
    memory = None if gpu_memory is None else parse_memory(gpu_memory, "--gpu-memory")
    if gpus is not None and memory is not None:
        return gpus, memory, cpu
    found = _own_gpus()
    if not found:
        missing = " and ".join(n for n, v in (("--gpus", gpus), ("--gpu-memory", memory)) if v is None)
        raise EnvbuildError(
            "no-gpus-here",
            f"this machine has no NVIDIA GPU that nvidia-smi tells of, so {missing} must be given",
            hint="for example --gpus 4 --gpu-memory 80; `envbuild doctor` says what it sees",
            exit=Exit.USAGE,
        )
    return gpus or len(found), memory or min(found), cpu


def _own_gpus() -> list[int]:
    """Bytes of each of this machine's GPUs."""
    from envbuild.doctor.gpus import gpus

    cards = gpus().facts.get("gpus")
    sizes = [card["memory_mib"] for card in cards] if isinstance(cards, list) else []
    return [size * 2**20 for size in sizes]


def _check(context: Context, file: str, gpus: int | None, hugging_face: bool) -> int:
    name = "<stdin>" if file == "-" else file
    problems = check_config(_read(file, name), gpus=gpus, hugging_face=hugging_face)
    errors = [problem for problem in problems if problem.level is Level.ERROR]
    error = _wrong(name, problems, len(errors)) if errors else None
    value: dict[str, object] = {
        "file": name,
        "deepspeed": VERSION,
        "problems": [problem.to_dict() for problem in problems],
    }
    if error is None:
        for problem in problems:
            context.terminal.progress.note(f"warning: {problem.text(name)}")
        context.terminal.data(value, f"{name}: nothing wrong for DeepSpeed {VERSION}")
        return int(Exit.DONE)
    if context.terminal.json:
        context.terminal.data({**value, "error": error.to_dict()}, "")
    Terminal(json=False, quiet=True).error(error)  # the one JSON document holds it already
    return int(error.exit)


def _wrong(name: str, problems: tuple[Problem, ...], errors: int) -> EnvbuildError:
    lines = "\n  ".join(
        ("warning: " if problem.level is Level.WARNING else "") + problem.text(name) for problem in problems
    )
    count = "1 thing is" if errors == 1 else f"{errors} things are"
    return EnvbuildError(
        "bad-config",
        f"{count} wrong in {name}, for DeepSpeed {VERSION}:\n  {lines}",
        hint=f"edit the lines named; then `envbuild advise --check {'-' if name == '<stdin>' else name}` again",
        exit=Exit.INPUT,
    )


def _read(file: str, name: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except FileNotFoundError:
        raise EnvbuildError(
            "no-such-file",
            f"there is no file {name}",
            hint="`envbuild advise --params 7b --gpus 4 --gpu-memory 80 > ds_config.json` makes one",
            exit=Exit.USAGE,
        ) from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise EnvbuildError(
            "not-text",
            f"{name} is not UTF-8: byte {error.start} is {data[error.start]:#04x}",
            hint="save it as UTF-8 text",
            exit=Exit.INPUT,
        ) from None
