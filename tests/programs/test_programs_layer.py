"""Which programs an image of which parts has, and what is in their layer."""

from __future__ import annotations

import ast
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import envbuild
from envbuild.image.programs import image_facts, ports, programs
from envbuild.layers.files import FileEntry, files_tar
from envbuild.lock import read_lock

LOCK = Path(envbuild.__file__).parents[1] / "recipes/pytorch-cuda/v2.7/lock.json"
MODULES = [entry for entry in programs(("jupyter", "ssh")) if entry.path.endswith(".py")]


def names(*parts: str) -> list[str]:
    return [entry.path for entry in programs(parts) if entry.path.startswith("usr/local/bin/")]


def entry(path: str, *parts: str, **facts: object) -> FileEntry:
    return next(found for found in programs(parts, facts) if found.path == path)


def test_parts_bring_programs() -> None:
    assert names() == ["usr/local/bin/envbuild-doctor"]
    assert names("devel") == names()
    assert names("jupyter") == [*names(), "usr/local/bin/envbuild-jupyter"]
    assert names("ssh") == [*names(), "usr/local/bin/envbuild-sshd"]
    assert names("ssh", "jupyter") == names("jupyter", "ssh")


def test_pdsh_uses_ssh() -> None:
    assert entry("etc/pdsh/rcmd_default", "ssh").content == b"ssh\n"
    assert not [found for found in programs(("jupyter",)) if "pdsh" in found.path]


def test_ports() -> None:
    assert ports(()) == ()
    assert ports(("ssh", "jupyter", "devel")) == (22, 8888)


def test_the_layer_is_a_pure_function_of_parts_and_facts() -> None:
    facts = image_facts(read_lock(LOCK))
    again = dict(reversed(facts.items()))
    assert b"".join(files_tar(programs(("jupyter", "ssh"), facts))) == b"".join(
        files_tar(programs(("ssh", "jupyter"), again))
    )


def test_the_image_says_what_it_is() -> None:
    facts = image_facts(read_lock(LOCK))
    described = json.loads(entry("etc/envbuild/image.json", **facts).content)
    assert described == {"format": 1, **facts}
    assert (described["ref"], described["cuda"], described["nccl"]) == ("pytorch-cuda:v2.7", "12.6", "2.26.2")
    assert described["architectures"] == ["7.0", "8.0", "8.6", "9.0+PTX"]


def test_programs_can_be_started_by_everyone_and_changed_by_root_alone() -> None:
    for found in programs(("jupyter", "ssh")):
        assert (found.uid, found.gid) == (0, 0)
        assert not found.mode & (stat.S_IWGRP | stat.S_IWOTH)
        assert found.mode == (0o755 if found.path.startswith("usr/local/bin/") else 0o644)


def test_no_secret_and_no_host_key_is_in_the_layer() -> None:
    for found in programs(("jupyter", "ssh")):
        assert "ssh_host" not in found.path
        assert b"-----BEGIN" not in found.content


@pytest.mark.parametrize("module", MODULES, ids=lambda found: found.path.removeprefix("usr/local/lib/"))
def test_modules_need_the_standard_library_only(module: FileEntry) -> None:
    for node in ast.walk(ast.parse(module.content)):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported = [str(node.module)]
        else:
            continue
        tops = {name.partition(".")[0] for name in imported}
        assert tops <= {
            *sys.stdlib_module_names,
            *(["torch"] if module.path.endswith("ask_torch.py") else []),
        }


@pytest.mark.parametrize("name", ["doctor", "jupyter", "sshd"])
def test_programs_start_isolated(name: str, tmp_path: Path) -> None:
    """As installed below a folder of the test's, with a Python environment that is broken."""
    for found in programs(("jupyter", "ssh")):
        path = tmp_path / found.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found.content.replace(b"/usr/local/lib", str(tmp_path / "usr/local/lib").encode()))
    (tmp_path / "json.py").write_text("raise RuntimeError\n")
    program = tmp_path / "usr/local/bin" / f"envbuild-{name}"
    first, _, text = program.read_text().partition("\n")
    assert first == "#!/usr/bin/python3.11 -BIS"
    program.write_text(f"#!{sys.executable} -BIS\n{text}")
    program.chmod(0o755)
    done = subprocess.run(
        [program, "--help"],
        env={"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/none"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "exit status" in done.stdout
    assert not list(tmp_path.rglob("__pycache__"))
