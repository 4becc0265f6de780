"""The suite's folder can be copied into any image: it imports nothing of envbuild, and its hash names its bytes."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys

from envbuild.smoke.fingerprint import HERE, fingerprint, sources

ALLOWED = {"torch", "deepspeed", "triton"}


def code():
    return [path for path in sources() if path.suffix == ".py"]


def test_only_the_standard_library_torch_and_deepspeed_are_imported():
    found = set()
    for path in code():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(str(node.module).split(".")[0])
    assert found - set(sys.stdlib_module_names) - {"__future__"} == ALLOWED


def test_relative_imports_stay_inside():
    for path in code():
        depth = len(path.relative_to(HERE).parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= depth, path


def test_it_lists_its_checks_where_nothing_is_installed(place):
    done = subprocess.run(
        [place.python, "-P", "-s", "-m", "smoke", "--list"],
        env={"PYTHONPATH": str(place.suite)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "versions",
        "imports",
        "loaded",
        "operator-file",
        "host",
        "gloo-all-reduce",
        "cuda-available",
        "arithmetic",
        "compile",
        "nccl",
        "peer-copy",
        "ddp",
        "zero3-fused-adam",
        "zero-stages",
        "zero-checkpoint",
        "cpp-extension",
        "zero-offload",
    ]


def test_the_hash_is_of_names_and_bytes_only(tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"x")
    assert fingerprint(copy) == fingerprint()
    (copy / "elf.py").rename(copy / "fle.py")
    assert fingerprint(copy) != fingerprint()
    (copy / "fle.py").rename(copy / "elf.py")
    with (copy / "elf.py").open("a") as stream:
        stream.write("\n")
    assert fingerprint(copy) != fingerprint()
