"""Runs in the sandbox, with the image's own Python: compile DeepSpeed's wheel, strip it, pack it anew.

Standard library only; imports nothing of envbuild. Packing happens here because the bytes that zlib gives depend
on its version: in the sandbox it is the base's locked one, so the wheel is the same wherever it is built. Layers
take these bytes as they are.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TIME = (2020, 1, 1, 0, 0, 0)
"""The time of every member: the one that every file of every layer has."""

LEVEL = 9


def main(arguments: list[str]) -> int:
    """``inside.py SOURCE OUTPUT``: build the wheel of the folder SOURCE into the empty folder OUTPUT."""
    source, output = Path(arguments[0]), Path(arguments[1])
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder)
        command = [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(built)]
        status = subprocess.run(command, cwd=source, check=False).returncode
        wheels = sorted(built.glob("*.whl"))
        if status or len(wheels) != 1:
            print(f"setup.py ended with status {status} and {len(wheels)} wheels", flush=True)
            return status or 1
        repack(wheels[0], output / wheels[0].name)
    return 0


def repack(wheel: Path, target: Path) -> None:
    """Write a wheel's content in the one form that depends on nothing but the content.

    Members sorted, the ``.dist-info`` folder last and RECORD last of all (binary distribution format,
    "Recommended archiver features"); one time; mode 0755 for scripts and shared objects, else 0644; shared
    objects stripped; RECORD made anew.
    """
    with zipfile.ZipFile(wheel) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
    record = next(name for name in content if name.endswith(".dist-info/RECORD"))
    del content[record]
    names = sorted(content, key=lambda name: (".dist-info/" in name, name))
    with zipfile.ZipFile(target, "w") as archive:
        rows: list[tuple[str, str, str]] = []
        for name in names:
            data = strip(content[name]) if is_shared_object(name) else content[name]
            _add(archive, name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append((name, f"sha256={digest}", str(len(data))))
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([*rows, (record, "", "")])
        _add(archive, record, table.getvalue().encode())


def is_shared_object(name: str) -> bool:
    """Whether a member is a compiled module or library."""
    last = name.rsplit("/", 1)[-1]
    return last.endswith(".so") or ".so." in last


def strip(data: bytes) -> bytes:
    """Drop symbols and debug information; those also hold nvcc's temporary file names, with its process id."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.so"
        path.write_bytes(data)
        subprocess.run(["strip", str(path)], check=True)
        return path.read_bytes()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    program = is_shared_object(name) or ".data/scripts/" in name
    info = zipfile.ZipInfo(name, date_time=TIME)
    info.create_system = 3
    info.external_attr = (0o100755 if program else 0o100644) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, data, compresslevel=LEVEL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
