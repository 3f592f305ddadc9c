"""Answers against what was to be answered: SQuAD's exact match and F1, and recall by answer string as on NQ."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import regex

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_TOKENS = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")


def normalize_answer(text: str) -> str:
    """An answer as SQuAD compares it: lower case, without ASCII punctuation, then without articles, single spaces.

    Punctuation goes before articles, and both are English ones (Rajpurkar et al., 2016, section 6.1).
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction is one of the answers after normalisation, else 0.

    Args:
        prediction: The answer given; the empty string for "no answer".
        answers: The answers to the question; none for a question that has none.
    """
    return _best(lambda answer: float(normalize_answer(prediction) == answer), answers)


def f1_score(prediction: str, answers: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the prediction's words, as multisets, for the best of the answers.

    As in SQuAD 2.0, where the prediction or an answer has no words after normalisation it is 1 for two that have none,
    else 0.

    Args:
        prediction: The answer given; the empty string for "no answer".
        answers: The answers to the question; none for a question that has none.
    """
    predicted = normalize_answer(prediction).split()

    def score(answer: str) -> float:
        words = answer.split()
        if not predicted or not words:
            return float(predicted == words)
        common = (Counter(predicted) & Counter(words)).total()
        return 2 * common / (len(predicted) + len(words))

    return _best(score, answers)


def has_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether an answer's tokens stand in a text one after another, letter case and form of accents aside.

    It is the match of DPR's evaluation on Natural Questions: a token is a run of letters, digits and marks, or another
    visible character (Karpukhin et al., 2020). An answer without any token is in no text.
    """
    tokens = _tokens(text)
    return any(len(answer) > 1 and answer in tokens for answer in map(_tokens, answers))


def answer_rank(texts: Iterable[str], answers: Sequence[str]) -> int | None:
    """The rank, from 1, of the first text that has an answer; None where none has.

    A retriever's Success@k on Natural Questions is the share of questions where it is at most k.
    """
    return next((rank for rank, text in enumerate(texts, start=1) if has_answer(text, answers)), None)


def measure_answers(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Means of exact match and F1, as `EM` and `F1` between 0 and 1, over all questions in `answers`.

    Args:
        predictions: The answer to each question, by its id; the empty string, or none at all, for "no answer".
        answers: The right answers.
    """
    given = [(predictions.get(query_id, ""), wanted) for query_id, wanted in answers.items()]
    return {name: sum(score(*pair) for pair in given) / len(given) for name, score in ANSWER_MEASURES.items()}


ANSWER_MEASURES = {"EM": exact_match, "F1": f1_score}


def _best(score: Callable[[str], float], answers: Sequence[str]) -> float:
    # As in SQuAD 2.0: answers of which nothing is left do not count, and a question without any has the empty one.
    return max(map(score, filter(None, map(normalize_answer, answers))), default=score(""))


@lru_cache(maxsize=16_384)
def _tokens(text: str) -> str:
    """A space before and after every token, so that a substring is a run of whole tokens."""
    return " ".join(["", *_TOKENS.findall(unicodedata.normalize("NFD", text).lower()), ""])
