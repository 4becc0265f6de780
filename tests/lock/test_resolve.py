"""From a recipe to a lock, on a small Python index and a small Debian."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lockworld import World
from tinyrecipe import CP311, Locker, Notes

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import Artifact, ImageLock, Lock, lock_bytes
from envbuild.lock.licences import artifacts_of, with_licences
from envbuild.oci.layer import Layer

DIGEST = "sha256:" + "0" * 64


def by_name(artifacts: tuple[Artifact, ...]) -> dict[str, Artifact]:
    return {item.name: item for item in artifacts}


def built(lock: Lock) -> Lock:
    """The lock as it is after a build."""
    assert lock.native is not None
    wheel = replace(
        lock.native.source, kind="wheel", file="deepspeed-0.19.8-cp311-cp311-linux_x86_64.whl", index="built"
    )
    layer = Layer(name="base", digest=DIGEST, diff_id=DIGEST, size=1)
    image = ImageLock(digest=DIGEST, config=DIGEST, layers=(layer,))
    return replace(lock, native=replace(lock.native, wheel=wheel), image=image)


def test_every_input_is_named_with_hash_and_size(lock: Locker, world: World) -> None:
    made = lock()
    served = {item.name: item for item in world.index.files}
    python = by_name(made.python)
    assert sorted(python) == [
        "hjson", "ninja", "numpy", "nvidia-cuda-runtime-cu12", "nvidia-cudnn-cu12", "nvidia-ml-py",
        "nvidia-nccl-cu12", "setuptools", "torch", "tqdm",
    ]  # fmt: skip
    assert made.native is not None
    wheels = [*made.python, made.native.source, *made.native.build]
    wheels += [item for item in made.native.toolchain if item.kind == "wheel"]
    for item in wheels:
        assert (item.sha256, item.size) == (served[item.file].sha256, len(served[item.file].data))
        assert (item.index, item.uploaded) == ("python", "2026-01-02T03:04:05Z")
    for deb in made.debian:
        assert deb.size == len(world.debian.served[f"/debian/{deb.file}"])
    assert {item.index for item in made.debian} == {"debian/bookworm/main"}
    assert made.created == "2026-01-02T03:04:05Z"


def test_the_best_wheel_of_several_is_locked(lock: Locker) -> None:
    assert by_name(lock().python)["numpy"].file == f"numpy-2.1.0-{CP311}.whl"


def test_the_operator_is_compiled_by_debians_nvcc_for_cuda_12(lock: Locker) -> None:
    native = lock().native
    assert native is not None
    assert [(item.name, item.kind, item.index) for item in native.toolchain] == [
        ("nvidia-cuda-cccl-cu12", "wheel", "python"),
        ("nvidia-cuda-nvcc-cu12", "wheel", "python"),
        ("nvidia-cuda-toolkit", "deb", "debian/trixie/non-free"),
    ]
    assert by_name(native.toolchain)["nvidia-cuda-cccl-cu12"].version == "12.6.77"
    assert [item.name for item in native.build] == ["packaging", "setuptools", "typing-extensions"]
    assert (native.source.name, native.source.kind, native.wheel) == ("deepspeed", "sdist", None)


def test_the_operator_is_compiled_by_wheels_for_cuda_13(lock: Locker, world: World) -> None:
    world.index.wheel("torch", "2.11.0", [
        "cuda-toolkit[cudart]==13.0.2", "nvidia-cudnn-cu13==9.19.0.56", "nvidia-nccl-cu13==2.28.9",
    ], tag=CP311)  # fmt: skip
    world.index.wheel("cuda-toolkit", "13.0.2", ["nvidia-cuda-runtime==13.0.*; extra == 'cudart'"])
    for name in ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt", "nvidia-cuda-cccl"):
        world.index.wheel(name, "13.0.88", ["missing-package"])
        world.index.wheel(name, "13.2.10")
    for name, version in (
        ("nvidia-cuda-runtime", "13.0.96"), ("nvidia-cudnn-cu13", "9.19.0.56"), ("nvidia-nccl-cu13", "2.28.9"),
    ):  # fmt: skip
        world.index.wheel(name, version)
    made = lock(
        ('"2.7.1"', '"2.11.0"'), ('"12.6"', '"13.0"'), ("9.5.1.17", "9.19.0.56"), ("2.26.2", "2.28.9"),
    )  # fmt: skip
    assert made.native is not None
    assert [(item.name, item.version) for item in made.native.toolchain] == [
        ("nvidia-cuda-cccl", "13.0.88"), ("nvidia-cuda-crt", "13.0.88"),
        ("nvidia-cuda-nvcc", "13.0.88"), ("nvidia-nvvm", "13.0.88"),
    ]  # fmt: skip
    assert not [item for item in world.debian.requests if "trixie" in item]


def test_without_deepspeed_there_is_nothing_native(lock: Locker, world: World) -> None:
    table = (
        '[deepspeed]\nversion = "0.19.8"\noperators = ["fused_adam"]\narchitectures = ["8.0", "9.0+PTX"]\n'
    )
    made = lock((table, ""))
    assert made.native is None
    assert "hjson" not in by_name(made.python)
    assert not [item for item in world.index.requests if "deepspeed" in item]


def test_the_lock_names_no_host_and_is_the_same_each_time(lock: Locker, world: World) -> None:
    first, second = lock_bytes(lock()), lock_bytes(lock())
    assert first == second
    assert b"127.0.0.1" not in first
    assert b"http" not in first


def test_uploads_after_the_date_do_not_count(lock: Locker, world: World) -> None:
    world.index.wheel("tqdm", "5.0", uploaded="2026-06-01T23:00:00Z")
    world.index.wheel("tqdm", "6.0", uploaded="2026-06-02T00:00:01Z")
    assert by_name(lock().python)["tqdm"].version == "5.0"


def test_an_index_without_upload_times_is_taken_as_it_is_and_said_so(
    lock: Locker, world: World, notes: Notes
) -> None:
    world.index.html = True
    made = lock()
    assert by_name(made.python)["torch"].uploaded is None
    assert made.created == "2026-06-01T00:00:00Z"
    assert any("no upload times" in note for note in notes.notes)


@pytest.mark.parametrize(
    ("head", "ranges", "sizes"), [(False, True, False), (False, False, False), (True, True, True)]
)
def test_sizes_are_found_whatever_the_server_can_do(
    lock: Locker, world: World, head: bool, ranges: bool, sizes: bool
) -> None:
    world.index.head, world.index.ranges, world.index.sizes = head, ranges, sizes
    made = lock()
    served = {item.name: len(item.data) for item in world.index.files}
    assert {item.file: item.size for item in made.python} == {
        item.file: served[item.file] for item in made.python
    }
    if sizes:
        assert not [item for item in world.index.requests if item.startswith("HEAD")]


class TestLockingAgain:
    def test_nothing_changed_gives_the_same_bytes_without_a_request(self, lock: Locker, world: World) -> None:
        first = built(lock())
        world.index.requests.clear()
        world.debian.requests.clear()
        world.index.wheel("tqdm", "5.0")
        assert lock_bytes(lock(previous=first, date="2026-08-01")) == lock_bytes(first)
        assert world.index.requests == world.debian.requests == []

    def test_versions_stay_when_something_else_changes(self, lock: Locker, world: World) -> None:
        first = built(lock())
        world.index.wheel("tqdm", "5.0")
        world.index.wheel("numpy", "2.2.0")
        second = lock(('["tqdm"]', '["tqdm", "rich"]'), previous=first, date="2026-08-01")
        assert by_name(second.python)["tqdm"].version == "4.0"
        assert by_name(second.python)["numpy"].version == "2.1.0"
        assert by_name(second.python)["rich"].version == "1.0"
        assert (second.debian, second.resolved, second.image) == (first.debian, "2026-08-01", None)

    def test_the_built_operator_stays_where_its_inputs_do(self, lock: Locker, world: World) -> None:
        first = built(lock())
        world.index.wheel("setuptools", "2.0")
        world.index.wheel("numpy", "2.2.0")
        second = lock(previous=first, upgrade=["setuptools", "numpy"])
        assert by_name(second.python)["setuptools"].version == "2.0"
        assert second.native == first.native
        assert second.image is None

    @pytest.mark.parametrize("name", ["nvidia-cuda-cccl-cu12", "debian", "nvidia-nccl-cu12"])
    def test_the_built_operator_goes_where_an_input_of_it_moves(
        self, lock: Locker, world: World, name: str
    ) -> None:
        table = 'nccl = "2.26.2"'
        world.index.drop(f"torch-2.7.1-{CP311}.whl")
        loose = ["nvidia-cuda-runtime-cu12", "nvidia-cudnn-cu12", "nvidia-nccl-cu12", "setuptools"]
        world.index.wheel("torch", "2.7.1", loose, tag=CP311)
        first = built(lock())
        world.index.wheel("nvidia-cuda-cccl-cu12", "12.6.99")
        world.index.wheel("nvidia-nccl-cu12", "2.27.0")
        world.debian.add("libc6", "2.36-10")
        world.debian.publish()
        change = ((table, 'nccl = "2.27.0"'),) if name == "nvidia-nccl-cu12" else ()
        second = lock(*change, previous=first, upgrade=[name])
        assert second.native is not None
        assert (second.native.wheel, second.image) == (None, None)

    def test_upgrade_moves_the_named_package_and_no_other(self, lock: Locker, world: World) -> None:
        first = built(lock())
        world.index.wheel("tqdm", "5.0")
        world.index.wheel("numpy", "2.2.0")
        second = lock(previous=first, upgrade=["tqdm"])
        before, after = by_name(first.python), by_name(second.python)
        assert {name for name in after if after[name] != before.get(name)} == {"tqdm"}
        assert after["tqdm"].version == "5.0"
        assert second.debian == first.debian

    def test_an_upgrade_keeps_the_licences_of_what_stays(self, lock: Locker, world: World) -> None:
        first = built(lock())
        first = with_licences(first, {item.sha256: f"LicenseRef-{item.name}" for item in artifacts_of(first)})
        assert lock_bytes(lock(previous=first)) == lock_bytes(first)
        world.index.wheel("tqdm", "5.0")
        second = lock(previous=first, upgrade=["tqdm"])
        told = {item.name: item.licence for item in (*second.debian, *second.python)}
        assert {name for name, licence in told.items() if licence is None} == {"tqdm"}
        assert all(licence == f"LicenseRef-{name}" for name, licence in told.items() if name != "tqdm")
        assert second.native is not None
        assert second.native.source.licence == "LicenseRef-deepspeed"
        assert all(item.licence for item in (*second.native.toolchain, *second.native.build))

    def test_upgrade_moves_what_must_follow(self, lock: Locker, world: World) -> None:
        first = lock()
        world.index.wheel("tqdm", "5.0", ["hjson>=2"])
        world.index.wheel("hjson", "2.0")
        second = by_name(lock(previous=first, upgrade=["tqdm"]).python)
        assert (second["tqdm"].version, second["hjson"].version) == ("5.0", "2.0")

    def test_an_upgrade_that_finds_nothing_changes_nothing(self, lock: Locker) -> None:
        first = built(lock())
        assert lock_bytes(lock(previous=first, upgrade=["tqdm"], date="2026-08-01")) == lock_bytes(first)

    @pytest.mark.parametrize("name", ["debian", "libc6"])
    def test_upgrading_debian_moves_its_packages_only(self, lock: Locker, world: World, name: str) -> None:
        first = built(lock())
        world.debian.add("libc6", "2.36-10")
        world.debian.publish()
        world.index.wheel("tqdm", "5.0")
        second = lock(previous=first, upgrade=[name])
        assert by_name(second.debian)["libc6"].version == "2.36-10"
        assert second.python == first.python
        assert second.image is None

    def test_a_new_description_keeps_every_input_and_the_operator(self, lock: Locker) -> None:
        first = built(lock())
        second = lock(("PyTorch for tests", "Another"), previous=first, date="2026-08-01")
        assert (second.python, second.debian, second.native) == (first.python, first.debian, first.native)
        assert (second.resolved, second.created, second.image) == (first.resolved, first.created, None)

    def test_other_architectures_drop_the_built_operator(self, lock: Locker) -> None:
        second = lock(('"8.0", ', ""), previous=built(lock()))
        assert second.native is not None
        assert second.native.wheel is None

    @pytest.mark.parametrize(
        ("name", "id", "hint"),
        [("tqmd", "not-locked", "tqdm"), ("torch", "pinned-by-recipe", "envbuild lock tiny:v1")],
    )
    def test_what_cannot_be_upgraded_is_said(self, lock: Locker, name: str, id: str, hint: str) -> None:
        first = lock()
        with pytest.raises(EnvbuildError) as caught:
            lock(previous=first, upgrade=[name])
        assert (caught.value.id, caught.value.exit) == (id, Exit.INPUT)
        assert hint in caught.value.hint

    def test_without_a_lock_there_is_nothing_to_upgrade(self, lock: Locker) -> None:
        with pytest.raises(EnvbuildError) as caught:
            lock(upgrade=["tqdm"])
        assert caught.value.id == "nothing-to-upgrade"
