"""A small real conda channel: a Python 3.11 that runs, pip, and packages with every kind of prefix and of record.

Python is packed from Debian's own files (package ``python3.11``), pip from the wheel that ``ensurepip`` brings.
Made once in a session (:func:`make_channel` takes about two seconds); serve it with ``faulty_server``.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from condapackage import PLACEHOLDER, TIME, File, Link, Package, files_below, index_channel
from faulty_server import FaultyServer

from envbuild.lock import Artifact, CondaChannel, CondaLock, CondaPackage
from envbuild.recipe.model import Ref

CHANNEL = "small"
URL = "https://conda.invalid/small/"
"""What the channel's records call their address; nothing answers there."""

PYTHON = "3.11.2"
DEEPSPEED = "0.19.8"
_STDLIB = Path("/usr/lib/python3.11")
_LEFT_OUT = frozenset(
    {
        "config-3.11-x86_64-linux-gnu",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "sitecustomize.py",
        "test",
    }
    | {"EXTERNALLY-MANAGED", "unittest", "turtledemo", "tkinter", "distutils", "dist-packages"}
)

_SITE = """import site
import sys

site.addsitedir(f"{sys.prefix}/lib/python3.11/site-packages")
"""


def python_package() -> Package:
    """Debian's Python 3.11 as a conda package, with ``site-packages`` where Python's own layout has it."""
    assert Path("/usr/bin/python3.11").exists(), "install Debian's python3.11"
    files = files_below(_STDLIB, "lib/python3.11", without=_LEFT_OUT)
    for name in ("sysconfig", "sitecustomize"):
        files.pop(f"lib/python3.11/__pycache__/{name}.cpython-311.pyc", None)
    files["lib/python3.11/sitecustomize.py"] = File(data=_SITE.encode())  # `site` is frozen into the program
    _patch(
        files,
        "lib/python3.11/sysconfig.py",
        "if sys.base_prefix != sys.prefix or hasattr",
        "if True or hasattr",
    )
    program = Path("/usr/bin/python3.11").read_bytes()
    files["bin/python3.11"] = File(data=program, mode=0o755)
    files["bin/python3"] = files["bin/python"] = Link(target="python3.11")
    files["lib/pkgconfig/python3.pc"] = File(
        data=f"prefix={PLACEHOLDER}\nName: Python\n".encode(), prefix="text"
    )
    return Package(
        name="python", version=PYTHON, build="h1_0_cpython", files=files, license="Python-2.0",
        depends=("__glibc >=2.17,<3.0.a0", "libsmall >=1.0", "tzdata"), constrains=("python_abi 3.11.* *_cp311",),
    )  # fmt: skip


def pip_package() -> Package:
    """pip, from ``ensurepip``'s wheel."""
    bundled = Path(sys.base_prefix) / "lib/python3.11/ensurepip/_bundled"
    wheels = [*bundled.glob("pip-*.whl"), *Path("/usr/share/python-wheels").glob("pip-*.whl")]
    assert wheels, "install python3-pip-whl: no wheel of pip is on this machine"
    with zipfile.ZipFile(wheels[0]) as archive:
        files = {
            f"site-packages/{info.filename}": File(data=archive.read(info))
            for info in archive.infolist()
            if not info.is_dir()
        }
    return Package(
        name="pip", version=wheels[0].name.split("-")[1], noarch="python", build="pyh0_0", depends=("python >=3.7",),
        files=files, entry_points=("pip = pip._internal.cli.main:main", "pip3 = pip._internal.cli.main:main"),
    )  # fmt: skip


def small_packages() -> tuple[Package, ...]:
    """A library whose prefix stands in a binary file, data, a program, and what a GPU build depends on."""
    binary = b"\x7fSMALL\0" + PLACEHOLDER.encode() + b"/share/small/word\0end\n"
    greet = (
        "import pathlib\n\n\n"
        "def main():\n"
        '    """Say the word that the library finds by its own prefix."""\n'
        "    import small_home\n"
        '    data = pathlib.Path(small_home.HOME, "lib/libsmall.bin").read_bytes()\n'
        '    print(pathlib.Path(data.split(b"\\0")[1].decode()).read_text(), end="")\n'
    )
    return (
        Package(
            name="libsmall", version="1.2.3", build="h2_1", build_number=1, depends=("__glibc >=2.17",),
            files={
                "lib/libsmall.bin": File(data=binary, prefix="binary", mode=0o755),
                "lib/libsmall.so": Link(target="libsmall.bin"),
                "share/small/word": File(data=b"hello\n"),
                "share/small/read only": File(data=b"", mode=0o444),
            },
        ),
        Package(
            name="small-home", version="2.0", build="py311h3_0", depends=("python >=3.11,<3.12.0a0",),
            files={
                "lib/python3.11/site-packages/small_home.py": File(
                    data=f'HOME = "{PLACEHOLDER}"\n'.encode(), prefix="text"
                ),
                "bin/small-home": File(
                    data=f"#!{PLACEHOLDER}/bin/python\nimport small_home\nprint(small_home.HOME)\n".encode(),
                    prefix="text", mode=0o755,
                ),
            },
        ),
        Package(
            name="greet", version="0.5", noarch="python", build="pyhd8_0", depends=("python >=3.8", "small-home"),
            files={
                "site-packages/greet/__init__.py": File(data=greet.encode()),
                "site-packages/greet-0.5.dist-info/METADATA": File(
                    data=b"Metadata-Version: 2.1\nName: greet\nVersion: 0.5\n"
                ),
                "python-scripts/greet-loudly": File(data=b"#!/bin/sh\necho HELLO\n", mode=0o755),
            },
            entry_points=("greet = greet:main",),
        ),
        Package(
            name="gpu-small", version="12.6", build="h4_3", build_number=3,
            depends=("__cuda",), constrains=("__cuda >=12",), files={"share/gpu-small": File(data=b"12.6\n")},
        ),
        Package(
            name="tzdata", version="2025b", noarch="generic", build="h5_0",
            files={"share/zoneinfo/UTC": File(data=b"TZif2\n")},
        ),
    )  # fmt: skip


def make_channel(folder: Path) -> Path:
    """Write all packages and their index into ``folder``."""
    for package in (python_package(), pip_package(), *small_packages()):
        package.write(folder)
    index_channel(folder)
    return folder


def locked(
    channel: Path,
    *,
    names: Iterable[str] | None = None,
    pip: tuple[Artifact, ...] = (),
    ref: str = "small:v1",
) -> CondaLock:
    """The lock that holds the channel's packages: all, or those of ``names``."""
    records: list[tuple[str, dict[str, object]]] = []
    for subdir in ("linux-64", "noarch"):
        repodata = json.loads((channel / subdir / "repodata.json").read_bytes())
        records += {**repodata["packages"], **repodata["packages.conda"]}.items()
    wanted = {str(record["name"]) for _, record in records} if names is None else set(names)
    packages = [_locked(file, record) for file, record in records if record["name"] in wanted]
    name, tag = ref.split(":")
    return CondaLock(
        format=1,
        ref=Ref(name=name, tag=tag),
        recipe={},
        platform="linux-64",
        channels=(CondaChannel(name=CHANNEL, url=URL),),
        virtual={"__glibc": "2.28", "__cuda": "12.6", "__linux": "0", "__unix": "0"},
        exclude_newer="2026-01-01T00:00:00Z",
        specs=("python 3.11.*",),
        packages=tuple(sorted(packages, key=lambda package: package.name)),
        pip=pip,
    )


def _locked(file: str, record: dict[str, object]) -> CondaPackage:
    def text(key: str) -> str | None:
        value = record.get(key)
        return None if value is None else str(value)

    def texts(key: str) -> tuple[str, ...]:
        value = record.get(key, [])
        assert isinstance(value, list)
        return tuple(map(str, value))

    return CondaPackage(
        name=str(record["name"]),
        version=str(record["version"]),
        build=str(record["build"]),
        build_number=int(str(record["build_number"])),
        subdir=str(record["subdir"]),
        file=file,
        size=int(str(record["size"])),
        sha256=str(record["sha256"]),
        channel=CHANNEL,
        md5=text("md5"),
        depends=texts("depends"),
        constrains=texts("constrains"),
        noarch=text("noarch"),
        license=text("license"),
        timestamp=int(str(record["timestamp"])),
    )


def standins(lock: CondaLock, folder: Path) -> CondaLock:
    """A channel with a small package for each of a real lock, and the lock of it.

    Names, versions, builds and dependencies are the real ones. Python and pip work; the others hold one file each,
    a ``noarch: python`` one a module.
    """
    python, pip = python_package(), pip_package()
    packages: list[CondaPackage] = []
    for item in lock.packages:
        name = (
            item.name.replace("_", "__").replace("-", "_").replace(".", "_")
        )  # cached-property is another one
        module = {f"site-packages/standin_{name}.py": File(data=f"NAME = {item.name!r}\n".encode())}
        shared = {f"share/standins/{item.name}": File(data=item.build.encode())}
        real = {"python": python, "pip": pip}.get(item.name)
        made = Package(
            name=item.name, version=item.version, build=item.build, build_number=item.build_number,
            depends=item.depends, constrains=item.constrains,
            noarch="python" if item.noarch == "python" else "generic" if item.noarch else None,
            files=real.files if real else module if item.noarch == "python" else shared,
            entry_points=real.entry_points if real else (), license=item.license or "MIT",
        )  # fmt: skip
        data = made.write(folder).read_bytes()
        digest, md5 = hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest()
        packages.append(
            replace(item, file=made.file, size=len(data), sha256=digest, md5=md5, timestamp=made.timestamp)
        )
    index_channel(folder)
    return replace(lock, packages=tuple(packages))


def serve_channel(server: FaultyServer, channel: Path, at: str = "/small") -> str:
    """Have ``server`` serve a channel folder; returns the channel's address there, ending with ``/``."""
    for path in sorted(channel.rglob("*")):
        if path.is_file():
            server.files[f"{at}/{path.relative_to(channel)}"] = path.read_bytes()
            server.etags[f"{at}/{path.relative_to(channel)}"] = f'"{path.stat().st_size:x}-{path.name}"'
    return f"{server.url}{at}/"


@dataclass(frozen=True)
class Sdist:
    """A file for pip, such as a source archive of ``deepspeed`` that builds itself, and its locked form."""

    data: bytes
    artifact: Artifact

    def serve(self, server: FaultyServer) -> str:
        """Put it on a simple index of ``server``; returns the index's address."""
        server.files[f"/files/{self.artifact.file}"] = self.data
        link = f"../../files/{self.artifact.file}#sha256={self.artifact.sha256}"
        server.files[f"/simple/{self.artifact.name}/"] = (
            f'<a href="{link}">{self.artifact.file}</a>\n'.encode()
        )
        return f"{server.url}/simple"


_BACKEND = '''\
"""Builds the wheel of the folder that it lies in, with the standard library alone."""
import base64, hashlib, os, subprocess, zipfile

NAME = "deepspeed-VERSION"
MAIN = "\\n\\n\\ndef main():\\n    print(BUILT)\\n"
METADATA = "Metadata-Version: 2.1\\nName: deepspeed\\nVersion: VERSION\\nRequires-Dist: nowhere\\n"


def commit():
    return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    FAIL
    kind = os.environ.get("DS_ACCELERATOR", "cpu") + " " + repr(os.environ.get("CUDA_VISIBLE_DEVICES"))
    kind = repr(kind) + "\\nCOMMIT = " + repr(commit())
    files = {
        "deepspeed/__init__.py": "__version__ = 'VERSION'\\nBUILT = " + kind + MAIN,
        NAME + ".data/scripts/deepspeed": "#!python\\nfrom deepspeed import main\\nmain()\\n",
        NAME + ".dist-info/entry_points.txt": "[console_scripts]\\nds_report = deepspeed:main\\n",
        NAME + ".dist-info/METADATA": METADATA,
        NAME + ".dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: own\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    rows = []
    wheel = NAME + "-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, wheel), "w") as archive:
        for name, text in files.items():
            info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            info.external_attr = (0o100755 if "/scripts/" in name else 0o100644) << 16
            archive.writestr(info, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(text)}\\n")
        archive.writestr(NAME + ".dist-info/RECORD", "".join(rows) + NAME + ".dist-info/RECORD,,\\n")
    return wheel
'''


def deepspeed_sdist(*, fails: str = "") -> Sdist:
    """The sdist; with ``fails`` its build ends with that message."""
    backend = _BACKEND.replace("VERSION", DEEPSPEED).replace(
        "FAIL", f"raise SystemExit({fails!r})" if fails else ""
    )
    texts = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: deepspeed\nVersion: {DEEPSPEED}\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": backend,
    }
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"deepspeed-{DEEPSPEED}/{name}")
            member.size, member.mtime = len(text.encode()), TIME
            archive.addfile(member, io.BytesIO(text.encode()))
    data = gzip.compress(plain.getvalue(), mtime=0)
    artifact = Artifact(
        kind="sdist", name="deepspeed", version=DEEPSPEED, file=f"deepspeed-{DEEPSPEED}.tar.gz", size=len(data),
        sha256=hashlib.sha256(data).hexdigest(), index="python",
    )  # fmt: skip
    return Sdist(data=data, artifact=artifact)


def ninja_wheel() -> Sdist:
    """ninja's wheel: the metadata that pip sees, and the program."""
    name = "ninja-1.13.2"
    texts = {
        "ninja/__init__.py": "BIN_DIR = ''\n",
        f"{name}.data/scripts/ninja": "#!/bin/sh\necho 1.13.2\n",
        f"{name}.dist-info/METADATA": "Metadata-Version: 2.1\nName: ninja\nVersion: 1.13.2\n",
        f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-linux_x86_64\n",
        f"{name}.dist-info/RECORD": "",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, text in texts.items():
            info = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
            info.external_attr = (0o100755 if "/scripts/" in path else 0o100644) << 16
            archive.writestr(info, text)
    artifact = Artifact(
        kind="wheel", name="ninja", version="1.13.2", file=f"{name}-py3-none-linux_x86_64.whl", index="python",
        size=len(out.getvalue()), sha256=hashlib.sha256(out.getvalue()).hexdigest(),
    )  # fmt: skip
    return Sdist(data=out.getvalue(), artifact=artifact)


def _patch(files: dict[str, File | Link], name: str, old: str, new: str) -> None:
    """Undo what Debian changed in its Python: modules go to ``site-packages``."""
    entry = files[name]
    assert isinstance(entry, File)
    text = entry.data.decode()
    assert text.count(old) == 1, f"{name} is not as expected"
    files[name] = File(data=text.replace(old, new).encode(), mode=entry.mode, mtime=entry.mtime)
