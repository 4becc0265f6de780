"""The long campaign: ``python -m tests.fuzz --inputs 100000 [--reader NAME]…``; exit 1 where anything crashed."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / name) for name in ("", "layers", "base"))]

from fuzz_engine import Told, campaign  # noqa: E402  # found by the line before
from fuzz_readers import READERS  # noqa: E402


def main() -> int:
    """Try the readers one after the other and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--reader", action="append", default=[], help="a reader's name; all without it")
    parser.add_argument("--inputs", type=int, default=100_000, help="for each reader")
    parser.add_argument("--first", type=int, default=0, help="the first input's number")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that crashed a reader")
    parser.add_argument("--list", action="store_true", help="print the readers' names and end")
    parser.add_argument(
        "--part", default="1/1", help="1/2: the first of two halves, to run them side by side"
    )
    given = parser.parse_args()
    names = given.reader or list(READERS)
    if unknown := [name for name in names if name not in READERS]:
        parser.error(f"no reader {unknown[0]}; --list prints them")
    if given.list:
        print("\n".join(READERS))
        return 0
    part, parts = map(int, given.part.split("/"))
    crashed = 0
    print("| reader | inputs | refused | seconds | crashes |\n|---|---:|---:|---:|---:|", flush=True)
    for name in names[part - 1 :: parts]:
        told = campaign(READERS[name], given.inputs, first=given.first)
        print(
            f"| {name} | {told.inputs:,} | {told.refused:,} | {told.seconds:.0f} | {len(told.crashes)} |",
            flush=True,
        )
        crashed += len(told.crashes)
        report(name, told, given.keep)
    return 1 if crashed else 0


def report(name: str, told: Told, keep: Path | None) -> None:
    """Say what crashed on stderr; keep the inputs where a folder is given."""
    for crash in told.crashes.values():
        print(
            f"\n{name}: {crash.at}\n  input {crash.data[:400]!r}\n{crash.told}", file=sys.stderr, flush=True
        )
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{hashlib.sha256(crash.at.encode()).hexdigest()[:8]}").write_bytes(crash.data)


if __name__ == "__main__":
    sys.exit(main())
