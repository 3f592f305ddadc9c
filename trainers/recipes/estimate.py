"""How long stages will take on this machine: a few texts are run, and the rest is proportion."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from rocketqa_haystack.data import CorpusFile
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder
from trainers.recipes.plan import GivenModel, Work
from trainers.recipes.settings import Recipe

Text = TypeVar("Text")

#: Texts of each kind that are run.
SAMPLE = 48


@dataclass(frozen=True)
class Rates:
    """Seconds for one text of each kind, forward."""

    passage: float
    query: float
    pair: float

    def seconds(self, work: Work) -> float:
        """What a stage's work will take, give or take a half."""
        return work.passages * self.passage + work.queries * self.query + work.pairs * self.pair


def measure_rates(recipe: Recipe, corpus: CorpusFile) -> Rates:
    """Runs the models that the recipe starts from on some of its texts; takes seconds."""
    retriever = DualEncoder.from_pretrained(GivenModel(recipe.retriever).model, dtype=recipe.dtype)
    retriever.change_settings(query_max_length=recipe.lengths.query, passage_max_length=recipe.lengths.passage)
    reranker = CrossEncoder.for_training(GivenModel(recipe.reranker or recipe.retriever).model)
    reranker.model.eval()
    reranker.change_settings(passage_max_length=recipe.lengths.pair)
    step = max(1, len(corpus) // SAMPLE)
    passages = [corpus[id] for id in islice(corpus, 0, None, step)][:SAMPLE]
    asked = [" ".join(passage.text.split()[:10]) for passage in passages]  # about as long as questions are
    pairs = list(zip(asked, passages, strict=True))
    return Rates(
        _seconds_each(retriever.encode_passages, passages),
        _seconds_each(retriever.encode_queries, asked),
        _seconds_each(reranker.logits, pairs),
    )


def _seconds_each(run: Callable[[list[Text]], object], texts: Sequence[Text]) -> float:
    run(list(texts[:8]))  # the first texts pay for what is made once
    start = time.perf_counter()
    run(list(texts))
    return (time.perf_counter() - start) / max(1, len(texts))
