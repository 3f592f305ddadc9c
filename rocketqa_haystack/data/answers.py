"""Questions whose answers stand in passages: what a reader is trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rocketqa_haystack.data.beir import Collection, load_collection, read_answers
from rocketqa_haystack.data.files import DataError
from rocketqa_haystack.data.passage import Passage

#: First character of an answer in a passage's text, and the one after its last.
Span = tuple[int, int]


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question, the passages that answer it with the places of the answer, and passages that don't.

    Attributes:
        query_id: The question's id.
        query: The question.
        answers: The answers, each of them right; none for a question that no passage answers.
        positives: Passages that hold an answer.
        spans: The places of the answers in the text of each positive, at least one each.
        negatives: Passages that hold none, such as the best of a retriever's top k.
    """

    query_id: str
    query: str
    answers: tuple[str, ...]
    positives: tuple[Passage, ...]
    spans: tuple[tuple[Span, ...], ...]
    negatives: tuple[Passage, ...] = ()


@dataclass(frozen=True)
class AnsweredCollection:
    """A collection whose questions have answers.

    Attributes:
        collection: Passages, questions and judgements.
        answers: The answer strings of each question; none where its judged passages do not answer it.
        spans: Where the answers stand in the question's one judged passage, if it is known (SQuAD's form); else they
            are looked for.
    """

    collection: Collection
    answers: dict[str, tuple[str, ...]]
    spans: dict[str, tuple[Span, ...]] = field(default_factory=dict)

    def questions(self, candidates: Mapping[str, Iterable[str]] | None = None) -> list[AnsweredQuestion]:
        """The questions to train on.

        A question whose answer is in none of its judged passages is left out; one that is said to have none keeps
        those passages as its first negatives.

        Args:
            candidates: Ids of passages by question, best first, such as a retriever's top k: those that are not judged
                relevant become its negatives. Pass only passages without an answer.
        """
        corpus, questions = self.collection.corpus, []
        for query_id, query in self.collection.queries.items():
            judged = [id for id, grade in self.collection.qrels[query_id].items() if grade > 0]
            answers = self.answers.get(query_id)
            if answers is None or not judged:
                continue
            negatives = [id for id in (candidates or {}).get(query_id, ()) if id not in judged]
            found: dict[str, tuple[Span, ...]] = {}
            if answers:
                for id in judged:
                    spans = self.spans.get(query_id) or find_answers(corpus[id].text, answers)
                    if spans:
                        found[id] = spans
                if not found:
                    continue
            else:
                negatives = [*judged, *negatives]
            questions.append(
                AnsweredQuestion(
                    query_id=query_id,
                    query=query,
                    answers=answers,
                    positives=tuple(corpus[id] for id in found),
                    spans=tuple(found.values()),
                    negatives=tuple(corpus[id] for id in negatives),
                )
            )
        return questions


def load_answered_collection(folder: str | Path, split: str) -> AnsweredCollection:
    """One split of a BEIR folder whose queries.jsonl has `answers`.

    Raises:
        DataError: As `load_collection`; or no question of the split has answers.
    """
    collection = load_collection(folder, split)
    answers = read_answers(Path(folder) / "queries.jsonl")
    answers = {id: answers[id] for id in collection.queries if id in answers}
    if not answers:
        raise DataError(f"{Path(folder) / 'queries.jsonl'}: no question of the split {split!r} has 'answers'")
    return AnsweredCollection(collection, answers)


def find_answers(text: str, answers: Sequence[str]) -> tuple[Span, ...]:
    """All places where one of the answers stands in a text.

    They are looked for as whole words in the same letter case; only where there is none, in any case, and then inside
    of words.
    """
    wanted = [re.escape(answer.strip()) for answer in answers if answer.strip()]
    for bounded, flags in ((True, 0), (True, re.IGNORECASE), (False, 0)):
        spans = {
            match.span()
            for answer in wanted
            for match in re.finditer(rf"(?<!\w)(?:{answer})(?!\w)" if bounded else answer, text, flags)
        }
        if spans:
            return tuple(sorted(spans))
    return ()
