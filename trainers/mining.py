"""Candidates for every query from a retriever: the passages from which hard negatives are drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rocketqa_haystack.data import AnsweredCollection, Collection, TrainingGroup, groups_from_collection
from rocketqa_haystack.encoders import DualEncoder
from rocketqa_haystack.evaluation import has_answer, retrieve


def mine_groups(
    encoder: DualEncoder,
    collection: Collection,
    k: int = 50,
    *,
    vectors: NDArray[np.float32] | None = None,
    show_progress: bool = False,
) -> list[TrainingGroup]:
    """Training groups whose negatives are the retriever's top k less the judged positives, best first.

    Args:
        encoder: The retriever (RocketQA's M_D).
        collection: Passages, questions and judgements.
        k: Passages to retrieve for each query.
        vectors: The passages' vectors in the order of the corpus, where they are at hand; else they are computed.
        show_progress: Whether to show progress bars.
    """
    run = retrieve(encoder, collection.corpus, collection.queries, k, vectors=vectors, show_progress=show_progress)
    return groups_from_collection(collection, {query_id: list(scores) for query_id, scores in run.items()})


def mine_distractors(
    encoder: DualEncoder, data: AnsweredCollection, k: int = 50, *, show_progress: bool = False
) -> dict[str, list[str]]:
    """The retriever's top k for every question less those passages that hold an answer string, best first.

    They are what a reader will see beside the answer (DPR, section 6.2).

    Args:
        encoder: The retriever.
        data: Passages, questions and answers.
        k: Passages to retrieve for each question.
        show_progress: Whether to show progress bars.
    """
    corpus = data.collection.corpus
    run = retrieve(encoder, corpus, data.collection.queries, k, show_progress=show_progress)
    return {
        query_id: [id for id in scores if not has_answer(corpus[id].text, data.answers.get(query_id, ()))]
        for query_id, scores in run.items()
    }
