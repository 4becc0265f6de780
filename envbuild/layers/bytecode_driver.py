"""Runs in the sandbox in the image's own interpreter, with the standard library only: wheels' sources to byte code.

``main`` reads a JSON object from stdin: ``jobs`` (processes), ``level`` (of gzip), ``out`` (a folder) and ``units``. A
unit is a run of one wheel's sources, with ``target`` (a file name in ``out``), ``wheel`` (where it lies) and
``sources``: each a ``path`` below ``/`` and either ``content`` (text) or ``method``,
``offset``, ``compressed``, ``size`` and ``crc`` of a zip member. Each unit becomes one gzip member of tar entries
without an end of archive. Prints a JSON object: ``failed`` (paths that do not compile), ``damaged`` (wheels that do
not inflate).
"""

from __future__ import annotations

import json
import marshal
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path
from typing import Any

from envbuild.layers.format import MTIME
from envbuild.layers.tar import header, padding


def compile_unit(task: tuple[Mapping[str, Any], str, int]) -> tuple[list[str], str]:
    """Make one unit's file; return the paths that do not compile, and the wheel if it is damaged (else nothing)."""
    unit, out, level = task
    warnings.simplefilter("ignore")
    failed: list[str] = []
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    with Path(out, unit["target"]).open("wb") as target:
        fd = os.open(unit["wheel"], os.O_RDONLY)
        for source in unit["sources"]:
            plain = _source(fd, source)
            if plain is None:
                return failed, unit["wheel"]
            code = compiled(plain, "/" + source["path"])
            if code is None:
                failed.append(source["path"])
                continue
            path = cache_from_source(source["path"], optimization="")
            target.write(packer.compress(header(path, "file", mode=0o644, size=len(code))))
            target.write(packer.compress(code + padding(len(code))))
        os.close(fd)
        target.write(packer.flush())
    return failed, ""


def compiled(source: bytes, name: str) -> bytes | None:
    """A source's byte code as ``py_compile`` makes it (PEP 552, by mtime); None if it does not compile."""
    try:
        code = compile(source, name, "exec", dont_inherit=True, optimize=-1)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return MAGIC_NUMBER + struct.pack("<3L", 0, MTIME, len(source) & 0xFFFFFFFF) + marshal.dumps(code)


def _source(fd: int, source: Mapping[str, Any]) -> bytes | None:
    if "content" in source:
        return str(source["content"]).encode()
    data = os.pread(fd, source["compressed"], source["offset"])
    try:
        plain = data if source["method"] == 0 else zlib.decompress(data, -15, source["size"])
    except zlib.error:
        return None
    return plain if len(plain) == source["size"] and zlib.crc32(plain) == source["crc"] else None


def main() -> None:
    """Read the units, spread them over processes, print what failed."""
    given = json.load(sys.stdin)
    os.umask(0o022)
    tasks = [(unit, given["out"], given["level"]) for unit in given["units"]]
    failed: list[str] = []
    damaged = set()
    with ProcessPoolExecutor(given["jobs"]) as pool:
        for paths, wheel in pool.map(compile_unit, tasks):
            failed += paths
            damaged |= {wheel} - {""}
            sys.stderr.write("unit\n")
            sys.stderr.flush()
    json.dump({"failed": sorted(failed), "damaged": sorted(damaged)}, sys.stdout)
