"""The first strategy that fits, from the fastest to the one that needs the least memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from envbuild.advise.memory import Estimate, Job, Strategy, estimate
from envbuild.advise.units import GB, GPUS, memory_text
from envbuild.errors import EnvbuildError, Exit

TOKENS_PER_STEP = 524_288
"""Tokens of one optimizer step where no global batch is given: GPT-3's for its models up to 1.3B (table 2.1)."""
LARGEST_MICRO_BATCH = 64
_MOST_GPUS = 4096
_SHORTEST = 128

# (strategy, recompute activations). Recomputing costs a third more arithmetic, stage 3 half as much communication
# again (Rajbhandari et al. 2020, section 7), offloading the way over PCIe each step.
_LADDER = (
    (Strategy(stage=0), False),
    (Strategy(stage=1), False),
    (Strategy(stage=2), False),
    (Strategy(stage=0), True),
    (Strategy(stage=1), True),
    (Strategy(stage=2), True),
    (Strategy(stage=3), False),
    (Strategy(stage=3), True),
    (Strategy(stage=2, offload_optimizer=True), False),
    (Strategy(stage=2, offload_optimizer=True), True),
    (Strategy(stage=3, offload_optimizer=True), True),
    (Strategy(stage=3, offload_optimizer=True, offload_parameters=True), True),
)


_ONE_GPU = (
    Strategy(stage=2, offload_optimizer=True),
    Strategy(stage=3, offload_optimizer=True, offload_parameters=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user fixes: sequences per GPU and step, in all per optimizer step, recomputing; None leaves it open."""

    micro_batch: int | None = None
    global_batch: int | None = None
    checkpointing: bool | None = None


def name_of(strategy: Strategy, checkpointing: bool) -> str:
    """For people: ``ZeRO-3, optimizer on the CPU, recomputing activations``."""
    return strategy.name + (", recomputing activations" if checkpointing else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A rung of the ladder with one sequence per GPU (or the batch asked for), and why it was not taken, if so."""

    strategy: Strategy
    checkpointing: bool
    estimate: Estimate
    refused: str | None

    @property
    def name(self) -> str:
        """For people."""
        return name_of(self.strategy, self.checkpointing)

    def to_dict(self) -> dict[str, object]:
        """As the JSON output has it."""
        return {
            "strategy": self.strategy.name,
            "stage": self.strategy.stage,
            "offload_optimizer": self.strategy.offload_optimizer,
            "offload_parameters": self.strategy.offload_parameters,
            "checkpointing": self.checkpointing,
            "gpu": self.estimate.peak,
            "cpu": self.estimate.cpu,
            "refused": self.refused,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The answer: how to train, with what batch, and what was tried before it."""

    job: Job
    strategy: Strategy
    checkpointing: bool
    micro_batch: int
    accumulation: int
    estimate: Estimate
    tried: tuple[Candidate, ...]

    @property
    def name(self) -> str:
        """For people."""
        return name_of(self.strategy, self.checkpointing)

    @property
    def global_batch(self) -> int:
        """Sequences of one optimizer step."""
        return self.micro_batch * self.accumulation * self.job.gpus


def choose(job: Job, wish: Wish) -> Choice:
    """The first rung that fits, with the largest micro batch that does.

    Raises:
        EnvbuildError: ``does-not-fit``, exit 3, with what would; ``global-batch``, exit 2: not divisible by the GPUs.
    """
    _check_batches(job, wish)
    tried: list[Candidate] = []
    for strategy, checkpointing in _ladder(job, wish):
        candidate = _try(job, strategy, checkpointing, wish.micro_batch or 1)
        tried.append(candidate)
        if candidate.refused is None:
            micro = _micro_batch(job, strategy, checkpointing, wish)
            return Choice(
                job=job,
                strategy=strategy,
                checkpointing=checkpointing,
                micro_batch=micro,
                accumulation=_accumulation(job, wish, micro),
                estimate=estimate(job, strategy, micro_batch=micro, checkpointing=checkpointing),
                tried=tuple(tried),
            )
    raise _nothing_fits(job, wish, tried)


def _ladder(job: Job, wish: Wish) -> list[tuple[Strategy, bool]]:
    """The rungs that make sense: one GPU has nobody to share with, and only Adam has a CPU operator.

    Whether activations are recomputed is the user's to say; each rung is there once.
    """
    rungs = [
        (strategy, again if wish.checkpointing is None else wish.checkpointing)
        for strategy, again in _LADDER
        if (job.gpus > 1 or strategy.stage == 0 or strategy in _ONE_GPU)
        and (job.optimizer != "sgd" or not strategy.offload_optimizer)
    ]
    return list(dict.fromkeys(rungs))


def _try(job: Job, strategy: Strategy, checkpointing: bool, micro_batch: int) -> Candidate:
    found = estimate(job, strategy, micro_batch=micro_batch, checkpointing=checkpointing)
    refused = None
    if found.peak > job.gpu_memory:
        refused = f"needs {memory_text(found.peak)} on each GPU, which has {memory_text(job.gpu_memory)}"
    elif job.cpu_memory is not None and found.cpu > job.cpu_memory:
        refused = f"needs {memory_text(found.cpu)} of CPU memory, a node has {memory_text(job.cpu_memory)}"
    return Candidate(strategy=strategy, checkpointing=checkpointing, estimate=found, refused=refused)


def _check_batches(job: Job, wish: Wish) -> None:
    if wish.global_batch is None:
        return
    each = (wish.micro_batch or 1) * job.gpus
    if wish.global_batch % each:
        below = wish.global_batch // each * each
        near = " or ".join(str(number) for number in (below, below + each) if number)
        made = f"{job.gpus} GPUs" + (f" × micro batch {wish.micro_batch}" if wish.micro_batch else "")
        raise EnvbuildError(
            "global-batch",
            f"a global batch of {wish.global_batch} sequences is not a multiple of {made} = {each}",
            hint=f"write --global-batch {near.replace(' or ', ' or --global-batch ')}",
            exit=Exit.USAGE,
        )


def _micro_batch(job: Job, strategy: Strategy, checkpointing: bool, wish: Wish) -> int:
    """The largest power of two that fits and divides the sequences of a GPU in one optimizer step."""
    if wish.micro_batch is not None:
        return wish.micro_batch
    each = _sequences(job, wish)
    size = 1
    while size * 2 <= LARGEST_MICRO_BATCH and each % (size * 2) == 0:
        if _try(job, strategy, checkpointing, size * 2).refused is not None:
            break
        size *= 2
    return size


def _sequences(job: Job, wish: Wish) -> int:
    """Sequences of one GPU in one optimizer step: of the global batch, or the power of two nearest to the default."""
    if wish.global_batch is not None:
        return wish.global_batch // job.gpus
    wanted = TOKENS_PER_STEP / (job.model.sequence * job.gpus)
    size = 1
    while size * 2 <= wanted:
        size *= 2
    return size


def _accumulation(job: Job, wish: Wish, micro_batch: int) -> int:
    return max(1, _sequences(job, wish) // micro_batch)


def _nothing_fits(job: Job, wish: Wish, tried: list[Candidate]) -> EnvbuildError:
    rows = "\n  ".join(f"{candidate.name}: {candidate.refused}" for candidate in tried)
    helps = "; ".join(_what_would(job, wish)) or "a smaller model"
    return EnvbuildError(
        "does-not-fit",
        f"nothing fits with a micro batch of {wish.micro_batch or 1} and sequences of {job.model.sequence}:\n  {rows}",
        hint=f"what would: {helps}",
        exit=Exit.INPUT,
    )


def _fits(job: Job, wish: Wish) -> bool:
    size = wish.micro_batch or 1
    return any(_try(job, strategy, again, size).refused is None for strategy, again in _ladder(job, wish))


def _what_would(job: Job, wish: Wish) -> list[str]:
    """Single changes after which something fits, each tried."""
    found = []
    gpus = fewest_gpus(job, wish)
    if gpus is not None:
        found.append(f"--gpus {gpus}")
    sizes = sorted({size * GB for size in GPUS.values() if size * GB > job.gpu_memory})
    larger = next((size for size in sizes if _fits(replace(job, gpu_memory=size), wish)), None)
    if larger is not None:
        found.append(f"GPUs with {memory_text(larger)}")
    cpu = _least_cpu_memory(job, wish)
    if cpu is not None:
        found.append(f"--cpu-memory {-(-cpu // GB)}")
    if (wish.micro_batch or 1) > 1 and _fits(job, replace(wish, micro_batch=1)):
        found.append("--batch 1")
    if wish.checkpointing is False and _fits(job, replace(wish, checkpointing=None)):
        found.append("--checkpointing")
    sequence = _longest_sequence(job, wish)
    if sequence is not None:
        found.append(f"--sequence {sequence}")
    if job.optimizer == "sgd" and _fits(replace(job, optimizer="adamw"), wish):
        found.append("--optimizer adamw, which can be offloaded")
    return found


def _least_cpu_memory(job: Job, wish: Wish) -> int | None:
    """Bytes of CPU memory of a node with which something fits; None where that is not what lacks."""
    if job.cpu_memory is None:
        return None
    free, size = replace(job, cpu_memory=None), wish.micro_batch or 1
    rungs = [_try(free, strategy, again, size) for strategy, again in _ladder(job, wish)]
    return min((rung.estimate.cpu for rung in rungs if rung.refused is None), default=None)


def _longest_sequence(job: Job, wish: Wish) -> int | None:
    sequence = job.model.sequence // 2
    while sequence >= _SHORTEST:
        if _fits(replace(job, model=replace(job.model, sequence=sequence)), wish):
            return sequence
        sequence //= 2
    return None


def fewest_gpus(job: Job, wish: Wish, *, on_gpus_only: bool = False) -> int | None:
    """How many GPUs of this kind are enough, doubling from twice as many; None where 4096 are not.

    Args:
        job: what is to be trained.
        wish: what is fixed; its micro batch counts, its global batch does not.
        on_gpus_only: without anything in CPU memory.
    """
    gpus = 2 * job.gpus
    size = wish.micro_batch or 1
    while gpus <= _MOST_GPUS:
        more = replace(job, gpus=gpus)
        if any(
            _try(more, strategy, again, size).refused is None
            for strategy, again in _ladder(more, wish)
            if not (on_gpus_only and strategy.offload_optimizer)
        ):
            return gpus
        gpus *= 2
    return None
