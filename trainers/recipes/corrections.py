"""Judgements for a person to look at, as a TSV that goes back into a recipe when it is corrected."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rocketqa_haystack.data import DataError, Passage
from rocketqa_haystack.data.files import atomic_write, read_lines

COLUMNS = ("query-id", "corpus-id", "label", "probability", "why", "query", "title", "text")
UNLABELLED, LABELLED = "unlabelled, but the re-ranker says yes", "labelled, but the re-ranker says no"


#: What a spreadsheet takes for a formula, and what `_as_text` has made of one.
_FORMULA, _TEXT = re.compile("'*[=+@-]"), re.compile("'+[=+@-]")

#: Characters of a text: a spreadsheet's cell holds 32,767.
_MOST = 32_000


@dataclass(frozen=True)
class Doubt:
    """A passage on which the judgements and the re-ranker disagree."""

    query_id: str
    passage_id: str
    probability: float
    labelled: bool
    query: str
    passage: Passage

    @property
    def why(self) -> str:
        """What the disagreement is."""
        return LABELLED if self.labelled else UNLABELLED


def find_doubts(
    probabilities: Mapping[str, Mapping[str, float]],
    queries: Mapping[str, str],
    positives: Mapping[str, Iterable[str]],
    corpus: Mapping[str, Passage],
    *,
    below: float,
    above: float,
    judged: Mapping[str, Mapping[str, int]],
) -> list[Doubt]:
    """Unlabelled passages that the re-ranker calls positive and labelled positives that it calls negative.

    Args:
        probabilities: The re-ranker's, by query and passage.
        queries: Questions by id.
        positives: The passages that count as positives of each query.
        corpus: Passages by id.
        below: A labelled positive with a lower probability is doubtful.
        above: An unlabelled passage with a higher one is.
        judged: The judgements; a passage that a person has judged not relevant is not asked about again.

    Returns:
        The surest disagreements first.
    """
    found = []
    for query_id, row in probabilities.items():
        right = set(positives[query_id])
        for id, probability in row.items():
            if (id in right and probability < below) or (
                id not in right and probability > above and id not in judged.get(query_id, {})
            ):
                found.append(Doubt(query_id, id, probability, id in right, queries[query_id], corpus[id]))
    return sorted(found, key=lambda doubt: -abs(doubt.probability - (1 if doubt.labelled else 0)))


def write_doubts(path: Path, doubts: Iterable[Doubt]) -> None:
    """Writes them with the label that they have, 1 or nothing, for a person to write 1 or 0.

    The file is what spreadsheets call tab-separated text: values with quotation marks or tabs are quoted, and an
    apostrophe stands before those that would be formulas. Texts are cut where no cell could hold them.
    """
    with atomic_write(path) as file:
        writer = csv.writer(file, dialect="excel-tab", lineterminator="\n")
        writer.writerow(COLUMNS)
        for doubt in doubts:
            label = "1" if doubt.labelled else ""
            texts = (doubt.query, doubt.passage.title, doubt.passage.text)
            short = (" ".join(text.split())[:_MOST] for text in texts)
            values = (doubt.query_id, doubt.passage_id, label, f"{doubt.probability:.4f}", doubt.why, *short)
            writer.writerow([_as_text(value) for value in values])


def read_corrections(path: Path, queries: Mapping[str, str]) -> Iterator[tuple[str, str, int]]:
    """Query, passage and grade (1 or 0) of each line that has a label; lines without one say nothing.

    Raises:
        DataError: The header or a line is not as `write_doubts` makes them, or a query is unknown.
    """
    for number, line in read_lines(path):
        place = f"{path}, line {number}"
        try:
            # Line by line: where quotation marks are not quoted, as in older files, one swallows no other lines.
            (values,) = csv.reader([line], dialect="excel-tab")
        except csv.Error as error:
            raise DataError(f"{place}: not tab-separated text ({error})") from error
        if number == 1:
            if tuple(values[:3]) != COLUMNS[:3]:
                raise DataError(f"{place}: expected a header that begins with the columns {', '.join(COLUMNS[:3])}")
            continue
        if len(values) < 3:
            raise DataError(f"{place}: expected at least 3 columns separated by tabs, found {len(values)}")
        query_id, passage_id, label = _from_text(values[0]), _from_text(values[1]), values[2].strip()
        if label not in ("", "0", "1"):
            raise DataError(f"{place}: the label must be 1, 0 or nothing, not {label!r}")
        if query_id not in queries:
            raise DataError(f"{place}: there is no query {query_id!r} in the collection")
        if label:
            yield query_id, passage_id, int(label)


def _as_text(value: str) -> str:
    return f"'{value}" if _FORMULA.match(value) else value


def _from_text(value: str) -> str:
    return value[1:] if _TEXT.match(value) else value
