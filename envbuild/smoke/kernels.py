"""A kernel written by hand in Triton: integers only, so that its result has one right value."""

import triton
import triton.language as tl


@triton.jit
def mix(source, target, sums, count, factor, BLOCK: tl.constexpr):
    """Mix each element with its place, and sum up each block. ``count`` need not be a multiple of BLOCK."""
    block = tl.program_id(0)
    place = block * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    value = tl.load(source + place, mask=inside, other=0)
    mixed = (value ^ (value >> 3)) * factor + place
    tl.store(target + place, mixed, mask=inside)
    tl.store(sums + block, tl.sum(tl.where(inside, mixed, 0), axis=0))
