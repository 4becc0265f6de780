"""A full disk, a quota or a file size at its limit is one error wherever envbuild writes: ``disk-full``, exit 7."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard
from smallimage import COMMITTED
from verdictmaker import signed, verdict_about

from envbuild.cli.app import _guarded
from envbuild.cli.files import replace_file
from envbuild.engine import ImageRef, write_archive
from envbuild.engine.docker_built import save_built
from envbuild.environment.prefix import claim
from envbuild.errors import EnvbuildError, Exit
from envbuild.gate import SigningKey, signing_key, write_verdict
from envbuild.image.locked import image_of
from envbuild.layers.interpreter import gzip_files
from envbuild.lock import read_lock
from envbuild.lock.conda.folder import readable
from envbuild.oci.descriptor import Descriptor
from envbuild.oci.digest import of_bytes
from envbuild.oci.disk import disk_full, ran_out, storage_error
from envbuild.oci.image import Image, RunConfig
from envbuild.oci.layer import Layer
from envbuild.oci.layout import Layout
from envbuild.progress import SilentProgress
from envbuild.render import files as rendered
from envbuild.sandbox import Rootfs, Sandbox
from envbuild.sandbox.unpack import unpack_layers
from envbuild.store import Store


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> None:
    """Leave nothing of it."""
    with (disk / "filler").open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))


def refused(work: Callable[[], object], where: Path) -> EnvbuildError:
    """The one error, which names where, the folder's disk and what is free there."""
    with pytest.raises(EnvbuildError) as caught:
        work()
    error = caught.value
    assert (error.id, error.exit) == ("disk-full", Exit.ENGINE), error.message
    assert str(where) in error.message
    assert "bytes are free in " in error.message
    assert "free some space" in error.hint or "make room" in error.hint
    return error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_a_quota_and_a_file_size_are_one_error(number: int, tmp_path: Path) -> None:
    error = storage_error(OSError(number, os.strerror(number)), tmp_path / "a/b")
    assert (error.id, error.exit, error.where) == ("disk-full", Exit.ENGINE, str(tmp_path / "a/b"))
    assert f"bytes are free in {tmp_path})" in error.message
    assert os.strerror(number)[1:] in error.message


def test_a_limit_of_the_file_size_is_met_as_a_full_disk(tmp_path: Path) -> None:
    """As a shell's ``ulimit -f`` sets it; Python ignores the signal, so that the system's error comes."""
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom envbuild.errors import EnvbuildError\n"
        "from envbuild.oci.layout import Layout\nlayout = Layout.create(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n    layout.put(bytes(1 << 20))\nexcept EnvbuildError as error:\n"
        "    print(error.id, int(error.exit), error.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("disk-full 7 file too large")


def test_what_nobody_caught_is_the_same_error(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/file")

    assert _guarded(work, as_json=True) == Exit.ENGINE
    told = json.loads(capsys.readouterr().out)["error"]
    assert (told["id"], told["where"]) == ("disk-full", "/somewhere/file")


def test_folders_for_temporary_files_that_are_full_are_the_same_error(
    disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python says then that there is no usable folder."""
    fill(disk)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(disk)])
    assert _guarded(tempfile.TemporaryDirectory, as_json=True) == Exit.ENGINE
    told = json.loads(capsys.readouterr().out)["error"]
    assert (told["id"], "TMPDIR" in told["hint"]) == ("disk-full", True)


def test_a_file_that_a_command_replaces_stays_as_it_was(disk: Path) -> None:
    path = disk / "lock.json"
    path.write_bytes(b"old")
    fill(disk)
    refused(lambda: replace_file(path, b"n" * 9000), path)
    assert path.read_bytes() == b"old"
    assert sorted(item.name for item in disk.iterdir()) == ["filler", "lock.json"]


def test_a_rendered_file_stays_as_it_was(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = disk / "environment.yml"
    path.write_bytes(b"old")
    fill(disk)
    monkeypatch.setattr(rendered, "render", lambda *_: {"environment.yml": "n" * 9000})
    refused(lambda: rendered.write(None, None, None, disk), path)  # type: ignore[arg-type]  # what is rendered is given
    assert path.read_bytes() == b"old"
    assert sorted(item.name for item in disk.iterdir()) == ["environment.yml", "filler"]


def test_a_verdict_and_a_signing_key_are_written_whole_or_not(disk: Path) -> None:
    fill(disk)
    key = SigningKey(seed=bytes(32), where="test")
    lock = read_lock(COMMITTED)
    value = verdict_about(image_of(lock), lock, "pytorch-cuda:v2.7", COMMITTED.parents[2])
    data = signed(value, key)
    refused(lambda: write_verdict(disk / "verdict.json", data, key=key.public), disk / "verdict.json")
    refused(lambda: signing_key({}, disk), disk / "signing-key.pem")
    assert [item.name for item in disk.iterdir()] == ["filler"]


def test_records_tags_and_scratch_folders_of_the_store(disk: Path) -> None:
    with Store.open(disk / "store") as store:
        store.layout.tag("a", Descriptor(media_type="x", digest=of_bytes(b"a"), size=1))
        fill(disk)
        big = {"a": "x" * 9000}
        refused(lambda: store.put_record("kind", "key", big), store.root)
        refused(lambda: store.layout.put(bytes(9000)), store.root)
        assert store.layout.tags().keys() == {"a"}


def test_an_archive_for_docker(disk: Path, tmp_path: Path) -> None:
    layout = Layout.create(tmp_path / "oci")
    data = os.urandom(3 << 20)
    layer = Layer(name="a", digest=layout.put(data), diff_id=of_bytes(data), size=len(data))
    run = RunConfig(env={}, entrypoint=(), cmd=("sh",), working_dir="/", user="", labels={})
    image = Image(layers=(layer,), run=run, created="2026-01-01T00:00:00Z")
    layout.put(image.config_bytes)
    layout.put(image.manifest_bytes)
    ref = ImageRef.read(layout, image.digest, ("a:b",))
    error = refused(lambda: write_archive(ref, disk / "x.tar", SilentProgress()), disk / "x.tar")
    assert "the archive takes" in error.hint
    assert list(disk.iterdir()) == []


def test_what_docker_saves(disk: Path) -> None:
    client = SimpleNamespace(get_image=lambda _: iter([bytes(1 << 20)] * 4))
    image = SimpleNamespace(size=4 << 20)
    refused(
        lambda: save_built(client, image, "a:b", disk / "x.tar", SilentProgress()),  # type: ignore[arg-type]
        disk / "x.tar",
    )
    assert list(disk.iterdir()) == []


def test_layers_that_are_unpacked_in_the_sandbox(sandbox: Sandbox, disk: Path, tmp_path: Path) -> None:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("big")
        info.size = 3 << 20
        archive.addfile(info, BytesIO(bytes(info.size)))
    blob = tmp_path / "blob"
    blob.write_bytes(stream.getvalue())
    layers = [(of_bytes(stream.getvalue()), blob)]
    refused(lambda: unpack_layers(sandbox, layers, disk / "roots", jobs=1, progress=SilentProgress()), disk)
    assert list((disk / "roots").iterdir()) == []


def test_a_prefix_that_is_claimed(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=4", disk], check=True)
    refused(lambda: claim(disk / "a/b/c/d/e", SilentProgress()), disk)


def test_repodata_that_is_unpacked(disk: Path, tmp_path: Path) -> None:
    for subdir in ("linux-64", "noarch"):
        (tmp_path / "channel" / subdir).mkdir(parents=True)
        (tmp_path / "channel" / subdir / "repodata.json.zst").write_bytes(zstandard.compress(bytes(3 << 20)))
    refused(lambda: readable((tmp_path / "channel").as_uri() + "/", disk), disk)


def test_a_program_in_the_sandbox_that_fails_on_a_full_disk(
    sandbox: Sandbox, disk: Path, tmp_path: Path
) -> None:
    """gzip of the image writes nothing of it when it fails: what is free tells."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(9000))
    fill(disk)
    for name in ("usr", "bin", "lib", "lib64"):
        assert Path("/", name).exists()
    rootfs = Rootfs(lowers=(_root(tmp_path),))
    refused(
        lambda: gzip_files(sandbox, rootfs, [(source, disk / "out.gz")], level=6, jobs=1), disk / "out.gz"
    )


def _root(folder: Path) -> Path:
    """A root whose gzip is busybox's."""
    root = folder / "root"
    (root / "usr/bin").mkdir(parents=True)
    for name in ("proc", "dev", "sys", "tmp", "etc"):
        (root / name).mkdir()
    busybox = Path("/bin/busybox").read_bytes()
    (root / "usr/bin/busybox").write_bytes(busybox)
    (root / "usr/bin/busybox").chmod(0o755)
    (root / "usr/bin/gzip").symlink_to("busybox")
    return root


@pytest.mark.parametrize(
    "said",
    ["cc1: fatal error: /tmp/a.s: No space left on device", "write: Disk quota exceeded", "(os error 28)"],
)
def test_what_programs_say_of_a_full_disk_is_understood(said: str, tmp_path: Path) -> None:
    assert ran_out(tmp_path, said)
    assert not ran_out(tmp_path, "undefined reference to `main'")


def test_a_folder_that_is_not_there_yet_is_told_by_the_one_above(tmp_path: Path) -> None:
    error = disk_full(tmp_path / "a/b", "5 bytes are needed")
    assert error.message.startswith(f"5 bytes are needed: {tmp_path}/a/b (")
    assert error.message.endswith(f" bytes are free in {tmp_path})")
