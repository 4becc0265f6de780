"""Inputs for readers of foreign bytes: a valid document, changed in one to four places, or plain noise.

Every change is drawn from a ``random.Random``. Hypothesis gives one of its own, so that what it finds gets shorter;
the long campaign gives one that is seeded by the reader's name and the input's number, so that each input can be made
again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from random import Random
from typing import Any


class Make:
    """Draws inputs; ``seeds`` are the valid ones that they come from."""

    def __init__(self, draw: Callable[[Random], bytes], *seeds: bytes) -> None:
        self._draw = draw
        self.seeds = seeds

    def __call__(self, rng: Random) -> bytes:
        return self._draw(rng)


DIGITS = 5_000
"""More than Python makes a number of (4,300)."""
DEEP = (40, 1_500, 100_000)

TEXTS = (
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\n",
        "\r\n",
        "\x1b[2J",
        "\x7f",
        "\ud800",
        "\ufeff",
        "\u202e",
        "é",
        "e\u0301",
        "🦄",
    ),
    *(
        "..",
        "../../etc/passwd",
        "/",
        "/etc/passwd",
        ".",
        "./",
        "a//b",
        "C:\\x",
        "-",
        "--help",
        "%00",
        "%2e%2e/",
    ),
    *("0", "-1", "1e999", "NaN", "9" * DIGITS, "²", "١٢٣", "0x10", "1_000", "true", "null"),
    *(
        "sha256:",
        "sha256:" + "0" * 64,
        "sha256=" + "A" * 43,
        "md5:x",
        "sha512=",
        "=",
        "==",
        ";",
        ",",
        ":",
        "::",
    ),
    *(
        "http://",
        "http://[",
        "http://[::1",
        "http://h:99999/",
        "http://h:x/",
        "file:///",
        "//h/x",
        "h:99999",
        "@",
    ),
    *(
        "1.0",
        "1!2.0",
        "v1",
        "2:1.0-1~",
        "1.0+x",
        "cuda126*",
        ">=1,<2",
        "[",
        "]",
        "{",
        "}",
        "(",
        ")",
        "<",
        ">",
        "&",
    ),
    *(
        "2026-13-45",
        "0000-00-00T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "Thu, 01 Jan 99999 00:00:00 GMT",
        "Mon, 32 Foo",
    ),
    *("[" * 1_500, "{a=" * 1_500, '{"a":' * 1_500, "(" * 1_500, "- " * 1_500, "<a>" * 1_500),
    *("a" * 300, "a" * 5_000, "é" * 130, ".wh.x", ".wh..wh..opq", "x" * 256 + "/y", "a/" * 2_000),
)

VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        255,
        2**31,
        2**63 - 1,
        2**63,
        2**64,
        -(2**63) - 1,
        10**300,
        0.5,
        -0.0,
        1e308,
    ),
    *(float("nan"), float("inf"), [], {}, [[]], [{}], {"": ""}, [None], {"a": None}, [1], "x", ["x"]),
)

NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63,
    2**64 - 1,
)
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")


def json_of(*seeds: object, spread: Make | None = None) -> Make:
    """JSON documents like ``seeds``: members gone, of other types, twice, nested deep; sometimes broken text."""
    texts = [json.dumps(seed) for seed in seeds]
    noise = spread or mixed(*(text.encode() for text in texts))

    def make(rng: Random) -> bytes:
        kind = rng.random()
        if kind < 0.12:
            return noise(rng)
        value = json.loads(rng.choice(texts))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            value = _changed(rng, value)
        try:
            text = json.dumps(value, ensure_ascii=rng.random() < 0.8)
        except (ValueError, RecursionError):
            return noise(rng)
        if kind < 0.2:
            text = _beyond_json(rng, text)
        return text.encode("utf-8", "surrogatepass" if rng.random() < 0.2 else "replace")

    return Make(make, *(text.encode() for text in texts))


def _changed(rng: Random, value: Any) -> Any:
    """``value`` with one thing in it changed, in place where it can be."""
    places = list(_places(value))
    if not places:
        return deepcopy(rng.choice(VALUES))
    holder, key = rng.choice(places)
    way = rng.randrange(9)
    old = holder[key]
    if way == 0:
        del holder[key]
    elif way == 1:
        holder[key] = rng.choice(TEXTS)
    elif way == 2:
        holder[key] = deepcopy(rng.choice(VALUES))
    elif way == 3:
        other, name = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[name])) if name in _keys(other) else None
    elif way == 4:
        holder[key] = [old] if rng.random() < 0.5 else {"a": old}
    elif way == 5 and isinstance(holder, dict):
        holder[rng.choice(TEXTS)] = deepcopy(old)
    elif way == 6 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), json.loads(json.dumps(old)))
    elif way == 7 and isinstance(old, str):
        holder[key] = text_changed(rng, old)
    elif isinstance(old, bool) or not isinstance(old, int | float):
        holder[key] = str(old) if rng.random() < 0.5 else deepcopy(rng.choice(VALUES))
    else:
        holder[key] = rng.choice(
            (old + 1, -old, old * 2**40, str(old), float(old) if abs(old) < 10**300 else old)
        )
    return value


def _keys(value: Any) -> Any:
    return value if isinstance(value, dict) else range(len(value))


def _places(value: Any) -> Any:
    """Every member of every container, with its container."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict | list):
            for key in _keys(item):
                yield item, key
                pending.append(item[key])


def _beyond_json(rng: Random, text: str) -> str:
    """What Python's writer does not write: a value nested deep, a number of many digits, a member twice."""
    at = [match.end() for match in re.finditer(r"[:\[,] ?", text)] or [0]
    where = rng.choice(at)
    rest = text[where:]
    way = rng.randrange(4)
    if way == 0:
        deep = rng.choice(DEEP)
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        return text[:where] + opening * deep + "1" + closing * deep + "," + rest
    if way == 1:
        return (
            text[:where]
            + rng.choice("-" + "1")
            + "9" * DIGITS
            + rng.choice(("", ".5", "e9"))
            + re.sub(r"^[^,\]}]*", "", rest)
        )
    if way == 2:
        return (
            text[:where]
            + rng.choice(("NaN", "-Infinity", "1e999999", '"\\ud800"', '"\\u0000"'))
            + re.sub(r"^[^,\]}]*", "", rest)
        )
    return text.replace("{", '{"a": 1, "a": 2, ', 1) if rng.random() < 0.5 else text[:where]


def text_of(*seeds: str, more: Sequence[str] = ()) -> Make:
    """Texts like ``seeds``: lines gone, twice, in another order, with other words; sometimes other bytes."""
    words = (*TEXTS, *more, *more)
    noise = bytes_of(*(seed.encode() for seed in seeds))

    def make(rng: Random) -> bytes:
        if rng.random() < 0.12:
            return noise(rng)
        text = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            text = text_changed(rng, text, words)
        data = text.encode("utf-8", "surrogatepass")
        return bytes_changed(rng, data) if rng.random() < 0.05 else data

    return Make(make, *(seed.encode() for seed in seeds))


def text_changed(rng: Random, text: str, words: Sequence[str] = TEXTS) -> str:
    """``text`` with one word or line changed."""
    way = rng.randrange(9)
    if way < 3:
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        if way == 0:
            del lines[at]
        elif way == 1:
            lines.insert(at, rng.choice(lines) if rng.random() < 0.5 else rng.choice(words))
        else:
            lines[at], lines[-1 - at] = lines[-1 - at], lines[at]
        return "\n".join(lines)
    if way == 3:
        return text[: rng.randrange(len(text) + 1)]
    tokens = _TOKEN.findall(text) or [""]
    at = rng.randrange(len(tokens))
    if way == 4:
        tokens[at] = ""
    elif way == 5:
        tokens[at] = rng.choice(tokens)
    elif way == 6:
        tokens[at] *= rng.choice((2, 3, 70, 1_000)) if len(tokens[at]) < 70 else 2
    elif way == 7:
        tokens[at] += rng.choice(words)
    else:
        tokens[at] = rng.choice(words)
    return "".join(tokens)


def bytes_of(*seeds: bytes) -> Make:
    """Bytes like ``seeds``: flipped, cut, doubled, with numbers at their bounds; or noise alone."""

    def make(rng: Random) -> bytes:
        if rng.random() < 0.03:
            return rng.randbytes(rng.choice((0, 1, 2, 3, 4, 7, 16, 64, 300)))
        data = rng.choice(seeds)
        for _ in range(rng.choice((1, 1, 2, 3, 6))):
            data = bytes_changed(rng, data)
        return data

    return Make(make, *seeds)


def bytes_changed(rng: Random, data: bytes) -> bytes:
    """``data`` with a run of bytes changed."""
    at = rng.randrange(len(data) + 1)
    way = rng.randrange(8)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + data[at + rng.choice((1, 2, 4, 8, 60, 512)) :]
    if way == 2:
        return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 8, 20))) + data[at:]
    if way == 3:
        width = rng.choice((1, 2, 4, 8))
        number = rng.choice(NUMBERS) & ((1 << 8 * width) - 1)
        return data[:at] + number.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :]
    if way == 4:
        return data[:at] + data[rng.randrange(len(data) + 1) :][: rng.choice((4, 64, 512))] + data[at:]
    if way == 5:
        return data[:at] + bytes(rng.choice((1, 4, 512))) + data[at + 4 :]
    if way == 6 and data[at : at + 1].isdigit():
        return (
            data[:at] + rng.choice((b"9", b"-", b" ", b"x", b"\0", b"7777777", "²".encode())) + data[at + 1 :]
        )
    if not data:
        return b"\0"
    at = min(at, len(data) - 1)
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def mixed(*seeds: bytes) -> Make:
    """Text or bytes, as the seed is."""
    texts = [seed.decode() for seed in seeds]
    plain, raw = text_of(*texts), bytes_of(*seeds)
    return Make(lambda rng: plain(rng) if rng.random() < 0.6 else raw(rng), *seeds)


def either(*makes: Make) -> Make:
    """One of several ways."""
    return Make(lambda rng: rng.choice(makes)(rng), *(seed for make in makes for seed in make.seeds))


def packed(make: Make, pack: Callable[[bytes], bytes], *, seldom: float = 0.15) -> Make:
    """What ``make`` gives, compressed or framed; ``seldom`` with the frame's own bytes changed."""

    def made(rng: Random) -> bytes:
        data = pack(make(rng))
        return bytes_changed(rng, data) if rng.random() < seldom else data

    return Make(made, *map(pack, make.seeds))
