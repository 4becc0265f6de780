"""What goes wrong while locking: one error, with the values, where they stand and what to do."""

from __future__ import annotations

import socket

import pytest
from lockworld import Keys, World
from tinyrecipe import CP311, Locker

from envbuild.errors import EnvbuildError, Exit


def refused(lock: Locker, *replace: tuple[str, str], **more: str) -> EnvbuildError:
    with pytest.raises(EnvbuildError) as caught:
        lock(*replace, **more)
    return caught.value


class TestPins:
    @pytest.mark.parametrize(
        ("old", "new", "line", "requires"),
        [
            ("9.5.1.17", "9.10.2.21", 12, "nvidia-cudnn-cu12==9.5.1.17"),
            ("2.26.2", "2.27.3", 13, "nvidia-nccl-cu12==2.26.2"),
            ('"12.6"', '"12.8"', 11, "nvidia-cuda-runtime-cu12==12.6.77"),
        ],
    )
    def test_a_pin_that_torch_contradicts_is_refused_with_both_values(
        self, lock: Locker, old: str, new: str, line: int, requires: str
    ) -> None:
        error = refused(lock, (old, new))
        assert (error.id, error.exit) == ("pins-contradict", Exit.INPUT)
        assert error.where is not None
        assert error.where.endswith(f"recipe.toml:{line}")
        assert new.strip('"') in error.message
        assert f"torch 2.7.1's wheel requires {requires}" in error.message
        assert old.strip('"') in error.hint

    @pytest.mark.parametrize("metadata", [True, False])
    def test_torchs_metadata_is_read_beside_the_wheel_or_out_of_it(
        self, lock: Locker, world: World, metadata: bool
    ) -> None:
        world.index.metadata = metadata
        assert refused(lock, ("2.26.2", "2.27.3")).id == "pins-contradict"
        assert any(item.endswith(".whl.metadata") for item in world.index.requests) == metadata

    def test_metadata_with_another_hash_than_the_index_says_is_refused(
        self, lock: Locker, world: World
    ) -> None:
        world.index.wrong_metadata = True
        error = refused(lock)
        assert (error.id, error.exit) == ("wrong-hash", Exit.VERIFY), error.message
        assert "torch-2.7.1" in error.message

    def test_a_resolved_library_that_differs_is_refused(self, lock: Locker, world: World) -> None:
        world.index.drop(f"torch-2.7.1-{CP311}.whl")
        loose = ["nvidia-cuda-runtime-cu12", "nvidia-cudnn-cu12==9.5.1.17", "nvidia-nccl-cu12>=2.20"]
        world.index.wheel("torch", "2.7.1", [*loose, "setuptools"], tag=CP311)
        world.index.wheel("nvidia-nccl-cu12", "2.29.0")
        error = refused(lock)
        assert error.id == "pins-contradict"
        assert "nvidia-nccl-cu12 2.29.0 was resolved" in error.message

    def test_a_torch_without_cuda_is_refused(self, lock: Locker, world: World) -> None:
        world.index.drop(f"torch-2.7.1-{CP311}.whl")
        world.index.wheel("torch", "2.7.1", ["setuptools"], tag=CP311)
        assert refused(lock).id == "torch-without-cuda"


class TestPython:
    def test_a_version_that_does_not_exist_offers_the_nearest(self, lock: Locker) -> None:
        error = refused(lock, ('"2.7.1"', '"2.7.9"'))
        assert (error.id, error.exit) == ("no-such-version", Exit.INPUT)
        assert error.where is not None
        assert error.where.endswith("recipe.toml:8")
        assert error.hint == 'Nearest: "2.7.1", "2.7.0" and "2.8.0".'

    def test_a_deepspeed_that_does_not_exist_offers_the_nearest(self, lock: Locker) -> None:
        error = refused(lock, ("0.19.8", "0.19.9"))
        assert (error.id, error.hint) == ("no-such-version", 'Nearest: "0.19.8" and "0.19.7".')

    def test_a_package_that_does_not_exist_is_named_with_its_line(self, lock: Locker) -> None:
        error = refused(lock, ('["tqdm"]', '["tqdm",\n  "tqdn"]'))
        assert (error.id, error.exit) == ("no-such-package", Exit.INPUT)
        assert error.where is not None
        assert error.where.endswith("recipe.toml:6")

    def test_a_version_uploaded_later_is_called_so(self, lock: Locker, world: World) -> None:
        world.index.wheel("tqdm", "7.0", uploaded="2026-09-01T10:00:00Z")
        error = refused(lock, ('"tqdm"', '"tqdm==7.0"'))
        assert (error.id, error.exit) == ("too-new", Exit.INPUT)
        assert "2026-09-01T10:00:00Z" in error.message

    def test_packages_that_contradict_each_other_are_explained(self, lock: Locker, world: World) -> None:
        world.index.wheel("rich", "2.0", ["tqdm<4"])
        error = refused(lock, ('"tqdm"', '"tqdm==4.0", "rich==2.0"'))
        assert (error.id, error.exit) == ("python-unsolvable", Exit.INPUT)
        assert "depends on tqdm<4" in error.message
        assert len(error.message.splitlines()) <= 13

    def test_a_package_without_a_fitting_wheel_is_refused(self, lock: Locker, world: World) -> None:
        world.index.sdist("onlysource", "1.0")
        error = refused(lock, ('"tqdm"', '"onlysource==1.0"'))
        assert (error.id, error.exit) == ("no-wheel", Exit.INPUT)

    def test_no_setup_script_runs_while_locking(self, lock: Locker, world: World) -> None:
        """The sdist's ``setup.py`` stops whoever runs it; its requirements are read all the same."""
        assert "hjson" in {item.name for item in lock().python}

    def test_an_index_that_is_down_is_exit_4(self, lock: Locker, environ: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            environ["ENVBUILD_PYTHON_INDEX"] = f"http://127.0.0.1:{free.getsockname()[1]}/simple"
        error = refused(lock)
        assert error.exit == Exit.NETWORK
        assert "ENVBUILD_PYTHON_INDEX" in error.hint

    def test_an_index_that_fails_for_uv_is_exit_4(self, lock: Locker, world: World) -> None:
        table = '[deepspeed]\nversion = "0.19.8"\noperators = ["fused_adam"]\narchitectures = ["8.0", "9.0+PTX"]\n'
        world.index.failing = 503
        error = refused(lock, (table, ""))
        assert (error.id, error.exit) == ("index-down", Exit.NETWORK)

    def test_an_index_that_wants_credentials_is_exit_4_and_prints_none(
        self, lock: Locker, world: World, environ: dict[str, str]
    ) -> None:
        world.index.credentials = "user:right"
        environ["ENVBUILD_PYTHON_INDEX"] = world.simple.replace("://", "://user:wrong@")
        error = refused(lock)
        assert error.exit == Exit.NETWORK
        assert "wrong" not in f"{error.message}{error.hint}"

    def test_credentials_of_the_index_open_its_files(
        self, lock: Locker, world: World, environ: dict[str, str]
    ) -> None:
        world.index.credentials = "user:right"
        environ["ENVBUILD_PYTHON_INDEX"] = world.simple.replace("://", "://user:right@")
        assert "torch" in {item.name for item in lock().python}


class TestDebian:
    def test_an_unknown_package_offers_the_nearest(self, lock: Locker) -> None:
        error = refused(lock, ('"less"', '"git",\n  "lesss"'), ('"git"', '"tini"'))
        assert (error.id, error.exit) == ("no-such-package", Exit.INPUT)
        assert error.where is not None
        assert error.where.endswith("recipe.toml:23")
        assert "less" in error.hint

    def test_a_changed_release_file_is_refused(self, lock: Locker, world: World) -> None:
        path = "/debian/dists/bookworm/InRelease"
        world.debian.served[path] = world.debian.served[path].replace(b"Origin: Debian", b"Origin: Nobody")
        error = refused(lock)
        assert (error.id, error.exit) == ("bad-signature", Exit.VERIFY)
        assert "changed after it was signed" in error.message

    def test_text_before_the_signed_part_is_not_read(self, lock: Locker, world: World) -> None:
        path = "/debian/dists/bookworm/InRelease"
        forged = (
            b"Origin: Debian\nCodename: bookworm\nSHA256:\n "
            + b"0" * 64
            + b" 1 main/binary-amd64/Packages\n\n"
        )
        whole = {item.name: item.sha256 for item in lock().debian}
        world.debian.served[path] = forged + world.debian.served[path]
        assert {item.name: item.sha256 for item in lock().debian} == whole

    def test_a_release_file_without_signature_is_refused(self, lock: Locker, world: World) -> None:
        world.debian.served["/debian/dists/bookworm/InRelease"] = b"Codename: bookworm\nSHA256:\n"
        assert "is not signed" in refused(lock).message

    def test_a_release_file_signed_by_a_stranger_is_refused(
        self,
        lock: Locker,
        world: World,
        environ: dict[str, str],
        keys: Keys,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        stranger = Keys.make(tmp_path_factory.mktemp("s"), "stranger")
        try:
            environ["ENVBUILD_DEBIAN_KEYRING"] = str(stranger.keyring)
            error = refused(lock)
        finally:
            stranger.stop()
        assert (error.id, error.exit) == ("bad-signature", Exit.VERIFY)
        assert "not in" in error.message

    def test_the_release_file_of_another_suite_is_refused(self, lock: Locker, world: World) -> None:
        served = world.debian.served
        served["/debian/dists/bookworm/InRelease"] = served["/debian/dists/trixie/InRelease"]
        error = refused(lock)
        assert (error.id, error.exit) == ("debian-index-wrong", Exit.VERIFY)
        assert "trixie" in error.message

    def test_an_index_with_another_hash_is_refused(self, lock: Locker, world: World) -> None:
        path = "/debian/dists/bookworm/main/binary-amd64/Packages.xz"
        data = bytearray(world.debian.served[path])
        data[20] ^= 1
        world.debian.served[path] = bytes(data)
        error = refused(lock)
        assert (error.id, error.exit) == ("debian-index-wrong", Exit.VERIFY)

    def test_a_release_file_past_its_time_is_refused(self, lock: Locker, world: World) -> None:
        world.debian.extra = "Valid-Until: Sun, 31 May 2026 23:00:00 UTC\n"
        world.debian.publish()
        assert "2026-05-31" in refused(lock).message
        assert lock(date="2026-05-31").debian

    def test_a_missing_suite_and_a_missing_keyring_say_what_to_set(
        self, lock: Locker, world: World, environ: dict[str, str]
    ) -> None:
        del world.debian.served["/debian/dists/trixie/InRelease"]
        error = refused(lock)
        assert (error.id, error.exit) == ("no-such-suite", Exit.NETWORK)
        assert "ENVBUILD_DEBIAN_MIRROR" in error.hint
        environ["ENVBUILD_DEBIAN_KEYRING"] = "/nowhere/keys.gpg"
        error = refused(lock)
        assert (error.id, error.exit) == ("no-keyring", Exit.USAGE)
        assert "ENVBUILD_DEBIAN_KEYRING" in error.hint

    def test_an_armored_keyring_is_called_so(
        self, lock: Locker, environ: dict[str, str], keys: Keys, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("armored") / "keys.asc"
        path.write_bytes(keys.armored())
        environ["ENVBUILD_DEBIAN_KEYRING"] = str(path)
        assert refused(lock).id == "armored-keyring"

    def test_a_machine_without_apt_gpgv_and_mirror_is_told(
        self,
        lock: Locker,
        environ: dict[str, str],
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
        mirror = environ.pop("ENVBUILD_DEBIAN_MIRROR")
        error = refused(lock)
        assert (error.id, error.exit) == ("no-debian-mirror", Exit.USAGE)
        assert "ENVBUILD_DEBIAN_MIRROR" in error.hint
        environ["ENVBUILD_DEBIAN_MIRROR"] = mirror
        assert refused(lock).id == "no-gpgv"
