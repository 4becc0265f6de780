"""A choice as people read it, and as JSON."""

from __future__ import annotations

from typing import Any

from envbuild.advise.choose import Choice, Wish, fewest_gpus
from envbuild.advise.configure import configuration
from envbuild.advise.memory import GPUS_OF_A_NODE, Part
from envbuild.advise.units import count_text, memory_text


def reasons(choice: Choice, wish: Wish) -> tuple[str, ...]:
    """Why this one, what has to be done besides, and what would be faster."""
    job, strategy = choice.job, choice.strategy
    found = [f"{candidate.name} {candidate.refused}" for candidate in choice.tried if candidate.refused]
    found.append(
        f"{choice.name} fits: {memory_text(choice.estimate.peak)} of {memory_text(job.gpu_memory)} on each GPU"
    )
    if strategy.stage == 0:
        found.append("stage 0 is DDP: each GPU holds the whole model, and gradients are averaged")
    if choice.checkpointing:
        found.append(
            "activations are recomputed: wrap each layer in torch.utils.checkpoint.checkpoint(layer, x, "
            "use_reentrant=False), or model.gradient_checkpointing_enable() with transformers; the "
            "configuration alone does not do it"
        )
    if strategy.stage == 3:
        found.append(
            "build the model under `with deepspeed.zero.Init():`, or every process first holds all of it"
        )
    if strategy.offload_optimizer:
        found.append(_on_the_cpu(choice))
        more = fewest_gpus(job, wish, on_gpus_only=True)
        if more is not None:
            found.append(f"{more} GPUs would hold it without the CPU's memory, and train much faster")
    if choice.job.dtype == "fp16":
        found.append("fp16 with dynamic loss scaling; bf16 needs none, on GPUs since the A100")
    if wish.global_batch is None:
        tokens = choice.global_batch * job.model.sequence
        found.append(
            f"{choice.global_batch} sequences ({tokens:,} tokens) a step, as GPT-3's small models; "
            "--global-batch sets another"
        )
    found.append("an estimate: the first steps show the peak (torch.cuda.max_memory_allocated)")
    return tuple(found)


def _on_the_cpu(choice: Choice) -> str:
    job = choice.job
    need = memory_text(choice.estimate.cpu)
    nodes = f" on each of {job.nodes} nodes" if job.nodes > 1 else ""
    known = "" if job.cpu_memory is not None else ", which was not checked (--cpu-memory)"
    return (
        f"{need} of CPU memory{nodes}{known}; the optimizer is DeepSpeedCPUAdam, compiled when first used: "
        "take a -devel image"
    )


def _setting(choice: Choice) -> tuple[str, ...]:
    job, model = choice.job, choice.job.model
    gpus = f"{job.gpus} GPU" + ("s" if job.gpus > 1 else "")
    if job.nodes > 1:
        gpus += f" ({job.nodes} nodes of up to {GPUS_OF_A_NODE})"
    return (
        f"{count_text(model.parameters)} parameters: {model.layers} layers, hidden {model.hidden}, "
        f"vocabulary {model.vocabulary}, sequences of {model.sequence} ({model.origin})",
        f"{gpus} of {memory_text(job.gpu_memory)}, {job.dtype}, {job.optimizer}",
    )


def _table(choice: Choice) -> list[str]:
    estimate = choice.estimate
    rows: list[tuple[str, str, str, str, str]] = [("", "backward", "step", "formula", "source")]
    rows += [_row(part) for part in estimate.parts]
    rows.append(("sum", memory_text(estimate.backward), memory_text(estimate.step), "", ""))
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"  {row[0]:<{wide[0]}}  {row[1]:>{wide[1]}}  {row[2]:>{wide[2]}}  {row[3]:<{wide[3]}}  {row[4]}".rstrip()
        for row in rows
    ]


def _row(part: Part) -> tuple[str, str, str, str, str]:
    amounts = [memory_text(amount) if amount else "0" for amount in (part.backward, part.step)]
    return part.id, amounts[0], amounts[1], part.formula, part.source


def text(choice: Choice, wish: Wish) -> str:
    """Setting, answer, the table of one GPU, and the reasons."""
    answer = f"{choice.name}: micro batch {choice.micro_batch}, accumulation {choice.accumulation}"
    return "\n".join(
        [
            *_setting(choice),
            answer,
            "",
            "memory of one GPU at the start of the backward pass and in the optimizer's step",
            "(N parameters, n GPUs; s sequence, b micro batch, h hidden, L layers, a heads, V vocabulary)",
            *_table(choice),
            "",
            *(f"- {reason}" for reason in reasons(choice, wish)),
        ]
    )


def to_dict(choice: Choice, wish: Wish) -> dict[str, Any]:
    """The document of ``envbuild advise --json`` (docs/reference/advise.md)."""
    job, model = choice.job, choice.job.model
    return {
        "model": {
            "parameters": model.parameters,
            "layers": model.layers,
            "hidden": model.hidden,
            "heads": model.heads,
            "vocabulary": model.vocabulary,
            "sequence": model.sequence,
            "origin": model.origin,
        },
        "gpus": job.gpus,
        "nodes": job.nodes,
        "gpu_memory": job.gpu_memory,
        "cpu_memory": job.cpu_memory,
        "dtype": job.dtype,
        "optimizer": job.optimizer,
        "flash_attention": job.flash,
        "strategy": choice.strategy.name,
        "stage": choice.strategy.stage,
        "offload_optimizer": choice.strategy.offload_optimizer,
        "offload_parameters": choice.strategy.offload_parameters,
        "checkpointing": choice.checkpointing,
        "micro_batch": choice.micro_batch,
        "accumulation": choice.accumulation,
        "global_batch": choice.global_batch,
        "memory": {
            "parts": [part.to_dict() for part in choice.estimate.parts],
            "backward": choice.estimate.backward,
            "step": choice.estimate.step,
            "peak": choice.estimate.peak,
            "allocated": choice.estimate.allocated,
            "cpu": choice.estimate.cpu,
        },
        "tried": [candidate.to_dict() for candidate in choice.tried],
        "reasons": list(reasons(choice, wish)),
        "config": configuration(choice),
    }
