"""Runs: the ranked passages of every query, as TREC run files."""

from __future__ import annotations

from pathlib import Path

from rocketqa_haystack.data.files import DataError, atomic_write, read_lines

#: Scores by query id and passage id; higher is better.
Run = dict[str, dict[str, float]]


def write_run(path: str | Path, run: Run, tag: str = "rocketqa") -> None:
    """Writes `query Q0 passage rank score tag` lines, best first, whole or not at all.

    Raises:
        DataError: An id contains white space, which the format cannot hold.
    """
    with atomic_write(path) as file:
        for query_id, scores in run.items():
            ranked = sorted(scores.items(), key=lambda item: item[1], reverse=True)
            for rank, (passage_id, score) in enumerate(ranked, start=1):
                if len(query_id.split()) != 1 or len(passage_id.split()) != 1:
                    raise DataError(
                        f"{path}: a TREC run cannot hold ids with white space: {query_id!r}, {passage_id!r}"
                    )
                file.write(f"{query_id} Q0 {passage_id} {rank} {score:.9g} {tag}\n")


def read_run(path: str | Path) -> Run:
    """Reads a TREC run.

    Raises:
        DataError: A line is not six columns with a numeric score.
    """
    run: Run = {}
    for number, line in read_lines(path):
        fields = line.split()
        if len(fields) != 6:
            raise DataError(f"{path}, line {number}: expected 6 columns of a TREC run, found {len(fields)}")
        try:
            run.setdefault(fields[0], {})[fields[2]] = float(fields[4])
        except ValueError as error:
            raise DataError(f"{path}, line {number}: the score must be a number, not {fields[4]!r}") from error
    return run
