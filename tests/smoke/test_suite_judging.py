"""The judging code of ``arithmetic`` and ``compile`` on CPU tensors, with right and with seeded wrong results."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

pytestmark = pytest.mark.torch

ARITHMETIC = """
import json, torch
from smoke import arithmetic
from smoke.model import Failure
from smoke.checks.arithmetic import convolution_operators, judge_cudnn

def cut(tensor):
    return (tensor.view(torch.int32) & ~0x1FFF).view(torch.float32)

def ask(case, precision, change=None, compute=None, lower=False):
    against = arithmetic.exact(case, precision)
    left, right = against.left, against.right
    if precision is arithmetic.TF32:
        left, right = cut(left), cut(right)
    seen = compute(left, right) if compute else arithmetic.multiply(case, left, right)
    if change:
        change(seen)
    try:
        judged = arithmetic.judge(case, precision, against, seen, where="a CPU")
        if lower:
            arithmetic.judge_lower(case, judged, where="a CPU")
        return "right"
    except Failure as failure:
        return failure.seen

def shift(seen):
    seen[3, 5] += 0.25

def nan(seen):
    seen[0, 0] = float("nan")

def halves(left, right):
    return (left[:, ::2] @ right[::2]) + (left[:, 1::2] @ right[1::2])

def without_one(left, right):
    return left[:, 1:] @ right[1:]

fp32, tf32, bf16, fp16 = arithmetic.PRECISIONS
square, odd, convolution = arithmetic.cases()
answers = {f"{p.name} {c.name}": ask(c, p) for p in arithmetic.PRECISIONS for c in arithmetic.cases()}
answers |= {
    "tf32 is lower": ask(square, tf32, lower=True),
    "tf32 is lower in a convolution": ask(convolution, tf32, lower=True),
    "another order": ask(square, fp16, compute=lambda l, r: halves(l.float(), r.float()).half()),
}
wrong = {
    "an element": ask(square, fp16, change=shift),
    "a NaN": ask(square, bf16, change=nan),
    "a missing term": ask(square, bf16, compute=without_one),
    "tf32 for fp32": ask(square, fp32, compute=lambda l, r: cut(l) @ cut(r)),
    "bf16 for tf32": ask(square, tf32, compute=lambda l, r: (l.bfloat16().float() @ r.bfloat16().float())),
    "bf16 for fp16": ask(square, fp16, compute=lambda l, r: (l.bfloat16() @ r.bfloat16()).half()),
    "sums in bf16": ask(square, bf16, compute=lambda l, r: sum((l[:, i::8] @ r[i::8] for i in range(8)))),
    "fp32 for tf32": ask(square, tf32, compute=lambda l, r: arithmetic.exact(square, fp32).result.float(), lower=True),
    "two sums in fp16": ask(square, fp16, compute=halves),
    "another type": ask(square, fp16, compute=lambda l, r: l.float() @ r.float()),
    "another shape": ask(square, fp32, compute=lambda l, r: (l @ r)[:-1]),
    "a shifted image": ask(convolution, fp16, compute=lambda l, r: arithmetic.multiply(convolution, l.roll(1, 3), r)),
}
try:
    judge_cudnn(convolution_operators("cpu"), where="a CPU")
    wrong["no cuDNN"] = "right"
except Failure as failure:
    wrong["no cuDNN"] = failure.seen
print(json.dumps([answers, wrong]))
"""

COMPILE = """
import json, os, pathlib, sys, torch
folder = pathlib.Path(sys.argv[1])
os.environ["TORCHINDUCTOR_CACHE_DIR"], os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(folder / "inductor"), "1"
from smoke import compiling
from smoke.model import Failure
from dataclasses import replace

def ask(call, *arguments, **options):
    try:
        call(*arguments, **options)
        return "right"
    except Failure as failure:
        return failure.seen

against, plain, fast, graphs = compiling.passes("cpu")

def scaled(name, by):
    return replace(fast, gradients={**fast.gradients, name: fast.gradients[name] * by})

value = compiling.start()
target = (value ^ (value >> 3)) * compiling.FACTOR + torch.arange(compiling.COUNT)
sums = torch.nn.functional.pad(target, (0, -compiling.COUNT % compiling.BLOCK)).view(-1, compiling.BLOCK).sum(1)
moved, added = target.clone(), sums.clone()
moved[70_000] += 1
added[-1] -= 1
cubins = folder / "triton"
(cubins / "hash").mkdir(parents=True)
for name in ("triton_poi_fused_0.cubin", "mix.cubin"):
    (cubins / "hash" / name).touch()
caches = [graphs, folder / "inductor", cubins, ("triton_", "mix")]
where = {"where": "a CPU"}
right = {
    "compiled": ask(compiling.judge, against, plain, fast, **where),
    "eager itself": ask(compiling.judge, against, plain, plain, **where),
    "kernel": ask(compiling.judge_kernel, target, sums, **where),
    "caches": ask(compiling.judge_caches, *caches),
}
wrong = {
    "output": ask(compiling.judge, against, plain, replace(fast, output=fast.output * (1 + 1e-4)), **where),
    "a gradient": ask(compiling.judge, against, plain, scaled("gradient of up.weight", 1 + 1e-4), **where),
    "a NaN": ask(compiling.judge, against, plain, scaled("gradient of the input", float("nan")), **where),
    "an element": ask(compiling.judge_kernel, moved, sums, **where),
    "a sum": ask(compiling.judge_kernel, target, added, **where),
    "no graph": ask(compiling.judge_caches, 0, *caches[1:]),
    "an empty cache": ask(compiling.judge_caches, graphs, folder / "empty", *caches[2:]),
    "a kernel from elsewhere": ask(compiling.judge_caches, graphs, folder / "inductor", folder / "empty", ("mix",)),
}
print(json.dumps([right, wrong]))
"""


def _answers(place, code):
    done = subprocess.run(
        [place.python, "-P", "-s", "-c", code, str(place.root / "caches")],
        env={**os.environ, "PYTHONPATH": str(place.suite)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_arithmetic_takes_right_results_and_no_slightly_wrong_one(torch_place):
    right, wrong = _answers(torch_place, ARITHMETIC)
    assert {name: seen for name, seen in right.items() if seen != "right"} == {}
    assert [name for name, seen in wrong.items() if seen == "right"] == []
    assert "element 2309:" in wrong["an element"]
    assert "1 of 393216 elements" in wrong["an element"]
    assert "nan instead of" in wrong["a NaN"]
    assert wrong["no cuDNN"] != "no convolution"


def test_compile_takes_right_results_and_no_slightly_wrong_one(torch_place):
    right, wrong = _answers(torch_place, COMPILE)
    assert {name: seen for name, seen in right.items() if seen != "right"} == {}
    assert [name for name, seen in wrong.items() if seen == "right"] == []
    assert wrong["a gradient"].startswith("gradient of up.weight is off by ")
    assert "the first is element 70000" in wrong["an element"]
    assert "the first is sum of block 97" in wrong["a sum"]
