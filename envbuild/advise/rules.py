"""What contradicts itself in a DeepSpeed configuration whose keys may all be right.

Each rule names what DeepSpeed 0.19.8 does there: most of them are assertions of its reader and engine
(runtime/config.py, runtime/engine.py, runtime/zero/config.py), the rest are values that it drops without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from envbuild.advise.document import Member, Value
from envbuild.advise.known import Known
from envbuild.advise.problem import Level, Problem, at
from envbuild.recipe.suggest import nearest

BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
SUPPORTED_WITH_ZERO = frozenset(("adam", "adamw", "adagrad", "lion", "muon", "muadam", "muadamw"))
"""Optimizers that ZeRO takes without `zero_allow_untested_optimizer` (runtime/zero/utils.py)."""
OF_TORCH = frozenset(
    (
        "ASGD",
        "Adadelta",
        "Adafactor",
        "Adamax",
        "LBFGS",
        "NAdam",
        "RAdam",
        "RMSprop",
        "Rprop",
        "SGD",
        "SparseAdam",
    )
)
"""Classes of torch.optim besides those that DeepSpeed has an own name for."""
_STAGE_3 = 3


def contradictions(config: Value, known: Known, *, gpus: int | None) -> Iterator[Problem]:
    """Every contradiction in ``config``, an object. ``gpus``: how many processes will train, where that is known."""
    yield from _batches(config, gpus)
    yield from _precision(config)
    yield from _stages(config, known)
    yield from _offload(config)
    yield from _optimizer(config, known)
    yield from _scheduler(config, known)


def _member(value: Value, path: str) -> Member | None:
    found: Member | None = None
    for name in path.split("."):
        found = (found.value if found else value).members().get(name)
        if found is None:
            return None
    return found


def _data(value: Value, path: str) -> object:
    found = _member(value, path)
    return None if found is None else found.value.data


def _stage(config: Value) -> int | None:
    """The stage; None where it cannot be told (which is a problem of its own)."""
    zero = _data(config, "zero_optimization")
    if isinstance(zero, bool):
        return int(zero)
    stage = _data(config, "zero_optimization.stage")
    if isinstance(stage, str) and stage.isdecimal() and len(stage) < 10:
        return int(stage)
    return 0 if stage is None else _whole(stage)


def _whole(data: object) -> int | None:
    if isinstance(data, bool) or not isinstance(data, int | float) or data != data // 1:
        return None
    return int(data)


def _batches(config: Value, gpus: int | None) -> Iterator[Problem]:
    members = {name: _member(config, name) for name in BATCH}
    if members[BATCH[0]] is None and members[BATCH[1]] is None:
        fix = f'write "{BATCH[1]}": 1 and "{BATCH[2]}": 1'
        yield at(config, "no-batch-size", "", f"DeepSpeed needs {BATCH[0]} or {BATCH[1]}", fix)
    numbers: dict[str, int] = {}
    for name, member in members.items():
        number = None if member is None else _whole(member.value.data)
        if member is not None and number is not None:
            if number <= 0:
                yield at(member.value, "wrong-value", name, f"{number} is not allowed", "at least 1")
                return
            numbers[name] = number
    if sum(member is not None for member in members.values()) > len(numbers):
        return  # "auto", or a type that is told already
    yield from _product(members, numbers, gpus)


def _product(
    members: Mapping[str, Member | None], numbers: Mapping[str, int], gpus: int | None
) -> Iterator[Problem]:
    total, micro, steps = (numbers.get(name) for name in BATCH)
    place = members[BATCH[0]]
    if total is None or place is None:
        return
    divisor = (micro or 1) * (steps or 1)
    if gpus is not None and micro is not None and steps is not None and total != divisor * gpus:
        text = f"{total} is not {micro} (micro batch) × {steps} (accumulation) × {gpus} (GPUs) = {divisor * gpus}"
        yield at(place, "batch-sizes", BATCH[0], text, f"write {divisor * gpus}, or delete one of the three")
    elif total % (divisor * (gpus or 1)):
        product = " × ".join(str(n) for n in (micro, steps, gpus) if n is not None)
        text = f"{total} is not a multiple of {product} = {divisor * (gpus or 1)}"
        yield at(
            place,
            "batch-sizes",
            BATCH[0],
            text,
            "it is micro batch × accumulation × GPUs; delete one of them",
        )


def _precision(config: Value) -> Iterator[Problem]:
    bf16 = _member(config, "bf16") or _member(config, "bfloat16")
    old = _member(config, "bfloat16")
    if old is not None and _member(config, "bf16") is not None:
        yield at(
            old, "two-spellings", "bfloat16", "bf16 is there too, and DeepSpeed ignores this one", "delete it"
        )
    name = "bf16" if _member(config, "bf16") else "bfloat16"
    if bf16 and _data(config, f"{name}.enabled") is True and _data(config, "fp16.enabled") is True:
        yield at(
            bf16,
            "fp16-and-bf16",
            name,
            "fp16 and bf16 are both enabled; DeepSpeed refuses",
            "keep one of them",
        )
    for path in (f"{name}.bf16_master_weights_and_grads", "fp16.fp16_master_weights_and_grads"):
        member = _member(config, path)
        if member is not None and member.value.data is True and _stage(config) == 0:
            yield at(
                member,
                "needs-zero",
                path,
                "works with ZeRO stage 1, 2 or 3 only",
                "set zero_optimization.stage",
            )
    states = _member(config, f"{name}.bf16_optimizer_states")
    if (
        states
        and states.value.data is True
        and _data(config, f"{name}.bf16_master_weights_and_grads") is not True
    ):
        path = f"{name}.bf16_optimizer_states"
        yield at(states, "needs-key", path, "needs bf16_master_weights_and_grads too", "set that to true")


def _stages(config: Value, known: Known) -> Iterator[Problem]:
    zero = _member(config, "zero_optimization")
    if zero is not None and isinstance(zero.value.data, bool):
        fix = f'write {{"stage": {int(zero.value.data)}}}'
        yield at(
            zero,
            "deprecated-key",
            "zero_optimization",
            "true or false here is deprecated",
            fix,
            Level.WARNING,
        )
    stage = _stage(config)
    if zero is None or stage is None:
        return
    if stage != _STAGE_3:
        section = known.top.keys["zero_optimization"].section
        for name, member in zero.value.members().items():
            if name.startswith("stage3_") and section is not None and name in section.keys:
                text = f"has no effect in stage {stage}"
                yield at(
                    member, "wrong-stage", f"zero_optimization.{name}", text, "set stage 3, or delete it"
                )
    norm = _member(config, "zero_optimization.compute_grad_norm")
    if norm is not None and norm.value.data is False and stage not in (1, 2):
        path = "zero_optimization.compute_grad_norm"
        yield at(norm, "wrong-stage", path, "false works with stage 1 or 2 only", "delete it")
    operation = _member(config, "gradient_allreduce_op")
    if operation is not None and operation.value.data == "sum" and stage == _STAGE_3:
        yield at(
            operation,
            "wrong-stage",
            "gradient_allreduce_op",
            '"sum" does not work with stage 3',
            'write "mean"',
        )


def _offload(config: Value) -> Iterator[Problem]:
    stage = _stage(config)
    if stage is None:
        return
    for name, stages in (("offload_param", (3,)), ("offload_optimizer", (1, 2, 3))):
        path = f"zero_optimization.{name}"
        member = _member(config, path)
        device = _data(config, f"{path}.device")
        if member is None or device not in ("cpu", "nvme"):
            continue
        if stage not in stages:
            wanted = "stage 3" if len(stages) == 1 else "stage 1, 2 or 3"
            yield at(
                member, "wrong-stage", path, f"needs {wanted}, and the stage is {stage}", f"set {wanted}"
            )
        if device == "nvme" and not _data(config, f"{path}.nvme_path"):
            yield at(member, "needs-key", path, 'device "nvme" needs nvme_path', "name a folder on the drive")
    ratio = _member(config, "zero_optimization.offload_optimizer.ratio")
    if ratio and isinstance(ratio.value.data, int | float) and ratio.value.data < 1 and stage != _STAGE_3:
        path = "zero_optimization.offload_optimizer.ratio"
        yield at(ratio, "wrong-stage", path, "below 1 works with stage 3 only", "delete it")
    for old, new in (("cpu_offload", "offload_optimizer"), ("cpu_offload_param", "offload_param")):
        member = _member(config, f"zero_optimization.{old}")
        if member is not None and _member(config, f"zero_optimization.{new}") is not None:
            text = f"{new} is there too; DeepSpeed refuses both together"
            yield at(member, "two-spellings", f"zero_optimization.{old}", text, "delete it")


def _offloads_optimizer(config: Value) -> bool:
    device = _data(config, "zero_optimization.offload_optimizer.device")
    return device in ("cpu", "nvme") or _data(config, "zero_optimization.cpu_offload") is True


def _optimizer(config: Value, known: Known) -> Iterator[Problem]:
    place = _member(config, "optimizer.type")
    if place is None or not isinstance(place.value.data, str):
        section = _member(config, "optimizer")
        if section is not None and isinstance(section.value.data, dict) and place is None:
            yield at(
                section,
                "needs-key",
                "optimizer",
                "has no type; DeepSpeed ignores it",
                'write "type": "AdamW"',
            )
        return
    name = place.value.data
    lower = name.lower()
    if lower not in known.optimizers and name not in OF_TORCH:
        guess = nearest(lower, known.optimizers)
        fix = f"did you mean {guess[0]!r}?" if guess else "it must be a class of torch.optim, spelt as there"
        text = f"DeepSpeed has no optimizer {name!r}, and takes torch.optim.{name}"
        yield at(place, "optimizer", "optimizer.type", text, fix, Level.ERROR if guess else Level.WARNING)
    yield from _parameters(config, "optimizer", known.optimizers.get(lower), name)
    untested = _data(config, "zero_allow_untested_optimizer") is True
    if _stage(config) and lower not in SUPPORTED_WITH_ZERO and not untested:
        text = f"ZeRO refuses {name} as untested"
        yield at(
            place,
            "needs-key",
            "optimizer.type",
            text,
            'write "zero_allow_untested_optimizer": true, or AdamW',
        )
    yield from _which_adam(config, place, lower)


def _which_adam(config: Value, place: Member, lower: str) -> Iterator[Problem]:
    if lower not in ("adam", "adamw"):
        return
    offloads = _offloads_optimizer(config)
    torch_adam = _member(config, "optimizer.params.torch_adam")
    if torch_adam is not None and torch_adam.value.data is True:
        text = "makes it torch's own Adam" + (", which is slow on the CPU" if offloads else ", not FusedAdam")
        path = "optimizer.params.torch_adam"
        yield at(torch_adam, "torch-adam", path, text, "delete it", Level.WARNING)
    elif offloads:
        text = (
            "with the optimizer offloaded this is DeepSpeedCPUAdam, not FusedAdam; it is compiled when first used, "
            "with g++ and ninja"
        )
        yield at(place, "cpu-adam", "optimizer.type", text, "use a -devel image", Level.WARNING)
    mode = _data(config, "optimizer.params.adam_w_mode")
    if lower == "adam" and mode is None:
        text = "means AdamW's weight decay in DeepSpeed"
        fix = 'write AdamW, or "adam_w_mode": false for the other'
        yield at(place, "adam-w-mode", "optimizer.type", text, fix, Level.WARNING)


def _parameters(config: Value, section: str, names: tuple[str, ...] | None, kind: str) -> Iterator[Problem]:
    """Parameters that the class does not take: DeepSpeed ends with a TypeError."""
    params = _member(config, f"{section}.params")
    for name, member in params.value.members().items() if params else ():
        path = f"{section}.params.{name}"
        if name == "max_grad_norm" and section == "optimizer":
            yield at(
                member, "unknown-key", path, "DeepSpeed refuses it here", "write gradient_clipping at the top"
            )
        elif names is not None and name not in names:
            guess = nearest(name, names)
            fix = f"did you mean {guess[0]!r}?" if guess else f"it takes {', '.join(names)}"
            yield at(
                member,
                "unknown-key",
                path,
                f"{kind} has no such parameter; DeepSpeed ends with an error",
                fix,
            )


def _scheduler(config: Value, known: Known) -> Iterator[Problem]:
    place = _member(config, "scheduler.type")
    if place is None or not isinstance(place.value.data, str):
        return
    name = place.value.data
    if name not in known.schedulers:
        guess = nearest(name, known.schedulers)
        fix = f"did you mean {guess[0]!r}?" if guess else "it must be a class of torch.optim.lr_scheduler"
        text = f"DeepSpeed has no scheduler {name!r}, and takes it from torch.optim.lr_scheduler"
        yield at(place, "scheduler", "scheduler.type", text, fix, Level.ERROR if guess else Level.WARNING)
    yield from _parameters(config, "scheduler", known.schedulers.get(name), name)
