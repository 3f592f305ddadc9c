"""Augmentation: labels for questions that have none, and questions for passages that have none.

Pseudo-labels are RocketQA's (section 3.3.3): the re-ranker says which of a retriever's candidates answer an unlabelled
question. Generated questions are for teams without any: each comes with the passage it was made from, and is kept only
if the retriever finds that passage again and the re-ranker agrees (round-trip consistency).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rocketqa_haystack.data import Passage
from trainers.sampling import Thresholds, denoised_positives

if TYPE_CHECKING:
    from haystack.components.generators.chat.types import ChatGenerator

PROMPT = (
    "Write {count} different questions that a user could ask and that the passage below answers. Do not mention the "
    "passage, and do not copy its sentences. Answer with one question on each line and nothing else.\n\n"
    "Title: {title}\nPassage: {text}"
)


@dataclass(frozen=True)
class PseudoLabels:
    """What the re-ranker says of an unlabelled question's candidates."""

    positive: str
    negatives: list[str]


def pseudo_label(
    ranked: Sequence[str], probabilities: Mapping[str, float], k: int, *, thresholds: Thresholds | None = None
) -> PseudoLabels | None:
    """The best of the top k above the upper threshold as the positive, those below the lower one as negatives.

    Args:
        ranked: The retriever's candidates, best first.
        probabilities: The re-ranker's, by passage.
        k: How many of the candidates count.
        thresholds: See `Thresholds`.

    Returns:
        None where no candidate is above the upper threshold: RocketQA drops such a question.
    """
    thresholds = thresholds or Thresholds()
    positives = denoised_positives(ranked, probabilities, k, thresholds=thresholds)
    if not positives:
        return None
    negatives = [id for id in dict.fromkeys(ranked[:k]) if probabilities.get(id, 1.0) < thresholds.negative_below]
    return PseudoLabels(positives[0], negatives)


@dataclass
class Kept:
    """What of something was kept, and how much was dropped for each reason."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, object]:
        """For a JSON file."""
        return {"kept": self.kept, "dropped": dict(self.dropped)}

    def __str__(self) -> str:
        reasons = "".join(f"; {count:,} dropped: {reason}" for reason, count in sorted(self.dropped.items()))
        return f"{self.kept:,} kept{reasons}"


#: Makes questions for some passages: a list for each of them.
QuestionMaker = Callable[[Sequence[Passage]], list[list[str]]]


def llm_questions(generator: ChatGenerator, count: int, prompt: str = PROMPT) -> QuestionMaker:
    """Questions by a language model.

    Args:
        generator: Any Haystack ChatGenerator.
        count: Questions for each passage.
        prompt: With the fields `{count}`, `{title}` and `{text}`.
    """
    from haystack.dataclasses import ChatMessage

    if hasattr(generator, "warm_up"):
        generator.warm_up()

    def make(passages: Sequence[Passage]) -> list[list[str]]:
        made = []
        for passage in passages:
            text = prompt.format(count=count, title=passage.title, text=passage.text)
            reply = generator.run(messages=[ChatMessage.from_user(text)])["replies"][0].text or ""
            made.append([line for line in map(_without_number, reply.splitlines()) if line][:count])
        return made

    return make


def salient_questions(frequencies: WordFrequencies, count: int) -> QuestionMaker:
    """Queries without a language model: the title, and the words of the sentences that say most about the passage.

    They are keyword queries rather than questions. A sentence says much if its words are rare in the corpus and come
    again in the passage; of each the rarest words are taken, in their order, so that the query is not a copy.

    Args:
        frequencies: Of the corpus's words.
        count: Queries for each passage.
    """
    return lambda passages: [_salient(passage, frequencies, count) for passage in passages]


@dataclass
class WordFrequencies:
    """In how many of how many passages each word stands."""

    passages: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, passages: Iterable[Passage]) -> WordFrequencies:
        """Counts them, one passage at a time."""
        frequencies = cls()
        for passage in passages:
            frequencies.passages += 1
            frequencies.counts.update(set(_words(f"{passage.title} {passage.text}")))
        return frequencies

    def rarity(self, word: str) -> float:
        """The inverse document frequency."""
        return math.log((1 + self.passages) / (1 + self.counts[word]))


_SENTENCE_END = re.compile("(?<=[.!?])\\s+|(?<=[\u3002\uff01\uff1f])|\n+")

#: Words of a query that is made from a sentence, at most.
_QUERY_WORDS = 8


def _salient(passage: Passage, frequencies: WordFrequencies, count: int) -> list[str]:
    inside = Counter(_words(passage.text))
    sentences = [words for sentence in _SENTENCE_END.split(passage.text) if (words := _words(sentence))]

    def salience(words: list[str]) -> float:
        return sum(frequencies.rarity(word) * math.log1p(inside[word]) for word in set(words)) / math.sqrt(len(words))

    queries = [passage.title.strip()] if len(_words(passage.title)) > 1 else []
    for words in sorted(sentences, key=salience, reverse=True):
        rarest = sorted(set(words), key=lambda word: (-frequencies.rarity(word), word))[:_QUERY_WORDS]
        chosen = [word for word in dict.fromkeys(words) if word in rarest]
        about = [word for word in dict.fromkeys(_words(passage.title)) if word not in chosen]
        if len(chosen) > 2:
            queries.append(" ".join([*about[:3], *chosen]))
    return list(dict.fromkeys(queries))[:count]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _without_number(line: str) -> str:
    return re.sub(r"^\s*(?:[-*•]|\(?\d+[.):])\s*", "", line).strip().strip('"').strip()


@dataclass(frozen=True)
class GeneratedQuestion:
    """A question and the passage that it was made from."""

    id: str
    text: str
    passage_id: str

    def line(self) -> str:
        """As a line of JSON."""
        return json.dumps({"_id": self.id, "text": self.text, "passage": self.passage_id}, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, line: str) -> GeneratedQuestion:
        """The question on a line that `line` made."""
        record = json.loads(line)
        return cls(record["_id"], record["text"], record["passage"])


def different_questions(questions: Iterable[GeneratedQuestion]) -> tuple[list[GeneratedQuestion], Kept]:
    """The questions that are not empty and whose text only one passage gave."""
    questions = list(questions)
    texts = Counter(question.text.lower() for question in questions)
    kept, result = [], Kept()
    for question in questions:
        if len(_words(question.text)) < 2:
            result.dropped["too short"] += 1
        elif texts[question.text.lower()] > 1:
            result.dropped["the same question for several passages"] += 1
        else:
            kept.append(question)
    result.kept = len(kept)
    return kept, result


def round_trip(
    questions: Iterable[GeneratedQuestion],
    run: Mapping[str, Mapping[str, float]],
    probabilities: Mapping[str, Mapping[str, float]] | None,
    *,
    rank: int,
    above: float,
) -> tuple[list[GeneratedQuestion], Kept]:
    """The questions whose passage the retriever finds and the re-ranker affirms.

    Args:
        questions: With the passages that they were made from.
        run: The retriever's candidates.
        probabilities: The re-ranker's of them; None asks the retriever only.
        rank: The lowest rank at which the passage counts as found.
        above: The probability from which the re-ranker agrees.
    """
    kept, result = [], Kept()
    for question in questions:
        found = sorted(run.get(question.id, {}).items(), key=lambda item: item[1], reverse=True)[:rank]
        if question.passage_id not in dict(found):
            result.dropped[f"the retriever does not have the passage among its first {rank}"] += 1
        elif probabilities is not None and probabilities[question.id][question.passage_id] < above:
            result.dropped[f"the re-ranker gives the passage less than {above:g}"] += 1
        else:
            kept.append(question)
    result.kept = len(kept)
    return kept, result
