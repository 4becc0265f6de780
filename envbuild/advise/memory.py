"""Memory per GPU, by part, with the formula of each part and where it comes from.

Two moments are counted, because not everything is there at once: the start of the backward pass (activations and
logits) and the optimizer's step (gradients in fp32). The peak is the larger sum. docs/explanation/memory.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from envbuild.advise.shapes import Model
from envbuild.advise.units import GB

RAJBHANDARI = "Rajbhandari et al. 2020 (ZeRO), section 3.1"
KORTHIKANTI = "Korthikanti et al. 2022, equations 2 and 6"
ESTIMATOR = "DeepSpeed's estimate_zero{stage}_model_states_mem_needs"
SOURCE = "DeepSpeed 0.19.8, "

CONTEXT = 2 * GB
"""Outside torch's allocator: CUDA's context, the loaded kernels, NCCL's buffers."""
FRAGMENTATION = 0.05
"""The part of a GPU that the caching allocator holds and cannot use."""
STATE_BYTES = {"adamw": 8, "adam": 8, "sgd": 4}
"""Optimizer states for each parameter: momentum and variance in fp32; SGD has momentum only."""
LOGIT_BYTES = 14
"""For each token and word at the start of the backward pass: logits in 16 bits (2), log-softmax in fp32, kept (4),
its gradient (4) and the gradient of the logits in fp32 (4)."""
SUB_GROUP = 1_000_000_000
GPUS_OF_A_NODE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How states are spread: ZeRO ``stage`` (0: DDP, every GPU holds everything) and what lies in CPU memory."""

    stage: int
    offload_optimizer: bool = False
    offload_parameters: bool = False

    @property
    def name(self) -> str:
        """For people: ``DDP``, ``ZeRO-2``, ``ZeRO-3 + optimizer and parameters on the CPU``."""
        stage = f"ZeRO-{self.stage}" if self.stage else "DDP"
        if self.offload_parameters:
            return f"{stage}, optimizer and parameters on the CPU"
        return f"{stage}, optimizer on the CPU" if self.offload_optimizer else stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be trained, and on what. Memory in bytes; ``cpu_memory`` of one node, None where not known.

    ``flash``: attention does not keep the s×s scores (scaled_dot_product_attention, FlashAttention).
    """

    model: Model
    gpus: int
    gpu_memory: int
    cpu_memory: int | None = None
    dtype: str = "bf16"
    optimizer: str = "adamw"
    flash: bool = True

    @property
    def nodes(self) -> int:
        """Nodes of eight GPUs."""
        return ceil(self.gpus / GPUS_OF_A_NODE)

    @property
    def reduce_bucket(self) -> int:
        """Elements that are reduced at once in stages 1 and 2: 200 million on GPUs from 40 GB, else 50 million."""
        return min(self.model.parameters, 200_000_000 if self.gpu_memory >= 40 * GB else 50_000_000)

    @property
    def stage3_bucket(self) -> int:
        """Elements that are reduced at once in stage 3: h², the rule of transformers' "auto"."""
        return max(1, min(self.model.parameters, self.model.hidden**2))

    @property
    def live_parameters(self) -> int:
        """Parameters that stage 3 may hold gathered: DeepSpeed's 10^9, and a fifth of that below 40 GB."""
        return 1_000_000_000 if self.gpu_memory >= 40 * GB else 200_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One line of the table: bytes at the start of the backward pass and in the optimizer's step."""

    id: str
    backward: int
    step: int
    formula: str
    source: str

    def to_dict(self) -> dict[str, str | int]:
        """As the JSON output has it."""
        return {
            "id": self.id,
            "backward": self.backward,
            "step": self.step,
            "formula": self.formula,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The parts of one GPU, and bytes of CPU memory that a node needs."""

    parts: tuple[Part, ...]
    cpu: int

    @property
    def backward(self) -> int:
        """Bytes at the start of the backward pass."""
        return sum(part.backward for part in self.parts)

    @property
    def step(self) -> int:
        """Bytes in the optimizer's step."""
        return sum(part.step for part in self.parts)

    @property
    def peak(self) -> int:
        """The larger of both moments."""
        return max(self.backward, self.step)

    @property
    def allocated(self) -> int:
        """The peak without what lies outside torch's allocator: what ``torch.cuda.max_memory_allocated`` measures."""
        outside = sum(part.step for part in self.parts if part.id in ("context", "fragmentation"))
        return self.peak - outside


def estimate(job: Job, strategy: Strategy, *, micro_batch: int, checkpointing: bool) -> Estimate:
    """The memory that ``strategy`` takes for a micro batch of that many sequences on each GPU."""
    parts = (
        *model_states(job, strategy),
        *_buffers(job, strategy),
        *_activations(job, micro_batch, checkpointing),
        Part(
            id="context",
            backward=CONTEXT,
            step=CONTEXT,
            formula="2 GB",
            source="1.9 GB were seen on two H200s",
        ),
        Part(
            id="fragmentation",
            backward=int(job.gpu_memory * FRAGMENTATION),
            step=int(job.gpu_memory * FRAGMENTATION),
            formula="5% of the GPU",
            source="a reserve, by experience",
        ),
    )
    return Estimate(parts=parts, cpu=cpu_memory(job, strategy))


def model_states(job: Job, strategy: Strategy) -> tuple[Part, ...]:
    """Parameters, gradients, master weights and optimizer states; in the step the gradients in fp32 besides."""
    n, gpus = job.model.parameters, job.gpus
    stage, held = strategy.stage, not strategy.offload_optimizer
    own = "N/n" if stage else "N"
    share = ceil(n / gpus) if stage else n
    weights = 0 if strategy.offload_parameters else 2 * (share if stage == 3 else n)
    gradients = 2 * (n if stage < 2 else share) if held else 0
    states = STATE_BYTES[job.optimizer]
    wide = _wide_gradients(share, stage) if held else 0
    estimator = ESTIMATOR.format(stage=stage) if stage >= 2 else RAJBHANDARI
    wide_formula = {0: "4N + 4N (converted, then made flat)", 3: "4·min(N/n, sub_group_size)"}.get(
        stage, "4N/n"
    )

    def part(id: str, backward: int, step: int, formula: str, source: str) -> Part:
        there = backward or step
        return Part(
            id=id, backward=backward, step=step, formula=formula if there else "on the CPU", source=source
        )

    return (
        part("parameters", weights, weights, "2N/n" if stage == 3 else "2N", RAJBHANDARI),
        part("gradients", gradients, gradients, "2N" if stage < 2 else "2N/n", RAJBHANDARI),
        part("master weights", 4 * share * held, 4 * share * held, f"4{own}", RAJBHANDARI),
        part("optimizer states", states * share * held, states * share * held, f"{states}{own}", RAJBHANDARI),
        part(
            "gradients in fp32",
            0,
            wide,
            wide_formula,
            estimator if stage else SOURCE + "fp16/fused_optimizer.py",
        ),
    )


def _wide_gradients(share: int, stage: int) -> int:
    """DDP converts each gradient and then makes all of them one flat tensor; ZeRO does its share, stage 3 by groups."""
    if stage == 0:
        return 8 * share
    return 4 * (min(share, SUB_GROUP) if stage == 3 else share)


def _norm(job: Job, strategy: Strategy) -> tuple[Part, ...]:
    """What the norm of the largest gradient, in fp64, takes beyond the gradients in fp32 that come after it."""
    share = ceil(job.model.parameters / job.gpus)
    if strategy.offload_optimizer:
        return ()
    more = 8 * min(share, job.model.largest_layer) - _wide_gradients(share, strategy.stage)
    if more <= 0:
        return ()
    formula = "8·largest layer - gradients in fp32"
    source = SOURCE + "zero/utils.py: get_norm_dtype"
    return (Part(id="norm in fp64", backward=0, step=more, formula=formula, source=source),)


def _buffers(job: Job, strategy: Strategy) -> tuple[Part, ...]:
    if strategy.stage == 0:
        return ()
    if strategy.stage < 3:
        size = 2 * 2 * job.reduce_bucket
        source = SOURCE + "zero/stage_1_and_2.py: two buffers with overlap_comm"
        return (
            Part(id="buckets", backward=size, step=size, formula="2·2·reduce_bucket_size", source=source),
            *_norm(job, strategy),
        )
    gathered = 2 * min(job.model.parameters, job.live_parameters)
    largest = 2 * job.model.largest_layer
    bucket = 2 * 2 * job.stage3_bucket
    return (
        Part(
            id="gathered parameters",
            backward=gathered + largest,
            step=0,
            formula="2·min(N, max_live_parameters) + 2·largest layer",
            source=SOURCE + "zero/partitioned_param_coordinator.py; " + ESTIMATOR.format(stage=3),
        ),
        Part(
            id="buckets",
            backward=bucket,
            step=0,
            formula="2·2·reduce_bucket_size",
            source=SOURCE + "zero/stage3.py",
        ),
        *_norm(job, strategy),
    )


def activations(model: Model, micro_batch: int, *, checkpointing: bool, flash: bool) -> int:
    """Bytes that the layers keep for the backward pass: L·s·b·h·34, or L·2·s·b·h and one layer when recomputed.

    Without flash attention 5·a·s²·b is added for each layer that is kept (Korthikanti et al. 2022, equation 2).
    """
    token = model.sequence * micro_batch
    layer = 34 * token * model.hidden + (0 if flash else 5 * model.heads * model.sequence * token)
    ends = 4 * token * model.hidden
    if checkpointing:
        return model.layers * 2 * token * model.hidden + layer + ends
    return model.layers * layer + ends


def _activations(job: Job, micro_batch: int, checkpointing: bool) -> tuple[Part, ...]:
    model = job.model
    kept = activations(model, micro_batch, checkpointing=checkpointing, flash=job.flash)
    one = "34sbh" if job.flash else "(34sbh + 5as²b)"
    formula = f"2sbhL + {one} + 4sbh" if checkpointing else f"{one}·L + 4sbh"
    logits = LOGIT_BYTES * model.sequence * micro_batch * model.vocabulary
    source = "counted: 2 + 4 + 4 + 4 bytes; Korthikanti et al. count 4"
    return (
        Part(id="activations", backward=kept, step=0, formula=formula, source=KORTHIKANTI),
        Part(id="logits", backward=logits, step=0, formula=f"{LOGIT_BYTES}sbV", source=source),
    )


def cpu_memory(job: Job, strategy: Strategy) -> int:
    """Bytes of CPU memory that a node needs, by DeepSpeed's estimators with their factor of 1.5 for buffers."""
    n = job.model.parameters
    if not strategy.offload_optimizer:
        return 0
    if strategy.stage < 3:
        return int(n * max(4 * job.gpus, 16) * 1.5)
    return int(n * (18 if strategy.offload_parameters else 16) / job.nodes * 1.5)
