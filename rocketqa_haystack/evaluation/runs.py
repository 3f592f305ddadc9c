"""Runs: the ranked passages of every query, as TREC run files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from rocketqa_haystack.data.files import (
    DataError,
    atomic_write,
    decode_line,
    lines_with_offsets,
    open_unpacked,
    read_lines,
)

#: Scores by query id and passage id; higher is better.
Run = dict[str, dict[str, float]]


def write_run(path: str | Path, run: Run, tag: str = "rocketqa") -> None:
    """Writes `query Q0 passage rank score tag` lines, best first, whole or not at all.

    Raises:
        DataError: An id contains white space, which the format cannot hold.
    """
    with atomic_write(path) as file:
        file.writelines(run_lines(path, run.items(), tag))


def run_lines(
    path: str | Path, rows: Iterable[tuple[str, Mapping[str, float]]], tag: str = "rocketqa"
) -> Iterator[str]:
    """The lines of a TREC run, of queries with their scores; `path` is for the message.

    Raises:
        DataError: An id contains white space, which the format cannot hold.
    """
    for query_id, scores in rows:
        ranked = sorted(scores.items(), key=itemgetter(1), reverse=True)
        for rank, (passage_id, score) in enumerate(ranked, start=1):
            if len(query_id.split()) != 1 or len(passage_id.split()) != 1:
                raise DataError(f"{path}: a TREC run cannot hold ids with white space: {query_id!r}, {passage_id!r}")
            yield f"{query_id} Q0 {passage_id} {rank} {score:.9g} {tag}\n"


def read_run(path: str | Path) -> Run:
    """Reads a TREC run.

    Raises:
        DataError: A line is not six columns with a finite score.
    """
    run: Run = {}
    for query_id, scores in iterate_run(path):
        run.setdefault(query_id, {}).update(scores)
    return run


def iterate_run(path: str | Path) -> Iterator[tuple[str, dict[str, float]]]:
    """A TREC run's query ids and their scores, of which only one query's are in memory.

    A query whose lines do not stand together comes again.

    Raises:
        DataError: A line is not six columns with a finite score.
    """
    for query_id, lines in groupby(_lines(path), key=itemgetter(0)):
        yield query_id, {passage_id: score for _, passage_id, score in lines}


class RunFile(Mapping[str, dict[str, float]]):
    """A TREC run that stays on disk: scores by query id, read when they are asked for.

    Every line is read and checked once, when the file is opened.

    Args:
        path: A run, not packed, in which the lines of a query stand together.

    Raises:
        DataError: The file cannot be read or is packed by gzip, a line is not as `read_run` wants it, or the lines of a
            query do not stand together.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._places: dict[str, tuple[int, int]] = {}
        self._file = open_unpacked(self.path, "queries")
        previous = None
        for number, offset, raw in lines_with_offsets(self._file):
            query_id, _, _ = self._parse(number, raw)
            if query_id != previous:
                if query_id in self._places:
                    raise DataError(f"{path}, line {number}: the lines of query {query_id!r} do not stand together")
                self._places[query_id] = (number, offset)
            previous = query_id

    def __getitem__(self, query_id: str) -> dict[str, float]:
        first, offset = self._places[query_id]
        self._file.seek(offset)
        scores: dict[str, float] = {}
        for number, raw in enumerate(self._file, start=first):
            if raw.strip():
                found, passage_id, score = self._parse(number, raw)
                if found != query_id:
                    break
                scores[passage_id] = score
        return scores

    def _parse(self, number: int, raw: bytes) -> tuple[str, str, float]:
        place = f"{self.path}, line {number}"
        return _fields(place, decode_line(place, number, raw))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def best(scores: Mapping[str, float], k: int) -> dict[str, float]:
    """The k passages with the highest scores, best first; of equal scores, the first ones."""
    return dict(sorted(scores.items(), key=itemgetter(1), reverse=True)[:k])


def _lines(path: str | Path) -> Iterator[tuple[str, str, float]]:
    for number, line in read_lines(path):
        yield _fields(f"{path}, line {number}", line)


def _fields(place: str, line: str) -> tuple[str, str, float]:
    fields = line.split()
    if len(fields) != 6:
        raise DataError(f"{place}: expected 6 columns of a TREC run, found {len(fields)}")
    try:
        score = float(fields[4])
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{place}: the score must be a finite number, not {fields[4]!r}")
    return fields[0], fields[2], score
