"""Runs of the encoders: a dual encoder over a whole corpus, a cross-encoder over another run's candidates."""

from __future__ import annotations

from collections.abc import Mapping

from rocketqa_haystack.data import Passage
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder
from rocketqa_haystack.encoders.search import exact_search
from rocketqa_haystack.evaluation.runs import Run


def retrieve(
    encoder: DualEncoder, corpus: Mapping[str, Passage], queries: Mapping[str, str], k: int, *, show_progress: bool = False
) -> Run:
    """The top k passages of every query by exact search."""
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
    show_progress: bool = False,
) -> Run:
    """The best k candidates of every query in `run`, in the order of the cross-encoder's logits."""
    candidates = {
        query_id: sorted(scores, key=lambda id, scores=scores: scores[id], reverse=True)[:k]  # type: ignore[misc]
        for query_id, scores in run.items()
    }
    pairs = [(queries[query_id], corpus[id]) for query_id, ids in candidates.items() for id in ids]
    logits = iter(encoder.logits(pairs, show_progress=show_progress).tolist())
    return {query_id: {id: next(logits) for id in ids} for query_id, ids in candidates.items()}
