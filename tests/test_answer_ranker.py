"""Answers weighed by their passages."""

from __future__ import annotations

import math
from typing import Any

import pytest
from haystack import Document, ExtractedAnswer
from hypothesis import given
from hypothesis import strategies as st

from rocketqa_haystack import RocketQAAnswerRanker

probabilities = st.floats(0.01, 0.99)
#: The reader's probability and the passage's logit.
found = st.lists(st.tuples(probabilities, st.floats(-4, 4)), min_size=1, max_size=6)


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def answers_of(pairs: list[tuple[float, float]], *, scaled: bool, no_answer: bool = True) -> list[ExtractedAnswer]:
    answers = [
        ExtractedAnswer(
            query="q",
            score=probability,
            data=str(number),
            document=Document(id=str(number), score=sigmoid(logit) if scaled else logit),
        )
        for number, (probability, logit) in enumerate(pairs)
    ]
    return answers + [ExtractedAnswer(query="q", score=0.5, data=None)] * no_answer


def odds(probability: float) -> float:
    return probability / (1 - probability)


@given(found, st.booleans())
def test_with_the_weight_1_odds_are_products_up_to_one_factor(pairs: list[tuple[float, float]], scaled: bool) -> None:
    ranker = RocketQAAnswerRanker(passage_weight=1, scaled_scores=scaled, top_k=10)
    ranked = ranker.run(answers_of(pairs, scaled=scaled))["answers"]
    assert [answer.score for answer in ranked] == sorted((answer.score for answer in ranked), reverse=True)
    best = max(logit for _, logit in pairs)
    for answer in ranked:
        if answer.data is not None:
            probability, logit = pairs[int(answer.data)]
            assert odds(answer.score) == pytest.approx(odds(probability) * math.exp(logit - best), rel=1e-6)
    (none,) = (answer for answer in ranked if answer.data is None)
    assert none.score == pytest.approx(math.prod(1 - answer.score for answer in ranked if answer.data is not None))


@given(found)
def test_with_the_weight_0_the_readers_own_order_and_scores_stay(pairs: list[tuple[float, float]]) -> None:
    answers = answers_of(pairs, scaled=True, no_answer=False)
    ranked = RocketQAAnswerRanker(passage_weight=0, top_k=10).run(answers)["answers"]
    assert [a.score for a in ranked] == pytest.approx(sorted((answer.score for answer in answers), reverse=True))


def test_the_more_weight_the_more_counts_the_passage() -> None:
    answers = answers_of([(0.9, -1.0), (0.6, 1.0)], scaled=True)
    firsts = [RocketQAAnswerRanker(passage_weight=w).run(answers)["answers"][0].data for w in (0, 0.5, 1, 5)]
    assert firsts == ["0", "0", "1", "1"]


def test_there_are_top_k_answers_besides_no_answer_and_the_given_ones_stay_as_they_are() -> None:
    answers = answers_of([(0.5, float(n)) for n in range(5)], scaled=False)
    ranker = RocketQAAnswerRanker(scaled_scores=False)
    assert [a.data for a in ranker.run(answers)["answers"] if a.data is not None] == ["4", "3", "2"]
    assert [a.data for a in ranker.run(answers, top_k=1)["answers"]] == ["4", None]
    assert [answer.score for answer in answers] == [0.5] * 6
    assert ranker.run([])["answers"] == []
    assert ranker.run(answers[-1:])["answers"][0].score == 1


def test_certainty_stays_finite() -> None:
    ranker = RocketQAAnswerRanker(scaled_scores=False)
    answers = answers_of([(1.0, 800.0), (0.0, -800.0)], scaled=False, no_answer=False)
    first, second = ranker.run(answers)["answers"]
    assert (first.data, second.data) == ("0", "1")
    assert first.score == pytest.approx(1)
    assert 0 <= second.score < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"passage_weight": -1}, "passage_weight must be a number >= 0, but got -1"),
        ({"passage_weight": math.nan}, "passage_weight"),
        ({"top_k": 0}, "top_k must be a whole number > 0, but got 0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RocketQAAnswerRanker(**options)


def test_scores_that_are_missing_or_no_probabilities_are_named() -> None:
    bare = ExtractedAnswer(query="q", score=0.5, data="x", document=Document(content="x"))
    with pytest.raises(ValueError, match="passage of the answer 'x' has no score"):
        RocketQAAnswerRanker().run([bare])
    with pytest.raises(ValueError, match=r"1\.5 is no probability.* answer '0'"):
        RocketQAAnswerRanker().run(answers_of([(0.5, 1.5)], scaled=False))
