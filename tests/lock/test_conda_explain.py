"""The solver's "no" in words: which pin, on which line, what there is instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from condaworld import BASE, CondaLocker, channel

from envbuild.errors import EnvbuildError, Exit


def refused(conda: CondaLocker, text: str, *channels: str, date: str = "2026-11-20") -> EnvbuildError:
    recipe = conda.recipe(text)
    with pytest.raises(EnvbuildError) as caught:
        conda.lock(recipe, *channels, date=date)
    assert caught.value.exit == Exit.INPUT
    assert caught.value.hint
    return caught.value


def at(error: EnvbuildError, text: str, line: str) -> None:
    """The error names the line of the recipe that reads so."""
    assert error.where is not None
    assert error.where.endswith(f"recipe.toml:{text.splitlines().index(line) + 1}")


def test_a_torch_that_was_built_for_another_cuda_only(conda: CondaLocker) -> None:
    text = BASE.replace("2.7.1", "2.8.0").replace('"12.6"', '"12.8"')
    error = refused(conda, text)
    assert error.id == "conda-unsolvable"
    assert (
        "conda-forge built pytorch 2.8.0 for Python 3.11 for CUDA 12.9 only; the recipe pins CUDA 12.8"
        in error.message
    )
    assert 'version = "12.9"' in error.hint
    assert 'makes = ["image"]' in error.hint
    at(error, text, 'version = "2.8.0"')


def test_the_versions_that_there_are_for_the_cuda_are_offered(conda: CondaLocker) -> None:
    error = refused(conda, BASE.replace("2.7.1", "2.8.0"))
    assert "for CUDA 12.6 there is pytorch " in error.hint
    assert "2.7.1" in error.hint


@pytest.mark.parametrize(
    ("old", "new", "who", "needs", "near"),
    [
        ('"2.27.3.1"', '"2.26.2"', "NCCL 2.26.2", "nccl >=2.27.3.1,<3.0a0", "nccl 2.27.3.1"),
        ('"9.10.1.4"', '"9.8.0.87"', "cuDNN 9.8.0.87", "cudnn >=9.10.1.4,<10.0a0", "cudnn 9.10.1.4"),
    ],
    ids=["nccl", "cudnn"],
)
def test_two_pins_that_clash_are_both_named(
    conda: CondaLocker, old: str, new: str, who: str, needs: str, near: str
) -> None:
    text = BASE.replace(old, new)
    error = refused(conda, text)
    assert error.id == "conda-unsolvable"
    line = next(number for number, words in enumerate(text.splitlines(), 1) if "2.7.1" in words)
    assert f"PyTorch 2.7.1 for CUDA 12.6 (torch.version, recipe.toml:{line}) and {who}" in error.message
    assert f"do not go together: conda-forge's pytorch 2.7.1 cuda126* needs {needs}" in error.message
    assert f"Nearest that fits: {near} " in error.hint
    at(error, text, next(words for words in text.splitlines() if new in words))


def test_a_clash_deeper_down_is_told_in_the_solvers_words(conda: CondaLocker) -> None:
    text = BASE + '[conda]\npackages = ["gcc_linux-64 ==16.1.0", "cuda-nvcc"]\n'
    error = refused(conda, text)
    assert "gcc_linux-64 ==16.1.0 (conda.packages[0], recipe.toml:" in error.message
    assert " do not go together: " in error.message
    assert re.search(r"gcc_impl_linux-64|triton", error.message)


def test_a_package_that_the_channel_lacks_with_the_nearest(conda: CondaLocker) -> None:
    text = BASE + '[conda]\npackages = ["ninja-build"]\n'
    error = refused(conda, text)
    assert error.id == "no-conda-package"
    assert "conda-forge has no package ninja-build" in error.message
    assert 'Did you mean "ninja"?' in error.hint
    at(error, text, 'packages = ["ninja-build"]')


def test_a_python_package_that_the_channel_lacks_may_be_left_out(conda: CondaLocker) -> None:
    error = refused(conda, BASE.replace('"3.11"\n', '"3.11"\npackages = ["huggingface-hub==2.4.0"]\n'))
    assert error.id == "no-conda-package"
    assert "huggingface_hub" in error.message
    assert "[conda] without" in error.hint


def test_a_version_that_the_channel_lacks_with_the_nearest(conda: CondaLocker) -> None:
    text = BASE.replace("9.10.1.4", "9.5.1.17")
    error = refused(conda, text)
    assert error.id == "no-such-version"
    assert "conda-forge has no cudnn 9.5.1.17" in error.message
    assert '"9.3.0.75", "9.7.1.26" and "9.8.0.87"' in error.hint
    at(error, text, 'cudnn = "9.5.1.17"')


def test_an_image_may_differ_from_its_environment_where_that_is_declared(conda: CondaLocker) -> None:
    text = BASE.replace("9.10.1.4", "9.5.1.17").replace('["environment"]', '["image", "environment"]')
    assert '[conda.versions] cudnn = "9.3.0.75"' in refused(conda, text).hint


def test_a_c_library_that_is_too_old(conda: CondaLocker) -> None:
    text = BASE + '[conda]\nglibc = "2.17"\n'
    error = refused(conda, text)
    assert "needs __glibc >=2.28" in error.message
    assert "the recipe says 2.17" in error.message
    assert 'glibc = "2.28"' in error.hint
    at(error, text, 'glibc = "2.17"')


def test_what_was_built_after_the_day(conda: CondaLocker) -> None:
    error = refused(conda, BASE, date="2025-06-01")
    assert error.id == "too-new"
    assert "on 2025-06-18, after 2025-06-01" in error.message
    assert "--date 2025-06-18" in error.hint


def test_a_python_that_the_channel_lacks(conda: CondaLocker) -> None:
    error = refused(conda, BASE.replace('"3.11"', '"3.14"'))
    assert "conda-forge has no python 3.14" in error.message
    assert "3.13" in error.hint


def test_a_python_that_torch_was_not_built_for(conda: CondaLocker) -> None:
    error = refused(conda, BASE.replace('"3.11"', '"3.13"'))
    assert "Python 3.13 (python.version" in error.message
    assert "PyTorch 2.7.1" in error.message


def test_a_spec_that_is_none(conda: CondaLocker) -> None:
    text = BASE + '[conda]\npackages = ["gcc >=>1"]\n'
    error = refused(conda, text)
    assert error.id == "wrong-matchspec"
    at(error, text, 'packages = ["gcc >=>1"]')


def test_a_channel_that_lacks_what_a_package_depends_on(conda: CondaLocker) -> None:
    text = BASE + '[conda]\npackages = ["torchvision-extra-decoders ==9"]\n'
    assert refused(conda, text).id == "no-such-version"
    error = refused(conda, BASE.replace('"2.7.1"\n', '"2.7.1"\ntorchvision = "0.19.1"\n'))
    assert "torchvision ==0.19.1 cannot be installed even by itself" in error.message
    assert "cudatoolkit" in error.message


def test_what_is_no_channel_at_all(conda: CondaLocker, tmp_path: Path) -> None:
    error = refused(conda, BASE, f"conda-forge={channel(tmp_path / 'empty')}")
    assert error.id == "channel-wrong"
    assert "no packages at all" in error.message


def test_extras_have_no_equivalent(conda: CondaLocker) -> None:
    error = refused(conda, BASE.replace('"3.11"\n', '"3.11"\npackages = ["rich[jupyter]"]\n'))
    assert error.id == "no-conda-equivalent"
    assert "packages have no extras" in error.message
