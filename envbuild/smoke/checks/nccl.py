"""``nccl``: all GPUs exchange exactly what they should, as fast as their links allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import collective, curve, links
from ..context import Context, run_ranks
from ..model import Failure
from ..surroundings import Place, gpus_of, joined, surroundings


def run(context: Context) -> dict[str, Any]:
    """One process a GPU; every size, type and collective up to 1 GiB."""
    return answer(context, gpus_of(context))


def answer(
    context: Context, place: Place, *, largest: int = curve.LARGEST, floor: links.Floor | None = None
) -> dict[str, Any]:
    """Compare every element on each rank, then hold the slowest rank's bandwidth against the floor.

    Args:
        context: the check's own.
        place: where the ranks are.
        largest: bytes of the largest size.
        floor: another floor than the data file's.

    Raises:
        Failure: an element is wrong, or a collective stays below the floor.
    """
    results = run_ranks(
        context,
        place.world,
        environ=surroundings(context, place),
        options={**place.options(), "largest": largest},
    )
    collective.judge(results)
    chosen = links.transports(
        path.read_text(errors="replace") for path in sorted(context.shared.glob("nccl.*")) if path.is_file()
    )
    seen = links.Topology.parse(results[0]["topology"])
    link = links.link_class(seen, chosen)
    least = floor or links.floor(link, seen)
    numbers = {
        "ranks": place.world,
        "nccl": results[0]["nccl"],
        "transport": ", ".join(chosen) or "unknown",
        "link": link,
        "topology": seen.to_dict(),
        "floor": {"busbw": least.busbw, "source": least.source},
        "busbw": curve.peaks(results[0]["curve"]),
        "formula": curve.FORMULA,
        "curve": results[0]["curve"],
        "cases": results[0]["cases"],
        "elements": sum(result["elements"] for result in results),
    }
    _remark(context, chosen, link)
    judge_floor(numbers, least)
    return numbers


def _remark(context: Context, chosen: Sequence[str], link: str) -> None:
    if not chosen:
        context.warn("NCCL's log names no transport")
    others = [name for name in chosen if not name.startswith(("P2P", "NVLS"))]
    if others and link != "sockets":
        context.warn(
            f"NCCL does not go from GPU to GPU: {', '.join(others)} (are peers barred, by ACS or a variable?)"
        )
    if link == "sockets":
        context.warn(
            "NCCL goes by sockets between GPUs of one machine: neither peer access nor /dev/shm serve it"
        )


def judge_floor(numbers: dict[str, Any], floor: links.Floor) -> None:
    """Fail where a collective's best bus bandwidth is below the floor.

    Raises:
        Failure: names each, and the transport that NCCL chose.
    """
    slow = [
        f"{kind} {busbw:.1f} GB/s" for kind, busbw in numbers["busbw"].items() if not busbw >= floor.busbw
    ]
    if slow:
        raise Failure(
            expected=f"at least {floor.busbw:g} GB/s bus bandwidth over {numbers['link']} ({floor.source})",
            seen=f"{'; '.join(slow)}; NCCL went via {numbers['transport']}",
            hint="NCCL_P2P_DISABLE and other NCCL_* variables (see environment), a link that is down (nvidia-smi "
            "nvlink --status), ACS on the PCI bridges, or another program on these GPUs",
            numbers=numbers,
        )


def rank(context: Context) -> dict[str, Any]:
    """One GPU's process."""
    import torch

    device, largest = joined(context), int(context.options["largest"])
    tally = collective.Tally()
    for dtype in collective.DTYPES:
        width = torch.empty((), dtype=getattr(torch, dtype)).element_size()
        for kind in collective.KINDS:
            for number, count in enumerate(
                curve.lengths(kind, width=width, world=context.world, largest=largest)
            ):
                tally.add(
                    collective.exact(
                        device=device, dtype=dtype, count=count, kind=kind, root=number % context.world
                    )
                )
    measured = curve.measure(device=device, largest=largest)
    # Once more after the bandwidth: what the load broke would show here.
    tally.add(collective.exact(device=device, dtype="float32", count=largest // 4))
    return {**tally.to_dict(), "curve": measured, **_about(context, device)}


def _about(context: Context, device: str) -> dict[str, Any]:
    import torch

    if device == "cpu":
        return {"nccl": None, "topology": links.Topology(gpus=(), nvlink=None).to_dict()}
    uuids = [f"GPU-{torch.cuda.get_device_properties(gpu).uuid}" for gpu in range(context.world)]
    return {
        "nccl": ".".join(str(part) for part in torch.cuda.nccl.version()),
        "topology": links.topology(uuids).to_dict(),
    }
