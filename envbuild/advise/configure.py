"""The DeepSpeed configuration of a choice. It passes the check of this folder and DeepSpeed's own reader."""

from __future__ import annotations

from typing import Any

from envbuild.advise.choose import Choice
from envbuild.advise.shapes import learning_rate

_OFFLOAD = {"device": "cpu", "pin_memory": True}


def configuration(choice: Choice) -> dict[str, Any]:
    """What ``deepspeed --deepspeed_config FILE`` takes: batch sizes, precision, optimizer, ZeRO."""
    job = choice.job
    config: dict[str, Any] = {
        "train_batch_size": choice.global_batch,
        "train_micro_batch_size_per_gpu": choice.micro_batch,
        "gradient_accumulation_steps": choice.accumulation,
        "gradient_clipping": 1.0,
        job.dtype: {"enabled": True},
        "optimizer": _optimizer(job.optimizer, learning_rate(job.model.parameters)),
        "zero_optimization": _zero(choice),
        "steps_per_print": 10,
    }
    if job.optimizer == "sgd" and choice.strategy.stage:
        config["zero_allow_untested_optimizer"] = True
    return config


def _optimizer(name: str, rate: float) -> dict[str, Any]:
    if name == "sgd":
        return {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9}}
    params: dict[str, Any] = {"lr": rate, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
    if name == "adam":
        return {"type": "Adam", "params": {**params, "weight_decay": 0.0, "adam_w_mode": False}}
    return {"type": "AdamW", "params": params}


def _zero(choice: Choice) -> dict[str, Any]:
    job, strategy = choice.job, choice.strategy
    zero: dict[str, Any] = {"stage": strategy.stage}
    if strategy.stage == 0:
        return zero
    zero |= {"overlap_comm": True, "contiguous_gradients": True}
    if strategy.stage < 3:
        bucket = job.reduce_bucket
        zero |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    else:
        zero |= {
            "reduce_bucket_size": job.stage3_bucket,
            "stage3_prefetch_bucket_size": max(1, job.stage3_bucket * 9 // 10),
            "stage3_param_persistence_threshold": 10 * job.model.hidden,
            "stage3_max_live_parameters": job.live_parameters,
            "stage3_max_reuse_distance": job.live_parameters,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    if strategy.offload_optimizer:
        zero["offload_optimizer"] = dict(_OFFLOAD)
    if strategy.offload_parameters:
        zero["offload_param"] = dict(_OFFLOAD)
    return zero
