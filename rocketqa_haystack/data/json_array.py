"""The items of a JSON array one at a time, of a file that may be larger than memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from rocketqa_haystack.data.files import not_readable, open_bytes

#: Characters read at a time, and the most that an item is looked for in: a broken one may seem to have no end.
_PART, _LONGEST = 1 << 16, 1 << 26


def iterate_array(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Numbers from 1 and the items of the array that a file in UTF-8 holds.

    Raises:
        DataError: The file cannot be read, or is broken. What follows broken JSON cannot be told from it, so that the
            items before it are all that is given; the message has the number of the next.
    """
    with open_bytes(path) as raw:
        text, number = _Text(TextIOWrapper(raw, encoding="utf-8-sig")), 1
        try:
            text.take("[")
            while text.next() != "]":
                if number > 1:
                    text.take(",")
                yield number, text.take_value()
                number += 1
            text.take("]")
            text.take("")
        except (ValueError, RecursionError) as error:
            raise not_readable(f"{path}, item {number}", error) from error


class _Text:
    """What is left of a file, as much of it as has been looked at."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._text = ""
        self._decoder = json.JSONDecoder()

    def next(self) -> str:
        """The next character that is no white space; none at the end."""
        while not (rest := self._text.lstrip(" \t\n\r")):
            self._text = ""
            if not self._more():
                return ""
        self._text = rest
        return rest[0]

    def take(self, sign: str) -> None:
        """Passes over the next character, which must be this one."""
        if self.next() != sign:
            raise json.JSONDecodeError(f"expected {sign or 'the end'}", self._text, 0)
        self._text = self._text[len(sign) :]

    def take_value(self) -> Any:
        """Passes over a value."""
        self.next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text)
            except json.JSONDecodeError:  # or its rest has not been read
                if len(self._text) > _LONGEST or not self._more():
                    raise
            else:
                if end < len(self._text) or not self._more():  # a number may have more digits
                    self._text = self._text[end:]
                    return value

    def _more(self) -> bool:
        part = self._file.read(max(_PART, len(self._text)))
        self._text += part
        return bool(part)
