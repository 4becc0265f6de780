"""What the campaign found, each with the shortest input: it must be one named error, or nothing at all."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from fuzz_conda import LOCK, REPODATA, _conda
from fuzz_debian import PACKAGES, RELEASE
from fuzz_engine import attempt
from fuzz_images import LISTING, elf
from fuzz_mutation import DIGITS
from fuzz_proofs import REPORT
from fuzz_python import FILE, GOOD, HTML, PAGE, SDIST, tar_bytes
from fuzz_readers import READERS
from msgspec import json

from envbuild.errors import EnvbuildError

DEEP = b"[" * 5_000


def with_(document: Any, change: Callable[[Any], object]) -> bytes:
    """A document with a change."""
    value = json.decode(json.encode(document))
    change(value)
    return json.encode(value)


def page(**members: object) -> bytes:
    return with_(PAGE, lambda value: value["files"][0].update(members))


def refusal(reader: str, data: bytes) -> EnvbuildError:
    """The error, which must be whole."""
    crash, _ = attempt(READERS[reader], data)
    assert crash is None, crash.told
    with pytest.raises(EnvbuildError) as caught:
        READERS[reader].read(data)
    return caught.value


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"{",
            b'{"files": ',
            b'{"files": 1}',
            b'{"files": [1]}',
            b'{"files": [{}]}',
            b"[]",
            DEEP,
            b'{"files": ' + DEEP,
        ),
        *(
            b"",
            b"not found",
            b'{"files": [{"filename": "\xff", "url": "x"}]}',
            b'{"files": [], "a": ' + b"9" * DIGITS,
        ),
        *(
            page(filename=1),
            page(url=None),
            page(hashes=[]),
            page(hashes={"sha256": "x"}),
            page(size="12"),
            page(size=-1),
        ),
        *(
            page(size=2**60),
            page(**{"upload-time": 5}),
            page(**{"upload-time": "2026"}),
            page(**{"core-metadata": []}),
        ),
        *(
            page(url="http://[::1"),
            page(url="ftp://h/x"),
            HTML.replace("https://h.invalid/x/", "http://[").encode(),
        ),
        *(HTML.replace("sha256=4747", "sha256=zz47").encode(), b"<![ "),
    ],
)
def test_a_page_of_an_index_that_is_none_is_one_error(data: bytes) -> None:
    error = refusal("index-json", data)
    assert (error.id, int(error.exit), error.where) == ("index-malformed", 4, "demo")
    assert "ENVBUILD_PYTHON_INDEX" in error.hint


@pytest.mark.parametrize(
    "name", ["../demo-1.0.tar.gz", "demo-1.0-py3-none-a/b.whl", f"demo-{'9' * DIGITS}.tar.gz"]
)
def test_a_file_of_an_index_whose_name_is_no_file_name_is_passed_over(name: str) -> None:
    from fuzz_python import INDEX, Answering

    from envbuild.lock.python.simple import project

    files = project("demo", [INDEX], Answering(page(filename=name)))  # type: ignore[arg-type]
    assert [item.name for item in files] == ["demo-1.0.tar.gz"]


@pytest.mark.parametrize(
    "data", [b"[", b"\xff", b"packages = 1", b"[[packages]]\nversion = '1'", b"a = " + DEEP]
)
def test_an_answer_of_uv_that_is_unknown_is_one_error(data: bytes) -> None:
    assert refusal("pylock", data).id == "uv-answer-wrong"


def test_a_wheel_with_a_version_of_many_digits_fits_nowhere() -> None:
    data = f'[[packages]]\nname = "d"\nwheels = [{{ url = "https://h/d-{"1" * DIGITS}-py3-none-any.whl" }}]'.encode()
    assert attempt(READERS["pylock"], data) == (None, False)


def test_a_marker_that_compares_what_has_no_order_does_not_hold() -> None:
    data = b"Requires-Dist: a; platform_system === 'x'\nRequires-Dist: b; os_name ~= 'x'\n"
    assert attempt(READERS["wheel-metadata"], data) == (None, False)


def _lying(**lies: int) -> bytes:
    """A wheel whose METADATA member has another compression or an encryption flag in both headers."""
    data = bytearray(GOOD)
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = 0
        while (at := data.find(magic, at)) >= 0:
            for name, value in lies.items():
                place = at + offset + (2 if name == "method" else 0)
                data[place : place + 2] = value.to_bytes(2, "little")
            at += 4
    return bytes(data)


@pytest.mark.parametrize(
    "reader", ["wheel-licence", "wheel-by-ranges", "wheel-members", "wheel-for-building"]
)
@pytest.mark.parametrize(
    "data",
    [_lying(method=99), _lying(flags=1), GOOD[:-30], GOOD[: len(GOOD) // 2] + GOOD[len(GOOD) // 2 + 9 :]],
)
def test_a_wheel_that_zipfile_cannot_read_is_one_error(reader: str, data: bytes) -> None:
    error = refusal(reader, data)
    assert error.where is not None
    assert FILE in error.where


def test_a_wheel_whose_member_is_a_folder_and_a_file_is_one_error() -> None:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("demo/a", b"x")
        archive.writestr("demo", b"x")
    assert refusal("wheel-for-building", out.getvalue()).id == "bad-toolchain-artifact"


def test_a_gzip_whose_checksum_is_wrong_is_one_error() -> None:
    data = bytearray(gzip.compress(SDIST[:1536], 1, mtime=0))  # without a mark of its end: all of it is read
    data[-6] ^= 1
    assert refusal("sdist", bytes(data)).id == "bad-toolchain-artifact"


def test_what_a_zstd_frame_says_of_its_size_is_not_believed() -> None:
    data = b"(\xb5/\xfd\xf5\x9c\xcbX \x01\t\x00\x00/"
    assert refusal("conda-repodata-zst", data).id == "channel-wrong"


@pytest.mark.parametrize("reader", ["sdist", "sdist-requirements", "sdist-licence"])
def test_a_source_with_a_damaged_byte_is_one_error_or_sound(reader: str) -> None:
    sound = gzip.compress(SDIST, 1, mtime=0)
    refused = 0
    for at in range(len(sound)):
        for bit in (1, 0x80):
            crash, no = attempt(READERS[reader], sound[:at] + bytes([sound[at] ^ bit]) + sound[at + 1 :])
            assert crash is None, crash.told
            refused += no
    assert refused > 100


@pytest.mark.parametrize(
    "change",
    [
        *(
            ("Size: 1234", "Size: "),
            ("Size: 1234", "Size: \u00b2"),
            ("Size: 1234", "Size: " + "9" * DIGITS),
            ("Size: 1234\n", ""),
        ),
        *(
            ("Package: demo\n", ""),
            ("Package: demo", "Package: ../x"),
            ("Version: 1.0-1\n", ""),
            ("Version: 1.0-1", "Version: "),
        ),
        *(
            ("pool/main/d/demo", "../../etc"),
            ("pool/main/d/demo", "/etc"),
        ),
    ],
)
def test_a_paragraph_of_debian_that_lacks_something_is_one_error(change: tuple[str, str]) -> None:
    error = refusal("debian-packages", PACKAGES.replace(*change, 1).encode())
    assert (error.id, int(error.exit)) == ("debian-index-wrong", 5)


def test_a_dependency_of_many_spaces_is_read_at_once() -> None:
    from envbuild.lock.debian.control import dependencies

    assert attempt(READERS["debian-relation"], b"a" + b" " * 20_000 + b"( 1)") == (None, False)
    [[found]] = dependencies("a" + " " * 20_000 + "(>=\t1:2 )\n [amd64 i386]")
    assert str(found) == "a (>= 1:2)"


def test_a_dependency_that_is_none_cannot_be_met() -> None:
    data = PACKAGES.replace("libc6 (>= 2.36) | musl, other", "b r").encode()
    assert refusal("debian-packages", data).id == "debian-unsolvable"


@pytest.mark.parametrize(
    "day", ["tomorrow", "Sat, 99 Foo 2026 10:00:00 UTC", "Thu, 01 Jan " + "9" * 30 + " 00:00:00 UTC"]
)
def test_a_release_that_is_valid_until_no_date_is_one_error(day: str) -> None:
    data = RELEASE.replace("Sat, 15 Nov 2099 10:00:00 UTC", day).encode()
    error = refusal("debian-release", data)
    assert error.id == "debian-index-wrong"
    assert "Valid-Until" in error.message


@pytest.mark.parametrize("size", ["\u00b2", "9" * DIGITS, "-1"])
def test_an_index_of_a_release_with_no_size_is_not_there(size: str) -> None:
    assert attempt(READERS["debian-release"], RELEASE.replace("1234", size).encode()) == (None, False)


@pytest.mark.parametrize("text", ["\u00b2:1", "1" * DIGITS, "9" * DIGITS + ":1\n1", "\u0661\u0662-\u0663"])
def test_versions_of_odd_digits_have_an_order(text: str) -> None:
    assert attempt(READERS["debian-version"], (text + "\n1:2\n0").encode()) == (None, False)


@pytest.mark.parametrize(
    "change",
    [
        lambda lock: lock["packages"][1]["depends"].append("a =="),
        lambda lock: (
            lock["packages"][1]["constrains"].append("[")
            if "constrains" in lock["packages"][1]
            else lock["specs"].append("[")
        ),
        lambda lock: lock["virtual"].update(__cuda="..."),
        lambda lock: lock["specs"].append("python >"),
        lambda lock: lock["packages"][0].update(timestamp=2**70),
        lambda lock: lock["packages"][0].update(build_number=2**70),
        lambda lock: lock["packages"][0].update(size=2**70),
        lambda lock: lock["virtual"].update(__cuda="12.6=" + "x" * 65),
        lambda lock: lock["channels"][0].update(url="https://conda.invalid:x/"),
        lambda lock: lock["channels"][0].update(url="https://conda.invalid:99999/"),
    ],
)
def test_what_conda_cannot_read_in_a_lock_is_one_error(change: Callable[[Any], object]) -> None:
    assert refusal("conda-lock", with_(LOCK, change)).id == "lock-wrong"


@pytest.mark.parametrize(
    "text",
    [
        *("a: 2026-99-99", "[" * 5_000, "a: &a [*a", "- x", "custom_channels: 1", "proxy_servers: {http: 1}"),
        *("proxy_servers:\n http: h", "proxy_servers: {https: '\\ud800'}"),
    ],
)
def test_a_condarc_that_says_nothing_usable_is_one_error(text: str) -> None:
    error = refusal("condarc", text.encode())
    assert (error.id, int(error.exit)) == ("wrong-condarc", 2)


@pytest.mark.parametrize(
    "listed", [b"", DEEP, b'{"paths": [{"_path": "a", "path_type": 1}]}', b'{"paths": null}']
)
def test_a_list_of_paths_that_is_none_damages_the_package(listed: bytes) -> None:
    crash, refused = attempt(READERS["conda-package"], _conda(tar_bytes({"info/paths.json": listed})))
    assert (crash, refused) == (None, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("version"),
        lambda found: found.update(operators=[]),
        lambda found: found["python"].append(1),
        lambda found: found["python"][0].update(name=1),
        lambda found: found["conda"][0].pop("build"),
        lambda found: found.update(debian={}),
    ],
)
def test_a_listing_of_an_image_that_is_none_is_one_error(change: Callable[[Any], object]) -> None:
    assert refusal("image-listing", with_(LISTING, change)).id == "image-not-listed"


def test_a_listing_that_is_nested_deep_is_one_error() -> None:
    assert refusal("image-listing", DEEP).id == "image-not-listed"


@pytest.mark.parametrize(
    "data",
    [
        *(
            DEEP,
            b"{}",
            b'{"name": 1, "version": "1"}',
            b'{"name": "a", "version": "1", "files": 1}',
            b'{"name": "a", "files": [1]}',
        ),
        *(b'{"name": "a", "version": "1", "files": [1, null]}', b'"\x00,', b"a" * 200_000 + b",b,c"),
    ],
)
def test_damaged_records_of_an_environment_are_passed_over(data: bytes) -> None:
    assert attempt(READERS["environment-records"], data) == (None, False)


def test_a_script_of_an_environment_whose_path_has_a_nul_is_not_there() -> None:
    assert attempt(READERS["environment-records"], b"../../../bin/a\0b,sha256=x,1\n") == (None, False)


@pytest.mark.parametrize(
    "data",
    [
        *(
            b'{"statuses":[{"current":"x"}]}',
            b'{"statuses":[{"current":[]}]}',
            b'{"logs":[{"data":"a"}]}',
            b"{" + DEEP + b"}",
        ),
        *(
            b"#1 x\n#1 transferring a: 1.2.3kB",
            b"#1 x\n#1 sha256:ab " + b"9" * DIGITS + b"MB",
            b"#1 x\n#1 sha256:ab .kB",
        ),
    ],
)
def test_odd_events_of_a_build_are_shown_or_passed_over(data: bytes) -> None:
    assert attempt(READERS["build-events"], data) == (None, False)


def test_a_report_that_is_nested_deep_is_one_error() -> None:
    data = json.encode(REPORT).replace(b'"cuda":"12.6"', b'"cuda":' + DEEP)
    assert DEEP in data
    assert refusal("suite-report", data).id == "bad-report"


def test_a_platform_of_odd_types_is_not_the_wanted_one() -> None:
    data = b'{"manifests": [{"platform": {"os": "linux", "architecture": "amd64", "variant": {}}}]}'
    assert refusal("pulled-manifest", data).id == "unusable-image"


def _patched(at: int, data: bytes) -> bytes:
    found = elf()
    return found[:at] + data + found[at + len(data) :]


@pytest.mark.parametrize(
    "data",
    [
        _patched(0x28, b"\xff" * 8),  # where the section headers are
        _patched(0x480 + 64 + 32, b"\x11"),  # the size of the dynamic section
        _patched(0x380 + 6, b"\0\0" + bytes(8)),  # a fat binary of no bytes with a header of none
    ],
)
def test_an_object_with_impossible_sizes_is_damaged_and_ends(data: bytes) -> None:
    crash, refused = attempt(READERS["elf-sections"], data)
    assert (crash, refused) == (None, True)


@pytest.mark.parametrize(
    "header",
    [
        *("Retry-After: Thu, 01 Jan 99999 00:00:00 GMT", "Retry-After: " + "9" * DIGITS, "Retry-After: nan"),
        *(
            "Retry-After: 31 Dec 9999 23:59:59 -2359",
            "Retry-After: 01 Jan 0001 00:00:00 +2359",
            "Retry-After: \u00b2",
        ),
        *(
            "Content-Length: " + "9" * DIGITS,
            "Content-Length: \u00b2",
            "Content-Length: 5, 6",
            "Content-Range: bytes 0-\u00b2/5",
        ),
    ],
)
@pytest.mark.parametrize("reader", ["http-answer", "http-download", "http-length"])
@pytest.mark.parametrize("status", [503, 206])
def test_odd_dates_and_numbers_in_headers_are_one_error(reader: str, header: str, status: int) -> None:
    crash, _ = attempt(
        READERS[reader], f"HTTP/1.1 {status} No\r\n{header}\r\n\r\nhello".encode("latin-1", "replace")
    )
    assert crash is None, crash.told


@pytest.mark.parametrize("port", ["99999", "0", "x", "\u00b2", "-1"])
@pytest.mark.parametrize("host", ["h.invalid", "[::1", "[::1]"])
def test_a_redirect_to_no_address_is_one_error(host: str, port: str) -> None:
    data = f"HTTP/1.1 302 Found\r\nLocation: http://{host}:{port}/\r\nContent-Length: 0\r\n\r\n".encode(
        "latin-1", "replace"
    )
    error = refusal("http-answer", data)
    assert (error.id, int(error.exit)) == ("source-failed", 4)


@pytest.mark.parametrize(
    "config", [{"zero_optimization": {"stage": "9" * DIGITS}}, {"zero_optimization" * 12_000: 1}]
)
def test_a_deepspeed_configuration_with_a_number_or_a_key_of_great_length_is_read(config: object) -> None:
    assert attempt(READERS["deepspeed-configuration"], json.encode(config)) == (None, False)


def test_a_channel_whose_packages_were_made_in_1970_is_solved() -> None:
    data = with_(
        REPODATA, lambda value: [item.update(timestamp=0) for item in value["packages.conda"].values()]
    )
    assert attempt(READERS["conda-repodata"], data) == (None, False)
