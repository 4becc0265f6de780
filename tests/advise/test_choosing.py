"""Which strategy is chosen, with what batch, and what is said where nothing fits."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envbuild.advise import Job, Level, Wish, check_config, choose, configuration, parse_memory, shape
from envbuild.advise import report as reports
from envbuild.advise.units import GPUS
from envbuild.errors import EnvbuildError, Exit


def job(size: float, gpus: int, gpu: str = "h100", **more: Any) -> Job:
    return Job(model=shape(int(size)), gpus=gpus, gpu_memory=parse_memory(gpu, "--gpu-memory"), **more)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (job(125e6, 2), "DDP"),
        (job(125e6, 1, "t4"), "DDP"),
        (job(1.3e9, 2), "DDP"),
        (job(7e9, 4), "ZeRO-1"),
        (job(13e9, 8), "ZeRO-2"),
        (job(30e9, 16), "ZeRO-3"),
        (job(70e9, 64), "ZeRO-3, recomputing activations"),
        (job(7e9, 1, "4090"), "ZeRO-2, optimizer on the CPU, recomputing activations"),
        (job(70e9, 8), "ZeRO-3, optimizer on the CPU, recomputing activations"),
        (job(70e9, 2, "4090"), "ZeRO-3, optimizer and parameters on the CPU, recomputing activations"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.model.parameters / 1e9:g}b-{value.gpus}",
)
def test_the_first_that_fits_is_chosen(asked: Job, name: str) -> None:
    choice = choose(asked, Wish())
    assert choice.name == name
    assert choice.estimate.peak <= asked.gpu_memory
    assert [candidate.refused is None for candidate in choice.tried] == [False] * (len(choice.tried) - 1) + [
        True
    ]


def test_the_micro_batch_is_the_largest_that_fits() -> None:
    choice = choose(job(350e6, 2), Wish())
    assert choice.micro_batch > 1
    with pytest.raises(EnvbuildError, match="nothing fits"):
        choose(job(350e6, 2), Wish(micro_batch=100_000))


def test_batches_multiply_to_the_global_batch() -> None:
    choice = choose(job(7e9, 4), Wish(global_batch=96))
    assert choice.micro_batch * choice.accumulation * 4 == choice.global_batch == 96
    assert choose(job(7e9, 4), Wish(micro_batch=1, global_batch=96)).accumulation == 24


def test_about_half_a_million_tokens_without_a_global_batch() -> None:
    choice = choose(job(7e9, 4), Wish())
    assert choice.global_batch * choice.job.model.sequence == 524_288


@pytest.mark.parametrize(
    ("wish", "hint"),
    [
        (Wish(global_batch=98), "write --global-batch 96 or --global-batch 100"),
        (Wish(global_batch=2), "write --global-batch 4"),
        (Wish(global_batch=100, micro_batch=2), "write --global-batch 96 or --global-batch 104"),
    ],
)
def test_a_global_batch_that_cannot_be_divided_is_refused(wish: Wish, hint: str) -> None:
    with pytest.raises(EnvbuildError) as caught:
        choose(job(7e9, 4), wish)
    assert (caught.value.id, caught.value.exit, caught.value.hint) == ("global-batch", Exit.USAGE, hint)


@pytest.mark.parametrize("wanted", [False, True])
def test_recomputing_is_the_users_to_say(wanted: bool) -> None:
    choice = choose(job(30e9, 16), Wish(checkpointing=wanted))
    assert {candidate.checkpointing for candidate in choice.tried} == {wanted}


def test_cpu_memory_is_checked_where_it_is_known() -> None:
    assert choose(job(7e9, 1, "4090", cpu_memory=200 * 10**9), Wish()).strategy.offload_optimizer
    with pytest.raises(EnvbuildError) as caught:
        choose(job(7e9, 1, "4090", cpu_memory=64 * 10**9), Wish())
    assert "of CPU memory, a node has 64.0 GB" in caught.value.message
    assert "--cpu-memory 168" in caught.value.hint


def test_where_nothing_fits_what_would_is_true() -> None:
    """Each single change that the hint names is tried here."""
    asked = job(70e9, 2, "4090", cpu_memory=100 * 10**9)
    with pytest.raises(EnvbuildError) as caught:
        choose(asked, Wish())
    error = caught.value
    assert (error.id, error.exit) == ("does-not-fit", Exit.INPUT)
    gpus = int(re.search(r"--gpus (\d+)", error.hint)[1])  # type: ignore[index]  # the assertion is that it is there
    cpu = int(re.search(r"--cpu-memory (\d+)", error.hint)[1])  # type: ignore[index]
    assert choose(job(70e9, gpus, "4090", cpu_memory=100 * 10**9), Wish()).micro_batch >= 1
    assert choose(job(70e9, 2, "4090", cpu_memory=cpu * 10**9), Wish()).strategy.offload_parameters
    with pytest.raises(EnvbuildError):
        choose(job(70e9, gpus // 2, "4090", cpu_memory=100 * 10**9), Wish())


def test_a_shorter_sequence_or_larger_gpu_is_offered_where_it_helps() -> None:
    asked = Job(model=shape(7_000_000_000, sequence=262_144), gpus=2, gpu_memory=24 * 10**9)
    with pytest.raises(EnvbuildError) as caught:
        choose(asked, Wish())
    sequence = int(re.search(r"--sequence (\d+)", caught.value.hint)[1])  # type: ignore[index]
    shorter = Job(model=shape(7_000_000_000, sequence=sequence), gpus=2, gpu_memory=24 * 10**9)
    assert choose(shorter, Wish()).micro_batch == 1


def test_memory_for_nothing_at_all_is_one_error() -> None:
    with pytest.raises(EnvbuildError) as caught:
        choose(Job(model=shape(125_000_000), gpus=1, gpu_memory=10**8), Wish())
    assert "GPUs with" in caught.value.hint


def test_sgd_is_not_offloaded_and_says_so() -> None:
    with pytest.raises(EnvbuildError) as caught:
        choose(job(30e9, 1, optimizer="sgd"), Wish())
    assert "--optimizer adamw" in caught.value.hint
    assert "on the CPU" not in caught.value.message


def test_the_report_names_parts_formulas_and_reasons() -> None:
    choice = choose(job(70e9, 8), Wish())
    text = reports.text(choice, Wish())
    for part in choice.estimate.parts:
        assert part.id in text
        assert part.formula in text
    assert "as LLaMA 65B" in text or "as Llama 2 70B" in text
    assert "GPUs would hold it without the CPU's memory" in text
    assert "torch.utils.checkpoint" in text
    assert "ZeRO-3, recomputing activations needs" in text


SIZES = st.sampled_from([10_000, 5_000_000, 125_000_000, 7_000_000_000, 70_000_000_000, 10**12])


@settings(max_examples=60, deadline=None)
@given(
    size=SIZES,
    gpus=st.sampled_from([1, 2, 3, 4, 7, 8, 64, 1000]),
    gpu=st.sampled_from(sorted(GPUS)),
    dtype=st.sampled_from(["bf16", "fp16"]),
    optimizer=st.sampled_from(["adamw", "adam", "sgd"]),
    checkpointing=st.sampled_from([None, False, True]),
    micro=st.sampled_from([None, 1, 3]),
)
def test_every_configuration_that_is_given_passes_the_check(
    size: int, gpus: int, gpu: str, dtype: str, optimizer: str, checkpointing: bool | None, micro: int | None
) -> None:
    asked = job(size, gpus, gpu, dtype=dtype, optimizer=optimizer)
    try:
        choice = choose(asked, Wish(micro_batch=micro, checkpointing=checkpointing))
    except EnvbuildError:
        return  # too large; what is said then is tested above
    problems = check_config(json.dumps(configuration(choice)), gpus=gpus)
    assert [problem for problem in problems if problem.level is Level.ERROR] == []
    assert {problem.id for problem in problems} <= (
        {"cpu-adam"} if choice.strategy.offload_optimizer else set()
    )
    assert choice.estimate.peak <= asked.gpu_memory
