"""Extracted answers to answers re-ordered by their passages' relevance."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from haystack import ExtractedAnswer, component, default_from_dict, default_to_dict

from rocketqa_haystack.top_k import check_top_k

# Probabilities are taken for no nearer to 0 and 1 than this: float32 rounds beyond.
NEAREST = 1e-7


@component
class RocketQAAnswerRanker:
    """
    Re-orders a reader's answers by their own scores and by how relevant their passages are.

    A reader judges a span by its passage alone, where the ranker in front of it has seen which passage fits the
    question best. The log-odds of an answer become `logit(p) - weight * (best - s)`, with the reader's probability
    `p`, the logit `s` of the answer's passage, and the highest of all answers' passages, `best`. With a weight of 1
    that is the product of the reader's and the ranker's odds, up to a factor that all answers share. Answers from the
    best passage keep their score, others lose. "No answer" gets the probability that none of those returned is right,
    as in Haystack's reader.

    Source: BERTserini (Yang et al., 2019, section 3) interpolates the retriever's score and the reader's; this is the
    same for the log-odds of both.

    ### Usage example

    ```python
    from haystack import Document, ExtractedAnswer
    from rocketqa_haystack import RocketQAAnswerRanker

    good, poor = Document(content="In Rome since 1870.", score=0.9), Document(content="In Oslo.", score=0.1)
    answers = [
        ExtractedAnswer(query="Where?", score=0.7, data="Oslo", document=poor),
        ExtractedAnswer(query="Where?", score=0.6, data="Rome", document=good),
    ]
    print(RocketQAAnswerRanker().run(answers)["answers"][0].data)
    ```
    """

    def __init__(self, *, passage_weight: float = 1.0, scaled_scores: bool = True, top_k: int = 3) -> None:
        """
        Creates a RocketQAAnswerRanker component.

        :param passage_weight:
            Weight of the passages' logits. 0 goes by the reader alone; the larger it is, the more the best passage's
            answer is preferred to a better answer from another.
        :param scaled_scores:
            Whether the passages' scores are probabilities, as RocketQARanker gives them by default; `False` for its
            logits (`scale_score=False`).
        :param top_k:
            The number of answers to return at most, besides "no answer". The reader has to hand on more than that.
        :raises ValueError: If `passage_weight` is negative or not finite, or `top_k` is not > 0.
        """
        if not (math.isfinite(passage_weight) and passage_weight >= 0):
            raise ValueError(f"passage_weight must be a number >= 0, but got {passage_weight!r}")
        check_top_k(top_k)
        self.passage_weight = passage_weight
        self.scaled_scores = scaled_scores
        self.top_k = top_k

    def to_dict(self) -> dict[str, Any]:
        """
        Serializes the component to a dictionary.

        :returns: Dictionary with serialized data.
        """
        return default_to_dict(
            self, passage_weight=self.passage_weight, scaled_scores=self.scaled_scores, top_k=self.top_k
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RocketQAAnswerRanker:
        """
        Deserializes the component from a dictionary.

        :param data: Dictionary to deserialize from.
        :returns: Deserialized component.
        """
        return default_from_dict(cls, data)

    @component.output_types(answers=list[ExtractedAnswer])
    def run(self, answers: list[ExtractedAnswer], top_k: int | None = None) -> dict[str, list[ExtractedAnswer]]:
        """
        Re-orders answers.

        :param answers: The reader's answers to one question, with or without "no answer"; they are not changed.
        :param top_k: The number of answers to return at most; overrides the value given at initialization.
        :returns: A dictionary with the key `answers`: copies with their new scores, the best first.
        :raises ValueError: If an answer's passage has no score, or a score is no probability.
        """
        top_k = self.top_k if top_k is None else top_k
        check_top_k(top_k)
        found = [answer for answer in answers if answer.data is not None]
        passages = [self._passage_logit(answer) for answer in found]
        best = max(passages, default=0.0)
        logits = [
            _logit(answer.score, answer) - self.passage_weight * (best - passage)
            for answer, passage in zip(found, passages, strict=True)
        ]
        order = sorted(range(len(found)), key=lambda place: -logits[place])[:top_k]
        ranked = [replace(found[place], score=_sigmoid(logits[place])) for place in order]
        none = [
            replace(answer, score=math.prod(1 - other.score for other in ranked))
            for answer in answers
            if answer.data is None
        ]
        return {"answers": sorted(ranked + none, key=lambda answer: -answer.score)}

    def _passage_logit(self, answer: ExtractedAnswer) -> float:
        score = answer.document.score if answer.document is not None else None
        if score is None:
            raise ValueError(f"the passage of the answer {answer.data!r} has no score to go by")
        return _logit(score, answer) if self.scaled_scores else score


def _logit(probability: float, answer: ExtractedAnswer) -> float:
    if not 0 <= probability <= 1:
        raise ValueError(f"{probability} is no probability: scores of the answer {answer.data!r} or of its passage")
    inside = min(max(probability, NEAREST), 1 - NEAREST)
    return math.log(inside / (1 - inside))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
