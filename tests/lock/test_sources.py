"""Where locked files are to be had, and fetching them from there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lockworld import World
from tinyrecipe import Locker, Notes, impatient

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import Artifact, Indexes, Lock, sources_for
from envbuild.progress import SilentProgress
from envbuild.store import Source, Store, Wanted, fetch


def everything(lock: Lock) -> list[Artifact]:
    assert lock.native is not None
    return [*lock.debian, *lock.python, lock.native.source, *lock.native.toolchain, *lock.native.build]


def ask(
    lock: Lock,
    environ: dict[str, str],
    artifacts: list[Artifact] | None = None,
    progress: SilentProgress | None = None,
) -> dict[str, tuple[Source, ...]]:
    indexes = Indexes.from_machine(environ)
    http = impatient(dict(indexes.environ))
    wanted = everything(lock) if artifacts is None else artifacts
    return sources_for(lock, wanted, indexes=indexes, http=http, progress=progress or SilentProgress())


def bring(lock: Lock, environ: dict[str, str], store: Store, artifacts: list[Artifact]) -> None:
    sources = ask(lock, environ, artifacts)
    wanted = [
        Wanted(
            name=item.name,
            file=item.basename,
            sha256=item.sha256,
            size=item.size,
            sources=sources[item.sha256],
        )
        for item in artifacts
    ]
    fetch(store, wanted, http=impatient(environ), jobs=4, progress=SilentProgress())


def test_every_locked_file_is_fetched_from_the_machines_indexes(
    lock: Locker, environ: dict[str, str], store: Store
) -> None:
    made = lock()
    bring(made, environ, store, everything(made))
    assert all(store.has(item.sha256, item.size) for item in everything(made))


def test_one_question_to_uv_answers_for_all_wheels(
    lock: Locker, world: World, environ: dict[str, str]
) -> None:
    made = lock()
    world.index.requests.clear()
    found = ask(made, environ, list(made.python))
    assert {item.sha256 for item in made.python} == set(found)
    assert not [item for item in world.index.requests if not item.startswith("GET /simple/")]


def test_an_older_version_that_the_index_still_has_is_found(
    lock: Locker, world: World, environ: dict[str, str]
) -> None:
    made = lock()
    world.index.wheel("tqdm", "5.0")
    tqdm = next(item for item in made.python if item.name == "tqdm")
    assert ask(made, environ, [tqdm])[tqdm.sha256][0].url.endswith("tqdm-4.0-py3-none-any.whl")


def test_two_versions_of_one_package_are_both_found(
    lock: Locker, world: World, environ: dict[str, str]
) -> None:
    made = lock()
    other = next(item for item in world.index.files if item.name.startswith("nvidia_cuda_cccl_cu12-12.8"))
    assert made.native is not None
    mine = next(item for item in made.native.toolchain if item.name == "nvidia-cuda-cccl-cu12")
    second = replace(mine, version="12.8.90", file=other.name, sha256=other.sha256)
    found = ask(made, environ, [mine, second])
    assert found[mine.sha256][0].url != found[second.sha256][0].url


class TestMirror:
    def test_the_artifact_mirror_is_asked_first_by_hash_and_by_name(
        self, lock: Locker, world: World, environ: dict[str, str], store: Store
    ) -> None:
        made = lock()
        served = {item.name: item.data for item in world.index.files}
        tqdm = next(item for item in made.python if item.name == "tqdm")
        torch = next(item for item in made.python if item.name == "torch")
        world.mirror[f"{tqdm.sha256}/{tqdm.file}"] = served[tqdm.file]
        world.mirror[torch.file] = served[torch.file]
        environ["ENVBUILD_ARTIFACT_MIRROR"] = f"{world.address}/mirror/"
        world.index.drop(tqdm.file)
        world.index.drop(torch.file)
        bring(made, environ, store, [tqdm, torch])
        assert store.has(tqdm.sha256)
        assert store.has(torch.sha256)

    def test_what_the_mirror_lacks_comes_from_the_index(
        self, lock: Locker, world: World, environ: dict[str, str], store: Store
    ) -> None:
        made = lock()
        environ["ENVBUILD_ARTIFACT_MIRROR"] = f"{world.address}/mirror"
        bring(made, environ, store, everything(made))
        assert all(store.has(item.sha256) for item in everything(made))

    def test_with_a_mirror_the_index_may_be_down(
        self, lock: Locker, world: World, environ: dict[str, str], notes: Notes
    ) -> None:
        made = lock()
        environ["ENVBUILD_ARTIFACT_MIRROR"] = f"{world.address}/mirror"
        world.index.failing = 503
        found = ask(made, environ, progress=notes)
        assert {source.label for item in made.python for source in found[item.sha256]} == {
            "the artifact mirror"
        }
        assert any("cannot be read" in note for note in notes.notes)

    def test_a_folder_is_a_mirror(
        self, lock: Locker, world: World, environ: dict[str, str], store: Store
    ) -> None:
        made = lock()
        tqdm = next(item for item in made.python if item.name == "tqdm")
        folder = store.root.parent / "mirror dir"
        folder.mkdir()
        (folder / tqdm.file).write_bytes(
            next(item.data for item in world.index.files if item.name == tqdm.file)
        )
        environ["ENVBUILD_ARTIFACT_MIRROR"] = str(folder)
        world.index.drop(tqdm.file)
        bring(made, environ, store, [tqdm])
        assert store.has(tqdm.sha256)

    def test_a_built_wheel_is_asked_of_the_mirror_only(
        self, lock: Locker, world: World, environ: dict[str, str]
    ) -> None:
        made = lock()
        assert made.native is not None
        wheel = replace(
            made.native.source, kind="wheel", file="deepspeed-0.19.8-py3-none-any.whl", index="built"
        )
        assert ask(made, environ, [wheel]) == {wheel.sha256: ()}
        environ["ENVBUILD_ARTIFACT_MIRROR"] = f"{world.address}/mirror"
        assert len(ask(made, environ, [wheel])[wheel.sha256]) == 2


class TestFaults:
    def test_a_file_that_is_gone_everywhere_is_named(
        self, lock: Locker, world: World, environ: dict[str, str]
    ) -> None:
        made = lock()
        tqdm = next(item for item in made.python if item.name == "tqdm")
        world.index.drop(tqdm.file)
        with pytest.raises(EnvbuildError) as caught:
            ask(made, environ)
        assert (caught.value.id, caught.value.exit) == ("file-gone", Exit.NETWORK)
        assert tqdm.file in caught.value.message
        assert tqdm.sha256 in caught.value.message
        assert "ENVBUILD_ARTIFACT_MIRROR" in caught.value.hint

    def test_other_bytes_under_the_same_name_are_not_offered(
        self, lock: Locker, world: World, environ: dict[str, str]
    ) -> None:
        made = lock()
        tqdm = next(item for item in made.python if item.name == "tqdm")
        world.index.drop(tqdm.file)
        world.index.wheel("tqdm", "4.0", ["torch"])
        with pytest.raises(EnvbuildError) as caught:
            ask(made, environ)
        assert caught.value.id == "file-gone"

    def test_an_index_that_is_down_is_exit_4(
        self, lock: Locker, world: World, environ: dict[str, str]
    ) -> None:
        made = lock()
        world.index.failing = 503
        with pytest.raises(EnvbuildError) as caught:
            ask(made, environ)
        assert caught.value.exit == Exit.NETWORK

    def test_without_a_debian_mirror_the_variable_is_named(
        self, lock: Locker, environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        made = lock()
        monkeypatch.setenv("PATH", str(tmp_path_factory.mktemp("empty")))
        del environ["ENVBUILD_DEBIAN_MIRROR"]
        with pytest.raises(EnvbuildError) as caught:
            ask(made, environ, list(made.debian))
        assert (caught.value.id, caught.value.exit) == ("no-debian-mirror", Exit.USAGE)

    def test_credentials_go_to_the_index_and_are_not_printed(
        self, lock: Locker, world: World, environ: dict[str, str], store: Store
    ) -> None:
        made = lock()
        world.index.credentials = "user:secret"
        environ["ENVBUILD_PYTHON_INDEX"] = world.simple.replace("://", "://user:secret@")
        bring(made, environ, store, list(made.python))
        for sources in ask(made, environ).values():
            assert all("secret" not in source.label for source in sources)
