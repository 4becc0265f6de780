"""A layer's tar made again from literal bytes, far files and patches, while it is unpacked."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import IO, cast

import msgspec
import zstandard

from envbuild.bundle import delta
from envbuild.bundle.mapped import map_file
from envbuild.bundle.model import FAR, LITERAL, MAX_WINDOW, LayerPlan, Patch
from envbuild.bundle.pieces import PieceReader
from envbuild.errors import EnvbuildError, Exit
from envbuild.sandbox.tarstream import HashedTar
from envbuild.sandbox.unpack import unpack_stream

_READ = 1 << 20
_WINDOW = 1 << MAX_WINDOW


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """All that one layer needs, as JSON can carry it into the sandbox's helper process.

    ``far`` maps the numbers of far files to where they are here; ``pieces`` are path, first byte and size.
    """

    layer: LayerPlan
    patches: dict[int, Patch]
    far: dict[int, str]
    pieces: tuple[tuple[str, int, int], ...]
    final: str


def unpack(arguments: Mapping[str, object], advance: Callable[[int], None]) -> int:
    """In the helper process: make the layer again and unpack it to ``final``; the number of entries.

    Raises:
        EnvbuildError: exit 5 when the tar's digest is not the layer's diff_id; nothing is left then.
    """
    work = msgspec.convert(arguments, Work, strict=False)
    stream = RebuiltTar(work, advance)
    try:
        return unpack_stream(stream, work.layer.diff_id, Path(work.final), name=work.layer.diff_id)
    except EnvbuildError as error:
        if error.id == "layer-damaged":
            raise _differs(work, error.message) from error
        raise


def _differs(work: Work, reason: str) -> EnvbuildError:
    return EnvbuildError(
        "layer-differs",
        f"the layer {work.layer.diff_id} made from the bundle is not the image's: {reason}",
        where=work.layer.diff_id,
        hint="run `envbuild unbundle` again: a far file may have changed while it was read; if it stays, "
        "write the bundle anew with `envbuild bundle`",
        exit=Exit.VERIFY,
    )


class RebuiltTar(HashedTar):
    """A layer's tar, made while it is read.

    Memory: the window of the literal stream (at most 512 MiB, as wide as the layer's literal bytes), and a chunk and
    its dictionary (about 30 MiB) while a patched file is made. Far files are mapped.
    """

    def __init__(self, work: Work, advance: Callable[[int], None]) -> None:
        super().__init__()
        self._work = work
        self._advance = advance
        self._reader = PieceReader(pieces=tuple((Path(path), at, size) for path, at, size in work.pieces))
        self._parts = self._bytes()
        self._rest = memoryview(b"")

    def read(self, size: int = -1) -> bytes:
        """Read at most ``size`` bytes; fewer only at the end."""
        size = _READ if size < 0 else size
        found: list[bytes | memoryview] = []
        missing = size
        while missing:
            if not self._rest:
                data = next(self._parts, None)
                if data is None:
                    break
                self._rest = memoryview(data)
            found.append(self._rest[:missing])
            missing -= len(found[-1])
            self._rest = self._rest[len(found[-1]) :]
        result = b"".join(found)
        self._advance(len(result))
        return self.seen(result)

    def _bytes(self) -> Iterator[bytes]:
        layer = self._work.layer
        literal = self._literal()
        for kind, n in layer.parts:
            if kind == LITERAL:
                left = n
                while left and (data := literal.read(min(left, _READ))):
                    left -= len(data)
                    yield data
            elif kind == FAR:
                with Path(self._work.far[n]).open("rb") as stream:
                    while data := stream.read(_READ):
                        yield data
            else:
                yield from self._patched(self._work.patches[n])

    def _literal(self) -> io.BufferedIOBase:
        stream = self._work.layer.literal
        if stream is None:
            return io.BytesIO()
        source = cast(IO[bytes], _Source(self._reader.read(stream.start, stream.length)))
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        return io.BufferedReader(decompressor.stream_reader(source, read_size=_READ), _READ)

    def _patched(self, patch: Patch) -> Iterator[bytes]:
        old = map_file(Path(self._work.far[patch.far]))
        starts = accumulate((frame.length for frame in patch.frames), initial=patch.start)
        ranges = delta.chunks(patch.size)
        for frame, at, (low, high) in zip(patch.frames, starts, ranges, strict=False):
            data = b"".join(self._reader.read(at, frame.length))
            yield delta.apply(old, frame.blocks, data, high - low)


class _Source(io.RawIOBase):
    """An iterator of bytes as a file."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        super().__init__()
        self._parts = parts
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            self._rest = next(self._parts, b"")
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data
