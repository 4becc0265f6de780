"""How fast do the GPUs talk to each other, and what does a training step spend its time on?

python benchmark_comm.py                            one process for each visible GPU
torchrun --nproc_per_node=4 benchmark_comm.py       the same, started by torchrun (over several nodes, too)
python benchmark_comm.py --cpu --max-bytes 1M       gloo, for machines without GPUs
python benchmark_comm.py --json > report.json       the table goes to stderr then

Collectives, as nccl-tests counts them: ``bytes`` is the size of the larger buffer of one process, algbw = bytes / time,
busbw = algbw * 2(n-1)/n for all_reduce, (n-1)/n for all_gather and reduce_scatter, 1 for broadcast. GB is 1e9 bytes.
Times are the slowest process's.

The step is a transformer's under DistributedDataParallel. ``forward``, ``backward`` and ``optimizer`` are measured
without communication; ``all_reduce`` is the gradients' alone, with nothing else going on; ``step`` is everything.
``not_hidden``, what a step takes beyond its computing, is the communication that DDP could not do during ``backward``.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(text: str) -> int:
    """``64M`` is 64 MiB."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if unit not in UNITS or not number.isdigit() or int(number) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; 1024, 8K, 256M and 1G are")
    return int(number) * UNITS[unit]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="gloo on the CPU, on purpose")
    parser.add_argument(
        "--processes", type=int, help="without torchrun: how many [each GPU one; 2 with --cpu]"
    )
    parser.add_argument("--min-bytes", type=size, default="1M")
    parser.add_argument("--max-bytes", type=size, default="256M")
    parser.add_argument("--repeats", type=int, default=20, help="timed calls of each")
    parser.add_argument("--width", type=int, default=1024, help="of the transformer")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8, help="sequences of 256 places per process")
    parser.add_argument("--json", action="store_true", help="the report as JSON on stdout")
    return parser.parse_args()


def seconds(
    call: Callable[[], Any], repeats: int, device: torch.device, before: Callable[[], Any] | None = None
) -> float:
    """The mean time of ``call``, after three calls to warm up; the slowest process's. ``before`` is not counted.

    On a GPU the CPU only enqueues, so time is taken by events in the GPU's own queue.
    """
    gpu = device.type == "cuda"
    total = 0.0
    marks = []
    for turn in range(3 + repeats):
        if before is not None:
            before()
        if turn in (0, 3):
            torch.cuda.synchronize() if gpu else None
            dist.barrier()
        if gpu:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            marks.append((start, end))
        else:
            began = time.perf_counter()
            call()
            total += time.perf_counter() - began if turn >= 3 else 0.0
    if gpu:
        torch.cuda.synchronize()
        total = sum(start.elapsed_time(end) for start, end in marks[3:]) / 1e3
    mean = torch.tensor(total / repeats, dtype=torch.float64, device=device)
    dist.all_reduce(mean, op=dist.ReduceOp.MAX)
    return mean.item()


def collectives(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Each collective at each size, doubling from ``--min-bytes`` to ``--max-bytes``."""
    world = dist.get_world_size()
    factors = {"all_reduce": 2 * (world - 1) / world, "broadcast": 1.0}
    rows = []
    wanted = args.min_bytes
    while wanted <= args.max_bytes:
        share = max(1, wanted // 4 // world)  # float32, the same number from each process
        small, large = torch.ones(share, device=device), torch.ones(share * world, device=device)
        calls: dict[str, Callable[[], Any]] = {
            "all_reduce": lambda large=large: dist.all_reduce(large),
            "all_gather": lambda small=small, large=large: dist.all_gather_into_tensor(large, small),
            "reduce_scatter": lambda small=small, large=large: dist.reduce_scatter_tensor(small, large),
            "broadcast": lambda large=large: dist.broadcast(large, 0),
        }
        for name, call in calls.items():
            large.zero_()  # sums of zeros stay zero, however often they are added
            taken = seconds(call, args.repeats, device)
            algbw = large.numel() * 4 / taken / 1e9
            busbw = algbw * factors.get(name, (world - 1) / world)
            row = {
                "collective": name,
                "bytes": large.numel() * 4,
                "seconds": taken,
                "algbw": algbw,
                "busbw": busbw,
            }
            rows.append(row)
        wanted *= 2
    return rows


def step(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """A training step by its parts, in seconds."""
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(
        args.width, max(1, args.width // 64), 4 * args.width, 0.0, batch_first=True
    )
    model = DistributedDataParallel(
        nn.TransformerEncoder(block, args.layers, enable_nested_tensor=False).to(device)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    data = torch.randn(args.batch, 256, args.width, device=device)
    gradients = sum(p.numel() for p in model.parameters())
    flat = torch.zeros(gradients, device=device)
    kept: list[torch.Tensor] = []

    def forward() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            kept[:] = [model(data).float().square().mean()]

    def backward() -> None:
        kept.pop().backward()

    def whole() -> None:
        optimizer.zero_grad(set_to_none=False)
        forward()
        backward()
        optimizer.step()

    with model.no_sync():  # no communication
        parts = {"forward": seconds(forward, args.repeats, device)}
        parts["backward"] = seconds(backward, args.repeats, device, before=forward)
    parts["optimizer"] = seconds(optimizer.step, args.repeats, device)
    parts["all_reduce"] = seconds(lambda: dist.all_reduce(flat), args.repeats, device)
    parts["step"] = seconds(whole, args.repeats, device)
    computing = parts["forward"] + parts["backward"] + parts["optimizer"]
    parts["not_hidden"] = max(0.0, parts["step"] - computing)
    return {"parameters": gradients, "gradient_bytes": 4 * gradients, "batch": args.batch, "seconds": parts}


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{report['processes']} process(es), {report['backend']}, {report['device']}, torch {report['torch']}",
        "",
        f"{'collective':<16}{'bytes':>14}{'us':>12}{'algbw GB/s':>13}{'busbw GB/s':>13}",
    ]
    for row in report["collectives"]:
        time_us = row["seconds"] * 1e6
        rates = f"{row['algbw']:>13.2f}{row['busbw']:>13.2f}"
        lines.append(f"{row['collective']:<16}{row['bytes']:>14,}{time_us:>12.1f}{rates}")
    inside = report["step"]
    whole = inside["seconds"]["step"]
    lines += [
        "",
        f"a step of {inside['parameters']:,} weights, {inside['gradient_bytes']:,} bytes of gradients",
    ]
    notes = {
        "all_reduce": "the gradients', alone",
        "not_hidden": "communication that the step waits for",
        "step": f"{inside['batch'] * report['processes'] / whole:.1f} samples/s",
    }
    for name, taken in inside["seconds"].items():
        lines.append(
            f"{name:<16}{taken * 1e3:>11.2f} ms{taken / whole:>8.0%}  {notes.get(name, '')}".rstrip()
        )
    return "\n".join(lines)


def measure(args: argparse.Namespace) -> None:
    """One process."""
    local = int(os.environ["LOCAL_RANK"])
    device = torch.device("cpu") if args.cpu else torch.device("cuda", local)
    if not args.cpu:
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if args.cpu else "nccl", device_id=None if args.cpu else device)
    report = {
        "processes": dist.get_world_size(),
        "backend": dist.get_backend(),
        "device": "cpu" if args.cpu else torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "nccl": None if args.cpu else ".".join(map(str, torch.cuda.nccl.version())),
        "collectives": collectives(args, device) if dist.get_world_size() > 1 else [],
        "step": step(args, device),
    }
    if dist.get_rank() == 0:
        print(table(report), file=sys.stderr if args.json else sys.stdout, flush=True)
        if args.json:
            print(json.dumps(report), flush=True)
    if args.cpu:
        # gloo's threads may still be freeing tensors. Destroying the group then can wait for ever (torch 2.7), and
        # Python's shutdown can abort the process (newer ones). All is written: end without either.
        os._exit(0)
    dist.destroy_process_group()


def spawned(local: int, args: argparse.Namespace, world: int, port: int) -> None:
    """What torchrun does, for processes of ``mp.spawn``."""
    os.environ |= {"RANK": str(local), "LOCAL_RANK": str(local), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if args.cpu:
        torch.set_num_threads(max(1, torch.get_num_threads() // world))  # or they wait for each other
    measure(args)


def main() -> None:
    """Check what there is, then measure; start the processes where torchrun has not."""
    args = arguments()
    gpus = torch.cuda.device_count()
    wanted = int(os.environ.get("LOCAL_WORLD_SIZE", args.processes or (2 if args.cpu else gpus)))
    if not args.cpu and not gpus:
        sys.exit("torch sees no GPU. Start the container with --gpus all, or ask for the CPU with --cpu.")
    if not args.cpu and wanted > gpus:
        sys.exit(f"{wanted} processes want a GPU each, and torch sees {gpus}.")
    if "LOCAL_RANK" in os.environ:
        measure(args)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(spawned, (args, wanted, port), nprocs=wanted)


if __name__ == "__main__":
    main()
