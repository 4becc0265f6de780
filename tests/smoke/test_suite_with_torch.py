"""Checks that need no GPU, with a real torch."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

torch_needed = pytest.mark.torch

WRONG_SUM = """
import os
if os.environ.get("RANK") == "1":
    import torch.distributed as dist
    real = dist.all_reduce
    def wrong(tensor, *a, **k):
        done = real(tensor, *a, **k)
        tensor.view(-1)[-1] += 1
        return done
    dist.all_reduce = wrong
"""
"""A defect outside of the suite: torch.distributed gives rank 1 a wrong last element."""


def seed(place, code):
    """Put a defect into every Python that the suite starts."""
    folder = place.root / "defect"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    place.environ["PYTHONPATH"] = f"{folder}:{place.suite}"


@torch_needed
def test_gloo_adds_up(torch_place):
    numbers = torch_place.ask("gloo-all-reduce", limit=150).passed("gloo-all-reduce")
    assert numbers == {"ranks": 2, "cases": 9, "elements": 3 * (1 + 1021 + (1 << 18))}


@torch_needed
def test_a_rank_with_one_wrong_element_fails_and_is_named(torch_place):
    seed(torch_place, WRONG_SUM)
    found = torch_place.ask("gloo-all-reduce", limit=150).failed(
        "gloo-all-reduce", "rank 1", "1 wrong, the first at 0"
    )
    assert "rank 0" not in found["seen"]


@torch_needed
def test_a_rank_that_dies_fails_the_check_at_once(torch_place):
    seed(torch_place, "import os\nif os.environ.get('RANK') == '1': os.abort()\n")
    answer = torch_place.ask("gloo-all-reduce", limit=150)
    found = answer.failed("gloo-all-reduce", "rank 1 was killed by SIGABRT")
    assert found["cause"] == "answer"


@torch_needed
def test_a_rank_that_hangs_runs_into_the_limit(torch_place):
    seed(
        torch_place,
        "import os, time\nif os.environ.get('RANK') == '1':\n    import torch.distributed as dist\n"
        "    dist.all_reduce = lambda *a, **k: time.sleep(1000)\n",
    )
    found = torch_place.ask("gloo-all-reduce", limit=20).failed("gloo-all-reduce")
    assert found["cause"] == "timeout"
    assert "sitecustomize.py" in found["output"], "rank 1's stack says where it stood"


@torch_needed
def test_torch_imports_from_its_package(torch_place):
    torch_place.expect["imports"] = ["torch", "deepspeed"]
    torch_place.ask("imports", limit=250).passed("imports")


@torch_needed
def test_a_cpu_build_is_refused_even_when_it_is_what_is_here(torch_place):
    code = "import torch, sys; sys.exit(torch.version.cuda is not None)"
    if subprocess.run([torch_place.python, "-c", code], check=False).returncode:
        pytest.skip("this torch is a CUDA build")
    done = subprocess.run(
        [torch_place.python, "-P", "-s", "-m", "smoke", "--here", "--only", "loaded"],
        env={**os.environ, "PYTHONPATH": str(torch_place.suite)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "this torch is a CPU build" in json.loads(done.stdout)["checks"][2]["expected"]
