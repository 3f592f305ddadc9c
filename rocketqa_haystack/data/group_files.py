"""Training groups in files. `group_format` tells which of four a file is; all of them may be packed by gzip.

- `jsonl`, ours and Tevatron's, the one interchange format between stages: a line is a group, `{"query_id", "query",
  "positive_passages": [{"docid", "title", "text"[, "score"]}], "negative_passages": [...]}`. Lines with `"vote"` are
  users' feedback (see `feedback.py`): those of a question make one group, which comes after all others.
- `triples`, the official toolkit's TSV for dual encoders: a line is a group, with the columns query, title and text of
  the positive, title and text of the negative, and a label without meaning.
- `pairs`, the official toolkit's TSV for cross-encoders: a line is a query, a title, a text and a label, 1 or 0. Every
  positive makes a group, with all negatives of its query wherever in the file they stand, so that an epoch has as many
  positives as the file.
- `dpr`, DPR's JSON: an array of `{"question", "positive_ctxs": [{"title", "text"[, "passage_id"]}],
  "hard_negative_ctxs": [...], "negative_ctxs": [...]}`. The negatives are the hard ones, or the others where a
  question has no hard ones, as in DPR's own training.

What a file has no ids for is named after its place in it.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, TypeVar

from rocketqa_haystack.data.feedback import Votes
from rocketqa_haystack.data.files import (
    DataError,
    SkippedLines,
    atomic_write,
    decode_line,
    json_object,
    open_bytes,
    read_raw_lines,
    text_field,
)
from rocketqa_haystack.data.groups import TrainingGroup
from rocketqa_haystack.data.json_array import iterate_array
from rocketqa_haystack.data.passage import Passage

GroupFormat = Literal["jsonl", "triples", "pairs", "dpr"]

#: Ids and passages, as groups have them.
Passages = Sequence[tuple[str, Passage]]

Record = TypeVar("Record")
Result = TypeVar("Result")


def group_format(path: str | Path) -> GroupFormat:
    """The format of a file of training groups: by its name where it ends in `.jsonl`, else by how it begins.

    Raises:
        DataError: The file cannot be read, or begins like none of them.
    """
    path = Path(path)
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        return "jsonl"
    with open_bytes(path) as file:
        beginning = file.read(1 << 16).decode("utf-8-sig", errors="replace").lstrip()
    if not beginning:
        raise DataError(f"{path}: no training groups")
    if re.match(r'\{\s*["}]', beginning):
        return "jsonl"
    if re.match(r"\[\s*[{\]]", beginning):
        return "dpr"
    # A bad line may stand first.
    columns = [line.count("\t") + 1 for line in beginning.split("\n")]
    known = next((number for number in columns if number in (4, 6)), None)
    if known is None:
        raise DataError(
            f"{path}: expected JSON lines, a JSON array, or 4 or 6 columns separated by tabs; "
            f"the file begins with {beginning[:40]!r}"
        )
    return "pairs" if known == 4 else "triples"


def iterate_groups(path: str | Path, *, skipped: SkippedLines | None = None) -> Iterator[TrainingGroup]:
    """Training groups one at a time, in the order of the file, of which only one is in memory.

    Args:
        path: A file in any of the four formats.
        skipped: Where bad lines are counted and left out. None refuses the first of them.

    Raises:
        DataError: The file cannot be read, or a line is malformed or makes a group that nothing can be learned from:
            without a positive, or with an empty question or positive. The message has file, line and reason.
    """
    path = Path(path)
    format = group_format(path)
    if format == "dpr":
        return _kept(iterate_array(path), lambda item: _dpr_group(path, *item), skipped)
    if format == "pairs":
        return _pair_groups(path, skipped)
    if format == "triples":
        return _kept(read_raw_lines(path), lambda line: _triple_group(path, *line), skipped)
    return _jsonl_groups(path, skipped)


def read_groups(path: str | Path, *, skipped: SkippedLines | None = None) -> list[TrainingGroup]:
    """All training groups of a file, as `iterate_groups` gives them. `TrainingGroups` takes less memory.

    Raises:
        DataError: As `iterate_groups` does, or there are none.
    """
    groups = list(iterate_groups(path, skipped=skipped))
    if not groups:
        raise DataError(no_groups(path, skipped))
    return groups


def no_groups(path: str | Path, skipped: SkippedLines | None) -> str:
    """What to say of a file that has nothing to train on."""
    return f"{path}: no training groups" + (f" ({skipped})" if skipped and skipped.count else "")


def write_groups(path: str | Path, groups: Iterable[TrainingGroup]) -> None:
    """Writes training groups as JSON lines, whole or not at all."""
    with atomic_write(path) as file:
        for group in groups:
            record = {
                "query_id": group.query_id,
                "query": group.query,
                "positive_passages": _records(group.positive_ids, group.positives),
                "negative_passages": _records(group.negative_ids, group.negatives),
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _records(ids: Sequence[str], passages: Sequence[Passage]) -> list[dict[str, str]]:
    return [{"docid": id, "title": p.title, "text": p.text} for id, p in zip(ids, passages, strict=True)]


def _kept(
    records: Iterable[Record], parse: Callable[[Record], Result], skipped: SkippedLines | None
) -> Iterator[Result]:
    """What the records are; bad ones are left out and counted in `skipped` where there is one."""
    for record in records:
        try:
            result = parse(record)
        except DataError as error:
            if skipped is None:
                raise
            skipped.add(error)
        else:
            yield result


def _group(place: str, query_id: str, query: str, positives: Passages, negatives: Passages) -> TrainingGroup:
    if not query or query.isspace():
        raise DataError(f"{place}: the query is empty")
    if not positives:
        raise DataError(f"{place}: a training group needs at least one positive passage")
    if (empty := next((id for id, passage in positives if passage.is_empty()), None)) is not None:
        raise DataError(f"{place}: the positive passage {empty!r} is empty")
    return TrainingGroup(
        query_id=query_id,
        query=query,
        positive_ids=tuple([id for id, _ in positives]),
        positives=tuple([passage for _, passage in positives]),
        negative_ids=tuple([id for id, _ in negatives]),
        negatives=tuple([passage for _, passage in negatives]),
    )


def _jsonl_groups(path: Path, skipped: SkippedLines | None) -> Iterator[TrainingGroup]:
    votes = Votes()
    for group in _kept(read_raw_lines(path), lambda line: _jsonl_group(path, votes, *line), skipped):
        if group is not None:
            yield group
    yield from votes.groups(path)


def _jsonl_group(path: Path, votes: Votes, number: int, raw: bytes) -> TrainingGroup | None:
    place = f"{path}, line {number}"
    record = json_object(place, decode_line(place, number, raw))
    query_id, query = text_field(place, record, "query_id"), text_field(place, record, "query")
    positives = _passages(place, record, "positive_passages", ("docid",))
    negatives = _passages(place, record, "negative_passages", ("docid",))
    vote = record.get("vote")
    if vote is None:
        return _group(place, query_id, query, positives, negatives)
    if vote not in ("up", "down"):
        raise DataError(f"{place}: 'vote' must be 'up' or 'down', not {vote!r:.80}")
    passages = positives if vote == "up" else negatives
    _group(place, query_id, query, passages, [])  # a vote's one passage must be as good as a positive
    votes.add(query_id, query, passages, vote)
    return None


def _passages(
    place: str, record: dict[str, Any], name: str, id_names: tuple[str, ...], default_id: str | None = None
) -> list[tuple[str, Passage]]:
    items = record.get(name)
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"{place}: {name!r} must be a list of passages")
    return [
        (
            text_field(place, item, *id_names, default=default_id and f"{default_id}.{index}"),
            Passage(text=text_field(place, item, "text"), title=text_field(place, item, "title", default="")),
        )
        for index, item in enumerate(items, start=1)
    ]


def _columns(path: Path, number: int, raw: bytes, expected: int) -> list[str]:
    place = f"{path}, line {number}"
    columns = decode_line(place, number, raw).split("\t")
    if len(columns) != expected:
        raise DataError(f"{place}: expected {expected} columns separated by tabs, found {len(columns)}")
    return columns


def _triple_group(path: Path, number: int, raw: bytes) -> TrainingGroup:
    query, title, text, negative_title, negative_text, _ = _columns(path, number, raw, 6)
    positives = [(f"{number}.positive", Passage(text, title))]
    negatives = [(f"{number}.negative", Passage(negative_text, negative_title))]
    return _group(f"{path}, line {number}", str(number), query, positives, negatives)


def _pair_groups(path: Path, skipped: SkippedLines | None) -> Iterator[TrainingGroup]:
    # A query's lines may be far apart. SQLite sorts them in a temporary database, on disk where it is large; a join
    # would look them up one by one, which takes for ever there.
    with closing(sqlite3.connect("")) as database:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute("CREATE TABLE pair (line INTEGER PRIMARY KEY, query, title, text, label)")
        pairs = _kept(read_raw_lines(path), lambda line: _pair(path, *line), skipped)
        database.executemany("INSERT INTO pair VALUES (?, ?, ?, ?, ?)", pairs)
        ordered = database.execute(
            "SELECT query, line, title, text, label, MIN(line) OVER (PARTITION BY query) AS first "
            "FROM pair ORDER BY first, line"
        )
        for query, lines in groupby(ordered, key=itemgetter(0)):
            passages: dict[str, list[tuple[str, Passage]]] = {"0": [], "1": []}
            for _, line, title, text, label, _ in lines:
                passages[label].append((str(line), Passage(text, title)))
            positives, negatives = passages["1"], passages["0"]
            if not positives:
                place = f"{path}, line {negatives[0][0]}"
                error = DataError(f"{place}: no line of the file has a positive (label 1) for this query")
                if skipped is None:
                    raise error
                skipped.add(error, len(negatives))
            for line, positive in positives:
                yield from _kept([line], partial(_pair_group, path, query, positive, negatives), skipped)


def _pair_group(path: Path, query: str, positive: Passage, negatives: Passages, line: str) -> TrainingGroup:
    return _group(f"{path}, line {line}", line, query, [(line, positive)], negatives)


def _pair(path: Path, number: int, raw: bytes) -> tuple[int, str, str, str, str]:
    query, title, text, label = _columns(path, number, raw, 4)
    if label.strip() not in ("0", "1"):
        raise DataError(f"{path}, line {number}: the label must be 1 or 0, not {label!r}")
    return number, query, title, text, label.strip()


def _dpr_group(path: Path, number: int, record: Any) -> TrainingGroup:
    place = f"{path}, item {number}"
    if not isinstance(record, dict):
        raise DataError(f"{place}: expected a JSON object, found {type(record).__name__}")
    ids = ("passage_id", "psg_id")
    positives = _passages(place, record, "positive_ctxs", ids, f"{number}.positive")
    negatives = _passages(place, record, "hard_negative_ctxs", ids, f"{number}.hard_negative")
    negatives = negatives or _passages(place, record, "negative_ctxs", ids, f"{number}.negative")
    return _group(place, str(number), text_field(place, record, "question"), positives, negatives)
