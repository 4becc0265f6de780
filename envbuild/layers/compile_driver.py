"""Runs inside the sandbox with the image's own interpreter, standard library only: compile files to byte code.

Usage: ``python3.11 -I compile_driver.py JOBS TREE <names``. The names come as one JSON list on stdin: absolute paths of
sources in the image. Each lies at TREE + name (TREE may be empty) and gets its byte code beside it, timestamp-based
(PEP 552), with the name, not the place in TREE, as its file name. What does not compile is skipped, as pip does.
Prints one JSON list: the names that did not compile.
"""

import json
import os
import py_compile
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor

CHUNK = 40
"""Files handed to a worker at a time."""


def compile_some(task: "tuple[str, list[str]]") -> "list[str]":
    """Compile files; return those that do not compile."""
    tree, names = task
    failed = []
    for name in names:
        try:
            py_compile.compile(
                tree + name,
                dfile=name,
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP,
            )
        except (py_compile.PyCompileError, ValueError, RecursionError, MemoryError):
            failed.append(name)
    return failed


def main() -> None:
    """Read the names, spread them over JOBS processes, print what failed."""
    jobs, tree = int(sys.argv[1]), sys.argv[2]
    warnings.simplefilter("ignore")
    os.umask(0o022)
    names = json.load(sys.stdin)
    tasks = [(tree, names[at : at + CHUNK]) for at in range(0, len(names), CHUNK)]
    failed = []
    with ProcessPoolExecutor(jobs) as pool:
        for some in pool.map(compile_some, tasks):
            failed += some
    json.dump(sorted(failed), sys.stdout)


if __name__ == "__main__":
    main()
