"""How far writing wheel layers is from the limit, and from compressing again.

    .venv/bin/python benchmarks/splice.py WHEEL… [--runs 3] [--jobs 2] [--sample 200]

The limit reads each wheel once, inflates its entries and hashes both sides: no tar, no CRC32, no RECORD hash, nothing
written. Splicing is measured to disk (fsync included) and to nowhere, ``--jobs`` layers at a time; all in turn in one
process, medians. The peers take one wheel, the largest that inflates to ``--sample`` MB at most,
and do what splicing spares: inflate, compress again (gzip -6 as `docker push` does, isal's fastest level), hash both.
Processor seconds (all threads) tell more than the clock on a machine that does other things too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from isal import igzip_lib, isal_zlib

from envbuild.layers.groups import group_of
from envbuild.layers.inflate import CHUNK
from envbuild.layers.splice import write_wheel_layer
from envbuild.layers.wheel import SplicedFile, WheelPlan, plan_wheel
from envbuild.layers.zip import STORED
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress


class _Nowhere(Layout):
    """A layout that hashes what it is given and keeps nothing."""

    @contextmanager
    def writer(self) -> Iterator[_Hash]:  # type: ignore[override]  # it stands in for BlobWriter
        """What :meth:`Layout.writer` is, without a disk."""
        yield _Hash()


class _Hash:
    def __init__(self) -> None:
        self._hasher = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return "sha256:" + self._hasher.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        self._hasher.update(data)
        self.size += len(data)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="layers at a time")
    parser.add_argument("--sample", type=int, default=400, help="MB that the peers compress, at most")
    options = parser.parse_args()
    begin = time.perf_counter()
    plans = [plan_wheel(path, file=path.name, sha256="0" * 64) for path in options.wheels]
    planned = time.perf_counter() - begin
    layers = _layers(plans)
    seconds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory(dir=options.wheels[0].parent, prefix="splice-") as folder:
            layout, nowhere = Layout.create(Path(folder)), _Nowhere(Path(folder))
            steps: dict[str, Callable[[list[WheelPlan]], None]] = {
                "limit: read, inflate, hash both sides": _limit,
                "splice to nowhere": partial(_splice, nowhere),
                "splice to disk": partial(_splice, layout),
            }
            for name, step in steps.items():
                seconds.setdefault(name, []).append(_timed(step, layers, options.jobs))
    _print(plans, planned, seconds)
    small = [plan for plan in plans if plan.size <= options.sample * 1_000_000]
    if small:
        _peers(max(small, key=lambda plan: plan.size))


def _layers(plans: Sequence[WheelPlan]) -> list[list[WheelPlan]]:
    """The wheels by layer, the largest layer first."""
    groups: dict[str, list[WheelPlan]] = {}
    for plan in plans:
        groups.setdefault(group_of(plan.name), []).append(plan)
    return sorted(groups.values(), key=lambda wheels: -sum(plan.bytes_read for plan in wheels))


def _timed(
    step: Callable[[list[WheelPlan]], None], layers: Sequence[list[WheelPlan]], jobs: int
) -> tuple[float, float]:
    """Seconds by the clock, and processor seconds."""
    begin, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        list(pool.map(step, layers))
    return time.perf_counter() - begin, time.process_time() - used


def _splice(layout: Layout, wheels: list[WheelPlan]) -> None:
    write_wheel_layer(group_of(wheels[0].name), wheels, layout, SilentProgress())


def _limit(wheels: list[WheelPlan]) -> None:
    packed, plain = hashlib.sha256(), hashlib.sha256()
    for plan in wheels:
        for data, pieces in _entry_chunks(plan):
            packed.update(data)
            for piece in pieces:
                plain.update(piece)


def _entry_chunks(plan: WheelPlan) -> Iterator[tuple[bytes, Iterable[bytes]]]:
    """The wheel's bytes piece by piece, each with what it inflates to."""
    with plan.wheel.open("rb") as wheel:
        for file in plan.files:
            if not isinstance(file, SplicedFile):
                continue
            stream = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_DEFLATE)
            for at in range(0, file.compressed, CHUNK):
                data = os.pread(wheel.fileno(), min(CHUNK, file.compressed - at), file.offset + at)
                yield data, [data] if file.method == STORED else _inflated(stream, data)


def _inflated(stream: igzip_lib.IgzipDecompressor, data: bytes) -> Iterator[bytes]:
    while True:
        plain = stream.decompress(data, CHUNK)
        yield plain
        data = b""
        if stream.eof or (stream.needs_input and len(plain) < CHUNK):
            return


def _print(plans: Sequence[WheelPlan], planned: float, seconds: dict[str, list[tuple[float, float]]]) -> None:
    read, size = sum(plan.bytes_read for plan in plans), sum(plan.size for plan in plans)
    print(
        f"{len(plans)} wheels, {read / 1e6:.0f} MB, {size / 1e6:.0f} MB inflated; planned in {planned:.2f} s"
    )
    medians = {
        name: [statistics.median(each) for each in zip(*found, strict=True)]
        for name, found in seconds.items()
    }
    (clock_limit, used_limit), *_ = medians.values()
    for name, (clock, used) in medians.items():
        print(
            f"{name:38} {clock:6.2f} s ({clock / clock_limit:.2f}), {used:6.2f} processor s ({used / used_limit:.2f}), "
            f"{read / 1e6 / clock:4.0f} MB of wheel a second"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB")


def _peers(plan: WheelPlan) -> None:
    """Splicing one wheel against compressing it again."""
    print(f"{plan.name}, {plan.size / 1e6:.0f} MB inflated, on one core:")
    with tempfile.TemporaryDirectory(dir=plan.wheel.parent, prefix="splice-") as folder:
        spliced = _timed(partial(_splice, _Nowhere(Path(folder))), [[plan]], 1)[1]
    print(f"{'spliced':38} {spliced:6.2f} processor s, {plan.bytes_read / 1e6:.0f} MB")
    for name, compressor in {
        "gzip -6": zlib.compressobj(6),
        "isal level 1": isal_zlib.compressobj(1),
    }.items():
        begin = time.process_time()
        packed, plain, size = hashlib.sha256(), hashlib.sha256(), 0
        for _, pieces in _entry_chunks(plan):
            for piece in pieces:
                plain.update(piece)
                out = compressor.compress(piece)
                packed.update(out)
                size += len(out)
        size += len(compressor.flush())
        taken = time.process_time() - begin
        print(
            f"{name:38} {taken:6.2f} processor s ({taken / spliced:.1f} times as long), {size / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()
