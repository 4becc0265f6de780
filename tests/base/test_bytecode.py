"""Byte code of wheels: fresh, used, and the same whatever the order, the number of jobs and the hash seed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from envbuild.errors import EnvbuildError, Exit
from envbuild.layers.bytecode import bytecode_layer, compile_wheels
from envbuild.layers.format import MTIME, SITE
from envbuild.layers.splice import write_wheel_layer
from envbuild.layers.wheel import plan_wheel
from envbuild.progress import SilentProgress
from envbuild.sandbox import Command, Rootfs
from envbuild.sandbox.unpack import unpack_layer
from envbuild.store import Store

pytestmark = [pytest.mark.real, pytest.mark.network, pytest.mark.timeout(1800)]


def wheel(folder: Path, name: str, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    info = f"{name}-1.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = ""
    for path, content in files.items():
        hash = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        rows += f"{path},sha256={hash},{len(content)}\n"
    files[f"{info}/RECORD"] = (rows + f"{info}/RECORD,,\n").encode()
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, content in files.items():
            archive.writestr(zipfile.ZipInfo(member), content, method)
    return path


def plan(path: Path):
    return plan_wheel(path, file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    line = b"def f%d(path='x', self=None): return {'path', 'self', %d}\n"
    many = {f"many/m{n}.py": line % (n, n) * 80 for n in range(300)}
    one = {"one/__init__.py": b"import os\nVALUE = 'one'\n", "one/empty.py": b"", "one/data.txt": b"x"}
    bad = {"broken/two.py": b"print 'python 2'\n", "broken/nul.py": b"x = '\0'\n", "broken/ok.py": b"x=1\n"}
    return [
        plan(wheel(folder, "one", one)),
        plan(wheel(folder, "broken", bad)),
        plan(wheel(folder, "many", many)),
        plan(wheel(folder, "stored", {"stored.py": b"VALUE = 'stored'\n"}, zipfile.ZIP_STORED)),
        plan(wheel(folder, "nocode", {"nocode.txt": b"x"})),
    ]


def compiled(plans, base, sandbox, folder: Path, jobs: int):
    store = Store.open(folder)
    silent = SilentProgress()
    fragments = compile_wheels(
        [plans],
        base_root=base.root,
        interpreter="key",
        sandbox=sandbox,
        store=store,
        progress=silent,
        jobs=jobs,
    )
    return store, fragments


@pytest.fixture(scope="module")
def first(plans, base, sandbox, tmp_path_factory):
    return compiled(plans, base, sandbox, tmp_path_factory.mktemp("first") / "store", 2)


def entries(blob: Path) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    with gzip.open(blob) as stream, tarfile.open(fileobj=io.BytesIO(stream.read())) as archive:
        return {e.name: (e, archive.extractfile(e).read() if e.isreg() else b"") for e in archive}


def test_every_source_gets_byte_code_except_what_does_not_compile(plans, first):
    store, fragments = first
    assert [(fragments[p.sha256].files, fragments[p.sha256].skipped) for p in plans] == [
        (2, 0), (1, 2), (300, 0), (1, 0), (0, 0)
    ]  # fmt: skip
    layer = bytecode_layer("code", [fragments[p.sha256] for p in plans], store.layout)
    blob = store.layout.path(layer.digest)
    found = entries(blob)
    names = [name for name, (entry, _) in found.items() if entry.isreg()]
    assert len(names) == 304
    assert f"{SITE}/one/__pycache__/__init__.cpython-311.pyc" in names
    assert f"{SITE}/__pycache__/stored.cpython-311.pyc" in names
    for entry, content in found.values():
        assert (entry.mtime, entry.uid, entry.gid) == (MTIME, 0, 0)
        assert entry.mode == (0o755 if entry.isdir() else 0o644)
        if entry.isreg():
            assert struct.unpack("<2L", content[4:12]) == (0, MTIME)
    plain = gzip.decompress(blob.read_bytes())
    assert "sha256:" + hashlib.sha256(plain).hexdigest() == layer.diff_id
    assert plain.endswith(bytes(1024))
    assert layer.size == blob.stat().st_size
    parents = {os.path.dirname(name) for name in found if name != "opt"}
    assert parents <= found.keys()  # no engine has to invent a folder's mode


def test_the_interpreter_takes_it_for_fresh(plans, first, base, sandbox, tmp_path):
    store, fragments = first
    code = bytecode_layer("code", [fragments[p.sha256] for p in plans], store.layout)
    sources = write_wheel_layer("wheels", plans, store.layout, SilentProgress())
    lowers = [base.root]
    lowers += [
        unpack_layer(sandbox, store.layout.path(x.digest), x.diff_id, store.roots) for x in (sources, code)
    ]
    script = f"import sys; sys.path.insert(0, '/{SITE}'); import one, stored, many.m7; "
    script += "print(many.m7.f7.__code__.co_filename)"
    argv = ("/usr/bin/python3.11", "-v", "-c", script)
    with open(tmp_path / "out", "w+b") as out:
        assert sandbox.run(Rootfs(lowers=tuple(lowers)), Command(argv=argv), stdout=out, stderr=out) == 0
        out.seek(0)
        text = out.read().decode()
    for name in ("one/__pycache__/__init__", "__pycache__/stored", "many/__pycache__/m7"):
        assert f"# /{SITE}/{name}.cpython-311.pyc matches" in text
    assert f"\n/{SITE}/many/m7.py\n" in text
    assert "# wrote" not in text


def test_order_jobs_and_company_change_nothing(plans, first, base, sandbox, tmp_path):
    _, fragments = first
    for number, (order, jobs) in enumerate([(plans[::-1], 1), (plans[1:] + plans[:1], 5)]):
        _, others = compiled(order, base, sandbox, tmp_path / str(number), jobs)
        for sha256, fragment in fragments.items():
            assert others[sha256].path.read_bytes() == fragment.path.read_bytes()
    _, alone = compiled(plans[2:3], base, sandbox, tmp_path / "alone", 2)
    assert alone[plans[2].sha256].path.read_bytes() == fragments[plans[2].sha256].path.read_bytes()


def test_no_path_is_in_a_layer_twice(base, sandbox, tmp_path):
    """Docker refuses a layer with a path twice; several NVIDIA wheels bring the same ``nvidia/__init__.py``."""
    shared = {"nvidia/__init__.py": b"", "nvidia/{}/__init__.py": b"X = 1\n"}
    pair = [
        plan(wheel(tmp_path, name, {path.format(name): data for path, data in shared.items()}))
        for name in ("one", "two")
    ]
    store, fragments = compiled(pair, base, sandbox, tmp_path / "store", 1)
    layer = bytecode_layer("code", [fragments[p.sha256] for p in pair], store.layout)
    with (
        gzip.open(store.layout.path(layer.digest)) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        names = [entry.name for entry in archive]
    assert len(names) == len(set(names))
    assert [name.split("site-packages/")[1] for name in names if name.endswith(".pyc")] == [
        "nvidia/__pycache__/__init__.cpython-311.pyc",
        "nvidia/one/__pycache__/__init__.cpython-311.pyc",
        "nvidia/two/__pycache__/__init__.cpython-311.pyc",
    ]


def test_what_the_store_has_is_not_compiled_again(plans, first, tmp_path, sandbox):
    store, fragments = first
    silent = SilentProgress()
    gone = tmp_path / "no-root-needed"
    again = compile_wheels(
        [plans], base_root=gone, interpreter="key", sandbox=sandbox, store=store, progress=silent, jobs=1
    )
    assert again == fragments
    with pytest.raises(EnvbuildError):  # another interpreter, another key
        compile_wheels(
            [plans],
            base_root=gone,
            interpreter="other",
            sandbox=sandbox,
            store=store,
            progress=silent,
            jobs=1,
        )


def test_a_wheel_that_changed_since_it_was_planned_is_refused_by_name(base, sandbox, tmp_path):
    path = wheel(tmp_path, "victim", {"victim.py": b"VALUE = 'x'\n" * 100})
    planned = plan(path)
    file = next(file for file in planned.files if file.path.endswith("victim.py"))
    data = bytearray(path.read_bytes())
    data[file.offset + 20] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(EnvbuildError) as caught:
        compiled([planned], base, sandbox, tmp_path / "store", 1)
    assert caught.value.exit is Exit.VERIFY
    assert "victim-1-py3-none-any.whl" in f"{caught.value.message} {caught.value.where}"
