"""Train with DeepSpeed as the JSON config says, on all GPUs: one process each, started by DeepSpeed's launcher.

deepspeed --num_gpus=4 train.py --deepspeed_config ds_config.json             ZeRO-3
deepspeed --num_gpus=4 train.py --deepspeed_config ds_config_offload.json     and offload to host memory
deepspeed --num_gpus=2 train.py --deepspeed_config ds_config.json --cpu       without a GPU: gloo

python checkpoint/zero_to_fp32.py checkpoint merged      the shards become one set of float32 weights
python load_merged.py merged                             which plain torch loads
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
from model import Model, text


def arguments() -> argparse.Namespace:
    """The command line. The launcher adds ``--local_rank``; ``--deepspeed`` is taken because tutorials write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--deepspeed", action="store_true", help="no effect: this script always uses DeepSpeed"
    )
    parser.add_argument("--deepspeed_config", required=True, help="ds_config.json")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--cpu", action="store_true", help="gloo on the CPU, on purpose")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps")
    parser.add_argument(
        "--width", type=int, default=256, help="4096 and more --layers give billions of weights"
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default="checkpoint", help="folder of the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    return parser.parse_args()


def main() -> None:
    """Train, evaluate, save."""
    args = arguments()
    config = json.loads(Path(args.deepspeed_config).read_text())
    if args.cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"  # before the import below, which chooses the accelerator
        if "offload_optimizer" not in config["zero_optimization"]:
            config["optimizer"]["params"]["torch_adam"] = True  # the image's FusedAdam is for GPUs
    elif not torch.cuda.is_available():
        sys.exit("torch sees no GPU. Start the container with --gpus all, or ask for the CPU with --cpu.")
    import deepspeed

    deepspeed.init_distributed()
    torch.manual_seed(args.seed)
    # Under zero.Init each process keeps only its share of each weight from the start: a model that is larger than
    # one GPU can be built. It does nothing for stages below 3.
    with deepspeed.zero.Init(config_dict_or_path=config, enabled=config["zero_optimization"]["stage"] == 3):
        model = Model(args.width, args.layers)
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    if args.resume:
        folder, _ = engine.load_checkpoint(args.checkpoint)
        if folder is None:
            sys.exit(
                f"{args.checkpoint} holds no checkpoint: leave --resume out, or name another with --checkpoint."
            )

    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    batch, accumulation = engine.train_micro_batch_size_per_gpu(), engine.gradient_accumulation_steps()
    first = engine.global_steps
    started = time.perf_counter()
    for step in range(first + 1, first + args.steps + 1):
        total = torch.zeros((), device=engine.device)
        for part in range(accumulation):
            # Every process and every part gets data of its own, the same in each run.
            number = ((args.seed * 1_000_003 + step) * accumulation + part) * world + rank
            loss = engine(text(batch, number).to(engine.device))
            engine.backward(loss)  # not loss.backward(): DeepSpeed divides by the accumulation and shards
            engine.step()  # updates the weights at the last part only
            total += loss.detach()
        torch.distributed.all_reduce(total)
        if rank == 0 and (step in (first + 1, first + args.steps) or step % 10 == 0):
            # The first step compiles and warms up, so it is not timed.
            speed = (
                f"{(step - first - 1) * batch * accumulation * world / (time.perf_counter() - started):.1f}"
            )
            print(
                f"step {step:4d}  loss {total.item() / accumulation / world:.4f}"
                f"  samples/s {speed if step > first + 1 else '-'}",
                flush=True,
            )
        if step == first + 1:
            started = time.perf_counter()

    with torch.no_grad():  # the same text in each process: a collective call, so every rank must make it
        evaluation = engine(text(32, 123_456_789).to(engine.device)).item()
    engine.save_checkpoint(args.checkpoint)  # also collective: each process writes its shards
    if rank == 0:
        Path(args.checkpoint, "evaluation.json").write_text(
            json.dumps({"loss": evaluation, **vars(args)}) + "\n"
        )
        kind = type(engine.basic_optimizer).__name__
        print(
            f"{world} process(es) on {engine.device.type}, {kind}, evaluation loss {evaluation:.4f}",
            flush=True,
        )
    if args.cpu:
        # gloo's threads outlive their group (DeepSpeed keeps references to it), and one that frees a tensor while
        # Python shuts down aborts the process. All is written: end without the shutdown.
        os._exit(0)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
