"""CUDA_HOME is laid out from .debs and wheels, each piece at its place, or refused with the artifact's name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from nativemaker import artifact, make_deb, make_wheel

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock.model import Artifact
from envbuild.native.archives import MTIME
from envbuild.native.toolchain import CUDA_12, CUDA_13, Piece, lay_out, pieces_for

Tools = dict[str, tuple[Artifact, Path]]


def content(piece: Piece) -> dict[str, bytes]:
    """A file where the piece says, with a name and content of its own."""
    if not piece.source.endswith("/"):
        return {piece.source: f"{piece.artifact} {piece.source}".encode()}
    own = piece.artifact.replace("-", "_")
    return {
        f"{piece.source}{own}.h": piece.artifact.encode(),
        f"{piece.source}deep/{own}.hpp": b"deep",
        f"{piece.source}__init__.py": piece.artifact.encode(),
    }


def make_tools(folder: Path, pieces: tuple[Piece, ...], *, without: str = "") -> Tools:
    tools: Tools = {}
    for name in dict.fromkeys(piece.artifact for piece in pieces):
        files: dict[str, bytes] = {"other/file": b"not wanted"}
        for piece in pieces:
            if piece.artifact == name and piece.source != without:
                files |= content(piece)
        if name == "nvidia-cuda-toolkit":
            links = {"usr/lib/nvidia-cuda-toolkit/bin/nvcc.profile": "/etc/nvcc.profile"}
            path = make_deb(folder / f"{name}_1.deb", files, links)
            tools[name] = (artifact(path, kind="deb", name=name), path)
        else:
            path = make_wheel(folder / f"{name.replace('-', '_')}-1-py3-none-any.whl", files)
            tools[name] = (artifact(path, kind="wheel", name=name), path)
    return tools


@pytest.mark.parametrize(("pieces", "major"), [(CUDA_12, 12), (CUDA_13, 13)])
def test_every_piece_lies_at_its_place(tmp_path: Path, pieces: tuple[Piece, ...], major: int) -> None:
    home = tmp_path / "cuda"
    lay_out(pieces, make_tools(tmp_path, pieces), home)
    for program in ("bin/nvcc", "bin/ptxas", "bin/fatbinary", "bin/cudafe++", "bin/nvlink", "nvvm/bin/cicc"):
        assert (home / program).stat().st_mode & 0o777 == 0o755
    header = home / "include" / ("nvidia_cublas_cu12.h" if major == 12 else "nvidia_cublas.h")
    assert header.read_bytes() == (b"nvidia-cublas-cu12" if major == 12 else b"nvidia-cublas")
    assert header.stat().st_mode & 0o777 == 0o644
    assert list((home / "include" / "deep").iterdir())
    assert os.readlink(home / "lib64" / "libcudart.so") == f"libcudart.so.{major}"
    assert (home / "lib64" / "libcudart.so").read_bytes().endswith(f"libcudart.so.{major}".encode())
    assert not list(home.rglob("__init__.py"))
    assert not (home / "other").exists()


def test_nvcc_finds_the_rest_relative_to_itself(tmp_path: Path) -> None:
    home = tmp_path / "cuda"
    lay_out(CUDA_12, make_tools(tmp_path, CUDA_12), home)
    profile = (home / "bin" / "nvcc.profile").read_text()
    assert not (home / "bin" / "nvcc.profile").is_symlink()
    assert "TOP = $(_HERE_)/.." in profile
    assert "/usr/" not in profile


def test_times_are_constant_because_line_tables_hold_them(tmp_path: Path) -> None:
    home = tmp_path / "cuda"
    lay_out(CUDA_12, make_tools(tmp_path, CUDA_12), home)
    times = {path.stat().st_mtime for path in (home / "include").rglob("*") if path.is_file()}
    assert times == {MTIME}


@pytest.mark.parametrize("piece", CUDA_12, ids=lambda piece: f"{piece.artifact}:{piece.source}")
def test_an_artifact_without_its_piece_is_refused_by_name(tmp_path: Path, piece: Piece) -> None:
    tools = make_tools(tmp_path, CUDA_12, without=piece.source)
    with pytest.raises(EnvbuildError) as caught:
        lay_out(CUDA_12, tools, tmp_path / "cuda")
    assert (caught.value.id, caught.value.exit) == ("toolchain-incomplete", Exit.VERIFY)
    assert piece.source in caught.value.message
    assert tools[piece.artifact][0].basename in caught.value.message


def two_headers(tmp_path: Path, first: bytes, second: bytes) -> tuple[tuple[Piece, ...], Tools]:
    pieces = tuple(Piece(artifact=name, source="inc/", target="include/") for name in ("one", "two"))
    tools: Tools = {}
    for name, data in (("one", first), ("two", second)):
        path = make_wheel(tmp_path / f"{name}-1-py3-none-any.whl", {"inc/cuda.h": data})
        tools[name] = (artifact(path, kind="wheel", name=name), path)
    return pieces, tools


def test_two_different_files_for_one_place_are_refused(tmp_path: Path) -> None:
    pieces, tools = two_headers(tmp_path, b"12.4", b"12.6")
    with pytest.raises(
        EnvbuildError, match=r"one and two bring different files for include/cuda\.h"
    ) as caught:
        lay_out(pieces, tools, tmp_path / "cuda")
    assert caught.value.id == "toolchain-conflict"


def test_two_equal_files_for_one_place_are_fine(tmp_path: Path) -> None:
    pieces, tools = two_headers(tmp_path, b"same", b"same")
    for folder in ("bin", "lib64"):
        (tmp_path / "cuda" / folder).mkdir(parents=True)
    lay_out(pieces, tools, tmp_path / "cuda")
    assert (tmp_path / "cuda" / "include" / "cuda.h").read_bytes() == b"same"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut off"),
        pytest.param(lambda data: b"not an archive", id="another format"),
        pytest.param(lambda data: data[:8] + b"\xff" * 60 + data[68:], id="no header"),
        pytest.param(lambda data: data.replace(b"data.tar.xz ", b"data.tar.lz "), id="another compression"),
        pytest.param(lambda data: data.replace(b"data.tar.xz ", b"docs.tar.xz "), id="no data"),
    ],
)
def test_a_broken_deb_is_refused_by_name(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    path = make_deb(tmp_path / "tool_1.deb", {"usr/bin/nvcc": os.urandom(4000)})
    path.write_bytes(damage(path.read_bytes()))
    pieces = (Piece(artifact="tool", source="usr/bin/nvcc", target="bin/nvcc"),)
    with pytest.raises(EnvbuildError, match=r"tool_1\.deb") as caught:
        lay_out(pieces, {"tool": (artifact(path, kind="deb", name="tool"), path)}, tmp_path / "cuda")
    assert caught.value.exit == Exit.VERIFY


@pytest.mark.parametrize("major", [11, 14])
def test_a_cuda_without_a_known_compiler_is_an_input_error(major: int) -> None:
    with pytest.raises(EnvbuildError) as caught:
        pieces_for(major)
    assert (caught.value.id, caught.value.exit) == ("no-cuda-toolchain", Exit.INPUT)
