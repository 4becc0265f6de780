"""Readers of what comes from Python's world: wheels and their members, sdists, simple indexes, uv's answer."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

from fuzz_engine import Reader, Source
from fuzz_mutation import NUMBERS, TEXTS, Make, bytes_changed, bytes_of, either, json_of, packed, text_of
from wheelmaker import Entry, record_bytes, wheel_entries, zip_bytes

from envbuild.layers.licences import _of_python
from envbuild.layers.record import launchers, parse_record
from envbuild.layers.splice import layer_chunks
from envbuild.layers.wheel import plan_wheel
from envbuild.lock.model import Artifact
from envbuild.lock.python import simple, uv
from envbuild.lock.python.files import _inside
from envbuild.lock.python.pins import cuda_requirements
from envbuild.lock.python.standin import requirements_of
from envbuild.lock.python.tags import best_wheel
from envbuild.native.archives import members, unpack_sdist, unpack_wheel

FILE = "demo-1.0-py3-none-any.whl"
METADATA = (
    "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\nLicense-Expression: MIT OR Apache-2.0\nLicense: BSD\n"
    "Classifier: License :: OSI Approved :: MIT License\nRequires-Dist: torch (>=2.0,<3); extra == 'x'\n"
    'Requires-Dist: nvidia-cudnn-cu12==9.5.1.17; platform_system == "Linux"\n\nA description.\n'
)
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
RECORD = (
    "demo/__init__.py,sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0\n"
    '"demo/a,b.py",sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,12\ndemo-1.0.dist-info/RECORD,,\n'
)
ENTRY_POINTS = (
    "[console_scripts]\ndemo = demo.main:run\nother = demo:App.main [x]\n\n[gui_scripts]\nwin = demo:main\n"
)
SHA256 = "47" * 32
PAGE = {
    "meta": {"api-version": "1.1"},
    "name": "demo",
    "files": [
        {
            "filename": FILE,
            "url": f"../../files/{FILE}",
            "hashes": {"sha256": SHA256},
            "size": 12,
            "upload-time": "2026-01-02T03:04:05.678Z",
            "yanked": False,
            "core-metadata": {"sha256": SHA256},
        },
        {
            "filename": "demo-1.0.tar.gz",
            "url": "https://files.invalid/demo-1.0.tar.gz",
            "hashes": {},
            "data-dist-info-metadata": True,
            "yanked": "broken",
        },
    ],
}
HTML = (
    '<!DOCTYPE html><html><head><base href="https://h.invalid/x/"></head><body>\n'
    f'<a href="../../files/{FILE}#sha256={SHA256}" data-core-metadata="sha256={SHA256}">{FILE}</a><br/>\n'
    f'<a href="demo-1.0.tar.gz#md5=00" data-yanked="">demo-1.0.tar.gz</a>\n</body></html>\n'
)
PYLOCK = (
    'lock-version = "1.0"\ncreated-by = "uv"\n\n[[packages]]\nname = "demo"\nversion = "1.0"\n'
    f'wheels = [{{ url = "https://h.invalid/{FILE}", upload-time = 2026-01-02T03:04:05Z, size = 12, '
    f'hashes = {{ sha256 = "{SHA256}" }} }}]\n'
    f'sdist = {{ path = "demo-1.0.tar.gz", size = 1, hashes = {{ sha256 = "{SHA256}" }} }}\n'
)
PKG_INFO = METADATA.replace("demo", "deepspeed")
INDEX = "https://h.invalid/simple/demo/"
_SOURCE = Source()
_FIELDS = ("flags", "method", "crc", "compressed", "size", "offset")


class Answering:
    """An ``Http`` whose every answer is the same."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def get(self, _url: str, **_: object) -> bytes:
        return self._data


def _wheels() -> Make:
    """Wheels whose members, names, headers or bytes are wrong."""
    texts: dict[str, Make] = {
        "METADATA": text_of(METADATA),
        "WHEEL": text_of(WHEEL),
        "RECORD": text_of(RECORD),
        "entry_points.txt": text_of(ENTRY_POINTS),
    }

    def make(rng: Random) -> bytes:
        code = Entry(
            "demo/__init__.py", b"x = 1\n" * 9, method=rng.choice((0, 8)), descriptor=rng.random() < 0.2
        )
        script = Entry("demo-1.0.data/scripts/run", b"#!python\nprint()\n", mode=0o100755)
        entries = wheel_entries(
            [code, script], entry_points=ENTRY_POINTS, metadata=METADATA.replace("{", "{{")
        )
        way = rng.randrange(6)
        at = rng.randrange(len(entries))
        one = entries[at]
        if way == 0:
            name = rng.choice(list(texts))
            content = texts[name](rng)
            entries = [
                _with(item, content=content) if str(item.name).endswith(name) else item for item in entries
            ]
            if name != "RECORD":
                own = "demo-1.0.dist-info/RECORD"
                rest = [item for item in entries if item.name != own]
                entries = [*rest, Entry(own, record_bytes(rest, own=own))]
        elif way == 1:
            text = rng.choice(TEXTS).encode("utf-8", "surrogatepass")[:60_000]
            entries[at] = _with(one, name=rng.choice((text, b"demo/" + text, one.raw_name + text)))
        elif way == 2:
            side = {rng.choice(_FIELDS): rng.choice(NUMBERS) & 0xFFFF for _ in range(rng.choice((1, 2)))}
            entries[at] = _with(one, **{rng.choice(("local", "central")): side})
        elif way == 3:
            entries[at] = _with(one, raw=bytes_changed(rng, one.data))
        elif way == 4:
            entries[at] = _with(one, zip64=True, mode=rng.choice((0o120777, 0o040755, 0o010644, 0)))
        data = zip_bytes(
            entries,
            zip64_end=rng.random() < 0.1,
            comment=b"PK\x05\x06" * (rng.random() < 0.05),
            gap=bytes(3 * (rng.random() < 0.03)),
        )
        return bytes_changed(rng, data) if way == 5 or rng.random() < 0.1 else data

    return Make(make, GOOD)


GOOD = zip_bytes(wheel_entries([Entry("demo/a.py", b"a")], entry_points=ENTRY_POINTS))


def _with(entry: Entry, **changes: object) -> Entry:
    return Entry(**{**{name: getattr(entry, name) for name in Entry.__dataclass_fields__}, **changes})  # type: ignore[arg-type]


def _plan_and_stream(data: bytes) -> None:
    """As when a layer is made: the plan, and then every byte of the content."""
    plan = plan_wheel(_SOURCE(data), file=FILE, sha256=SHA256)
    for _ in layer_chunks([plan]):
        pass


def _unpacked(unpack: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="fuzz-") as folder:
        unpack(Path(folder))


def tar_bytes(files: dict[str, bytes]) -> bytes:
    """A plain tar."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


SDIST = tar_bytes(
    {
        "deepspeed-0.19.8/PKG-INFO": PKG_INFO.replace("1.0", "0.19.8").encode(),
        "deepspeed-0.19.8/setup.py": b"",
    }
)


def _sdists() -> Make:
    info = text_of(PKG_INFO)
    of_text = Make(
        lambda rng: tar_bytes({"deepspeed-0.19.8/PKG-INFO": info(rng), "deepspeed-0.19.8/setup.py": b""})
    )
    names = Make(
        lambda rng: tar_bytes(
            {rng.choice(TEXTS)[:300].encode("utf-8", "replace").decode(): b"x" for _ in range(2)}
        )
    )
    return packed(either(bytes_of(SDIST), of_text, names), _gzip)


def _project(data: bytes) -> None:
    files = simple.project("demo", [INDEX], Answering(data))  # type: ignore[arg-type]  # it asks get alone
    simple.versions(files, before="2026-01-01T00:00:00Z")


def _pylock(data: bytes) -> None:
    for package in uv.answer(data):
        best_wheel(package.wheels, "3.11")


def _wheel_artifact() -> Artifact:
    return Artifact(
        kind="wheel", name="demo", version="1.0", file=FILE, size=1, sha256=SHA256, index="python"
    )


def _licence(data: bytes, kind: str) -> object:
    class Holder:
        def artifact(self, _sha256: str) -> Path:
            return _SOURCE(data)

    item = Artifact(kind=kind, name="demo", version="1.0", file=FILE, size=1, sha256=SHA256, index="python")  # type: ignore[arg-type]
    return _of_python(item, Holder())  # type: ignore[arg-type]  # it asks artifact alone


def _remote_metadata(data: bytes) -> object:
    return _inside(_SOURCE(data).as_uri(), FILE, [], None)  # type: ignore[arg-type]  # a file is not asked for


_WHEELS = _wheels()

READERS = [
    Reader(name="wheel", make=_WHEELS, read=_plan_and_stream),
    Reader(
        name="wheel-for-building",
        make=either(_WHEELS, bytes_of(GOOD)),
        read=lambda data: _unpacked(lambda folder: unpack_wheel(FILE, _SOURCE(data), folder, lambda _: None)),
    ),
    Reader(
        name="wheel-members",
        make=either(_WHEELS, bytes_of(GOOD)),
        read=lambda data: [item.read() for item in members(_wheel_artifact(), _SOURCE(data))],
    ),
    Reader(
        name="wheel-licence", make=either(_WHEELS, bytes_of(GOOD)), read=lambda data: _licence(data, "wheel")
    ),
    Reader(name="wheel-by-ranges", make=either(_WHEELS, bytes_of(GOOD)), read=_remote_metadata),
    Reader(
        name="wheel-metadata",
        make=text_of(METADATA),
        read=lambda data: cuda_requirements(data.decode("utf-8", "replace"), "3.11"),
    ),
    Reader(name="wheel-record", make=text_of(RECORD), read=lambda data: parse_record(FILE, data)),
    Reader(name="wheel-entry-points", make=text_of(ENTRY_POINTS), read=lambda data: launchers(FILE, data)),
    Reader(
        name="sdist",
        make=_sdists(),
        read=lambda data: _unpacked(lambda folder: unpack_sdist("d.tar.gz", _SOURCE(data), folder)),
    ),
    Reader(
        name="sdist-requirements",
        make=_sdists(),
        read=lambda data: requirements_of(_SOURCE(data), name="deepspeed", version="0.19.8"),
    ),
    Reader(name="sdist-licence", make=_sdists(), read=lambda data: _licence(data, "sdist")),
    Reader(name="index-json", make=json_of(PAGE, spread=bytes_of(json.dumps(PAGE).encode())), read=_project),
    Reader(
        name="index-html",
        make=text_of(HTML, more=('href="', "<base href=", "&#0;", "&#x110000;", "<!--", "<![CDATA[", "<!")),
        read=_project,
    ),
    Reader(
        name="pylock",
        make=text_of(PYLOCK, more=("[", "= [", "'''", "1979-05-27", "07:32:00", "0xg", "inf")),
        read=_pylock,
    ),
]
