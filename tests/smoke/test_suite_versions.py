"""``versions``: installed = locked, and nothing was touched since."""

from __future__ import annotations

import pytest


@pytest.fixture
def filled(place):
    place.install(
        "torch", "2.7.1", {"torch/__init__.py": "", "torch/lib/libtorch.so": b"machine code" * 1000}
    )
    place.install("some-package", "1.0", {"some_package.py": "x = 1\n"})
    place.expect["hashed"] = ["torch"]
    return place


def test_what_is_installed_as_locked_passes_and_is_counted(filled):
    numbers = filled.ask("versions").passed("versions")
    assert numbers["packages"] == 2
    assert numbers["hashed_files"] == 3
    assert numbers["hashed_bytes"] > 12_000


def test_another_version_in_dist_info_fails(filled):
    filled.expect["packages"]["some-package"] = "1.1"
    filled.ask("versions").failed("versions", "some-package 1.1: installed as 1.0")


def test_a_package_that_is_missing_fails(filled):
    filled.expect["packages"]["absent"] = "3.0"
    filled.ask("versions").failed("versions", "absent 3.0: not installed")


def test_a_package_that_nobody_locked_fails(filled):
    filled.install("stranger", "9.9")
    del filled.expect["packages"]["stranger"]
    filled.ask("versions").failed("versions", "stranger 9.9: installed, not in the lock")


def test_two_copies_of_one_package_fail(filled):
    filled.install("some_package", "0.9")
    del filled.expect["packages"]["some_package"]
    found = filled.ask("versions").failed("versions", "some-package 1.0: installed as ")
    assert "0.9" in found["seen"]


def test_a_flipped_byte_fails_and_names_the_file(filled):
    path = filled.site / "torch/lib/libtorch.so"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    filled.ask("versions").failed("versions", "torch: torch/lib/libtorch.so is sha256", "RECORD says")


def test_a_file_that_went_missing_fails(filled):
    (filled.site / "torch/lib/libtorch.so").unlink()
    filled.ask("versions").failed("versions", "torch/lib/libtorch.so: No such file")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("torch/lib/libtorch.so,,", "RECORD has no hash of"),
        ("torch/lib/libtorch.so,md5=abc,1", "md5, not sha256"),
    ],
)
def test_a_record_that_vouches_for_nothing_fails(filled, line, said):
    record = filled.site / "torch-2.7.1.dist-info/RECORD"
    kept = [text for text in record.read_text().splitlines() if "libtorch" not in text]
    record.write_text("\n".join([*kept, line]) + "\n")
    filled.ask("versions").failed("versions", said)


def test_a_package_without_a_record_fails(filled):
    (filled.site / "torch-2.7.1.dist-info/RECORD").unlink()
    filled.ask("versions").failed("versions", "torch: it has no RECORD")


def test_byte_code_may_be_listed_without_a_hash(filled):
    record = filled.site / "torch-2.7.1.dist-info/RECORD"
    record.write_text(record.read_text() + "torch/__pycache__/__init__.cpython-311.pyc,,\n")
    filled.ask("versions").passed("versions")


def test_a_folder_that_is_on_the_path_twice_is_one_folder(filled):
    filled.environ["PYTHONPATH"] = f"{filled.suite}:{filled.site}:{filled.site}"
    filled.ask("versions").passed("versions")
