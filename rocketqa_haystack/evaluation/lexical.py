"""The lexical baseline: BM25 by bm25s."""

from __future__ import annotations

from collections.abc import Mapping

import bm25s
import numpy as np
import Stemmer

from rocketqa_haystack.data import Passage
from rocketqa_haystack.evaluation.runs import Run


class BM25:
    """BM25 over English passages, title and text joined: Snowball-stemmed, English stop words left out.

    k1 = 0.9 and b = 0.4 are the values that the retrieval literature uses for passages (Anserini's defaults). Where all
    passages are empty or of stop words, or there are none, nothing is found.
    """

    def __init__(self, corpus: Mapping[str, Passage], *, k1: float = 0.9, b: float = 0.4) -> None:
        self._ids = list(corpus)
        self._stemmer = Stemmer.Stemmer("english")
        words = self._tokens([f"{passage.title} {passage.text}" for passage in corpus.values()])
        self._index = bm25s.BM25(k1=k1, b=b) if any(words.ids) else None  # bm25s cannot index no words at all
        if self._index is not None:
            self._index.index(words, show_progress=False)

    def search(self, queries: Mapping[str, str], k: int) -> Run:
        """The top k passages of every query; passages without any word of the query are left out."""
        if self._index is None:
            return {query_id: {} for query_id in queries}
        positions, scores = self._index.retrieve(
            self._tokens(list(queries.values())), k=min(k, len(self._ids)), show_progress=False
        )
        return {
            query_id: {self._ids[int(p)]: float(s) for p, s in zip(row, values, strict=True) if s > 0}
            for query_id, row, values in zip(queries, np.asarray(positions), np.asarray(scores), strict=True)
        }

    def _tokens(self, texts: list[str]) -> bm25s.tokenization.Tokenized:
        return bm25s.tokenize(texts, stopwords="en", stemmer=self._stemmer, show_progress=False)
