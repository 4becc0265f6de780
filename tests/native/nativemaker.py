"""Small artifacts for the tests: .debs, wheels, source distributions, and modules with CUDA's fat binary in them."""

from __future__ import annotations

import hashlib
import io
import lzma
import struct
import subprocess
import tarfile
import textwrap
import zipfile
from collections.abc import Mapping
from pathlib import Path

from envbuild.lock.model import Artifact, Kind


def artifact(path: Path, *, kind: Kind, name: str, version: str = "1.0") -> Artifact:
    data = path.read_bytes()
    return Artifact(
        kind=kind,
        name=name,
        version=version,
        file=path.name,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        index="python",
    )


def make_wheel(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_deb(path: Path, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> Path:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": lzma.compress(b""),
        "data.tar.xz": lzma.compress(plain.getvalue()),
    }
    out = bytearray(b"!<arch>\n")
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data
        out += b"\n" * (len(data) % 2)
    path.write_bytes(out)
    return path


def make_sdist(path: Path, files: Mapping[str, str], *, top: str = "deepspeed-0.19.8") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def fatbin(*, cubin: tuple[int, ...], ptx: tuple[int, ...] = ()) -> bytes:
    """CUDA's fat binary with codes of 16 bytes, laid out as nvcc does."""
    codes = b""
    for kind, architectures in ((2, cubin), (1, ptx)):
        for number in architectures:
            head = struct.pack("<HHIQ12xI", kind, 0x101, 64, 16, number)
            codes += head.ljust(64, b"\0") + b"\x7f" * 16
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(codes)) + codes


def make_module(folder: Path, *, cuda: bool, code: bytes = b"") -> Path:
    """A real shared object, compiled by gcc: linked with a libcudart.so.12 if ``cuda``, with ``code`` in it."""
    folder.mkdir(parents=True, exist_ok=True)
    source = "int answer(void) { return 42; }\n"
    if code:
        numbers = ",".join(str(byte) for byte in code)
        source += '__attribute__((section(".nv_fatbin"), used, aligned(8)))\n'
        source += f"static const unsigned char codes[] = {{{numbers}}};\n"
    if cuda:
        source += "int cudaRuntime(void); int call(void) { return cudaRuntime(); }\n"
        (folder / "cudart.c").write_text("int cudaRuntime(void) { return 0; }\n")
        library = folder / "libcudart.so.12"
        run(
            "gcc",
            "-shared",
            "-fPIC",
            "-Wl,-soname,libcudart.so.12",
            "-o",
            str(library),
            "cudart.c",
            at=folder,
        )
    (folder / "module.c").write_text(source)
    links = ["libcudart.so.12"] if cuda else []
    run("gcc", "-g", "-shared", "-fPIC", "-o", "module.so", "module.c", *links, at=folder)
    return folder / "module.so"


def run(*argv: str, at: Path) -> None:
    subprocess.run(argv, cwd=at, check=True, capture_output=True)


def script(text: str) -> str:
    return textwrap.dedent(text).lstrip()
