"""The bill of materials: valid CycloneDX, the same bytes everywhere, and what is really in the image."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from sbomagreement import DPKG, compare, debian_of, is_installed
from smallimage import SmallWorld

from envbuild.engine import ImageRef, RunCommand, detect
from envbuild.engine.model import Streams
from envbuild.layers.licences import add_licences
from envbuild.lock import ImageLock, Lock, lock_bytes, read_lock
from envbuild.lock.licences import with_licences
from envbuild.progress import SilentProgress
from envbuild.publish.sbom import sbom

RECIPES = Path(__file__).parents[2] / "recipes/pytorch-cuda"
DIGEST = "sha256:" + "d" * 64


def lock_of(tag: str, *, image: bool = True) -> Lock:
    """A committed lock, with an image of a made-up digest, or none."""
    built = ImageLock(digest=DIGEST, config=DIGEST, layers=())
    return replace(read_lock(RECIPES / tag / "lock.json"), image=built if image else None)


def by_name(bill: bytes) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for component in json.loads(bill)["components"]:
        found.setdefault(component["name"], []).append(component)
    return found


def licensed(lock: Lock, **licences: str) -> Lock:
    """The lock, in which the named artifacts have these licences."""
    names = {name.replace("_", "-"): text for name, text in licences.items()}
    items = (*lock.debian, *lock.python)
    bare = replace(
        lock, python=tuple(replace(item, licence=None) for item in lock.python),
        debian=tuple(replace(item, licence=None) for item in lock.debian),
    )  # fmt: skip
    return with_licences(bare, {item.sha256: names[item.name] for item in items if item.name in names})


@pytest.mark.parametrize("tag", ["v2.7", "v2.7-devel", "v2.11-devel"])
def test_it_is_valid_by_the_strict_schema(tag: str) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    lock = licensed(lock_of(tag), torch="BSD-3-Clause", perl="MIT OR LicenseRef-mine", sympy="BSD")
    for bill in (sbom(lock), sbom(lock_of(tag, image=False))):
        assert validator.validate_str(bill.decode()) is None
    broken = sbom(lock).replace(b'"type":"container"', b'"type":"vessel"')
    assert validator.validate_str(broken.decode()) is not None


def test_every_input_that_is_installed_stands_there_with_its_hash() -> None:
    lock = lock_of("v2.7")
    assert lock.native is not None
    assert lock.native.wheel is not None
    components = json.loads(sbom(lock))["components"]
    hashes = {component["hashes"][0]["content"] for component in components if is_installed(component)}
    assert {hash for component in components for hash in {item["alg"] for item in component["hashes"]}} == {
        "SHA-256"
    }
    assert hashes == {item.sha256 for item in (*lock.debian, *lock.python, lock.native.wheel)}
    assert len({component["bom-ref"] for component in components}) == len(components)


def test_the_operator_is_told_and_its_source_is_a_build_input() -> None:
    built, source = sorted(by_name(sbom(lock_of("v2.7")))["deepspeed"], key=lambda item: "scope" in item)
    assert source["scope"] == "excluded"
    assert source["purl"].endswith("?file_name=deepspeed-0.19.8.tar.gz")
    assert {item["name"]: item["value"] for item in built["properties"]} == {
        "envbuild:operators": "fused_adam", "envbuild:architectures": "7.0 8.0 8.6 9.0+PTX"
    }  # fmt: skip


def test_the_toolchain_is_there_only_where_the_image_has_files_of_it() -> None:
    assert "nvidia-cuda-toolkit" not in by_name(sbom(lock_of("v2.7")))
    [piece] = by_name(sbom(lock_of("v2.7-devel")))["nvidia-cuda-toolkit"]
    assert piece["purl"].endswith("?arch=amd64&distro=debian-13")
    assert piece["properties"] == [
        {"name": "envbuild:contents", "value": "some files, below /usr/local/cuda"}
    ]


def test_packages_are_named_as_scanners_know_them() -> None:
    found = by_name(sbom(lock_of("v2.7")))
    assert found["torch"][0]["purl"] == "pkg:pypi/torch@2.7.1"
    purl = found["bsdutils"][0]["purl"]
    assert re.fullmatch(
        r"pkg:deb/debian/bsdutils@1(:|%3A)2\.38\.1-5%2Bdeb12u\d\?arch=amd64&distro=debian-12&upstream=util-linux",
        purl,
    )
    assert "upstream" not in found["bash"][0]["purl"]
    assert "arch=all" in found["adduser"][0]["purl"]


def test_the_image_has_its_digest_and_everything_in_it_depends_from_it() -> None:
    bill = json.loads(sbom(lock_of("v2.7")))
    image = bill["metadata"]["component"]
    assert re.fullmatch(r"pkg:oci/pytorch-cuda@sha256(:|%3A)d{64}\?tag=v2\.7", image["purl"])
    assert image["hashes"] == [{"alg": "SHA-256", "content": "d" * 64}]
    edges = {node["ref"]: node.get("dependsOn", []) for node in bill["dependencies"]}
    inside = {item["bom-ref"] for item in bill["components"] if item.get("scope") != "excluded"}
    assert set(edges[image["bom-ref"]]) == inside
    assert set(edges) == {image["bom-ref"], *(item["bom-ref"] for item in bill["components"])}
    unbuilt = json.loads(sbom(lock_of("v2.7", image=False)))["metadata"]["component"]
    assert unbuilt["purl"] == "pkg:oci/pytorch-cuda?tag=v2.7"
    assert "hashes" not in unbuilt


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("MIT", {"license": {"id": "MIT"}}),
        ("GPL-2.0-or-later AND MIT", {"expression": "GPL-2.0-or-later AND MIT"}),
        ("GPL-2.0-only WITH Linux-syscall-note", {"expression": "GPL-2.0-only WITH Linux-syscall-note"}),
        ("LicenseRef-public-domain", {"expression": "LicenseRef-public-domain"}),
        ("NVIDIA Proprietary Software", {"license": {"name": "NVIDIA Proprietary Software"}}),
    ],
)
def test_a_licence_is_an_id_an_expression_or_a_name(licence: str, expected: dict[str, object]) -> None:
    found = by_name(sbom(licensed(lock_of("v2.7"), torch=licence)))
    assert found["torch"][0]["licenses"] == [expected]
    assert "licenses" not in found["bash"][0]


def test_serial_number_and_time_follow_from_the_lock() -> None:
    lock = lock_of("v2.7")
    bill, later = json.loads(sbom(lock)), json.loads(sbom(replace(lock, created="2026-11-18T00:00:00Z")))
    assert bill["metadata"]["timestamp"].startswith(lock.created.rstrip("Z"))
    assert bill["serialNumber"].startswith("urn:uuid:")
    assert bill["serialNumber"] != later["serialNumber"]
    assert bill["metadata"]["tools"]["components"] == [{"name": "envbuild", "type": "application"}]


def test_it_names_no_host_but_those_of_its_schema() -> None:
    text = sbom(lock_of("v2.11-devel")).decode()
    assert set(re.findall(r"https?://[^/\"]+", text)) == {"http://cyclonedx.org"}
    assert "supplier" not in text


def test_every_process_writes_the_same_bytes(tmp_path: Path) -> None:
    lock = lock_of("v2.7")
    (tmp_path / "lock.json").write_bytes(lock_bytes(lock))
    program = (
        "import sys; from pathlib import Path; from envbuild.lock import read_lock; from envbuild.publish.sbom import "
        "sbom; sys.stdout.buffer.write(sbom(read_lock(Path(sys.argv[1]))))"
    )
    for seed, zone in (("1", "Pacific/Chatham"), ("2", "America/New_York")):
        env = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"}
        command = [sys.executable, "-c", program, str(tmp_path / "lock.json")]
        assert subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout == sbom(lock)


@pytest.fixture
def ask(small: SmallWorld, tmp_path: Path) -> Callable[..., str]:
    """Run a program in the small image; what it printed."""
    [engine] = detect("sandbox", small.store, os.environ, jobs=2)
    image = ImageRef.read(small.store.layout, small.built.image.digest, ("envbuild-test-sbom:v1-candidate",))
    engine.load(image, SilentProgress())

    def run(*argv: str) -> str:
        with (tmp_path / "out").open("w+b") as out:
            command = RunCommand(argv=argv, network=False, timeout=120)
            assert engine.run(image, command, Streams(stdout=out.fileno(), stderr=2)) == 0
            out.seek(0)
            return out.read().decode()

    return run


@pytest.mark.network
def test_it_agrees_with_what_is_installed(small: SmallWorld, ask: Callable[..., str]) -> None:
    program = (
        "import importlib.metadata as m, json; "
        "print(json.dumps([[d.name, d.version] for d in m.distributions()]))"
    )
    python = {(name, version) for name, version in json.loads(ask("/opt/venv/bin/python", "-c", program))}
    debian = debian_of(ask(*DPKG))
    lock = add_licences(replace(small.lock, image=small.built.lock), small.store, SilentProgress())
    compare(sbom(lock), debian=debian, python=python)
    fewer = replace(lock, debian=lock.debian[1:])
    with pytest.raises(AssertionError, match=lock.debian[0].name):
        compare(sbom(fewer), debian=debian, python=python)
    other = replace(lock, python=(replace(lock.python[0], version="9"), *lock.python[1:]))
    with pytest.raises(AssertionError, match=lock.python[0].name):
        compare(sbom(other), debian=debian, python=python)


@pytest.mark.network
def test_every_debian_package_of_a_built_image_has_a_licence(small: SmallWorld) -> None:
    lock = add_licences(replace(small.lock, image=small.built.lock), small.store, SilentProgress())
    components = json.loads(sbom(lock))["components"]
    assert [c["name"] for c in components if c["purl"].startswith("pkg:deb/") and not c.get("licenses")] == []
