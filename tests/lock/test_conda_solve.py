"""Solving: the committed locks from the records, what stays, what moves, and what a lock never says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from condaworld import BASE, DAY, RECIPES, RECORDS, CondaLocker, channel, committed, record, site

from envbuild.errors import EnvbuildError, Exit
from envbuild.lock import check_conda, conda_lock_bytes, follows_conda, read_conda_lock, read_lock
from envbuild.lock.conda.channels import canonical_url
from envbuild.recipe import list_recipes

REFS = [str(recipe.ref) for recipe in list_recipes([RECIPES])]
EARLIER = "2026-06-01"
NOWHERE = "conda-forge=http://127.0.0.1:9/conda-forge"


@pytest.mark.parametrize("ref", REFS)
def test_a_committed_lock_is_what_the_records_give(conda: CondaLocker, ref: str) -> None:
    recipe = committed(ref)
    wanted = read_conda_lock(recipe.conda_lock_path)
    parent = read_conda_lock(committed(str(recipe.parent)).conda_lock_path) if recipe.parent else None
    lock = conda.lock(recipe, parent=parent)
    made = [
        (item.name, item.version, item.file) for item in lock.pip
    ]  # the index of the tests has another file
    assert made == [(item.name, item.version, item.file) for item in wanted.pip]
    assert conda_lock_bytes(replace(lock, pip=wanted.pip)) == conda_lock_bytes(wanted)


def test_the_environments_take_the_source_that_the_images_are_compiled_from() -> None:
    image = read_lock(committed("pytorch-cuda:v2.7").lock_path)
    assert image.native is not None
    ninja = next(item for item in image.python if item.name == "ninja")
    for ref in ("ds-train:v2.7", "pytorch-cuda:v2.7"):
        assert read_conda_lock(committed(ref).conda_lock_path).pip == (image.native.source, ninja)


def test_what_ds_train_is() -> None:
    lock = read_conda_lock(committed("ds-train:v2.7").conda_lock_path)
    versions = {package.name: package.version for package in lock.packages}
    assert versions["python"].startswith("3.11.")
    assert versions["pytorch"] == "2.7.1"
    assert lock.package("pytorch").build.startswith("cuda126_")
    assert versions["cuda-version"] == "12.6"
    assert versions["cuda-nvcc"].startswith("12.6.")
    assert versions["cudnn"] == "9.10.1.4"
    assert versions["nccl"] == "2.27.3.1"
    for name in (
        "gxx",
        "jupyterlab",
        "openssh",
        "pip",
        "setuptools",
        "wheel",
        "hjson-py",
        "msgpack-python",
    ):
        assert name in versions
    assert lock.virtual["__cuda"] == "12.6"
    assert lock.virtual["__glibc"] == "2.28"
    assert {channel.name for channel in lock.channels} == {"conda-forge"}


def test_the_interpreter_of_a_lock_is_python_and_what_it_needs() -> None:
    whole = read_conda_lock(committed("pytorch-cuda:v2.7").conda_lock_path)
    alone = read_conda_lock(committed("pytorch-cuda:v2.8").conda_lock_path)
    devel = read_conda_lock(committed("pytorch-cuda:v2.7-devel").conda_lock_path)
    names = {package.name for package in whole.interpreter()}
    assert {"python", "openssl", "libffi", "tk"} <= names
    assert "numpy" not in names
    assert alone.interpreter() == alone.packages
    assert devel.packages == whole.interpreter()
    assert whole.package("python") == alone.package("python")


def test_images_share_the_same_interpreter() -> None:
    locks = [
        read_conda_lock(committed(f"pytorch-cuda:{tag}").conda_lock_path)
        for tag in ("v2.8", "v2.11", "v2.8-devel")
    ]
    assert len({lock.packages for lock in locks}) == 1


def test_a_settled_lock_comes_back_without_a_look_at_the_channel(conda: CondaLocker) -> None:
    recipe = committed("ds-train:v2.7")
    lock = read_conda_lock(recipe.conda_lock_path)
    assert conda.lock(recipe, NOWHERE, previous=lock, date="2027-01-01") is lock


def test_a_lock_of_an_earlier_day_holds_nothing_newer(conda: CondaLocker) -> None:
    recipe = conda.recipe(BASE)
    earlier, later = conda.lock(recipe, date=EARLIER), conda.lock(recipe)
    assert earlier.exclude_newer == f"{EARLIER}T23:59:59Z"
    assert earlier.packages != later.packages
    limit = 1780358399000  # that moment, in milliseconds
    assert max(package.timestamp or 0 for package in earlier.packages) <= limit
    assert max(package.timestamp or 0 for package in later.packages) > limit


def test_what_is_locked_stays_where_it_fits_and_an_upgrade_moves_it(conda: CondaLocker) -> None:
    recipe = conda.recipe(BASE)
    earlier = conda.lock(recipe, date=EARLIER)
    newest = conda.lock(recipe)
    changed = conda.recipe(BASE + '[conda]\npackages = ["einops"]\n')
    kept = conda.lock(changed, previous=earlier)
    assert {package.name for package in kept.packages} - {package.name for package in earlier.packages} == {
        "einops"
    }
    assert set(earlier.packages) <= set(kept.packages)
    assert earlier.package("ca-certificates") != newest.package("ca-certificates")
    moved = conda.lock(recipe, previous=earlier, upgrade=["ca-certificates"])
    others = {package for package in moved.packages if package.name != "ca-certificates"}
    assert moved.package("ca-certificates") == newest.package("ca-certificates")
    assert others <= set(earlier.packages)


def test_the_same_question_gives_the_same_bytes(conda: CondaLocker) -> None:
    recipe = conda.recipe(BASE)
    assert conda_lock_bytes(conda.lock(recipe)) == conda_lock_bytes(conda.lock(recipe))


def test_a_mirror_or_a_folder_never_shows_up(conda: CondaLocker, tmp_path: Path) -> None:
    with site() as mirror:
        for subdir in ("linux-64", "noarch"):
            packed = (RECORDS / subdir / "repodata.json.zst").read_bytes()
            plain = zstandard.ZstdDecompressor().decompress(packed, 1 << 28)
            mirror.files[f"/mirror/{subdir}/repodata.json"] = plain
        recipe = conda.recipe(BASE)
        mirrored = conda.lock(recipe, f"conda-forge=http://user:secret@{mirror.host}/mirror")
        assert "/mirror/linux-64/repodata.json" in mirror.requests
    assert conda_lock_bytes(mirrored) == conda_lock_bytes(conda.lock(recipe))
    assert mirrored.url(mirrored.package("python")).startswith(canonical_url("conda-forge"))
    for text in (b"127.0.0.1", b"secret", str(tmp_path).encode(), str(RECORDS).encode()):
        assert text not in conda_lock_bytes(mirrored)


def test_a_channel_says_its_own_address(conda: CondaLocker, tmp_path: Path) -> None:
    folder = channel(tmp_path / "own", record("python", "3.11.9"), base_url="https://conda.invalid/own/")
    recipe = conda.recipe('description = "x"\n' + INTERPRETER)
    lock = conda.lock(recipe, f"conda-forge={folder}")
    assert lock.url(lock.package("python")) == "https://conda.invalid/own/linux-64/python-3.11.9-0.conda"


INTERPRETER = """\
[python]
version = "3.11"
[torch]
version = "2.8.0"
[cuda]
version = "12.8"
cudnn = "9.10.2.21"
nccl = "2.27.3"
"""


def test_a_recipe_that_makes_no_environment_locks_python_alone(conda: CondaLocker) -> None:
    recipe = conda.recipe('description = "x"\n' + INTERPRETER)
    lock = conda.lock(recipe)
    assert "pytorch" not in {package.name for package in lock.packages}
    assert lock.pip == ()
    assert "__cuda" not in lock.virtual
    torch = conda.recipe('description = "y"\n' + INTERPRETER.replace("2.8.0", "2.9.0"))
    assert check_conda(torch, lock) == []


def test_the_first_channel_that_has_a_name_decides(conda: CondaLocker, tmp_path: Path) -> None:
    own = channel(tmp_path / "own", record("python", "3.11.9"), base_url="https://conda.invalid/own/")
    text = 'description = "x"\n' + INTERPRETER + '[conda]\nchannels = ["own", "conda-forge"]\n'
    lock = conda.lock(conda.recipe(text), f"own={own}", f"conda-forge={RECORDS}")
    assert [(item.name, item.channel) for item in lock.packages] == [("python", "own")]
    assert [item.name for item in lock.channels] == ["own"]


def test_an_extending_recipe_takes_the_records_of_its_parent(conda: CondaLocker) -> None:
    parent = conda.lock(conda.recipe(BASE), date=EARLIER)
    child = conda.recipe(
        'description = "y"\nextends = "v1"\nparts = []\n[conda]\npackages = ["einops"]\n', "made:v2"
    )
    lock = conda.lock(child, parent=parent)
    assert set(parent.packages) <= set(lock.packages)
    assert follows_conda(lock, parent) == []
    alone = conda.lock(child)
    assert any("ca-certificates: made:v1 locks" in line for line in follows_conda(alone, parent))


def test_deepspeeds_needs_are_all_there_by_conda(conda: CondaLocker) -> None:
    deepspeed = '[deepspeed]\nversion = "0.19.8"\n'
    lock = conda.lock(conda.recipe(BASE + deepspeed))
    names = {package.name for package in lock.packages}
    assert {"hjson-py", "msgpack-python", "py-cpuinfo", "pydantic", "nvidia-ml-py", "einops", "tqdm"} <= names
    assert {"pip", "setuptools", "wheel"} <= names
    assert "deepspeed" not in names
    assert "ninja" not in names, "pip does not see conda-forge's ninja: it has no metadata"
    assert [(item.kind, item.name, item.index) for item in lock.pip] == [
        ("sdist", "deepspeed", "python"),
        ("wheel", "ninja", "python"),
    ]


NINJA = 'parts = ["devel"]\n[deepspeed]\nversion = "0.19.8"\n[conda]\npackages = ["{}"]\n'


def with_ninja(spec: str) -> str:
    parts, _, tables = NINJA.format(spec).partition("\n")
    return BASE.replace("[python]", f"{parts}\n[python]") + tables


def test_ninja_comes_from_pip_with_deepspeed_and_from_conda_without(conda: CondaLocker) -> None:
    with_deepspeed = conda.lock(conda.recipe(with_ninja("ninja >=1.11,<1.13")))
    assert [item.version for item in with_deepspeed.pip] == ["0.19.8", "1.11.1"]
    assert not any(spec.startswith("ninja") for spec in with_deepspeed.specs)
    without = conda.lock(conda.recipe(BASE + '[conda]\npackages = ["ninja >=1.11"]\n'))
    assert without.pip == ()
    assert without.package("ninja").version == "1.13.2"


def test_the_wheel_is_one_for_the_environments_c_library(conda: CondaLocker) -> None:
    older = conda.lock(conda.recipe(with_ninja("einops")))
    newer = conda.lock(conda.recipe(with_ninja("einops") + 'glibc = "2.35"\n'))
    assert "manylinux_2_17" in older.pip[1].file
    assert "manylinux_2_34" in newer.pip[1].file


def test_a_wheel_for_a_newer_c_library_only_is_refused(conda: CondaLocker) -> None:
    tables = with_ninja("ninja ==1.10.0").replace('parts = ["devel"]\n', "")
    with pytest.raises(
        EnvbuildError, match=r"ninja 1\.10\.0 has no wheel for .* x86_64-manylinux_2_28"
    ) as caught:
        conda.lock(conda.recipe(tables))
    assert (caught.value.id, caught.value.exit) == ("no-wheel", Exit.INPUT)


def test_ninja_as_a_spec_that_python_does_not_know_is_refused(conda: CondaLocker) -> None:
    recipe = conda.recipe(with_ninja("ninja 1.11.*"))
    with pytest.raises(
        EnvbuildError, match=r'conda\.packages\[0\]: "ninja 1\.11\.\*" is no Python requirement'
    ) as caught:
        conda.lock(recipe)
    assert (caught.value.id, caught.value.exit) == ("no-pip-equivalent", Exit.INPUT)
    assert caught.value.where == recipe.where("conda.packages[0]")


def test_a_lock_with_condas_ninja_is_stale_and_locked_again(conda: CondaLocker) -> None:
    recipe = committed("ds-train:v2.7")
    lock = read_conda_lock(recipe.conda_lock_path)
    source, ninja = lock.pip
    before = replace(lock, specs=(*lock.specs, "ninja"), pip=(source,))
    assert "ninja: asked of conda, but pip brings it with DeepSpeed" in check_conda(recipe, before)
    assert "ninja>=1.11: the recipe asks for it, the lock holds none for pip" in check_conda(recipe, before)
    again = conda.lock(recipe, previous=before)
    assert again.packages == lock.packages
    assert again.specs == lock.specs
    assert again.pip[1].file == ninja.file


def test_what_pip_brings_stays_and_an_upgrade_moves_it(conda: CondaLocker) -> None:
    older = conda.lock(conda.recipe(with_ninja("ninja <1.13")))
    changed = conda.recipe(with_ninja("einops"))
    assert conda.lock(changed, previous=older).pip == older.pip
    moved = conda.lock(changed, previous=older, upgrade=["ninja"])
    assert [item.version for item in moved.pip] == ["0.19.8", "1.13.2"]


def test_an_extending_recipe_takes_what_pip_brings_from_its_parent(conda: CondaLocker) -> None:
    parent = conda.lock(conda.recipe(with_ninja("ninja <1.13")))
    child = conda.recipe('description = "y"\nextends = "v1"\n[conda]\npackages = ["einops"]\n', "made:v2")
    lock = conda.lock(child, parent=parent)
    assert lock.pip == parent.pip
    alone = conda.lock(child)
    assert any("ninja: made:v1 locks ninja-1.11.1" in line for line in follows_conda(alone, parent))
    with pytest.raises(EnvbuildError) as caught:
        conda.lock(child, previous=lock, parent=parent, upgrade=["ninja"])
    assert caught.value.id == "locked-by-parent"


def test_a_declared_difference_is_what_is_solved(conda: CondaLocker) -> None:
    text = BASE.replace("9.10.1.4", "9.5.1.17").replace("2.27.3.1", "2.26.2")
    text += '[conda.versions]\ncudnn = "9.10.1.4"\nnccl = "2.27.3.1"\n'
    lock = conda.lock(conda.recipe(text))
    assert lock.package("cudnn").version == "9.10.1.4"
    assert lock.package("nccl").version == "2.27.3.1"


def test_what_is_left_out_is_not_asked_for(conda: CondaLocker) -> None:
    text = BASE.replace('"3.11"\n', '"3.11"\npackages = ["safetensors==0.8.0", "six"]\n')
    lock = conda.lock(conda.recipe(text + '[conda]\nwithout = ["safetensors"]\n'))
    assert "six" in {package.name for package in lock.packages}
    assert not any("safetensors" in spec for spec in lock.specs)


def test_a_name_that_is_not_locked_cannot_be_upgraded(conda: CondaLocker) -> None:
    recipe = committed("pytorch-cuda:v2.8")
    lock = read_conda_lock(recipe.conda_lock_path)
    with pytest.raises(EnvbuildError, match="opensl is not in the conda lock") as caught:
        conda.lock(recipe, previous=lock, upgrade=["opensl"], date=DAY)
    assert caught.value.exit == Exit.INPUT
    assert '"openssl"' in caught.value.hint


def test_the_records_of_a_packed_folder_are_unpacked_once(conda: CondaLocker, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(RECORDS, copy)
    recipe = conda.recipe('description = "x"\n' + INTERPRETER)
    first = conda.lock(recipe, f"conda-forge={copy}")
    unpacked = list((conda.store.root / "cache/conda/folders").glob("*/*/repodata.json"))
    assert len(unpacked) == 2
    assert conda.lock(recipe, f"conda-forge={RECORDS}") == first
    assert list((conda.store.root / "cache/conda/folders").glob("*/*/repodata.json")) == unpacked


@pytest.mark.parametrize(
    ("name", "key"), [("pytorch", "torch.version"), ("nccl", "cuda.nccl"), ("python", "python.version")]
)
def test_a_pin_moves_in_the_recipe_and_not_by_an_upgrade(conda: CondaLocker, name: str, key: str) -> None:
    recipe = committed("ds-train:v2.7")
    with pytest.raises(EnvbuildError, match=f"{name} is pinned by {key}") as caught:
        conda.lock(recipe, previous=read_conda_lock(recipe.conda_lock_path), upgrade=[name])
    assert caught.value.where == recipe.where(key)


def test_a_lock_follows_the_one_that_it_extends(conda: CondaLocker) -> None:
    parent = conda.recipe('description = "x"\n' + INTERPRETER)
    child = conda.recipe('description = "y"\nextends = "v1"\n', "made:v2")
    earlier, later = conda.lock(parent, date=EARLIER), conda.lock(parent)
    lock = conda.lock(child, parent=earlier)
    assert lock.packages == earlier.packages
    assert conda.lock(child, NOWHERE, previous=lock, parent=earlier) is lock
    assert conda.lock(child, previous=lock, parent=later).packages == later.packages
    with pytest.raises(EnvbuildError, match="takes openssl from the conda lock of made:v1") as caught:
        conda.lock(child, previous=lock, parent=earlier, upgrade=["openssl"])
    assert "envbuild lock made:v1 --upgrade openssl" in caught.value.hint
