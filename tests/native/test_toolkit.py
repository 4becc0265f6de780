"""The toolkit of a devel image: nvcc and headers at their places, and links, not copies, for the libraries."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from nativemaker import artifact, make_deb, make_wheel

import envbuild
from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import Lock, read_lock
from envbuild.native.toolkit import HOME, Toolkit, lay_out_toolkit, library_links, toolkit_of

RECIPES = Path(envbuild.__file__).parents[1] / "recipes/pytorch-cuda"
SITE = "opt/venv/lib/python3.11/site-packages"


@pytest.fixture(params=["v2.7-devel", "v2.11-devel"])
def lock(request: pytest.FixtureRequest) -> Lock:
    return read_lock(RECIPES / request.param / "lock.json")


def made(toolkit: Toolkit, folder: Path) -> tuple[Toolkit, dict[str, Path]]:
    """The toolkit of small artifacts that hold what each piece wants, and a library in each wheel that is linked."""
    files, artifacts = {}, {}
    for name in toolkit.artifacts:
        content = {
            (p.source + f"{name}.h" if p.source.endswith("/") else p.source): b"#" + name.encode()
            for p in toolkit.pieces
            if p.artifact == name
        }
        kind = toolkit.artifacts[name].kind
        if kind == "wheel":
            content |= {f"nvidia/some/lib/lib{name}.so.12": b"library", "nvidia/some/lib/loose.so": b""}
        make = make_deb if kind == "deb" else make_wheel
        files[name] = make(folder / f"{name}.{'deb' if kind == 'deb' else 'whl'}", content)
        artifacts[name] = artifact(files[name], kind=kind, name=name)
    return replace(toolkit, artifacts=artifacts), files


def test_a_home_with_the_compiler_the_headers_and_links_into_site_packages(
    lock: Lock, tmp_path: Path
) -> None:
    toolkit, files = made(toolkit_of(lock), tmp_path)
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    mask = os.umask(0o077)
    try:
        lay_out_toolkit(toolkit, files, root, site=SITE)
    finally:
        os.umask(mask)
    home = root / HOME
    for program in ("bin/nvcc", "bin/ptxas", "bin/cudafe++", "bin/fatbinary", "nvvm/bin/cicc"):
        assert (home / program).stat().st_mode & 0o777 == 0o755
    headers = {path.stem for path in (home / "include").iterdir()}
    assert {name for name in toolkit.linked if "nvcc" not in name} <= headers
    assert any("curand" in name for name in headers)
    for name in toolkit.linked:
        link = home / "lib64" / f"lib{name}.so.12"
        assert os.readlink(link) == f"/{SITE}/nvidia/some/lib/lib{name}.so.12"
        assert os.readlink(home / "lib64" / f"lib{name}.so") == link.name
    assert all(path.is_symlink() for path in (home / "lib64").iterdir()), "no library is copied"
    modes = {stat.S_IMODE(path.lstat().st_mode) for path in [root, *root.rglob("*")] if not path.is_symlink()}
    assert modes == {0o755, 0o644}


def test_only_wheels_that_are_in_the_image_are_linked_to(lock: Lock) -> None:
    image = {item.name for item in lock.python}
    toolkit = toolkit_of(lock)
    assert set(toolkit.linked) == set(toolkit.artifacts) & image
    assert any("cuda-runtime" in name for name in toolkit.linked)
    assert not any("nvcc" in name for name in toolkit.linked)


def test_links_are_made_for_versioned_and_static_libraries_only(tmp_path: Path) -> None:
    names = [
        "nvidia/a/lib/liba.so.12",
        "nvidia/a/lib/libb.a",
        "nvidia/a/lib/libc.so",
        "nvidia/a/lib/cmake/x.so.1",
    ]
    wheel = make_wheel(tmp_path / "a.whl", dict.fromkeys(names, b""))
    assert dict(library_links(wheel)) == {
        "liba.so.12": "nvidia/a/lib/liba.so.12", "liba.so": "liba.so.12", "libb.a": "nvidia/a/lib/libb.a",
    }  # fmt: skip


def test_the_key_changes_with_an_input_and_with_the_program_that_compresses(lock: Lock) -> None:
    toolkit = toolkit_of(lock)
    name = next(iter(toolkit.artifacts))
    other = {**toolkit.artifacts, name: replace(toolkit.artifacts[name], sha256="0" * 64)}
    keys = {toolkit.key("a"), toolkit.key("b"), replace(toolkit, artifacts=other).key("a")}
    assert len(keys) == 3
    assert toolkit.key("a") == toolkit_of(lock).key("a")


def test_a_lock_without_the_compiler_is_refused(lock: Lock) -> None:
    assert lock.native is not None
    bare = replace(lock, native=replace(lock.native, toolchain=()))
    with pytest.raises(EnvbuildError) as caught:
        toolkit_of(bare)
    assert (caught.value.id, caught.value.exit) == ("lock-without-toolchain", Exit.INPUT)
    assert f"envbuild lock {lock.ref}" in caught.value.hint
