"""Training groups: a question with its positive and negative passages, what trainers take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rocketqa_haystack.data.beir import Collection
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
    collection: Collection, negatives: Mapping[str, Iterable[str]] | None = None
) -> list[TrainingGroup]:
    """One group for each question with at least one relevant passage.

    Args:
        collection: The passages, questions and judgements.
        negatives: Ids of negative passages by query id, such as a retriever's run. Passages that are judged relevant
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
