"""Tars of other people's making: read as tarfile reads them where they are sound, refused in a moment where not."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
import tracemalloc

import pytest

from envbuild.oci.tar_reader import entries

END = bytes(1024)


def header(name=b"a", *, size=0, kind=tarfile.REGTYPE, mtime=0, uid=0, gid=0, link=b""):
    """One header block. Numbers that octal digits cannot hold are base-256, as GNU tar writes them."""
    block = bytearray(512)
    block[:100] = name.ljust(100, b"\0")[:100]
    numbers = ((100, 8, 0o644), (108, 8, uid), (116, 8, gid), (124, 12, size), (136, 12, mtime))
    for at, width, value in numbers:
        block[at : at + width] = number(value, width)
    block[156:157] = kind
    block[157:257] = link.ljust(100, b"\0")[:100]
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def number(value, width):
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    sign = 0o377 if value < 0 else 0o200
    return bytes([sign]) + (value % 256 ** (width - 1)).to_bytes(width - 1, "big")


def padded(data):
    return data + bytes(-len(data) % 512)


def extended(kind, data):
    return header(b"x", size=len(data), kind=kind) + padded(data)


def record(keyword, value):
    body = b" " + keyword + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


def pax(*records, kind=tarfile.XHDTYPE):
    return extended(kind, b"".join(record(keyword, value) for keyword, value in records))


def read(data):
    return [(entry, content.read() if content else None) for entry, content in entries(io.BytesIO(data))]


HUGE = {
    "a size of 2^70 bytes": header(size=1 << 70) + b"x" * 512,
    "a size of 2^39 bytes that are not there": header(size=1 << 39) + b"x" * 512,
    "a folder's neighbour with a size of 2^62": header(b"d/", kind=tarfile.DIRTYPE) + header(size=1 << 62),
    "an unknown type with a size of 2^70": header(kind=b"Z", size=1 << 70),
    "a negative size": header(size=-512) + END,
    "a negative size in pax": pax((b"size", b"-512")) + header() + END,
    "a size of a thousand digits": pax((b"size", b"9" * 1000)) + header() + END,
    "a size that is no number": pax((b"size", b"1_0")) + header() + END,
    "a pax header of a terabyte": header(kind=tarfile.XHDTYPE, size=1 << 40),
    "a pax header of a negative size": header(kind=tarfile.XHDTYPE, size=-1),
    "a long name of a gigabyte": header(kind=tarfile.GNUTYPE_LONGNAME, size=1 << 30),
    "a chain of long names": extended(tarfile.GNUTYPE_LONGNAME, b"n") * 5000 + header() + END,
    "a chain of pax headers": pax((b"comment", b"c")) * 5000 + header() + END,
    "a chain of global headers": pax((b"comment", b"c"), kind=tarfile.XGLTYPE) * 5000 + header() + END,
    "many global keywords": pax(*((b"k%d" % n, b"v") for n in range(200)), kind=tarfile.XGLTYPE) + header() + END,
    "NUL in a path": pax((b"path", b"a\0b")) + header() + END,
    "NUL in a link": pax((b"linkpath", b"a\0b")) + header(kind=tarfile.SYMTYPE) + END,
    "a path of 5000 bytes": pax((b"path", b"p/" * 2500)) + header() + END,
    "a link of 5000 bytes": extended(tarfile.GNUTYPE_LONGLINK, b"l" * 5000) + header(kind=tarfile.SYMTYPE) + END,
    "the time nan": pax((b"mtime", b"nan")) + header() + END,
    "the time inf": pax((b"mtime", b"inf")) + header() + END,
    "the time 1e300": pax((b"mtime", b"1e300")) + header() + END,
    "a time of 2^80": header(mtime=1 << 80) + END,
    "the owner -1": header(uid=-1) + END,
    "an owner of 2^40": pax((b"gid", b"1099511627776")) + header() + END,
    "GNU's sparse type": header(kind=tarfile.GNUTYPE_SPARSE) + END,
    "pax's sparse files": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")) + header() + END,
    "a record without a length": extended(tarfile.XHDTYPE, b"0 a=b\n") + header() + END,
    "a record that is too long": extended(tarfile.XHDTYPE, b"99 a=b\n") + header() + END,
    "a record without a value": extended(tarfile.XHDTYPE, b"6 abc\n") + header() + END,
    "an extended header without its entry": pax((b"path", b"p")) + END,
    "no end": header(size=3) + padded(b"abc"),
    "an end within padding": header(size=3) + b"abc",
    "an end within a header": header()[:300],
    "an end within a file": header(size=600) + b"x" * 512,
    "nothing": b"",
    "a wrong checksum": header().replace(b"ustar", b"vstar") + END,
    "no tar": b"hello, world" * 100,
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("data", HUGE.values(), ids=HUGE.keys())
def test_what_no_file_can_have_is_refused_at_once_and_in_little_memory(data):
    tracemalloc.start()
    try:
        with pytest.raises(tarfile.ReadError):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.timeout(20)
def test_a_file_that_nobody_reads_is_passed_over_in_bounded_memory():
    data = gzip.compress(header(size=200 << 20) + bytes(200 << 20) + header(b"after") + END, 1)
    tracemalloc.start()
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            assert [entry.name for entry, _ in entries(stream)] == ["a", "after"]
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())
def test_sound_tars_read_as_tarfile_reads_them(form):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form, pax_headers={"comment": "all"}) as archive:
        for name, kind, link in (
            ("usr/", tarfile.DIRTYPE, ""),
            ("usr/file", tarfile.REGTYPE, ""),
            ("usr/hard", tarfile.LNKTYPE, "usr/file"),
            ("usr/soft", tarfile.SYMTYPE, "../" + ("t" * 90 if form == tarfile.USTAR_FORMAT else "t" * 300)),
            ("pipe", tarfile.FIFOTYPE, ""),
            ("p" * 60 + "/" + "é" * 40, tarfile.REGTYPE, ""),
            (("q" * 90 + "/") * (1 if form == tarfile.USTAR_FORMAT else 3) + "folder/", tarfile.DIRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.uid, info.gid, info.mode = kind, link, 1000, 8, 0o4755
            info.mtime = 1577836800
            if form == tarfile.PAX_FORMAT:
                info.mtime = 1577836800.25
                info.pax_headers = {"SCHILY.xattr.user.x": "é\udc80"}
            info.size = 700 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"y" * 700))
    data = stream.getvalue()
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as archive:
        expected = [
            (e.get_info(), e.pax_headers, archive.extractfile(e).read() if e.isreg() else None)
            for e in archive
        ]
    seen = [(entry.get_info(), entry.pax_headers, content) for entry, content in read(data)]
    assert seen == expected
    assert len(seen) == 7


def test_other_peoples_global_headers_and_lone_end_marks_are_fine():
    data = pax((b"comment", b"0123"), kind=tarfile.XGLTYPE) + header(b"d/setup.py", size=1) + padded(b"x")
    assert [(entry.name, content) for entry, content in read(data + bytes(512))] == [("d/setup.py", b"x")]


def test_a_header_of_many_records_takes_time_for_each_once():
    data = pax(*[(b"a", b"")] * 200_000) + header() + END
    started = time.process_time()
    assert [entry.name for entry, _ in read(data)] == ["a"]
    assert time.process_time() - started < 2
