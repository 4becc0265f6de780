"""Ask DeepSpeed itself which keys its configuration has, and write them as data.

    PYTHON ci/deepspeed_keys.py [--output FILE] [--check FILE]

PYTHON must have deepspeed and torch (`ci/torch-cpu.sh` makes one). How: DeepSpeed's own reader, ``DeepSpeedConfig``,
is given dictionaries that note every key that it asks for, with the default that it gives; keys that turn out to
be sections become such dictionaries in the next round, until nothing new is asked for. Sections that DeepSpeed
hands to a pydantic model have the model's fields instead, with types, bounds, aliases and deprecations. Optimizer and
scheduler parameters come from the signatures of the classes that DeepSpeed makes. Nothing is copied by hand but
the SAMPLES, which only open branches, and the READ_ELSEWHERE, which other parts of DeepSpeed read.
"""

from __future__ import annotations

import argparse
import enum
import inspect
import json
import logging
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam
from deepspeed.ops.lion import FusedLion
from deepspeed.runtime import config as reader
from deepspeed.runtime import lr_schedules
from deepspeed.runtime.config_utils import DeepSpeedConfigModel

MARK = "__section__"
SAMPLES: dict[str, Any] = {
    "train_batch_size": 1,
    "optimizer.type": "AdamW",
    "optimizer.params": {},
    "scheduler.type": "WarmupLR",
    "scheduler.params": {},
    "data_efficiency.data_sampling.curriculum_learning.enabled": False,
    "checkpoint.tag_validation": "Warn",
    "checkpoint.writer.type": "python",
    "checkpoint.writer.data_parallel": "replica",
    "torch_autocast.dtype": "bf16",
    "torch_autocast.lower_precision_safe_modules": [],
    "communication_data_type": "fp32",
    "seq_parallel_communication_data_type": "fp32",
    "data_types.keep_in_fp32_modules": "auto",
    "train_micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": 1,
}
"""Values that open a branch of the reader; the branches themselves are DeepSpeed's."""
TYPES: dict[str, Any] = {
    "steps_per_print": 1,
    "vocabulary_size": 1,
    "log_level": "",
    "optimizer.legacy_fusion": False,
    "activation_checkpointing.number_checkpoints": 1,
    "flops_profiler.output_file": "",
    "data_types.param_dtype": "",
    "data_types.grad_accum_dtype": "",
    "data_types.buffer_dtype": "",
}
"""A value of the right type for keys whose default is None."""
READ_ELSEWHERE: dict[str, Any] = {
    "sequence_parallel_size": 1,
    "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics": {},
    "data_efficiency.data_sampling.curriculum_learning.data_cluster_path": "",
    "data_efficiency.data_sampling.dynamic_batching.metrics_path": "",
}
"""Keys with a sample of their type that are read outside DeepSpeedConfig, or only past an assertion there."""
OPEN = (
    "datastates_ckpt",
    "autotuning.arg_mappings",
    "data_efficiency.data_sampling.curriculum_learning.curriculum_metrics",
    "data_efficiency.data_routing.random_ltd",
    "data_efficiency.data_sampling.dynamic_batching",
    "pipeline",
)
"""Sections whose keys are passed on to something that takes any."""
OPTIMIZERS = {
    "adam": (FusedAdam, DeepSpeedCPUAdam),
    "adamw": (FusedAdam, DeepSpeedCPUAdam),
    "lion": (FusedLion,),
}
OPTIMIZER_EXTRAS = ("torch_adam", "adam_w_mode", "fp32_optimizer_states", "foreach")
"""What ``DeepSpeedEngine.get_optimizer_configuration`` takes out of the parameters of Adam and AdamW."""
SET_BY_DEEPSPEED = {"self", "params", "model_params", "optimizer", "set_grad_none", "adamw_mode"}


class Keys:
    """``dict.keys()`` that notes what is looked for."""

    def __init__(self, owner: Section) -> None:
        self._owner = owner

    def __contains__(self, key: object) -> bool:
        return key in self._owner

    def __iter__(self) -> Iterator[str]:
        return (key for key in dict.keys(self._owner) if key != MARK)


class Section(dict[str, Any]):
    """A part of the configuration that notes which keys are asked for, with their defaults."""

    def __init__(self, path: str, seen: dict[str, Any], content: dict[str, Any]) -> None:
        super().__init__(content)
        self[MARK] = path
        self._path, self._seen = path, seen

    def _note(self, key: Any, default: Any) -> None:
        if isinstance(key, str) and key != MARK:
            name = f"{self._path}.{key}" if self._path else key
            if self._seen.get(name) is None:
                self._seen[name] = None if isinstance(default, Section) else default

    def __contains__(self, key: object) -> bool:
        self._note(key, None)
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self._note(key, None)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Note the key with its default."""
        self._note(key, default)
        return super().get(key, default)

    def keys(self) -> Any:
        """Keys that note what is looked for."""
        return Keys(self)

    def items(self) -> Any:
        """The items without the mark."""
        return [(key, value) for key, value in super().items() if key != MARK]

    def __copy__(self) -> Section:
        return Section(self._path, self._seen, {k: v for k, v in super().items() if k != MARK})

    def __deepcopy__(self, memo: object) -> dict[str, Any]:
        return {k: v for k, v in super().items() if k != MARK}


def _tree(path: str, seen: dict[str, Any], sections: set[str], values: dict[str, Any]) -> Section:
    content: dict[str, Any] = {}
    for name in sorted({*sections, *values}):
        parent, _, key = name.rpartition(".")
        if parent == path:
            content[key] = _tree(name, seen, sections, values) if name in sections else values[name]
    return Section(path, seen, content)


def _explore() -> tuple[dict[str, Any], dict[str, type[Any]]]:
    """Every key that the reader asks for, with its default; and the pydantic model of each section that has one."""
    models: dict[str, type[Any]] = {}
    original = DeepSpeedConfigModel.__init__

    def noting(self: Any, strict: bool = False, **data: Any) -> None:
        path = data.pop(MARK, None)
        if path:
            models[path] = type(self)
        original(self, strict=strict, **data)

    DeepSpeedConfigModel.__init__ = noting
    seen: dict[str, Any] = {}
    sections: set[str] = set()
    refused: set[str] = set()
    try:
        while True:
            reader.DeepSpeedConfig(_tree("", seen, sections, _samples(sections)))
            fresh = [
                n
                for n in sorted(seen)
                if n not in sections | refused | set(SAMPLES) and not _covered(n, models)
            ]
            fresh = [n for n in fresh if seen[n] is None or isinstance(seen[n], dict)]
            if not fresh:
                return seen, models
            for name in fresh:
                try:
                    tried = {*sections, name}
                    before = dict(seen)
                    reader.DeepSpeedConfig(_tree("", seen, tried, _samples(tried)))
                    inside = any(k.startswith(f"{name}.") for k in seen) or name in models
                except Exception:  # a value that the reader does not take as a section
                    inside = False
                    seen = before
                (sections if inside else refused).add(name)
    finally:
        DeepSpeedConfigModel.__init__ = original


def _samples(sections: set[str]) -> dict[str, Any]:
    return {n: v for n, v in SAMPLES.items() if "." not in n or n.rpartition(".")[0] in sections}


def _covered(name: str, models: dict[str, type[Any]]) -> bool:
    return any(name.startswith(f"{path}.") for path in models)


_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", list: "array"}
_PLAIN |= {tuple: "array", dict: "object"}


def _leaf(default: Any) -> dict[str, Any]:
    """A key that is read by hand: its type is that of its default."""
    if isinstance(default, enum.Enum):
        default = default.value
    if default == "auto":
        return {"types": [], "auto": True}
    found = [name for kind, name in _PLAIN.items() if isinstance(default, kind)]
    return {"types": found[:1]}


def _typed(annotation: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [_typed(part) for part in arguments if part is not type(None)]
        if any(not part["types"] for part in parts):
            return {"types": []}
        merged: dict[str, Any] = {"types": [t for part in parts for t in part["types"]]}
        for part in parts:
            merged |= {k: v for k, v in part.items() if k != "types"}
        return merged | ({"null": True} if type(None) in arguments else {})
    if origin is typing.Literal:
        return {"types": ["string"], "choices": list(arguments)}
    kind = origin or annotation
    return _of_class(kind) if inspect.isclass(kind) else {"types": []}


def _of_class(kind: type[Any]) -> dict[str, Any]:
    if issubclass(kind, DeepSpeedConfigModel):
        return {"types": ["object"], "section": _model(kind)}
    if issubclass(kind, enum.Enum):
        values = list(dict.fromkeys(item.value for item in kind))
        whole = all(isinstance(value, int) for value in values)
        return {"types": ["integer" if whole else "string"], "choices": values}
    return {"types": [_PLAIN[kind]] if kind in _PLAIN else []}


def _model(model: type[Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        key = _typed(field.annotation)
        for rule in field.metadata:
            for attribute, word in (("ge", "min"), ("gt", "above"), ("le", "max"), ("lt", "below")):
                bound = getattr(rule, attribute, None)
                if bound is not None:
                    key[word] = bound
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra.get("deprecated"):
            key["deprecated"] = str(extra.get("new_param", ""))
        if field.default == "auto":
            key["auto"] = True
        keys[field.alias or name] = key
        if field.alias and field.alias != name:
            keys[name] = {**key, "alias": field.alias}
    return {"strict": True, "keys": dict(sorted(keys.items()))}


def _node(path: str, seen: dict[str, Any], models: dict[str, type[Any]]) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, default in seen.items():
        parent, _, key = name.rpartition(".")
        if parent != path:
            continue
        if name in models:
            keys[key] = {"types": ["object"], "section": _model(models[name])}
        elif name in OPEN:
            keys[key] = {"types": ["object"], "open": True}
        elif any(other.startswith(f"{name}.") for other in seen):
            keys[key] = {"types": ["object"], "section": _node(name, seen, models)}
        else:
            keys[key] = _leaf({**SAMPLES, **TYPES}.get(name) if default is None else default)
    return {"strict": False, "keys": dict(sorted(keys.items()))}


def _parameters(*classes: type[Any]) -> list[str]:
    names = {name for kind in classes for name in inspect.signature(kind.__init__).parameters}
    return sorted(names - SET_BY_DEEPSPEED)


def make() -> dict[str, Any]:
    """The data: version, top node, parameters by type, and the keys that this version has removed."""
    seen, models = _explore()
    for name, sample in READ_ELSEWHERE.items():
        if not seen.get(name):
            seen[name] = sample
    top = _node("", seen, models)
    top["keys"]["zero_optimization"]["types"] = ["object", "boolean"]
    top["keys"]["bfloat16"] = {**top["keys"]["bf16"], "alias": "bf16"}
    for name in reader._REMOVED_TOP_LEVEL_CONFIG_KEYS:
        del top["keys"][name]
    for section in ("optimizer", "scheduler"):
        top["keys"][section]["section"]["keys"]["params"] = {"types": ["object"], "open": True}
    schedules = {name: _parameters(getattr(lr_schedules, name)) for name in lr_schedules.VALID_LR_SCHEDULES}
    adam = {
        n: sorted({*_parameters(*c), *(OPTIMIZER_EXTRAS if "adam" in n else ())})
        for n, c in OPTIMIZERS.items()
    }
    return {
        "deepspeed": deepspeed.__version__.partition("+")[0],
        "made_by": "ci/deepspeed_keys.py",
        "optimizers": {name: adam.get(name) for name in reader.DEEPSPEED_OPTIMIZERS},
        "schedulers": schedules,
        "removed": {
            **reader._REMOVED_TOP_LEVEL_CONFIG_KEYS,
            **{f"zero_optimization.{k}": v for k, v in reader._REMOVED_ZERO_CONFIG_KEYS.items()},
        },
        "keys": top,
    }


def main() -> int:
    """Write the data, or compare it with a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--check", type=Path)
    arguments = parser.parse_args()
    logging.getLogger("DeepSpeed").setLevel(logging.CRITICAL)
    text = json.dumps(make(), indent=1) + "\n"
    if arguments.check:
        same = arguments.check.read_text() == text
        print("agrees" if same else f"{arguments.check} differs: run this with --output {arguments.check}")
        return 0 if same else 3
    if arguments.output:
        arguments.output.write_text(text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
