"""What our encoders' models get for a text: token and segment ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from reference import Tokens

from rocketqa_haystack.data import Passage
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder
from rocketqa_haystack.encoders.batching import TokenizedTexts, tokenize


def query_tokens(encoder: DualEncoder, queries: Sequence[str]) -> list[Tokens]:
    """Ids and segment ids of queries."""
    return _rows(tokenize(encoder.model, queries, task="query", max_length=encoder.max_length("query")))


def passage_tokens(encoder: DualEncoder, passages: Sequence[Passage]) -> list[Tokens]:
    """Ids and segment ids of passages."""
    texts = [encoder.passage_text(passage) for passage in passages]
    return _rows(tokenize(encoder.model, texts, task="document", max_length=encoder.max_length("document")))


def pair_tokens(encoder: CrossEncoder, pairs: Sequence[tuple[str, Passage]]) -> list[Tokens]:
    """Ids and segment ids of pairs."""
    texts = [encoder.pair_text(pair) for pair in pairs]
    return _rows(tokenize(encoder.model, texts, max_length=encoder.settings.passage_max_length))


def _rows(tokenized: TokenizedTexts) -> list[Tokens]:
    ends = np.cumsum(tokenized.lengths)[:-1]
    ids = np.split(tokenized.columns["input_ids"], ends)
    types = np.split(tokenized.columns["token_type_ids"], ends)
    return [(row.tolist(), kinds.tolist()) for row, kinds in zip(ids, types, strict=True)]
