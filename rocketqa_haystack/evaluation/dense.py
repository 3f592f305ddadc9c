"""Runs of the encoders: a dual encoder over a whole corpus, a cross-encoder over another run's candidates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rocketqa_haystack.data import Passage
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder
from rocketqa_haystack.encoders.search import exact_search
from rocketqa_haystack.evaluation.runs import Run, best


def retrieve(
    encoder: DualEncoder,
    corpus: Mapping[str, Passage],
    queries: Mapping[str, str],
    k: int,
    *,
    vectors: NDArray[np.float32] | None = None,
    show_progress: bool = False,
) -> Run:
    """The top k passages of every query by exact search.

    Args:
        encoder: The retriever.
        corpus: Passages by id.
        queries: Questions by id.
        k: Passages to keep for each query.
        vectors: The passages' vectors in the order of the corpus, where they are at hand; else they are computed.
        show_progress: Whether to show progress bars.
    """
    if vectors is None:
        vectors = encoder.encode_passages(list(corpus.values()), show_progress=show_progress)
    query_vectors = encoder.encode_queries(list(queries.values()), show_progress=show_progress)
    scores, positions = exact_search(query_vectors, vectors, k, similarity=encoder.similarity)
    ids = list(corpus)
    return {
        query_id: {ids[p]: float(s) for p, s in zip(row, values, strict=True)}
        for query_id, row, values in zip(queries, positions, scores, strict=True)
    }


def rerank(
    encoder: CrossEncoder,
    corpus: Mapping[str, Passage],
    queries: Mapping[str, str],
    run: Run,
    k: int,
    *,
    retriever_weight: float = 0.0,
    show_progress: bool = False,
) -> Run:
    """The best k candidates of every query in `run`, scored by the cross-encoder.

    Args:
        encoder: The re-ranker.
        corpus: Passages by id.
        queries: Questions by id.
        run: A retriever's candidates.
        k: Candidates to score for each query.
        retriever_weight: A candidate's score is its logit plus this weight times its score in `run`.
        show_progress: Whether to show a progress bar.
    """
    candidates = {query_id: list(best(scores, k)) for query_id, scores in run.items()}
    pairs = [(queries[query_id], corpus[id]) for query_id, ids in candidates.items() for id in ids]
    logits = iter(encoder.logits(pairs, show_progress=show_progress).tolist())
    return {
        query_id: {id: next(logits) + retriever_weight * run[query_id][id] for id in ids}
        for query_id, ids in candidates.items()
    }
