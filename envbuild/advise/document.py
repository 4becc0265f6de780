"""JSON as people write it, with the place of every key and value.

Python's own reader gives no positions and keeps the last of two equal keys. This one knows line and column of
everything, and reads on after comments, trailing commas and duplicate keys, so that one run finds them all.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import NoReturn

DEEPEST = 64
"""How deep values may lie in each other; a DeepSpeed configuration needs 6."""

_DECODER = json.JSONDecoder()
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[A-Za-z_][\w-]*")
_WORDS: dict[str, object] = {"true": True, "false": False, "null": None}
_COMMENT = re.compile(r"//[^\n]*|#[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A JSON value: ``data`` is a dict of Member, a list of Value, or a plain value; lines and columns count from 1."""

    data: object
    line: int
    column: int

    def members(self) -> dict[str, Member]:
        """The members of an object; empty for anything else."""
        return self.data if isinstance(self.data, dict) else {}

    def plain(self) -> object:
        """The value as ``json.loads`` gives it."""
        if isinstance(self.data, dict):
            return {key: member.value.plain() for key, member in self.data.items()}
        if isinstance(self.data, list):
            return [item.plain() for item in self.data]
        return self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A key of an object with its value; the place is the key's."""

    line: int
    column: int
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What JSON does not allow. After a ``fatal`` one nothing was read."""

    line: int
    column: int
    what: str
    fatal: bool = False


class _Stop(Exception):
    """Reading ended at the last fault."""


def read(text: str) -> tuple[Value | None, tuple[Fault, ...]]:
    """Read ``text``; the value (None where it is not readable) and every fault on the way."""
    reader = _Reader(text.removeprefix("\ufeff"))
    try:
        reader.blank()
        if reader.at == len(reader.text):
            reader.stop("the file is empty; a DeepSpeed configuration is an object: { … }")
        value = reader.value(0)
        reader.blank()
        if reader.at < len(reader.text):
            reader.stop(f"{reader.shown()} after the end of the value")
    except _Stop:
        return None, tuple(reader.faults)
    return value, tuple(reader.faults)


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.faults: list[Fault] = []

    def place(self, at: int) -> tuple[int, int]:
        return self.text.count("\n", 0, at) + 1, at - (self.text.rfind("\n", 0, at) + 1) + 1

    def fault(self, what: str, at: int | None = None, *, fatal: bool = False) -> None:
        line, column = self.place(self.at if at is None else at)
        self.faults.append(Fault(line=line, column=column, what=what, fatal=fatal))

    def stop(self, what: str, at: int | None = None) -> NoReturn:
        self.fault(what, at, fatal=True)
        raise _Stop

    def shown(self) -> str:
        return repr(self.text[self.at]) if self.at < len(self.text) else "the end of the file"

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def blank(self) -> None:
        """Skip white space and comments."""
        while self.at < len(self.text):
            if self.peek() in " \t\r\n":
                self.at += 1
            elif found := _COMMENT.match(self.text, self.at):
                self.fault(
                    "a comment: JSON has none (DeepSpeed's own reader, Hjson, takes it; transformers, "
                    "Accelerate and most other programs do not)"
                )
                self.at = found.end()
            else:
                return

    def value(self, depth: int) -> Value:
        if depth > DEEPEST:
            self.stop(f"values lie more than {DEEPEST} deep in each other")
        line, column = self.place(self.at)
        char = self.peek()
        data: object
        if char == "{":
            data = self.object(depth)
        elif char == "[":
            data = self.array(depth)
        elif char == '"':
            data = self.string()
        elif found := _NUMBER.match(self.text, self.at):
            data = self.number(found)
        else:
            data = self.word()
        return Value(data=data, line=line, column=column)

    def number(self, found: re.Match[str]) -> object:
        self.at = found.end()
        if self.peek() and (self.peek().isalnum() or self.peek() in "._+-"):
            self.stop(f"not a number: {found[0]}{self.peek()}…", found.start())
        try:
            value = json.loads(found[0])
        except ValueError:  # thousands of digits, which Python does not turn into a number
            value = math.inf
        if value in (math.inf, -math.inf):
            self.stop("a number too large for anything", found.start())
        return value

    def word(self) -> object:
        found = _WORD.match(self.text, self.at)
        if found is None:
            self.stop(
                "a string in single quotes; JSON has double ones"
                if self.peek() == "'"
                else f"a value is missing before {self.shown()}"
            )
        if found[0] not in _WORDS:
            lower = found[0].lower()
            better = lower if lower in _WORDS else "null" if lower == "none" else f'"{found[0]}"'
            numbers = found[0] in ("NaN", "Infinity")
            self.stop(f"{found[0]} is not JSON; " + ("write a number" if numbers else f"write {better}"))
        self.at = found.end()
        return _WORDS[found[0]]

    def string(self) -> str:
        try:
            text, self.at = _DECODER.raw_decode(self.text, self.at)
        except json.JSONDecodeError as error:
            self.stop(f"a string that is not right: {error.msg.removesuffix(' at')}", error.pos)
        return str(text)

    def comma(self, closing: str, opened: int) -> bool:
        """Whether another item follows; the closing bracket is eaten."""
        self.blank()
        if self.peek() == closing:
            self.at += 1
            return False
        if self.peek() != ",":
            line, column = self.place(opened)
            self.stop(
                f"a comma or {closing!r} is missing before {self.shown()} "
                f"(opened at line {line}, column {column})"
            )
        before = self.at
        self.at += 1
        self.blank()
        if self.peek() == closing:
            self.fault(f"a comma before {closing!r}: JSON has none after the last item", before)
            self.at += 1
            return False
        return True

    def array(self, depth: int) -> list[Value]:
        opened, items = self.at, list[Value]()
        self.at += 1
        self.blank()
        if self.peek() == "]":
            self.at += 1
            return items
        while True:
            items.append(self.value(depth + 1))
            if not self.comma("]", opened):
                return items

    def object(self, depth: int) -> dict[str, Member]:
        opened, members = self.at, dict[str, Member]()
        self.at += 1
        self.blank()
        if self.peek() == "}":
            self.at += 1
            return members
        while True:
            if self.peek() != '"':
                self.stop(f"a key in double quotes is missing before {self.shown()}")
            start = self.at
            line, column = self.place(start)
            key = self.string()
            self.blank()
            if self.peek() != ":":
                self.stop(f"a colon is missing after the key {json.dumps(key)}")
            self.at += 1
            self.blank()
            value = self.value(depth + 1)
            if key in members:
                self.fault(
                    f"the key {json.dumps(key)} again; it is in line {members[key].line} already", start
                )
            members[key] = Member(line=line, column=column, value=value)
            if not self.comma("}", opened):
                return members
