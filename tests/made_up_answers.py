"""Questions of made-up words that a small reader learns to answer in seconds."""

from __future__ import annotations

import random

from made_up_words import WORDS

from rocketqa_haystack.data import AnsweredQuestion, Passage, find_answers


def made_up(count: int, seed: int, length: int = 12) -> list[AnsweredQuestion]:
    """Questions whose answer is the number in a passage; other passages have none."""
    generator = random.Random(seed)

    def words() -> list[str]:
        return generator.choices(WORDS, k=length)

    questions = []
    for number in range(count):
        answer = str(generator.randrange(10))
        text = words()
        text.insert(generator.randrange(length), answer)
        passage = " ".join(text)
        spans = find_answers(passage, [answer])
        others = tuple(Passage(" ".join(words())) for _ in range(3))
        questions.append(
            AnsweredQuestion(str(number), " ".join(words()[:3]), (answer,), (Passage(passage),), (spans,), others)
        )
    return questions
