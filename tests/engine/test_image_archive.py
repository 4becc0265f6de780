"""One archive for every tool, with the same bytes each time, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from needed import need

from envbuild.engine import ImageRef, archive_chunks, write_archive
from envbuild.engine.archive import archive_size
from envbuild.engine.docker import Docker
from envbuild.errors import EnvbuildError, Exit
from envbuild.oci.digest import of_bytes, of_file
from envbuild.progress import SilentProgress

Make = Callable[..., ImageRef]


def tool(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def archive(make_image: Make, tmp_path: Path) -> tuple[ImageRef, Path]:
    image = make_image()
    out = tmp_path / "image.tar"
    assert write_archive(image, out, SilentProgress()) == out.stat().st_size
    return image, out


@pytest.mark.docker
def test_docker_loads_it(docker_engine: Docker, archive: tuple[ImageRef, Path]) -> None:
    image, path = archive
    try:
        tool("/usr/bin/docker", "load", "--input", str(path))
        assert (
            tool("/usr/bin/docker", "image", "inspect", "--format", "{{.Id}}", image.names[0]).strip()
            == image.config
        )
        assert docker_engine.has(image)
        run = (
            "/usr/bin/docker",
            "run",
            "--rm",
            "--network",
            "none",
            image.names[0],
            "sh",
            "-c",
            "echo $FROM_IMAGE",
        )
        assert tool(*run) == "image\n"
    finally:
        subprocess.run(
            ["/usr/bin/docker", "rmi", "-f", image.names[0], image.config], capture_output=True, check=False
        )


@pytest.fixture
def podman() -> Iterator[Callable[..., str]]:
    """podman with a store of its own; it takes no run folder of more than 50 characters."""
    program = need("podman")
    folder = tempfile.mkdtemp(prefix="envbuild-")
    base = [
        program,
        "--root",
        f"{folder}/root",
        "--runroot",
        f"{folder}/run",
        "--storage-driver",
        "vfs",
    ]
    yield lambda *argv: tool(*base, *argv)
    subprocess.run([*base, "system", "reset", "--force"], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def test_podman_loads_it_under_its_name(podman: Callable[..., str], archive: tuple[ImageRef, Path]) -> None:
    image, path = archive
    podman("load", "--input", str(path))
    assert (
        "sha256:" + podman("image", "inspect", "--format", "{{.Id}}", image.names[0]).strip() == image.config
    )


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_skopeo_reads_it(kind: str, archive: tuple[ImageRef, Path], tmp_path: Path) -> None:
    image, path = archive
    target = tmp_path / "copy"
    tool("skopeo", "--insecure-policy", "copy", f"{kind}:{path}", f"dir:{target}")
    manifest = json.loads((target / "manifest.json").read_bytes())
    assert manifest["config"]["digest"] == image.config
    if kind == "oci-archive":
        assert of_file(target / "manifest.json") == image.manifest


def test_umoci_style_layout_inside(archive: tuple[ImageRef, Path], tmp_path: Path) -> None:
    image, path = archive
    (tmp_path / "layout").mkdir()
    subprocess.run(["tar", "-xf", path, "-C", tmp_path / "layout"], check=True)
    tool("skopeo", "inspect", f"oci:{tmp_path}/layout")
    index = json.loads((tmp_path / "layout" / "index.json").read_bytes())
    assert [entry["digest"] for entry in index["manifests"]] == [image.manifest]


def test_the_same_bytes_whatever_the_folder_and_the_time(
    archive: tuple[ImageRef, Path], tmp_path: Path
) -> None:
    image, path = archive
    other = tmp_path / "elsewhere" / "x.tar"
    other.parent.mkdir()
    os.utime(image.layout.path(image.layers[0].digest), (1, 1))
    before = os.umask(0o077)
    try:
        write_archive(image, other, SilentProgress())
    finally:
        os.umask(before)
    assert of_file(other) == of_file(path)
    assert of_bytes(b"".join(archive_chunks(image))) == of_file(path)
    assert path.stat().st_size == archive_size(image)


def test_a_corrupt_blob_is_named_and_no_file_is_left(make_image: Make, tmp_path: Path) -> None:
    image = make_image()
    blob = image.layout.path(image.layers[0].digest)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    out = tmp_path / "out" / "image.tar"
    out.parent.mkdir()
    with pytest.raises(EnvbuildError) as caught:
        write_archive(image, out, SilentProgress())
    assert caught.value.exit is Exit.VERIFY
    assert image.layers[0].digest in caught.value.message
    assert list(out.parent.iterdir()) == []


def test_a_missing_blob_is_named(make_image: Make, tmp_path: Path) -> None:
    image = make_image()
    image.layout.path(image.layers[0].digest).unlink()
    with pytest.raises(EnvbuildError) as caught:
        write_archive(image, tmp_path / "image.tar", SilentProgress())
    assert caught.value.id == "image-not-in-store"
    assert image.layers[0].digest in caught.value.message


def test_a_failed_write_keeps_the_old_file(make_image: Make, tmp_path: Path) -> None:
    image = make_image()
    out = tmp_path / "image.tar"
    out.write_bytes(b"old")
    image.layout.path(image.layers[0].digest).unlink()
    with pytest.raises(EnvbuildError):
        write_archive(image, out, SilentProgress())
    assert out.read_bytes() == b"old"


def test_a_full_disk_is_one_clear_error(make_image: Make, tmp_path: Path) -> None:
    """On a real file system of 1 MiB, as root or in a user namespace of our own."""
    image = make_image()
    small = tmp_path / "small"
    small.mkdir()
    code = (
        "import sys, pathlib\n"
        "from envbuild.engine import ImageRef, write_archive\n"
        "from envbuild.errors import EnvbuildError\n"
        "from envbuild.oci.layout import Layout\n"
        "from envbuild.progress import SilentProgress\n"
        "image = ImageRef.read(Layout(pathlib.Path(sys.argv[1])), sys.argv[2], ('a:b',))\n"
        "try:\n"
        "    write_archive(image, pathlib.Path(sys.argv[3], 'x.tar'), SilentProgress())\n"
        "except EnvbuildError as error:\n"
        "    print(error.id, int(error.exit), error.message, [p.name for p in pathlib.Path(sys.argv[3]).iterdir()])\n"
    )
    inner = 'mount -t tmpfs -o size=1m small "$1" && exec "$2" -c "$3" "$4" "$5" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", inner, "sh", str(small), sys.executable, code]
        + [str(image.layout.root), image.manifest],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("disk-full 7 no space left"), done.stderr
    assert "bytes are free in " in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_a_folder_that_is_not_there(make_image: Make, tmp_path: Path) -> None:
    with pytest.raises(EnvbuildError) as caught:
        write_archive(make_image(), tmp_path / "no" / "image.tar", SilentProgress())
    assert (caught.value.id, caught.value.exit) == ("cannot-write", Exit.USAGE)
