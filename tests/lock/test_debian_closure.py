"""Debian versions, control data, and the closure of dependencies."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockworld import World
from tinyrecipe import Locker

from envbuild.errors import EnvbuildError
from envbuild.lock.debian.closure import Offer, closure
from envbuild.lock.debian.control import DebPackage, dependencies, paragraphs
from envbuild.lock.debian.version import DebianVersion

VERSIONS = st.from_regex(r"([0-9]:)?[0-9][a-z0-9.+~]{0,6}(-[a-z0-9.+~]{1,4})?", fullmatch=True)


@pytest.mark.parametrize(
    "older_newer",
    [
        "1.0~rc1 1.0", "1.0 1.0-1", "1.0-1 1.0-1+b1", "1.9 1.10", "9 1:0", "1.0a 1.0+", "1.0~~ 1.0~", "1.0~ 1.0",
        "2.36-9+deb12u9 2.36-9+deb12u10", "12.4.131~12.4.1-2 12.4.131-1", "1.0 1.0a", "0~0 0",
    ],
)  # fmt: skip
def test_versions_are_ordered_as_policy_says(older_newer: str) -> None:
    older, newer = (DebianVersion(text) for text in older_newer.split())
    assert older < newer
    assert not newer < older
    assert older != newer


def test_leading_zeros_and_epoch_zero_do_not_count() -> None:
    assert DebianVersion("0:1.02-1") == DebianVersion("1.2-1")


@pytest.mark.needs("dpkg")
@settings(max_examples=60, deadline=None)
@given(VERSIONS, VERSIONS)
def test_the_order_is_dpkgs(left: str, right: str) -> None:
    for operator in ("lt", "eq"):
        said = (
            subprocess.run(["dpkg", "--compare-versions", left, operator, right], check=False).returncode == 0
        )
        mine = (
            DebianVersion(left) < DebianVersion(right)
            if operator == "lt"
            else DebianVersion(left) == DebianVersion(right)
        )
        assert mine == said


def test_paragraphs_join_continuation_lines_and_skip_comments() -> None:
    text = "Package: a\n# note\nDepends: b,\n c\n\n\nPackage: d\nEmpty:\n"
    assert list(paragraphs(text)) == [{"package": "a", "depends": "b,\nc"}, {"package": "d", "empty": ""}]


def test_dependencies_are_read_with_versions_alternatives_and_architectures() -> None:
    found = dependencies("libc6 (>= 2.36), python3:any, a | b (<< 2~) ,\n c [amd64], d:i386")
    assert [[str(item) for item in clause] for clause in found] == [
        ["libc6 (>= 2.36)"], ["python3"], ["a", "b (<< 2~)"], ["c"], [],
    ]  # fmt: skip


def package(name: str, version: str = "1", **fields: str) -> DebPackage:
    return DebPackage(
        name=name, version=version, architecture="amd64", essential=fields.get("essential") == "yes",
        priority=fields.get("priority", "optional"), depends=fields.get("depends", ""),
        provides=fields.get("provides", ""), conflicts=fields.get("conflicts", ""), filename=f"pool/{name}.deb",
        size=1, sha256="0" * 64, suite="s", component="main",
    )  # fmt: skip


def names(offered: list[DebPackage], *wanted: str) -> list[str]:
    return [item.name for item in closure(Offer(offered), wanted, asked={})]


def test_a_cycle_and_a_chain_are_followed_once() -> None:
    offered = [package("a", depends="b"), package("b", depends="a, c"), package("c"), package("z")]
    assert names(offered, "a") == ["a", "b", "c"]


def test_the_first_alternative_is_taken_unless_another_is_chosen_anyway() -> None:
    offered = [package("a", depends="x | y"), package("x"), package("y"), package("b", depends="y")]
    assert names(offered, "a") == ["a", "x"]
    assert names(offered, "a", "b") == ["a", "b", "y"]


def test_a_version_that_is_not_offered_makes_the_next_alternative_count() -> None:
    offered = [package("a", depends="x (>= 2) | y"), package("x", "1"), package("y")]
    assert names(offered, "a") == ["a", "y"]


def test_a_virtual_package_is_met_by_the_provider_of_the_higher_priority() -> None:
    offered = [package("a", depends="awk"), package("gawk", provides="awk"),
               package("mawk", provides="awk", priority="required")]  # fmt: skip
    assert names(offered, "a") == ["a", "mawk"]


def test_a_versioned_provision_meets_a_versioned_dependency_only() -> None:
    offered = [package("a", depends="x (= 2)"), package("p", provides="x"), package("q", provides="x (= 2)")]
    assert names(offered, "a") == ["a", "q"]


def test_what_nobody_offers_is_named_with_who_needs_it() -> None:
    offered = [package("a", depends="b"), package("b", depends="gone (>= 3)")]
    with pytest.raises(EnvbuildError, match=r"b 1 \(needed for a\) depends on gone \(>= 3\)"):
        names(offered, "a")


def test_packages_that_conflict_are_refused() -> None:
    offered = [
        package("a", conflicts="b (<< 2)"),
        package("b", "1"),
        package("c", conflicts="v"),
        package("d", provides="v"),
    ]
    with pytest.raises(EnvbuildError, match="a 1 conflicts with b"):
        names(offered, "a", "b")
    with pytest.raises(EnvbuildError, match="c 1 conflicts with d"):
        names(offered, "c", "d")


def test_a_package_may_conflict_with_what_it_provides_itself() -> None:
    assert names([package("a", provides="v", conflicts="v")], "a") == ["a"]


def test_the_newest_of_two_versions_counts() -> None:
    offered = [package("a", "1.10"), package("a", "1.9")]
    assert closure(Offer(offered), ["a"], asked={})[0].version == "1.10"


def test_the_closure_does_not_depend_on_the_order_of_the_index() -> None:
    offered = [package("a", depends="x | y, v"), package("x", depends="v"), package("y"), package("p", provides="v"),
               package("q", provides="v"), package("e", essential="yes", depends="y")]  # fmt: skip
    assert names(offered, "a") == names(offered[::-1], "a") == ["a", "e", "p", "y"]


def test_the_base_holds_essential_fixed_and_asked_packages_without_recommends(lock: Locker) -> None:
    found = [item.name for item in lock().debian]
    assert found == sorted(found)
    assert {"base-files", "mawk", "less", "gcc-12", "media-types", "usr-is-merged"} <= set(found)
    assert not {"gawk", "mime-support", "lesspipe", "nvidia-cuda-toolkit"} & set(found)


@pytest.mark.parametrize("compression", ["xz", "gz", ""])
def test_indexes_are_read_however_they_are_compressed(lock: Locker, world: World, compression: str) -> None:
    for path in [path for path in world.debian.served if "Packages" in path]:
        del world.debian.served[path]
    world.debian.publish(compression=compression)
    assert lock().debian


def test_security_updates_count_only_when_asked_for(
    lock: Locker, world: World, environ: dict[str, str]
) -> None:
    world.debian.add("libc6", "2.36-9+deb12u1", suite="bookworm-security")
    world.debian.publish()
    environ["ENVBUILD_DEBIAN_SECURITY_MIRROR"] = environ["ENVBUILD_DEBIAN_MIRROR"]
    without = {item.name: item for item in lock().debian}
    assert without["libc6"].version == "2.36-9"
    replaced = lock(('release = "bookworm"', 'release = "bookworm"\nsecurity-updates = true'))
    libc = {item.name: item for item in replaced.debian}["libc6"]
    assert (libc.version, libc.index) == ("2.36-9+deb12u1", "debian/bookworm-security/main")
