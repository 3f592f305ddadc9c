"""Judgements for a person to look at, as a TSV that goes back into a recipe when it is corrected."""

from __future__ import annotations

import csv
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rocketqa_haystack.data import DataError, Passage
from rocketqa_haystack.data.files import atomic_write, read_lines

COLUMNS = ("query-id", "corpus-id", "label", "probability", "why", "query", "title", "text")
UNLABELLED, LABELLED = "unlabelled, but the re-ranker says yes", "labelled, but the re-ranker says no"
DECIDED = "decided by a person before"

#: What the ids of questions begin with that were made from passages.
GENERATED = "generated-"

#: What a spreadsheet takes for a formula, and what `_as_text` has made of one.
_FORMULA, _TEXT = re.compile("'*[=+@-]"), re.compile("'+[=+@-]")

#: Characters of a text: a spreadsheet's cell holds 32,767.
_MOST = 32_000


@dataclass(frozen=True)
class Judgement:
    """A line for a person to look at.

    Attributes:
        label: 1 or 0, what a person has said in an earlier round; None where it is for the next one to say.
        probability: The re-ranker's; None where it is not asked.
        why: Why the line is there.
    """

    query_id: str
    passage_id: str
    label: int | None
    probability: float | None
    why: str
    query: str
    passage: Passage


def find_doubts(
    probabilities: Mapping[str, Mapping[str, float]],
    queries: Mapping[str, str],
    positives: Mapping[str, Iterable[str]],
    corpus: Mapping[str, Passage],
    *,
    below: float,
    above: float,
    judged: Mapping[str, Mapping[str, int]],
    decided: Mapping[str, Mapping[str, int]],
) -> list[Judgement]:
    """Unlabelled passages that the re-ranker calls positive and labelled positives that it calls negative.

    Args:
        probabilities: The re-ranker's, by query and passage.
        queries: Questions by id.
        positives: The passages that count as positives of each query.
        corpus: Passages by id.
        below: A labelled positive with a lower probability is doubtful.
        above: An unlabelled passage with a higher one is.
        judged: The judgements; a passage that is judged not relevant is not asked about.
        decided: What a person has decided in an earlier round, and is not asked about again.

    Returns:
        The surest disagreements first.
    """
    found: list[tuple[float, Judgement]] = []
    for query_id, row in probabilities.items():
        right = set(positives[query_id])
        for id, probability in row.items():
            if id in decided.get(query_id, {}) or judged[query_id].get(id, 1) <= 0:
                continue
            if probability < below if id in right else probability > above:
                why, sure = (LABELLED, 1 - probability) if id in right else (UNLABELLED, probability)
                found.append((sure, Judgement(query_id, id, None, probability, why, queries[query_id], corpus[id])))
    return [judgement for _, judgement in sorted(found, key=lambda one: -one[0])]


def decisions(
    decided: Mapping[str, Mapping[str, int]], queries: Mapping[str, str], corpus: Mapping[str, Passage]
) -> Iterator[Judgement]:
    """What a person has decided, as lines of the next file: a recipe names the last one only."""
    for query_id, grades in decided.items():
        for id, grade in grades.items():
            yield Judgement(query_id, id, grade, None, DECIDED, queries[query_id], corpus[id])


def write_judgements(path: Path, judgements: Iterable[Judgement]) -> None:
    """Writes them with the label that they have, or nothing, for a person to write 1 or 0.

    The file is what spreadsheets call tab-separated text: values with quotation marks or tabs are quoted, and an
    apostrophe stands before those that would be formulas. Texts are cut where no cell could hold them.
    """
    with atomic_write(path) as file:
        writer = csv.writer(file, dialect="excel-tab", lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in judgements:
            label = "" if one.label is None else str(one.label)
            probability = "" if one.probability is None else f"{one.probability:.4f}"
            texts = (one.query, one.passage.title, one.passage.text)
            short = (" ".join(text.split())[:_MOST] for text in texts)
            values = (one.query_id, one.passage_id, label, probability, one.why, *short)
            writer.writerow([_as_text(value) for value in values])


def read_corrections(path: Path, queries: Container[str], passages: Container[str]) -> Iterator[tuple[str, str, int]]:
    """Query, passage and grade (1 or 0) of each line that has a label; lines without one say nothing.

    Lines of generated questions that are not made any more are left out.

    Raises:
        DataError: The header or a line is not as `write_judgements` makes them, or a query or a passage is unknown.
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
        if query_id not in queries and query_id.startswith(GENERATED):
            continue
        if query_id not in queries:
            raise DataError(f"{place}: there is no query {query_id!r} in the collection")
        if passage_id not in passages:
            raise DataError(f"{place}: there is no passage {passage_id!r} in the collection")
        if label:
            yield query_id, passage_id, int(label)


def _as_text(value: str) -> str:
    return f"'{value}" if _FORMULA.match(value) else value


def _from_text(value: str) -> str:
    return value[1:] if _TEXT.match(value) else value
