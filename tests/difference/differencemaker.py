"""Wheels, environments and images with a Python in them, for comparing. Importable without pytest."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from needed import need

from envbuild.engine import ImageRef
from envbuild.oci.digest import of_bytes
from envbuild.oci.image import Image, RunConfig
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
from envbuild.store import Store

PYTHON = "/usr/bin/python3.11"
SITE = "lib/python3.11/site-packages"
Files = Mapping[str, bytes | str]
"""By path; a ``str`` is a symlink's target."""


def wheel(folder: Path, name: str, version: str, files: Mapping[str, bytes]) -> Path:
    """A wheel with these files besides METADATA, WHEEL and RECORD."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    whole = {**files, f"{info}/METADATA": metadata.encode(), f"{info}/WHEEL": kind.encode()}
    rows = [f"{path},{_hash(data)},{len(data)}\n" for path, data in whole.items()]
    whole[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in whole.items():
            entry = zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0))
            entry.external_attr = (0o755 if "/scripts/" in member else 0o644) << 16
            archive.writestr(entry, data)
    return path


def rich_wheel(folder: Path, version: str = "1.0", *, word: str = "hello") -> Path:
    """A wheel with everything that installing treats in its own way; one module says ``word``."""
    data = f"rich-{version}.data"
    return wheel(
        folder,
        "rich",
        version,
        {
            "rich/__init__.py": f"WORD = {word!r}\n\n\ndef main():\n    print(WORD)\n".encode(),
            "rich/empty.py": b"",
            "rich/_vendor/other-9.dist-info/RECORD": b"other.py,,\n",
            "rich/_vendor/other-9.dist-info/INSTALLER": b"vendored\n",
            f"{data}/data/share/rich/data.txt": b"data\n",
            f"{data}/scripts/rich-script": b"#!python\nimport rich\nrich.main()\n",
            f"{data}/scripts/rich-program": b"\x7fprogram\0",
            f"{data}/headers/rich.h": b"#define RICH\n",
            f"{data}/purelib/rich_more.py": b"MORE = 1\n",
            f"rich-{version}.dist-info/entry_points.txt": b"[console_scripts]\nrich-hello = rich:main\n",
        },
    )


def _hash(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def venv(folder: Path, *wheels: Path, installer: str = "uv") -> Path:
    """A virtual environment of Debian's Python with these wheels, installed by pip or by uv."""
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", folder], check=True)
    python = str(folder / "bin/python")
    if installer == "uv":
        uv = str(Path(sys.executable).with_name("uv"))
        command = [
            uv,
            "pip",
            "install",
            "--quiet",
            "--offline",
            "--no-cache",
            "--no-deps",
            "--python",
            python,
        ]
    else:
        command = [
            sys.executable,
            "-m",
            "pip",
            "--quiet",
            "--python",
            python,
            "install",
            "--no-index",
            "--no-deps",
        ]
    if wheels:
        subprocess.run([*command, *map(str, wheels)], check=True, capture_output=True)
    return folder


def put_wheel(store: Store, path: Path) -> None:
    """Adopt a wheel into the store."""
    copy = store.root / "tmp" / path.name
    shutil.copyfile(path, copy)
    store.adopt(copy)


@functools.cache
def python_files() -> Mapping[str, bytes]:
    """Debian's Python with the libraries that it loads, and a shell: what an image must have to list itself."""
    files = {"bin/sh": Path(need("busybox")).read_bytes(), "usr/bin/python3.11": Path(PYTHON).read_bytes()}
    library = Path("/usr/lib/python3.11")
    for path in library.rglob("*.py"):
        parts = path.relative_to(library).parts
        if parts[0] not in (
            "test",
            "idlelib",
            "lib2to3",
            "pydoc_data",
            "unittest",
            "dist-packages",
            "sitecustomize.py",
        ):
            files[str(path)[1:]] = path.read_bytes()
    modules = [*library.glob("lib-dynload/*.so")]
    for path in modules:
        files[str(path)[1:]] = path.read_bytes()
    told = subprocess.run(["ldd", PYTHON, *modules], capture_output=True, text=True, check=True).stdout
    for name in sorted(set(re.findall(r"(/\S+\.so[.0-9]*) \(0x", told))):
        files[name[1:]] = Path(name).resolve().read_bytes()
    return files


@functools.cache
def _python_layer() -> tuple[bytes, str]:
    """The compressed layer and its diff_id."""
    return _layer(python_files())


def _layer(files: Files) -> tuple[bytes, str]:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("tmp", "dev", "proc", "sys", "etc", "root", "run"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            if isinstance(data, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, data
                tar.addfile(entry)
                continue
            entry.size, entry.mode = len(data), 0o755 if "bin/" in path or ".so" in path else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), 1, mtime=0), of_bytes(plain.getvalue())


def image(
    layout: Layout,
    files: Files,
    *,
    name: str = "diff-test:v1",
    python: bool = True,
    labels: Mapping[str, str],
) -> ImageRef:
    """An image with these files, and with a Python unless that is left out, named ``name`` in the layout."""
    blobs = [*([_python_layer()] if python else []), _layer(files)]
    layers = tuple(
        Layer(name=f"l{number}", digest=layout.put(data), diff_id=diff_id, size=len(data))
        for number, (data, diff_id) in enumerate(blobs)
    )
    made = Image(
        layers=layers,
        run=RunConfig(
            env={"PATH": "/opt/venv/bin:/usr/bin:/bin"},
            entrypoint=("/bin/does-not-exist",),
            cmd=(),
            working_dir="/",
            user="",
            labels=dict(labels),
        ),
        created="2020-01-01T00:00:00Z",
    )
    layout.put(made.config_bytes)
    layout.put(made.manifest_bytes)
    layout.tag(name, made.manifest)
    return ImageRef.read(layout, made.digest, (name,))


def files_of(folder: Path, at: str) -> dict[str, bytes | str]:
    """An environment's files, as files of an image below ``at``."""
    return {
        f"{at}/{path.relative_to(folder)}": str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
