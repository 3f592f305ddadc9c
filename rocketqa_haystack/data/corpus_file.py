"""A `corpus.jsonl` whose passages stay on disk: looked up by id, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rocketqa_haystack.data.beir import corpus_metadata, corpus_record
from rocketqa_haystack.data.files import DataError, decode_line, json_object, lines_with_offsets, open_unpacked
from rocketqa_haystack.data.passage import Passage


class CorpusFile(Mapping[str, Passage]):
    """Passages by id, in file order, read when they are asked for; only ids and places are in memory.

    Every line is read and checked once, when the file is opened.

    Args:
        path: A `corpus.jsonl` in BEIR layout, not packed.

    Raises:
        DataError: The file cannot be read, is packed by gzip or has no passages; a malformed line, or an id that was
            there before.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._places: dict[str, tuple[int, int]] = {}
        self._file = open_unpacked(self.path, "passages")
        for number, offset, raw in lines_with_offsets(self._file):
            place, record = self._parse(number, raw)
            (id, _), _ = corpus_record(place, record), corpus_metadata(place, record)
            if id in self._places:
                raise DataError(f"{path}, line {number}: the id {id!r} was used before")
            self._places[id] = (number, offset)
        if not self._places:
            raise DataError(f"{path}: no passages")

    def __getitem__(self, id: str) -> Passage:
        return corpus_record(*self._record(id))[1]

    def metadata(self, id: str) -> dict[str, Any]:
        """The `metadata` of a passage; empty where its line has none."""
        return corpus_metadata(*self._record(id))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, id: object) -> bool:
        return id in self._places

    def _record(self, id: str) -> tuple[str, dict[str, Any]]:
        number, offset = self._places[id]
        self._file.seek(offset)
        return self._parse(number, self._file.readline())

    def _parse(self, number: int, raw: bytes) -> tuple[str, dict[str, Any]]:
        """A line's place, for messages, and what it holds."""
        place = f"{self.path}, line {number}"
        return place, json_object(place, decode_line(place, number, raw))
