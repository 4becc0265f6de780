"""ResNet-50 on all GPUs of one machine: DistributedDataParallel, one process a GPU, images made up from a seed.

python ddp_resnet50.py                            mp.spawn starts one process for each visible GPU
torchrun --nproc_per_node=4 ddp_resnet50.py       torchrun starts them
python ddp_resnet50.py --cpu --processes 2        without a GPU: gloo (slow; --image-size 64 --batch 4 helps)
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision.models import resnet50


class Stripes(Dataset):
    """Noise with stripes; the class is how many. The same index gives the same image in every process."""

    def __init__(self, length: int, size: int, classes: int, seed: int) -> None:
        self.length, self.size, self.classes, self.seed = length, size, classes, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        label = index % self.classes
        wave = torch.sin(torch.arange(self.size) * (label + 1) * 6.2832 / self.size)
        return torch.randn(3, self.size, self.size, generator=generator) + 2 * wave, label


def arguments() -> argparse.Namespace:
    """The command line. ``--batch`` is per process: with 4 GPUs the model sees four times as many images a step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="gloo on the CPU, on purpose")
    parser.add_argument(
        "--processes", type=int, help="without torchrun: how many [each GPU one; 2 with --cpu]"
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=64, help="images per process and step")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=4, help="loader processes per training process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", help="write the trained weights to this file")
    return parser.parse_args()


def in_step(model: DistributedDataParallel) -> bool:
    """Whether all processes hold the same weights, which is what DDP promises: the sums must be equal to the bit."""
    mine = torch.stack([p.detach().double().sum() for p in model.parameters()])
    everyones = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyones, mine)
    return all(torch.equal(mine, other) for other in everyones)


def train(args: argparse.Namespace) -> None:
    """One process. RANK, LOCAL_RANK, WORLD_SIZE and MASTER_* come from torchrun or from ``spawned``."""
    local = int(os.environ["LOCAL_RANK"])
    if not args.cpu:
        torch.cuda.set_device(local)  # before anything else, or every process fills GPU 0
    device = torch.device("cpu") if args.cpu else torch.device("cuda", local)
    dist.init_process_group("gloo" if args.cpu else "nccl", device_id=None if args.cpu else device)
    rank, world = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(args.seed)
    model = resnet50(num_classes=10, zero_init_residual=True).to(device, memory_format=torch.channels_last)
    model = DistributedDataParallel(model, device_ids=None if args.cpu else [local])
    # The rate grows with the number of images a step (0.1 for 256, as is usual for ResNet-50).
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * args.batch * world / 256, momentum=0.9)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)

    data = Stripes(args.batch * world * args.steps, args.image_size, 10, args.seed)
    sampler = DistributedSampler(data, seed=args.seed)  # each process gets its own part
    loader = DataLoader(
        data, args.batch, sampler=sampler, num_workers=args.workers, pin_memory=not args.cpu, drop_last=True
    )
    started = time.perf_counter()
    for step, (images, labels) in enumerate(loader, start=1):
        inputs = images.to(device, non_blocking=True, memory_format=torch.channels_last)
        wanted = labels.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(inputs), wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # DDP averages the gradients here, while backward still runs
        optimizer.step()
        warm_up.step()
        if step == 1:
            loss.item()  # waits for the GPU: the first step, which warms up, is not timed
            started = time.perf_counter()
        if step == 1 or step % 10 == 0 or step == args.steps:
            mean = loss.detach().clone()
            dist.all_reduce(mean)  # the mean over all processes, not rank 0's alone
            seconds = time.perf_counter() - started
            speed = f"{(step - 1) * args.batch * world / seconds:.1f}" if step > 1 else "-"
            if rank == 0:
                print(f"step {step:4d}  loss {mean.item() / world:.4f}  samples/s {speed}", flush=True)

    same = in_step(model)
    if rank == 0:
        print(
            f"{world} process(es) on {device.type}, weights equal on all: {'yes' if same else 'NO'}",
            flush=True,
        )
        if args.checkpoint:
            torch.save(model.module.state_dict(), args.checkpoint)
    if args.cpu:
        # gloo's threads may still be freeing tensors. Destroying the group then can wait for ever (torch 2.7), and
        # Python's shutdown can abort the process (newer ones). All is written: end without either.
        os._exit(0 if same else 1)
    dist.destroy_process_group()
    if not same:
        sys.exit(1)


def spawned(local: int, args: argparse.Namespace, world: int, port: int) -> None:
    """What torchrun does, for processes of ``mp.spawn``."""
    os.environ |= {"RANK": str(local), "LOCAL_RANK": str(local), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if args.cpu:
        torch.set_num_threads(max(1, torch.get_num_threads() // world))  # or they wait for each other
    train(args)


def main() -> None:
    """Check what there is, then train; start the processes where torchrun has not."""
    args = arguments()
    gpus = torch.cuda.device_count()
    wanted = int(os.environ.get("LOCAL_WORLD_SIZE", args.processes or (2 if args.cpu else gpus)))
    if not args.cpu and not gpus:
        sys.exit("torch sees no GPU. Start the container with --gpus all, or ask for the CPU with --cpu.")
    if not args.cpu and wanted > gpus:
        sys.exit(f"{wanted} processes want a GPU each, and torch sees {gpus}.")
    if "LOCAL_RANK" in os.environ:
        train(args)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(spawned, (args, wanted, port), nprocs=wanted)


if __name__ == "__main__":
    main()
