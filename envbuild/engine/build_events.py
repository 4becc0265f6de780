"""What ``docker buildx build`` says while it works, as values: from ``--progress=rawjson`` and from ``plain``.

rawjson (buildx 0.13 and newer) is a sequence of BuildKit's ``SolveStatus`` objects, pretty-printed or one a line, then
the frontend's excerpt and the last error as text. plain is ``#7 [build 2/9] RUN …``, ``#7 0.31 output``,
``#7 DONE 2.1s``.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_PLAIN = re.compile(r"#(\d+) (?:(DONE) [\d.]+s|(CACHED)|(?:ERROR: (.*))|(CANCELED)|(?:[\d.]+ (.*))|(.*))")
_PLAIN_AMOUNT = re.compile(
    r"(transferring [^:]*:|sha256:[0-9a-f]+) ([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kMG]?B)\b.*?( done)?"
)
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """News of one step (a "vertex"): ``key`` names it, ``name`` is its text, ``error`` why it failed."""

    key: str
    name: str
    started: bool = False
    ended: bool = False
    cached: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a step's program wrote to stdout or stderr."""

    key: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How far a transfer of a step has come, in bytes; ``ended`` when that was all of it."""

    key: str
    part: str
    current: int
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A line that belongs to no step: the excerpt of the Dockerfile and the last error."""

    text: str


Event = Step | Output | Amount | Text


def raw_events(lines: Iterable[str]) -> Iterator[Event]:
    """The events of ``--progress=rawjson``. A line that is no JSON is a :class:`Text`."""
    held: list[str] = []
    for line in lines:
        stripped = line.rstrip("\r\n")
        if not held and stripped == "{":
            held = [stripped]
        elif held:
            held.append(stripped)
            if stripped == "}":
                yield from _status("\n".join(held))
                held = []
        elif stripped.startswith("{") and stripped.endswith("}"):
            yield from _status(stripped)
        else:
            yield Text(text=stripped)
    yield from (Text(text=line) for line in held)


def _status(text: str) -> Iterator[Event]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        yield Text(text=text)
        return
    for vertex in _list(value, "vertexes"):
        yield Step(
            key=str(vertex.get("digest", "")),
            name=str(vertex.get("name", "")),
            started=bool(vertex.get("started")),
            ended=bool(vertex.get("completed")),
            cached=bool(vertex.get("cached")),
            error=str(vertex.get("error") or ""),
        )
    for status in _list(value, "statuses"):
        yield Amount(
            key=str(status.get("vertex", "")),
            part=str(status.get("id", "")),
            current=_count(status.get("current")),
            ended=bool(status.get("completed")),
        )
    for log in _list(value, "logs"):
        try:
            data = base64.b64decode(str(log.get("data") or ""))
        except ValueError:
            data = b""
        yield Output(key=str(log.get("vertex", "")), text=data.decode("utf-8", "replace"))


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _list(value: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = value.get(key) if isinstance(value, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def plain_events(lines: Iterable[str]) -> Iterator[Event]:
    """The events of ``--progress=plain``: buildx before 0.13."""
    names: dict[str, str] = {}
    for line in lines:
        text = line.rstrip("\r\n")
        found = _PLAIN.fullmatch(text)
        if found is None:
            if text:
                yield Text(text=text)
            continue
        key, done, cached, error, canceled, output, other = found.groups()
        name = names.get(key, "")
        if key not in names:
            names[key] = name = other or ""
            yield Step(key=key, name=name, started=True)
        elif done or cached or canceled:
            yield Step(key=key, name=name, started=True, ended=True, cached=bool(cached))
        elif error is not None:
            yield Step(key=key, name=name, started=True, ended=True, error=error)
        elif output is not None:
            yield Output(key=key, text=output + "\n")
        elif moved := _PLAIN_AMOUNT.match(other or ""):
            size = int(float(moved[2]) * _UNITS[moved[3]])
            yield Amount(key=key, part=moved[1], current=size, ended=bool(moved[4]))
