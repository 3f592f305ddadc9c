"""Augmentation: labels for questions that have none, and questions for passages that have none.

Pseudo-labels are RocketQA's (section 3.3.3): the re-ranker says which of a retriever's candidates answer an unlabelled
question. Generated questions are for teams without any: each comes with the passage it was made from, and is kept only
if the retriever finds that passage again and the re-ranker agrees (round-trip consistency).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rocketqa_haystack.data import Passage
from trainers.sampling import Thresholds, denoised_positives, question_key

if TYPE_CHECKING:
    from haystack.components.generators.chat.types import ChatGenerator

PROMPT = (
    "Write {count} different questions that a user could ask and that the passage below answers. Do not mention the "
    "passage, and do not copy its sentences. Answer with one question on each line and nothing else.\n\n"
    "Title: {title}\nPassage: {text}"
)


#: Why a question is dropped that models are measured on.
HELD_OUT = "the same as a question of dev or test"


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


@dataclass
class Made:
    """The questions that were made for one passage, and how much was left out for each reason."""

    questions: list[str]
    dropped: Counter[str] = field(default_factory=Counter)


#: Makes questions for some passages: what is made for each of them.
QuestionMaker = Callable[[Sequence[Passage]], list[Made]]


class GeneratorError(OSError):
    """A language model that does not answer: its service cannot be reached, or refuses."""


def llm_questions(generator: ChatGenerator, count: int, prompt: str = PROMPT) -> QuestionMaker:
    """Questions by a language model, one on each line of its answer.

    Lines that end in a question mark are questions, and where there are none, all that do not end in a colon: models
    like to say what they will do now. The mark of a list before a question is taken off.

    Args:
        generator: Any Haystack ChatGenerator.
        count: Questions for each passage.
        prompt: With the fields `{count}`, `{title}` and `{text}`.

    Raises:
        GeneratorError: When questions are made, whatever the generator raises.
    """
    from haystack.dataclasses import ChatMessage

    if hasattr(generator, "warm_up"):
        generator.warm_up()

    def make(passage: Passage) -> Made:
        text = prompt.format(count=count, title=passage.title, text=passage.text)
        try:
            replies = generator.run(messages=[ChatMessage.from_user(text)])["replies"]
        except Exception as error:  # every service has errors of its own
            raise GeneratorError(
                f"{type(generator).__name__} does not answer: {type(error).__name__}: {error}"
            ) from error
        return _answered((replies[0].text or "") if replies else "", count)

    return lambda passages: [make(passage) for passage in passages]


def _answered(reply: str, count: int) -> Made:
    lines = [line for line in map(_without_mark, reply.splitlines()) if line]
    if not lines:
        return Made([], Counter({"no answer by the generator": 1}))
    asked = [line for line in lines if line.endswith(_QUESTION_MARKS)]
    asked = asked or [line for line in lines if not line.endswith(_COLONS)]
    left_out = {"no question in form": len(lines) - len(asked), "more than were asked for": len(asked) - count}
    return Made(asked[:count], Counter({reason: lines for reason, lines in left_out.items() if lines > 0}))


#: Also Chinese, Arabic and Greek.
_QUESTION_MARKS, _COLONS = ("?", "\uff1f", "\u061f", ";", "\u037e"), (":", "\uff1a")


def _without_mark(line: str) -> str:
    return re.sub(r"^\s*(?:[-*\u2022]|\(?\d+[.):])\s+", "", line).strip(' \t"*\u201c\u201d')


def salient_questions(frequencies: WordFrequencies, count: int) -> QuestionMaker:
    """Queries without a language model: the title, and the words of the sentences that say most about the passage.

    They are keyword queries rather than questions. A sentence says much if its words are rare in the corpus and come
    again in the passage; of each the rarest words are taken, in their order, so that the query is not a copy.

    Args:
        frequencies: Of the corpus's words.
        count: Queries for each passage.
    """
    return lambda passages: [Made(_salient(passage, frequencies, count)) for passage in passages]


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
            queries.append(f"{_joined(about[:3])} {_joined(chosen)}".strip())
    return list(dict.fromkeys(queries))[:count]


#: Thai, Lao, Burmese, Khmer, Japanese and Chinese: scripts that have no spaces between words.
_UNSPACED = (
    "\u0e01-\u0edf\u1000-\u104f\u1780-\u17d3\u3005-\u3007\u3041-\u3096\u30a1-\u30fa\u30fc\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U000323af"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_TOUCHING = re.compile(rf"(?<=[{_UNSPACED}]) (?=[{_UNSPACED}])")


def _words(text: str) -> list[str]:
    """The words of a text; of scripts without spaces, each character is one."""
    return _WORD.findall(text.lower())


def _joined(words: Iterable[str]) -> str:
    return _TOUCHING.sub("", " ".join(words))


@dataclass(frozen=True)
class GeneratedQuestion:
    """A question and the passage that it was made from."""

    id: str
    text: str
    passage_id: str


def different_questions(questions: Iterable[GeneratedQuestion]) -> tuple[list[GeneratedQuestion], Kept]:
    """The questions that are not empty, each once, and whose text (by `question_key`) only one passage gave."""
    questions = list(questions)
    passages: dict[str, set[str]] = {}
    for question in questions:
        passages.setdefault(question_key(question.text), set()).add(question.passage_id)
    kept: dict[str, GeneratedQuestion] = {}
    result = Kept()
    for question in questions:
        key = question_key(question.text)
        if len(_words(question.text)) < 2:
            result.dropped["too short"] += 1
        elif len(passages[key]) > 1:
            result.dropped["the same question for several passages"] += 1
        elif key in kept:
            result.dropped["the same question again for its passage"] += 1
        else:
            kept[key] = question
    result.kept = len(kept)
    return list(kept.values()), result


def round_trip(
    questions: Iterable[GeneratedQuestion],
    run: Mapping[str, Mapping[str, float]],
    probabilities: Mapping[str, Mapping[str, float]] | None,
    *,
    rank: int,
    above: float,
    held_out: Container[str] = frozenset(),
) -> tuple[list[GeneratedQuestion], Kept]:
    """The questions whose passage the retriever finds and the re-ranker affirms.

    Args:
        questions: With the passages that they were made from.
        run: The retriever's candidates.
        probabilities: The re-ranker's of them; None asks the retriever only.
        rank: The lowest rank at which the passage counts as found.
        above: The probability from which the re-ranker agrees.
        held_out: Questions that models are measured on, each by its `question_key`: none of them is kept.
    """
    kept, result = [], Kept()
    for question in questions:
        found = sorted(run.get(question.id, {}).items(), key=lambda item: item[1], reverse=True)[:rank]
        if question_key(question.text) in held_out:
            result.dropped[HELD_OUT] += 1
        elif question.passage_id not in dict(found):
            result.dropped[f"the retriever does not have the passage among its first {rank}"] += 1
        elif probabilities is not None and probabilities[question.id][question.passage_id] < above:
            result.dropped[f"the re-ranker gives the passage less than {above:g}"] += 1
        else:
            kept.append(question)
    result.kept = len(kept)
    return kept, result
