"""Readers of images: manifests, configs, layouts, layers, bundles, ELF objects, inventories."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import zstandard
from fuzz_confined import Confined
from fuzz_engine import Reader, Source
from fuzz_mutation import TEXTS, Make, bytes_changed, bytes_of, either, json_of, packed, text_of
from fuzz_python import tar_bytes

from envbuild.bundle.contents import _files
from envbuild.bundle.far import read_inventory
from envbuild.bundle.model import Index, Plan, read_index, read_plan
from envbuild.difference.installed import _inventory, _parse
from envbuild.engine.build_events import plain_events, raw_events
from envbuild.native.objects import gpu_code, needed
from envbuild.oci.digest import of_bytes
from envbuild.oci.layout import Layout
from envbuild.publish.remote_image import _diff_ids, _object, _parts
from envbuild.recipe import parse_ref
from envbuild.registry.pull import _blobs, _config, _layers, choose_image
from envbuild.registry.reference import is_image_name, parse_image_name, parse_reference, parse_repository
from envbuild.sandbox.unpack import unpack
from envbuild.smoke.elf import NotElf, read_elf
from envbuild.smoke.maps import mapped_libraries

DIGEST = "sha256:" + "ab" * 32
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 9},
    "layers": [
        {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": DIGEST,
            "size": 9,
            "annotations": {"containerd.io/snapshot/stargz/toc.digest": DIGEST},
        }
    ],
    "annotations": {"a": "b"},
}
INDEX = {
    "schemaVersion": 2,
    "manifests": [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": DIGEST,
            "size": 9,
            "platform": {"os": "linux", "architecture": "amd64", "variant": "v1"},
            "annotations": {"org.opencontainers.image.ref.name": "small:v1"},
        },
        {"platform": {"os": "unknown", "architecture": "unknown"}, "digest": DIGEST, "size": 1},
    ],
}
CONFIG = {
    "os": "linux",
    "architecture": "amd64",
    "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    "config": {},
}
_SOURCE = Source()
_NAME = parse_image_name("h.invalid/x:1")


def _image(data: bytes) -> None:
    value = _object(data, "here")
    _parts(value, "here")


def _pulled(data: bytes) -> None:
    value: Any = _object(data, "here")
    if "manifests" in value:
        choose_image(value, "here")
    else:
        _blobs(value, _NAME)


def _image_config(data: bytes) -> None:
    class Kept:
        class layout:  # as the store names it
            @staticmethod
            def read(_digest: str) -> bytes:
                return data

    [config, *layers] = _blobs(MANIFEST, _NAME)
    _layers(layers, _config(config, Kept, _NAME), _NAME)  # type: ignore[arg-type]  # its layout alone is asked
    _diff_ids(_object(data, "here"), 1, "here")


def _layout(data: bytes) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="fuzz-") as folder:
        layout = Layout.create(Path(folder))
        (Path(folder) / "index.json").write_bytes(data)
        layout.tags()
        layout.resolve("small:v1")
        layout.untag("small:v1")


PLAN = {
    "far": [["lib/a", 9, "ab" * 32]],
    "patches": [[0, 9, 4, [[3, [[0, 1]]]]]],
    "layers": [{"diff_id": DIGEST, "size": 22, "literal": [0, 4], "parts": [[0, 4], [1, 0], [2, 0]]}],
}
_CONFIG_TEXT = json.dumps(CONFIG)
_MANIFEST_TEXT = json.dumps(
    {
        **MANIFEST,
        "config": {
            **MANIFEST["config"],
            "digest": of_bytes(_CONFIG_TEXT.encode()),
            "size": len(_CONFIG_TEXT),
        },
    }  # type: ignore[dict-item]
)
BUNDLE = {
    "kind": "envbuild.bundle",
    "format": 1,
    "ref": "small:v1",
    "manifest": {"digest": of_bytes(_MANIFEST_TEXT.encode()), "text": _MANIFEST_TEXT},
    "config": {"digest": of_bytes(_CONFIG_TEXT.encode()), "text": _CONFIG_TEXT},
    "inputs": DIGEST,
    "plan": {"file": "plan.zst", "size": 9, "sha256": "ab" * 32},
    "pieces": [{"file": "piece-001", "size": 90, "sha256": "ab" * 32}],
}
_INDEX = msgspec.convert(BUNDLE, Index)
msgspec.convert(PLAN, Plan)


def _bundle_index(data: bytes) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="fuzz-") as folder:
        (Path(folder) / "index.json").write_bytes(data)
        index = read_index(Path(folder))
        _ = index.size


def _bundle_plan(data: bytes) -> None:
    plan = read_plan(_SOURCE(data), _INDEX)
    for layer in plan.layers:
        plan.far_of(layer)


def _unpack(data: bytes) -> None:
    """One layer by itself, and below another that it changes."""
    Path("blob").write_bytes(data)
    Path("lower").write_bytes(_LOWER)
    here = "/" if Path("/blob").exists() else "."
    diff_id = of_bytes(_plain(data))
    lower = [of_bytes(_LOWER), f"{here}/lower"]
    unpack({"layers": [[diff_id, f"{here}/blob"]], "final": f"{here}/roots/{'1' * 64}"}, lambda _: None)
    unpack(
        {"layers": [lower, [diff_id, f"{here}/blob"]], "final": f"{here}/roots/{'2' * 64}"}, lambda _: None
    )


def _plain(data: bytes) -> bytes:
    """The digest that the layer then has, so that its content counts and not a wrong name."""
    try:
        if data[:2] == b"\x1f\x8b":
            return gzip.decompress(data)
        if data[:4] == b"\x28\xb5\x2f\xfd":
            return (
                zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
            )
    except Exception:
        return b""
    return data


def _layer_tar(entries: list[tarfile.TarInfo], *, format: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format, errors="surrogateescape") as archive:
        for entry in entries:
            archive.addfile(entry, io.BytesIO(b"x" * entry.size) if entry.isreg() else None)
    return stream.getvalue()


def _entry(
    name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", size: int = 3, mode: int = 0o644
) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode, found.mtime = kind, link, mode, 1_577_836_800
    found.size = size if kind == tarfile.REGTYPE and ".wh." not in name else 0
    return found


_SOUND = (
    ("usr", tarfile.DIRTYPE, ""),
    ("usr/bin/a", tarfile.REGTYPE, ""),
    ("usr/b", tarfile.SYMTYPE, "bin/a"),
    ("bin", tarfile.SYMTYPE, "usr/bin"),
    ("usr/c", tarfile.LNKTYPE, "usr/bin/a"),
    ("usr/.wh.old", tarfile.REGTYPE, ""),
    ("etc/.wh..wh..opq", tarfile.REGTYPE, ""),
    ("run/p", tarfile.FIFOTYPE, ""),
    ("dev/null", tarfile.CHRTYPE, ""),
    ("é/" + "n" * 120, tarfile.REGTYPE, ""),
    ("a", tarfile.SYMTYPE, "b"),
    ("b", tarfile.SYMTYPE, "a"),
    ("a/x", tarfile.REGTYPE, ""),
    ("l", tarfile.SYMTYPE, "/../../etc"),
    ("l/passwd", tarfile.REGTYPE, ""),
    ("usr/.wh...", tarfile.REGTYPE, ""),
)
_LOWER = _layer_tar(
    [_entry("usr/old"), _entry("etc/x"), _entry("f"), _entry("s", tarfile.SYMTYPE, link="usr")]
)
_KINDS = (
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
    b"V",
    b"S",
)


def _layers_made() -> Make:
    sound = _layer_tar([_entry(name, kind, link=link) for name, kind, link in _SOUND[:10]])

    def make(rng: Random) -> bytes:
        if rng.random() < 0.4:
            data = bytes_changed(rng, sound)
        else:
            chosen = rng.sample(_SOUND, rng.randrange(1, 7))
            entries = []
            for name, kind, link in chosen:
                way = rng.random()
                if way < 0.25:
                    name = rng.choice(  # noqa: PLW2901  # of this entry
                        (
                            rng.choice(TEXTS)[:400],
                            f"{name}/{rng.choice(TEXTS)[:300]}",
                            f".wh.{rng.choice(TEXTS)[:20]}",
                        )
                    )
                elif way < 0.4:
                    kind = rng.choice(_KINDS)  # noqa: PLW2901
                elif way < 0.5:
                    link = rng.choice(TEXTS)[:300]  # noqa: PLW2901
                entry = _entry(
                    name.encode("utf-8", "replace").decode(),
                    kind,
                    link=link.encode("utf-8", "replace").decode(),
                    mode=rng.choice((0o644, 0o755, 0o7777, 0)),
                )
                if rng.random() < 0.1:
                    entry.mtime = rng.choice((-1, 0, 2**33, 2**62, 1e300))
                    entry.uid = rng.choice((0, 1000, 2**31, 2**32 - 1, 2**40))
                if rng.random() < 0.1:
                    entry.pax_headers = {
                        rng.choice(
                            (
                                "SCHILY.xattr.user.a",
                                "mtime",
                                "size",
                                "path",
                                "linkpath",
                                "uid",
                                "GNU.sparse.major",
                            )
                        ): rng.choice(TEXTS)[:200].encode("utf-8", "replace").decode().replace("\0", "")
                    }
                entries.append(entry)
            try:
                data = _layer_tar(entries, format=rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))
            except (ValueError, OverflowError, struct.error):
                data = bytes_changed(rng, sound)
        way = rng.random()
        if way < 0.2:
            data = gzip.compress(data, 1, mtime=0)
        elif way < 0.3:
            data = zstandard.ZstdCompressor(level=1).compress(data)
        return bytes_changed(rng, data) if 0.1 < way < 0.15 else data

    return Make(make, sound)


def elf() -> bytes:
    """A small shared object: program headers, a dynamic section, sections with a string table."""
    strings = b"\0libc.so.6\0libdemo.so\0/opt/lib:$ORIGIN\0"
    dynamic = b"".join(
        struct.pack("<qQ", *pair)
        for pair in ((1, 1), (14, 11), (29, 22), (5, 0x300), (10, len(strings)), (0, 0))
    )
    fat = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, 32) + struct.pack("<HHIQ12xI", 2, 1, 32, 0, 90)
    names = b"\0.dynamic\0.dynstr\0.nv_fatbin\0.shstrtab\0"
    data = bytearray(0x600)
    data[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0x480, 0, 64, 56, 2, 64, 5, 4
    )
    data[64:120] = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, 0x600, 0x600, 0x1000)
    data[120:176] = struct.pack("<IIQQQQQQ", 2, 6, 0x200, 0x200, 0, len(dynamic), len(dynamic), 8)
    data[0x200 : 0x200 + len(dynamic)] = dynamic
    data[0x300 : 0x300 + len(strings)] = strings
    data[0x380 : 0x380 + len(fat)] = fat
    data[0x400 : 0x400 + len(names)] = names
    sections = (
        (0, 0, 0, 0, 0, 0, 0),
        (1, 6, 0, 0x200, 0x200, len(dynamic), 2),
        (10, 3, 0, 0x300, 0x300, len(strings), 0),
        (18, 1, 0, 0x380, 0x380, len(fat), 0),
        (29, 3, 0, 0, 0x400, len(names), 0),
    )
    for index, (name, kind, flags, address, offset, size, link) in enumerate(sections):
        at = 0x480 + index * 64
        data[at : at + 64] = struct.pack(
            "<IIQQQQIIQQ", name, kind, flags, address, offset, size, link, 0, 8, 0
        )
    return bytes(data)


def _objects(data: bytes) -> None:
    needed(data)
    gpu_code(data)


LISTING = {
    "format": 1,
    "version": "3.11.2",
    "prefix": "/opt/venv",
    "python": [
        {"name": "demo", "version": "1.0", "files": {"demo/a.py": "sha256=x"}},
        {"name": "b", "version": "2", "files": None},
    ],
    "conda": [{"name": "c", "version": "1", "build": "0", "sha256": None}],
    "debian": [{"name": "libc6", "version": "2.36"}],
    "operators": {"fused_adam": ["9.0"]},
}


def _listing(data: bytes) -> None:
    found = _parse(data, b"", 0, "small:v1")
    _inventory("small:v1", "image", found, str(found["version"])).of("python")


INVENTORY = [["lib/a", 9, "ab" * 32], ["lib/b", 0, "cd" * 32]]
EVENTS = (
    '{"vertexes":[{"digest":"sha256:ab","name":"[1/2] FROM x","started":"2026-01-01T00:00:00Z","completed":"x"}]}\n'
    '{"statuses":[{"id":"a","vertex":"sha256:ab","current":9,"total":10}],"logs":[{"vertex":"sha256:ab","data":"aGk="}]}\n'
    "#1 [internal] load build definition\n#1 DONE 0.1s\n#2 sha256:ab 1.05MB / 2.1GB 0.3s done\n#2 CACHED\n"
    "#3 ERROR: no\n"
)
EVENT = {
    "statuses": [{"id": "a", "vertex": "sha256:ab", "current": 9}],
    "logs": [{"vertex": "v", "data": "aGk="}],
    "vertexes": [{"digest": "d", "name": "n"}],
}


def _events(data: bytes) -> None:
    lines = data.decode("utf-8", "replace").split("\n")
    list(raw_events(lines))
    list(plain_events(lines))


NAMES = (
    "docker.io/library/debian:12@sha256:"
    + "ab" * 32
    + "\n127.0.0.1:5000/team/app:v2.7\n[::1]:5000/a/b__c:x\nuser:pw@h.invalid/x:1\n"
)


def _names(data: bytes) -> None:
    """Each parser by itself, so that what one refuses the others still see."""
    from envbuild.errors import EnvbuildError

    text = data.decode("utf-8", "surrogateescape")[:3_000]
    failed, taken = None, 0
    for parse in (parse_image_name, parse_reference, parse_repository, parse_ref, is_image_name):
        try:
            taken += bool(parse(text))
        except EnvbuildError as error:
            failed = error
    if failed is not None and not taken:
        raise failed


MAPS = (
    "7f0000000000-7f0000001000 r-xp 00000000 08:01 123 /opt/venv/lib/libcudart.so.12\n"
    "7f0000001000-7f0000002000 r--p 00000000 00:00 0\n7f-80 rw-p 0 0:0 0 /a b (deleted)\n"
)
_ZSTD = zstandard.ZstdCompressor(level=1)
_UNPACK = Confined(_unpack)
_TAR = _layer_tar([_entry(name, kind, link=link) for name, kind, link in _SOUND[:6]])

READERS = [
    Reader(name="image-manifest", make=json_of(MANIFEST, INDEX), read=_image),
    Reader(name="pulled-manifest", make=json_of(MANIFEST, INDEX), read=_pulled),
    Reader(name="image-config", make=json_of(CONFIG), read=_image_config),
    Reader(name="layout-index", make=json_of(INDEX), read=_layout),
    Reader(name="image-name", make=text_of(*NAMES.splitlines()), read=_names),
    Reader(name="bundle-index", make=json_of(BUNDLE), read=_bundle_index),
    Reader(
        name="bundle-plan",
        make=either(
            packed(json_of(PLAN), _ZSTD.compress, seldom=0.2),
            bytes_of(_ZSTD.compress(json.dumps(PLAN).encode())),
        ),
        read=_bundle_plan,
    ),
    Reader(
        name="bundle-inventory",
        make=either(
            json_of(INVENTORY),
            packed(json_of(INVENTORY), lambda data: gzip.compress(data, 1, mtime=0), seldom=0.3),
        ),
        read=lambda data: read_inventory(_SOURCE(data)),
    ),
    Reader(
        name="bundle-contents",
        make=bytes_of(_TAR, tar_bytes({"a": b"x", "b/c": b""})),
        read=lambda data: _files(_SOURCE(data)),
        answers=(tarfile.TarError,),
    ),
    Reader(name="layer", make=_layers_made(), read=_UNPACK),
    Reader(
        name="elf-dynamic", make=bytes_of(elf()), read=lambda data: read_elf(_SOURCE(data)), answers=(NotElf,)
    ),
    Reader(name="elf-sections", make=bytes_of(elf()), read=_objects, answers=(ValueError,)),
    Reader(
        name="process-maps",
        make=text_of(MAPS),
        read=lambda data: mapped_libraries(data.decode("utf-8", "replace")),
    ),
    Reader(name="image-listing", make=json_of(LISTING), read=_listing),
    Reader(name="build-events", make=either(text_of(EVENTS), json_of(EVENT)), read=_events),
]
