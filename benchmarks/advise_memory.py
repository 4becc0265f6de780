"""How near the memory that `envbuild advise` estimates is to what a training takes.

    PYTHON benchmarks/advise_memory.py [--gpus 2] [--hidden 2048] [--layers 24] [--sequence 2048] [--batch 2]
                                       [--vocabulary 32000] [--device cuda|cpu] [--only NAME…] [--json FILE]

PYTHON needs torch and deepspeed; envbuild is found beside this file. A transformer is trained for a few steps with
the very configuration that advise prints, for DDP, ZeRO-1, ZeRO-2 (with and without recomputed activations), ZeRO-3
and, on GPUs, with the optimizer and the parameters in CPU memory (DeepSpeedCPUAdam is compiled when first used: g++,
ninja and CUDA_HOME). Both moments of the estimate are measured on each rank after a first step: the peak
of forward and backward, and that of the optimizer's step; the largest over ranks is shown.

On GPUs the peak is torch.cuda.max_memory_allocated. On the CPU (gloo; small sizes) it is the largest total of live
bytes that torch's profiler saw: the same tensors, another allocator.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

ROOT = Path(__file__).resolve().parents[1]
GB = 1e9
sys.path.insert(0, str(ROOT))

from envbuild.advise import Choice, Job, Model, Strategy, configuration, estimate  # noqa: E402  found by the line above
from envbuild.advise.shapes import parameters_of  # noqa: E402  and this too

CASES = {
    "DDP": (Strategy(stage=0), False),
    "ZeRO-1": (Strategy(stage=1), False),
    "ZeRO-2": (Strategy(stage=2), False),
    "ZeRO-2-recompute": (Strategy(stage=2), True),
    "ZeRO-3": (Strategy(stage=3), False),
    "ZeRO-3-recompute": (Strategy(stage=3), True),
    "ZeRO-2-offload": (Strategy(stage=2, offload_optimizer=True), False),
    "ZeRO-3-offload": (Strategy(stage=3, offload_optimizer=True, offload_parameters=True), True),
}
STEPS = 3
ACCUMULATION = 2


class Block(nn.Module):
    """Attention and a perceptron of four times the width, as in GPT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.mix(self.first(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.join(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    """Tokens in, the loss of the next token out."""

    def __init__(self, model: Model, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.tokens = nn.Embedding(model.vocabulary, model.hidden)
        self.blocks = nn.ModuleList(Block(model.hidden, model.heads) for _ in range(model.layers))
        self.norm = nn.LayerNorm(model.hidden)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


class Watch:
    """The largest number of bytes that tensors took in each of the watched moments.

    On the CPU the profiler runs from before the model is made to the end, as it knows only what is allocated meanwhile.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.peaks: dict[str, int] = {}
        self.profiler = torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        )
        if device == "cpu":
            self.profiler.__enter__()

    @contextmanager
    def moment(self, name: str) -> Iterator[None]:
        """Watch what runs inside; moments of one name add up to one peak."""
        if self.device == "cpu":
            with torch.profiler.record_function(f"moment {name}"):
                yield
            return
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        yield
        torch.cuda.synchronize()
        self.peaks[name] = max(self.peaks.get(name, 0), torch.cuda.max_memory_allocated())

    def end(self) -> dict[str, int]:
        """The peaks by name, in bytes."""
        if self.device == "cpu":
            self.profiler.__exit__(None, None, None)
            self._read()
        return self.peaks

    def _read(self) -> None:
        waiting = list(self.profiler.profiler.kineto_results.experimental_event_tree())
        moments, totals = [], []
        while waiting:
            event = waiting.pop()
            waiting += event.children
            if event.tag.name == "Allocation":
                totals.append(
                    (event.start_time_ns, event.extra_fields.total_allocated, event.extra_fields.alloc_size)
                )
            elif event.name.startswith("moment "):
                moments.append((event.name.removeprefix("moment "), event.start_time_ns, event.end_time_ns))
        totals.sort()
        base = totals[0][1] - totals[0][2]
        for name, start, end in moments:
            before = [total for at, total, _ in totals if at < start][-1:]
            within = [total for at, total, _ in totals if start <= at <= end]
            self.peaks[name] = max([self.peaks.get(name, 0), *(total - base for total in before + within)])


def _job(options: argparse.Namespace) -> Job:
    total = parameters_of(options.layers, options.hidden, options.vocabulary)
    memory = torch.cuda.get_device_properties(0).total_memory if options.device == "cuda" else 80 * 10**9
    model = Model(
        parameters=total,
        layers=options.layers,
        hidden=options.hidden,
        heads=max(1, options.hidden // 64),
        vocabulary=options.vocabulary,
        sequence=options.sequence,
        origin="as given",
    )
    return Job(model=model, gpus=options.gpus, gpu_memory=memory)


def _config(job: Job, strategy: Strategy, recompute: bool, batch: int) -> dict[str, Any]:
    choice = Choice(
        job=job,
        strategy=strategy,
        checkpointing=recompute,
        micro_batch=batch,
        accumulation=ACCUMULATION,
        estimate=estimate(job, strategy, micro_batch=batch, checkpointing=recompute),
        tried=(),
    )
    return configuration(choice) | {"steps_per_print": 1_000_000}


def measure(name: str, options: argparse.Namespace, rank: int) -> dict[str, Any]:
    """Train a few steps and give the peaks of the last one."""
    import deepspeed

    strategy, recompute = CASES[name]
    job = _job(options)
    device = f"cuda:{rank}" if options.device == "cuda" else "cpu"
    started = time.monotonic()
    torch.manual_seed(0)
    config = _config(job, strategy, recompute, options.batch)
    watch = Watch(options.device)
    with deepspeed.zero.Init(config_dict_or_path=config, enabled=strategy.stage == 3), torch.device(device):
        model = Transformer(job.model, recompute)
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    del model
    for step in range(STEPS):
        last = step == STEPS - 1
        for _ in range(ACCUMULATION):
            tokens = torch.randint(job.model.vocabulary, (options.batch, job.model.sequence), device=device)
            with watch.moment("backward") if last else nullcontext():
                engine.backward(engine(tokens))
            with watch.moment("step") if last else nullcontext():
                engine.step()
    peaks = watch.end()
    found = {"name": name, **peaks, "seconds": time.monotonic() - started}
    found["parameters"] = job.model.parameters
    if options.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        reserved = torch.cuda.memory_reserved()
        found["outside"] = total - free - reserved
        found["unused"] = torch.cuda.max_memory_reserved() - torch.cuda.max_memory_allocated()
    engine.destroy()
    return found


def work(rank: int, name: str, options: argparse.Namespace, port: int, result: str) -> None:
    """One process of one case: what an earlier case left in memory would be counted; rank 0 writes what was found."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(options.gpus),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    import deepspeed

    if options.device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)
    deepspeed.init_distributed("nccl" if options.device == "cuda" else "gloo", verbose=False)
    try:
        found = measure(name, options, rank)
    except Exception as error:  # one case that does not run is told; the others are still measured
        traceback.print_exc()
        found = {"name": name, "error": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"}
    everyone: list[Any] = [None] * options.gpus
    dist.all_gather_object(everyone, found)
    if rank == 0:
        Path(result).write_text(json.dumps(_largest(everyone)))
    if options.device != "cuda":
        os._exit(0)  # gloo's threads may still be freeing tensors: destroying the group can wait for ever
    dist.destroy_process_group()


def run(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One case, in processes of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    result = Path(os.environ.get("TMPDIR", "/tmp")) / f"advise-memory-{os.getpid()}.json"
    try:
        torch.multiprocessing.spawn(work, (name, options, port, str(result)), nprocs=options.gpus)
        row: dict[str, Any] = json.loads(result.read_text())
    finally:
        result.unlink(missing_ok=True)
    print(f"{name}: {row.get('seconds', 0):.1f} s", file=sys.stderr, flush=True)
    return row


def _largest(everyone: list[dict[str, Any]]) -> dict[str, Any]:
    wrong = [row for row in everyone if "error" in row]
    if wrong:
        return wrong[0]
    return {key: max(row[key] for row in everyone) for key in everyone[0]}


def show(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """The table: estimate, measured and their ratio, for both moments and the peak."""
    job = _job(options)
    print(
        f"{job.model.parameters / 1e6:.1f}M parameters: {options.layers} layers, hidden {options.hidden}, vocabulary "
        f"{options.vocabulary}, sequence {options.sequence}, micro batch {options.batch}; {options.gpus} × "
        + (torch.cuda.get_device_name(0) if options.device == "cuda" else "CPU")
        + f", torch {torch.__version__}"
    )
    unit, word = (GB, "GB") if options.device == "cuda" else (1e6, "MB")
    print(f"{'':18}{'backward, ' + word:>26}{'step, ' + word:>26}{'peak':>8}{'outside':>10}{'unused':>9}")
    print(f"{'':18}" + f"{'estimate':>10}{'seen':>8}{'ratio':>8}" * 2 + f"{'ratio':>8}")
    for row in rows:
        if "error" in row:
            print(f"{row['name']:18}not measured: {row['error']}")
            continue
        strategy, recompute = CASES[row["name"]]
        found = estimate(job, strategy, micro_batch=options.batch, checkpointing=recompute)
        outside = sum(part.step for part in found.parts if part.id in ("context", "fragmentation"))
        line = f"{row['name']:18}"
        for moment, total in (("backward", found.backward - outside), ("step", found.step - outside)):
            line += f"{total / unit:10.2f}{row[moment] / unit:8.2f}{total / row[moment]:8.2f}"
        line += f"{found.allocated / max(row['backward'], row['step']):8.2f}"
        if options.device == "cuda":
            line += f"{row['outside'] / unit:10.2f}{row['unused'] / unit:9.2f}"
        print(line)


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--sequence", type=int)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--vocabulary", type=int)
    parser.add_argument("--only", nargs="+", choices=list(CASES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gpu = options.device == "cuda"
    defaults = {"hidden": 2048, "layers": 24, "sequence": 2048, "vocabulary": 32000} if gpu else {}
    small = {"hidden": 512, "layers": 8, "sequence": 512, "vocabulary": 4096}
    for name, value in (defaults or small).items():
        setattr(options, name, getattr(options, name) or value)
    options.only = options.only or [
        n for n, (strategy, _) in CASES.items() if gpu or not strategy.offload_optimizer
    ]
    rows = [run(name, options) for name in options.only]
    show(rows, options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
