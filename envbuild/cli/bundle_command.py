"""``envbuild bundle``."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click

from envbuild.bundle import Packed, Request, pack, read_far
from envbuild.cli.build import build
from envbuild.cli.context import Context, common
from envbuild.cli.terminal import size
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.disk import guarded
from envbuild.oci.image import Image

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_LARGEST_LEVEL = 22


@click.command()
@click.argument("ref")
@click.option(
    "--have",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR|FILE",
    help="A copy of what the far machine has (its site-packages), or an inventory of it (repeatable).",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Where to.",
)
@click.option(
    "--piece-size",
    default="60M",
    show_default=True,
    metavar="SIZE",
    help="Bytes at most per piece (K, M, G).",
)
@click.option(
    "--level",
    type=click.IntRange(1, _LARGEST_LEVEL),
    default=19,
    show_default=True,
    help="zstd's level for what travels whole.",
)
@common
def command(
    context: Context, ref: str, have: tuple[Path, ...], output: Path, piece_size: str, level: int
) -> None:
    """Write what a far machine lacks of the image of REF, in pieces, to DIR.

    Files that the far machine has are named by their hash, files that differ a little travel as patches. There
    `envbuild unbundle` makes every layer again and proves it. The image is built first where the store lacks it.
    """
    started = time.monotonic()
    limit = _bytes(piece_size)
    far = read_far(have, jobs=context.settings.jobs, progress=context.terminal.progress)
    ready = build(context, ref)
    with guarded(output):
        output.mkdir(parents=True, exist_ok=True)
    with ready.store.scratch("bundle") as scratch:
        packed = pack(
            Request(
                ref=str(ready.recipe.ref),
                image=ready.image,
                recipes=_recipes(context, ref),
                far=far,
                output=output,
                scratch=scratch,
                piece_size=limit,
                level=level,
                jobs=context.settings.jobs,
            ),
            context.terminal.progress,
        )
    _print(context, packed, ready.built.image, output, time.monotonic() - started)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)B?", text.upper())
    number = int(match[1]) * _UNITS[match[2]] if match else 0
    if number < 1000:
        raise EnvbuildError(
            "bad-piece-size",
            f"--piece-size takes bytes from 1000, with K, M or G, not {text!r}",
            hint="--piece-size 60M",
            exit=Exit.USAGE,
        )
    return number


def _recipes(context: Context, ref: str) -> dict[str, bytes]:
    """The files of the recipe and of those that it extends, by path below a recipes folder."""
    found: dict[str, bytes] = {}
    recipe = context.recipe(ref)
    while True:
        folder = recipe.lock_path.parent
        for name in ("recipe.toml", "lock.json", "requirements.txt"):
            path = folder / name
            if path.is_file():
                found[f"{recipe.ref.name}/{recipe.ref.tag}/{name}"] = path.read_bytes()
        if recipe.parent is None:
            return found
        recipe = context.recipe(str(recipe.parent))


def _print(context: Context, packed: Packed, image: Image, output: Path, seconds: float) -> None:
    index = packed.index
    names = {layer.diff_id: layer.name for layer in image.layers}
    value: dict[str, object] = {
        "ref": index.ref,
        "digest": index.manifest.digest,
        "output": str(output),
        "size": index.size,
        "pieces": [{"file": p.file, "size": p.size, "sha256": p.sha256} for p in (index.plan, *index.pieces)],
        "far": {"files": packed.far_files, "bytes": packed.far_bytes},
        "layers": [
            {
                "name": names[count.diff_id],
                "diff_id": count.diff_id,
                "size": count.size,
                "far": count.far,
                "patched": count.patched,
                "patches": count.patches,
                "literal": count.size - count.far - count.patched,
                "packed": count.packed,
            }
            for count in packed.layers
        ],
        "seconds": round(seconds, 3),
    }
    lines = [f"{'layer':24} {'plain':>9} {'far':>9} {'patched':>9} {'whole':>9} {'travels':>9}"]
    for count in packed.layers:
        whole = count.size - count.far - count.patched
        cells = (count.size, count.far, count.patched, whole, count.packed + count.patches)
        lines.append(f"{names[count.diff_id]:24} " + " ".join(f"{size(cell):>9}" for cell in cells))
    lines.append(f"{index.ref}  {index.manifest.digest}")
    lines.append(
        f"  {size(index.size)} in {len(index.pieces)} pieces; {packed.far_files} far files with "
        f"{size(packed.far_bytes)} stay where they are; {seconds:.0f} s"
    )
    lines.append(f"there: envbuild unbundle {output} --have DIR")
    context.terminal.data(value, lines)
