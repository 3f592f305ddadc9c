"""Training groups: a question with its positive and negative passages, the one interchange format between stages.

JSON lines as Tevatron has them: `{"query_id", "query", "positive_passages": [{"docid", "title", "text"[, "score"]}],
"negative_passages": [...]}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocketqa_haystack.data.beir import Collection
from rocketqa_haystack.data.files import DataError, atomic_write, read_jsonl, text_field
from rocketqa_haystack.data.passage import Passage


@dataclass(frozen=True)
class TrainingGroup:
    """A question with passages that answer it and passages that don't, each list with its ids in the same order."""

    query_id: str
    query: str
    positive_ids: tuple[str, ...]
    positives: tuple[Passage, ...]
    negative_ids: tuple[str, ...] = ()
    negatives: tuple[Passage, ...] = ()


def groups_from_collection(
    collection: Collection, negatives: Mapping[str, Sequence[str]] | None = None
) -> list[TrainingGroup]:
    """One group for each question with at least one relevant passage.

    Args:
        collection: The passages, questions and judgements.
        negatives: Ids of negative passages by query id, such as a retriever's top k. Passages that are judged relevant
            for the question are left out of its negatives.
    """
    corpus = collection.corpus
    groups = []
    for query_id, query in collection.queries.items():
        positive_ids = tuple(id for id, grade in collection.qrels[query_id].items() if grade > 0)
        if not positive_ids:
            continue
        negative_ids = tuple(id for id in (negatives or {}).get(query_id, ()) if id not in positive_ids)
        groups.append(
            TrainingGroup(
                query_id=query_id,
                query=query,
                positive_ids=positive_ids,
                positives=tuple(corpus[id] for id in positive_ids),
                negative_ids=negative_ids,
                negatives=tuple(corpus[id] for id in negative_ids),
            )
        )
    return groups


def read_groups(path: str | Path) -> list[TrainingGroup]:
    """Reads training groups.

    Raises:
        DataError: A malformed line, or a group without a positive passage.
    """
    groups = []
    for number, record in read_jsonl(path):
        positive_ids, positives = _passages(path, number, record, "positive_passages")
        if not positives:
            raise DataError(f"{path}, line {number}: a training group needs at least one positive passage")
        negative_ids, negatives = _passages(path, number, record, "negative_passages")
        groups.append(
            TrainingGroup(
                query_id=text_field(path, number, record, "query_id"),
                query=text_field(path, number, record, "query"),
                positive_ids=positive_ids,
                positives=positives,
                negative_ids=negative_ids,
                negatives=negatives,
            )
        )
    if not groups:
        raise DataError(f"{path}: no training groups")
    return groups


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


def _passages(
    path: str | Path, number: int, record: dict[str, Any], name: str
) -> tuple[tuple[str, ...], tuple[Passage, ...]]:
    items = record.get(name, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"{path}, line {number}: {name!r} must be a list of passages")
    ids = tuple(text_field(path, number, item, "docid") for item in items)
    passages = tuple(
        Passage(
            text=text_field(path, number, item, "text"),
            title=text_field(path, number, item, "title", default=""),
        )
        for item in items
    )
    return ids, passages


def _records(ids: Sequence[str], passages: Sequence[Passage]) -> list[dict[str, str]]:
    return [{"docid": id, "title": p.title, "text": p.text} for id, p in zip(ids, passages, strict=True)]
