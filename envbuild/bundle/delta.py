"""One big file as the difference to another build of it.

The new file is cut into chunks. Each is compressed by zstd with a raw dictionary: those blocks of the old file
that hold the same bytes, found by anchors (places that a pattern picks from the content, so that they are the same
in both files wherever the content has moved to), and the neighbourhood of the same offset. So memory stays small,
chunks are independent, and cores share the work. For libtriton.so of two interpreters (415 MB) this gives less than
zstd's ``--patch-from`` (docs/explanation/bundle.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import zstandard

from envbuild.bundle.model import BLOCK, CHUNK

Bytes = bytes | memoryview
_LEVEL = 12
_ANCHOR = re.compile(rb"[\x10-\x17][\xa0-\xaf]")
_ANCHOR_BYTES = 12
_STEP = 16 << 20
_SAMPLE = 128 << 10
_MARGIN = 2 << 20
_BLOCKS = 256
_MOVED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class OldFile:
    """The old file's content, and where each anchor that occurs once is."""

    data: memoryview
    anchors: Mapping[int, int]

    @classmethod
    def read(cls, data: memoryview) -> OldFile:
        """Look for anchors; about 4 s for 400 MB."""
        found: dict[int, int] = {}
        for start in range(0, len(data), _STEP):
            for position, key in _anchors(data, start, min(start + _STEP, len(data))):
                found[key] = _MOVED if key in found else position
        return cls(data=data, anchors={key: at for key, at in found.items() if at != _MOVED})

    def common(self, new: memoryview) -> float:
        """The share of a new file's anchors that this one has too: 0 for strangers. Samples 128 KiB of each MiB."""
        seen = shared = 0
        for start in range(0, len(new), 1 << 20):
            for _, key in _anchors(new, start, min(start + _SAMPLE, len(new))):
                seen += 1
                shared += key in self.anchors
        return shared / seen if seen else 0.0

    def blocks(self, new: memoryview, start: int, end: int) -> tuple[tuple[int, int], ...]:
        """The runs of blocks (first, count) that resemble ``new[start:end]`` most."""
        votes: Counter[int] = Counter()
        for _, key in _anchors(new, start, end):
            at = self.anchors.get(key)
            if at is not None:
                votes[at // BLOCK] += 1
        last = (len(self.data) - 1) // BLOCK
        near = range(max(0, (start - _MARGIN) // BLOCK), min(last, (end + _MARGIN) // BLOCK) + 1)
        ranked = sorted(votes, key=lambda block: (-votes[block], block))[:_BLOCKS]
        return tuple(_runs(sorted({*near, *ranked})))


def _anchors(data: memoryview, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Places in ``data[start:end]`` that the pattern picks, with the bytes there as a number."""
    part = bytes(data[start : end + _ANCHOR_BYTES])
    for match in _ANCHOR.finditer(part, 0, end - start):
        at = match.start()
        yield start + at, int.from_bytes(part[at : at + _ANCHOR_BYTES], "little")


def _runs(blocks: Sequence[int]) -> Iterator[tuple[int, int]]:
    first = count = 0
    for block in blocks:
        if count and block == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = block, 1
    if count:
        yield first, count


def chunks(size: int) -> list[tuple[int, int]]:
    """The ranges that a file of ``size`` bytes is patched in."""
    return [(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK)]


def make(old: OldFile, new: memoryview, start: int, end: int) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """One frame: ``new[start:end]`` by means of the old file. Returns the frame and the blocks it draws on."""
    blocks = old.blocks(new, start, end)
    prefix = _dictionary(old.data, blocks)
    settings = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        source_size=end - start,
        dict_size=len(prefix),
        window_log=max(20, (len(prefix) + end - start).bit_length()),
        write_content_size=True,
    )
    compressor = zstandard.ZstdCompressor(compression_params=settings, dict_data=_raw(prefix))
    return compressor.compress(new[start:end]), blocks


def apply(old: memoryview, blocks: Sequence[tuple[int, int]], frame: bytes, size: int) -> bytes:
    """The ``size`` bytes that a frame gives. Raises ``zstandard.ZstdError`` for other content."""
    if zstandard.frame_content_size(frame) not in (
        -1,
        size,
    ):  # what a frame claims is allocated before it is read
        raise zstandard.ZstdError(f"the frame does not have {size} bytes")
    decompressor = zstandard.ZstdDecompressor(
        dict_data=_raw(_dictionary(old, blocks)), max_window_size=1 << 31
    )
    return decompressor.decompress(frame, max_output_size=size)


def _dictionary(old: memoryview, blocks: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(old[first * BLOCK : (first + count) * BLOCK] for first, count in blocks)


def _raw(prefix: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
