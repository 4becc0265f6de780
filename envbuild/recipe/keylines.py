"""Where each key of a TOML document stands: ``tomllib`` gives values without positions."""

from __future__ import annotations

import re

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_OPEN = {"[": "]", "{": "}"}
_DOTS = 32
_LONGEST = 1000
_PART = r"(?:[A-Za-z0-9_-]++|\"[^\"\n]*+\"|'[^'\n]*+')"
_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{_DOTS}}}")
"""A key of more than so many parts; each part is taken once (possessively), so that the search is linear."""


def check_keys(text: str) -> None:
    """Refuse what makes ``tomllib`` take time or memory without bound: keys of very many parts.

    Raises:
        ValueError: there is one (in a recipe's text nothing looks like it).
    """
    match = _KEY.search(text)
    if match is not None:
        line = text.count("\n", 0, match.start()) + 1
        raise ValueError(f"a key has more than {_DOTS} parts (at line {line}, column 1)")


def key_lines(text: str) -> dict[str, int]:
    """Line numbers (from 1) of tables, keys and array elements in a valid TOML document (TOML 1.0).

    Names are dotted (``python.packages``), array elements have an index (``python.packages[0]``). The text must
    have been read by ``tomllib`` before: this scanner skips values and does not judge them.

    Raises:
        ValueError: a key is longer than anybody writes one.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    """A walk over the text: headers and keys are read, values are skipped."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[str, int] = {}
        self.table = ""

    def document(self) -> None:
        while self._blank():
            if self._peek() == "[":
                double = self.text.startswith("[[", self.at)
                line = self._line()
                self.at += 2 if double else 1
                self.table = self._key()
                self.lines.setdefault(self.table, line)
                self.at = self._end_of_line()
            else:
                self._pair(self.table)

    def _pair(self, prefix: str) -> None:
        line = self._line()
        key = self._key()
        name = f"{prefix}.{key}" if prefix else key
        self.lines.setdefault(name, line)
        self._spaces()
        self.at += 1  # the equals sign
        self._value(name)

    def _value(self, name: str) -> None:
        self._spaces()
        first = self._peek()
        if first in _OPEN:
            self._collection(name, _OPEN[first])
        elif first in "\"'":
            self._string()
        else:
            while self.at < len(self.text) and self._peek() not in ",]}#\n":
                self.at += 1

    def _collection(self, name: str, close: str) -> None:
        self.at += 1
        index = 0
        while self._blank() and self._peek() != close:
            if self._peek() == ",":
                self.at += 1
            elif close == "]":
                element = f"{name}[{index}]"
                self.lines.setdefault(element, self._line())
                self._value(element)
                index += 1
            else:
                self._pair(name)
        self.at += 1

    def _key(self) -> str:
        parts = []
        while True:
            self._spaces()
            if self._peek() in "\"'":
                start = self.at
                self._string()
                parts.append(self.text[start + 1 : self.at - 1])
            elif match := _BARE.match(self.text, self.at):
                parts.append(match.group())
                self.at = match.end()
            self._spaces()
            if self._peek() != ".":
                key = ".".join(parts)
                if len(key) > _LONGEST:
                    line = self._line()
                    raise ValueError(f"a key has more than {_LONGEST} characters (at line {line}, column 1)")
                return key
            self.at += 1

    def _string(self) -> None:
        quote = self._peek()
        fence = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        self.at += len(fence)
        while self.at < len(self.text) and not self.text.startswith(fence, self.at):
            self.at += 2 if quote == '"' and self._peek() == "\\" else 1
        self.at += len(fence)
        while len(fence) == 3 and self._peek() == quote:  # up to two quotes may stand before the fence
            self.at += 1

    def _blank(self) -> bool:
        """Skip white space, line ends and comments; whether anything follows."""
        while self.at < len(self.text):
            if self._peek() == "#":
                self.at = self._end_of_line()
            elif self._peek().isspace():
                self.at += 1
            else:
                return True
        return False

    def _spaces(self) -> None:
        while self._peek() in (" ", "\t"):
            self.at += 1

    def _peek(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else "\0"

    def _end_of_line(self) -> int:
        end = self.text.find("\n", self.at)
        return len(self.text) if end < 0 else end

    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1
