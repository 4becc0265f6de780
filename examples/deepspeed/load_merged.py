"""Load trained weights into plain torch and hold them against the training's result.

python checkpoint/zero_to_fp32.py checkpoint merged && python load_merged.py merged     merged before
python load_merged.py checkpoint                                                        merged in memory, here
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from model import Model, text


def merged(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in float32, from DeepSpeed's shards or from zero_to_fp32.py's files, which are 5 GB at most."""
    if (folder / "latest").exists():
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        return dict(get_fp32_state_dict_from_zero_checkpoint(str(folder)))
    index = folder / "pytorch_model.bin.index.json"
    names = {"pytorch_model.bin"}
    if index.exists():
        names = set(json.loads(index.read_text())["weight_map"].values())
    weights: dict[str, torch.Tensor] = {}
    for name in sorted(names):
        weights |= torch.load(folder / name, map_location="cpu", weights_only=True)
    return weights


def main() -> None:
    """Exit 1 when the loaded model is not the trained one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="what zero_to_fp32.py wrote, or the checkpoint itself")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint"), help="what train.py wrote")
    args = parser.parse_args()
    if not args.folder.is_dir():
        sys.exit(
            f"{args.folder} is no folder: first python checkpoint/zero_to_fp32.py checkpoint {args.folder}"
        )
    trained = json.loads((args.checkpoint / "evaluation.json").read_text())

    model = Model(trained["width"], trained["layers"])
    weights = merged(args.folder)
    model.load_state_dict(weights)  # strict: a missing or an unknown weight is an error
    with torch.no_grad():
        loss = model(text(32, 123_456_789)).item()
    count = sum(weight.numel() for weight in weights.values())
    print(f"{count:,} float32 weights, loss {loss:.4f}, at the end of the training {trained['loss']:.4f}")
    # float32 here, bfloat16 there: equal but for rounding (bfloat16's unit roundoff is 0.4 %).
    if abs(loss - trained["loss"]) > 0.02 * trained["loss"]:
        sys.exit("These are not the weights that were trained.")


if __name__ == "__main__":
    main()
