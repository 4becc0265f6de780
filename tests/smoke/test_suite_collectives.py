"""Collectives, copies and DDP on two CPU processes, and seeded defects that their checks must refuse."""

from __future__ import annotations

import json

import pytest
from gloo_ranks import ask
from hypothesis import given
from hypothesis import strategies as st
from suiteseed import EMPTY, NOT_AVERAGED

from envbuild.smoke import collective, curve, links
from envbuild.smoke.checks.nccl import judge_floor
from envbuild.smoke.model import Failure

NO_FLOOR = {"busbw": 0.0, "source": "none, on a CPU"}
SMALL = {"largest": 1 << 16, "floor": NO_FLOOR}
EXPECT = json.loads(json.dumps(EMPTY))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory, torch_interpreter):
    """All three checks, of the same two ranks."""
    asks = [("nccl", SMALL), ("peer-copy", {}), ("ddp", {})]
    folder = tmp_path_factory.mktemp("healthy")
    answers = ask(folder, torch_interpreter, asks, expect=EXPECT)
    return {check: answer for (check, _), answer in zip(asks, answers, strict=True)}


@pytest.mark.torch
def test_every_collective_type_and_size_is_exact(healthy):
    numbers = healthy["nccl"].passed()
    sizes = len(curve.sizes(1 << 16))
    # int64 in pieces: 8 and 16 bytes are both one element a rank.
    assert numbers["cases"] == 3 * 4 * sizes - 2 + 1
    assert set(numbers["curve"]) == set(collective.KINDS)
    for kind, points in numbers["curve"].items():
        assert [point["bytes"] for point in points] == curve.sizes(1 << 16)
        for point in points:
            wanted = collective.bandwidth(int(point["bytes"]), point["seconds"], 2, kind)
            assert {name: point[name] for name in wanted} == wanted
        assert numbers["busbw"][kind] == max(point["busbw"] for point in points)
    assert numbers["floor"] == NO_FLOOR
    assert numbers["ranks"] == 2


@pytest.mark.torch
def test_copies_both_ways_arrive(healthy):
    pairs = healthy["peer-copy"].passed()["pairs"]
    assert [(pair["from"], pair["to"], pair["wrong"]) for pair in pairs] == [(0, 1, None), (1, 0, None)]


@pytest.mark.torch
def test_ddps_gradients_are_those_of_one_process(healthy):
    numbers = healthy["ddp"].passed()
    assert numbers["worst"]["relative"] <= numbers["bound"]
    assert numbers["parameters"] == 30
    assert numbers["loss"] == pytest.approx(numbers["reference_loss"], rel=1e-5)


@pytest.mark.torch
def test_the_three_used_the_same_ranks(healthy):
    assert len({tuple(answer.ranks) for answer in healthy.values()}) == 1


WRONG = """
import os
if os.environ.get("RANK") == "1":
    import torch.distributed as dist
    real = dist.NAME
    def wrong(output, *a, **k):
        done = real(output, *a, **k)
        if output.numel() > 1000:
            output.view(-1)[-3] += 1
        return done
    dist.NAME = wrong
"""

SWAPPED = """
import os
if os.environ.get("RANK") == "0":
    import torch.distributed as dist
    real = dist.all_gather_into_tensor
    def wrong(output, *a, **k):
        done = real(output, *a, **k)
        half = output.numel() // 2
        output.copy_(output.roll(half))
        return done
    dist.all_gather_into_tensor = wrong
"""


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("all_reduce", "all_reduce"),
        ("reduce_scatter_tensor", "reduce_scatter"),
        ("broadcast", "broadcast"),
    ],
)
def test_one_wrong_element_on_one_rank_is_refused(tmp_path, torch_interpreter, name, kind):
    (answer,) = ask(
        tmp_path, torch_interpreter, [("nccl", SMALL)], expect=EXPECT, defect=WRONG.replace("NAME", name)
    )
    found = answer.failed(f"rank 1, {kind} of", "1 wrong")
    assert "rank 0" not in found["seen"]


@pytest.mark.torch
def test_pieces_in_another_order_are_refused(tmp_path, torch_interpreter):
    (answer,) = ask(tmp_path, torch_interpreter, [("nccl", SMALL)], expect=EXPECT, defect=SWAPPED)
    assert "rank 1" not in answer.failed("rank 0, all_gather of")["seen"]


@pytest.mark.torch
def test_a_floor_that_is_not_met_is_refused_with_the_curve(tmp_path, torch_interpreter):
    floor = {"busbw": 1e6, "source": "more than any"}
    (answer,) = ask(tmp_path, torch_interpreter, [("nccl", {**SMALL, "floor": floor})], expect=EXPECT)
    found = answer.failed("all_reduce", "broadcast", "more than any", "1e+06 GB/s")
    assert found["numbers"]["curve"]["all_reduce"]


WRONG_COPY = """
import os
if os.environ.get("RANK") == "0":
    import torch
    real = torch.Tensor.copy_
    def wrong(self, source, *a, **k):
        done = real(self, source, *a, **k)
        if self.dtype is torch.int64 and self.numel() == 65537 and bool((source[:3] >= 0).all()):
            self[65536] = -7
        return done
    torch.Tensor.copy_ = wrong
"""

NOT_BROADCAST = """
import os
if os.environ.get("RANK"):
    from torch.nn.parallel import DistributedDataParallel as Ddp
    real = Ddp.__init__
    def wrong(self, *a, **k):
        real(self, *a, **{**k, "init_sync": False})
    Ddp.__init__ = wrong
"""

SUMMED = """
import os
if os.environ.get("RANK"):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel as Ddp
    real = Ddp.__init__
    def summed(state, bucket):
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])
    def wrong(self, *a, **k):
        real(self, *a, **k)
        self.register_comm_hook(None, summed)
    Ddp.__init__ = wrong
"""


@pytest.mark.torch
def test_defects_of_copies_and_gradients_are_refused(tmp_path, torch_interpreter):
    def refused(name, check, defect, *texts):
        folder = tmp_path / name
        folder.mkdir()
        (answer,) = ask(folder, torch_interpreter, [(check, {})], expect=EXPECT, defect=defect)
        return answer.failed(*texts)

    refused("copy", "peer-copy", WRONG_COPY, "GPU 0 to 1", "GPU 1 to 0", "the first at 65536", "1 wrong")
    refused("average", "ddp", NOT_AVERAGED, "rank 0: the gradient of", "differ from those of rank 0")
    refused("weights", "ddp", NOT_BROADCAST, "rank 0: the gradient of")
    found = refused("sum", "ddp", SUMMED, "is off by 1 of its length")
    assert "differ" not in found["seen"]


@given(world=st.integers(1, 128))
def test_sums_of_patterns_are_exact_in_every_type(world):
    assert (collective.modulus(world) - 1) * world <= collective.EXACT
    assert collective.modulus(world) >= 2


@pytest.mark.parametrize(("world", "factor"), [(1, 0.0), (2, 1.0), (4, 1.5), (8, 1.75)])
def test_bandwidth_is_nccl_tests_formula(world, factor):
    found = collective.bandwidth(10**9, 0.5, world)
    assert found["algbw"] == 2.0
    assert found["busbw"] == 2.0 * factor
    assert collective.bandwidth(10**9, 0.5, world, "all_gather")["busbw"] == factor
    assert collective.bandwidth(10**9, 0.5, world, "reduce_scatter")["busbw"] == factor
    assert collective.bandwidth(10**9, 0.5, world, "broadcast")["busbw"] == 2.0


@given(world=st.integers(1, 64), width=st.sampled_from([2, 4, 8]), kind=st.sampled_from(collective.KINDS))
def test_every_length_can_be_shared_and_the_largest_is_whole(world, width, kind):
    found = curve.lengths(kind, width=width, world=world)
    pieces = world if kind in ("all_gather", "reduce_scatter") else 1
    assert all(count > 0 and count % pieces == 0 for count in found)
    assert found == sorted(set(found))
    assert 0 <= (1 << 30) - found[-1] * width < pieces * width


def test_transports_are_read_from_nccls_log():
    text = (
        "h:1:2 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM\n"
        "h:1:2 [0] NCCL INFO Channel 01/0 : 0[0] -> 1[1] via SHM/direct/direct\n"
        "h:1:2 [0] NCCL INFO Connected all rings\n"
    )
    assert links.transports([text]) == ["P2P/CUMEM", "SHM/direct/direct"]
    assert links.transports([text + "h NCCL INFO Connected NVLS tree\n"])[0] == "NVLS"


def _gpu(nvlinks=18, version=6, generation=5, lanes=16):
    return links.Gpu(
        uuid="GPU-1", nvlinks=nvlinks, nvlink_version=version, pcie_generation=generation, pcie_lanes=lanes
    )


@pytest.mark.parametrize(
    ("nvlink", "chosen", "link"),
    [
        (True, ["P2P/CUMEM"], "nvlink"),
        (True, ["SHM/direct/direct"], "nvlink"),
        (True, ["NET/Socket/0"], "nvlink"),
        (False, ["P2P/direct pointer"], "pcie"),
        (False, ["SHM/direct/direct"], "pcie"),
        (False, ["NET/Socket/0"], "sockets"),
        (None, ["NVLS", "P2P/CUMEM"], "nvlink"),
        (None, ["P2P/CUMEM"], "pcie"),
        (None, [], "pcie"),
    ],
)
def test_the_link_is_what_the_hardware_has_and_not_what_nccl_made_of_it(nvlink, chosen, link):
    assert links.link_class(links.Topology(gpus=(), nvlink=nvlink), chosen) == link


@pytest.mark.parametrize(
    ("link", "gpus", "busbw"),
    [
        ("nvlink", [_gpu(), _gpu()], 180.0),
        ("nvlink", [_gpu(), _gpu(nvlinks=9)], 90.0),
        ("nvlink", [_gpu(version=7), _gpu(version=7)], 360.0),
        ("nvlink", [_gpu(version=99), _gpu()], 30.0),
        ("nvlink", [], 30.0),
        ("pcie", [_gpu(generation=4), _gpu()], 0.15 * 16 * 1.969),
        ("pcie", [_gpu(generation=3, lanes=4), _gpu()], 0.15 * 4 * 0.985),
        ("pcie", [], 1.5),
        ("sockets", [_gpu()], 0.1),
    ],
)
def test_the_floor_is_of_the_slowest_gpus_links_and_names_its_source(link, gpus, busbw):
    found = links.floor(link, links.Topology(gpus=tuple(gpus), nvlink=None))
    assert found.busbw == pytest.approx(busbw, abs=1e-3)
    assert "floors.toml" in found.source
    assert len(found.source) > 60


def test_the_topology_survives_the_way_from_a_rank():
    seen = links.Topology(gpus=(_gpu(), _gpu(nvlinks=4)), nvlink=True)
    assert links.Topology.parse(json.loads(json.dumps(seen.to_dict()))) == seen


def test_a_bandwidth_that_is_no_number_is_below_the_floor():
    numbers = {"busbw": {"all_reduce": float("nan")}, "link": "pcie", "transport": "SHM"}
    with pytest.raises(Failure, match="nan GB/s"):
        judge_floor(numbers, links.Floor(busbw=1.0, source="a test"))


NVML = """
typedef void *dev; static int zero, one = 1;
int nvmlInit_v2(void) { return 0; } int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *u, dev *d) { *d = u[4] == '0' ? &zero : &one; return u[4] > '1' ? 6 : 0; }
typedef struct { char legacy[16]; unsigned domain, bus, device, id, sub; char text[32]; } pci;
int nvmlDeviceGetPciInfo_v3(dev d, pci *p) { p->domain = 0; p->bus = d == &zero ? 6 : 7; p->device = 0; return 0; }
int nvmlDeviceGetP2PStatus(dev a, dev b, int index, int *s) { *s = index == 2 ? P2P : 9; return 0; }
int nvmlDeviceGetNvLinkState(dev d, unsigned link, unsigned *on) { *on = link < 4; return link < 6 ? 0 : 2; }
int nvmlDeviceGetNvLinkVersion(dev d, unsigned link, unsigned *v) { *v = 4; return 0; }
int nvmlDeviceGetNvLinkRemoteDeviceType(dev d, unsigned link, int *t) { *t = SWITCH; return 0; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(dev d, unsigned link, pci *p)
{ p->domain = 0; p->bus = link < 2 ? 7 : 9; p->device = 0; return 0; }
int nvmlDeviceGetMaxPcieLinkGeneration(dev d, unsigned *g) { *g = 4; return 0; }
int nvmlDeviceGetMaxPcieLinkWidth(dev d, unsigned *w) { *w = 16; return 0; }
"""


@pytest.mark.parametrize(
    ("p2p", "remote", "uuids", "nvlink", "counts"),
    [
        (0, 2, ["GPU-0", "GPU-1"], True, [4, 4]),
        (0, 0, ["GPU-0", "GPU-1"], True, [2, 2]),
        (1, 0, ["GPU-0", "GPU-1"], False, [2, 2]),
        (0, 2, ["GPU-0", "GPU-7"], None, []),
    ],
)
def test_nvml_tells_links_that_reach_our_gpus(
    compile_c, tmp_path, monkeypatch, p2p, remote, uuids, nvlink, counts
):
    source = NVML.replace("P2P :", f"{p2p} :").replace("SWITCH", str(remote))
    built = compile_c(tmp_path / "libnvidia-ml.so.1", source)
    real = links.ctypes.CDLL
    monkeypatch.setattr(links.ctypes, "CDLL", lambda name: real(str(built) if "nvidia" in name else name))
    seen = links.topology(uuids)
    assert seen.nvlink is nvlink
    assert [gpu.nvlinks for gpu in seen.gpus] == counts
    assert all((gpu.nvlink_version, gpu.pcie_generation, gpu.pcie_lanes) == (4, 4, 16) for gpu in seen.gpus)
