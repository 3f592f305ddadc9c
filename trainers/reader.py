"""Training an extractive reader (RocketQA, section 4.2; DPR, section 6.1): the answer's place in one of many texts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from rocketqa_haystack.data import AnsweredQuestion, Passage
from rocketqa_haystack.evaluation import exact_match
from trainers.fingerprints import describe, model_name
from trainers.forward import forward_tokens
from trainers.gathering import process_slice
from trainers.loop import Task, TrainingResult, start_accelerator, train
from trainers.losses import reader_loss
from trainers.reader_model import CALIBRATION, HEAD, Reader
from trainers.reader_windows import Window, as_tokenized, windows
from trainers.sampling import EpochBatches
from trainers.settings import TrainingSettings
from trainers.sharding import is_sharded

logger = logging.getLogger(__name__)

#: Instead of minus infinity, which would make NaN of the gradient of passages that only fill up.
NOWHERE = -1e6


@dataclass(frozen=True)
class _Example:
    """Windows of a question's passages; the first has the answer, if any has."""

    query_id: str
    windows: tuple[Window, ...]


class ReaderTrainer:
    """Trains a reader to find the answer in the right one of several passages, or that there is none.

    It sees what Haystack's TransformersExtractiveReader will see, windows of the text without its title, and learns
    scores that mean what that component takes them for: with its default `calibration_factor` of 0.1, a score above
    0.5 says that the span is more likely the answer than that the passages have none.

    ```python
    from rocketqa_haystack.data import load_squad
    from rocketqa_haystack.encoders import DualEncoder
    from trainers import ReaderTrainer, TrainingSettings, mine_distractors

    data = load_squad("train-v2.0.json")
    candidates = mine_distractors(DualEncoder.from_pretrained("tuned-retriever"), data)
    trainer = ReaderTrainer("sentence-transformers/all-MiniLM-L6-v2", data.questions(candidates))
    trainer.train("tuned-reader")
    ```

    Args:
        model: What to start from: a question-answering model, or any encoder or language model, which gets a new head.
        questions: The training data. Questions with a positive that holds its answer in no token of the model, such as
            a zero-width space, are left out with a note.
        dev: Questions to evaluate on, by exact match over their positives and first negatives; the best weights seen
            are kept.
        settings: Epochs, batch size (in questions), learning rate and the like.
        negatives: Distractors of each question, sampled anew in every epoch from its negatives and from those windows
            of a long positive that do not hold the answer.
        max_length: Tokens of a window with the question; None is 384, or what the model can read if that is less.
        stride: Tokens that windows of a long passage have in common, less than half of a window; None is a third of
            max_length.
        selection_weight: Weight of the passage selection loss beside the span loss, see `reader_loss`.
        head_learning_rate: Of the answer head; None is ten times the encoder's, as the head's outputs are read in
            tenths.

    Raises:
        ValueError: There is nothing to train on, or a number makes no sense.
        ModelError: There is no such model, or it can have no answer head.
    """

    def __init__(
        self,
        model: str | Path,
        questions: Sequence[AnsweredQuestion],
        *,
        dev: Sequence[AnsweredQuestion] | None = None,
        settings: TrainingSettings | None = None,
        negatives: int = 3,
        max_length: int | None = None,
        stride: int | None = None,
        selection_weight: float = 1.0,
        head_learning_rate: float | None = None,
    ) -> None:
        if negatives < 0:
            raise ValueError(f"negatives must not be negative, but got {negatives}")
        if selection_weight < 0:
            raise ValueError(f"selection_weight must not be negative, but got {selection_weight}")
        self.settings = settings or TrainingSettings()
        self.accelerator = start_accelerator()
        self.reader = Reader.from_pretrained(
            model, device=str(self.accelerator.device), max_length=max_length, seed=self.settings.seed
        )
        questions = _with_readable_answers(questions, self.reader.tokenizer)
        if not any(question.positives for question in questions):
            raise ValueError("there are no questions with an answer in a passage")
        if negatives and not any(question.negatives for question in questions):
            raise ValueError("no question has negatives: mine them from a retriever's top k first, or ask for 0")
        self.stride = self.reader.max_length // 3 if stride is None else stride
        # A long question leaves the passage half of the window, which has to be more than what windows have in common.
        widest = (self.reader.max_length - self.reader.tokenizer.num_special_tokens_to_add(pair=True)) // 2 - 1
        if not 0 <= self.stride <= widest:
            raise ValueError(
                f"stride must be 0 to {widest} for a max_length of {self.reader.max_length}, but got {self.stride}"
            )
        self.questions = questions
        self.dev = dev
        self.negatives = negatives
        self.selection_weight = selection_weight
        self.head_learning_rate = head_learning_rate or self.settings.learning_rate / CALIBRATION
        self._options = {
            "trainer": type(self).__name__,
            "model": model_name(model),
            "negatives": negatives,
            "max_length": self.reader.max_length,
            "stride": self.stride,
            "selection_weight": selection_weight,
            "head_learning_rate": self.head_learning_rate,
        }

    def train(self, output: str | Path | None = None) -> TrainingResult:
        """Trains the reader in place and writes it as a model folder that TransformersExtractiveReader loads.

        Args:
            output: The folder, which appears whole or not at all; None writes nothing.

        Raises:
            FileExistsError: The folder is there already and is not empty.
        """
        dev = {f"dev_{name}": value for name, value in describe(self.dev).items()} if self.dev else {}
        task = Task(
            {"reader": self.reader},
            self.settings,
            self._batches,
            self.loss,
            self.accelerator,
            options=self._options,
            data={**describe(self.questions), **dev},
            rate=lambda name: self.head_learning_rate if HEAD in name else self.settings.learning_rate,
            evaluate=partial(self._evaluate, self.dev) if self.dev else None,
            measure="exact match",
            unit="question",
            description="Training the reader",
        )
        return train(task, output)

    def loss(self, batch: Sequence[_Example]) -> Tensor | None:
        """This process's share of the loss of a batch of all processes; None where it has no question of it."""
        own = batch[process_slice(len(batch))]
        chosen = [window for example in own for window in example.windows]
        if not chosen:
            if not is_sharded(self.reader.model):
                return None
            # Sharded weights are put together by all processes: this one goes along.
            start, end = self._logits(self._windows("?", Passage("?")))
            return 0 * (start.sum() + end.sum())
        start, end = self._logits(chosen)
        with torch.autocast(start.device.type, enabled=False):
            most = max(len(example.windows) for example in own)
            shape = (len(own), most, start.shape[1])
            rows = [row * most + place for row, example in enumerate(own) for place in range(len(example.windows))]
            place = torch.tensor(rows, device=start.device)
            nowhere = start.new_full((len(own) * most, start.shape[1]), NOWHERE)
            return reader_loss(
                nowhere.index_copy(0, place, start).view(shape),
                nowhere.index_copy(0, place, end).view(shape),
                _padded_spans([example.windows[0].spans if example.windows else () for example in own]).to(
                    start.device
                ),
                selection_weight=self.selection_weight,
                total=len(batch),
            )

    def answer(self, query: str, passages: Sequence[Passage]) -> tuple[str, float]:
        """The answer that TransformersExtractiveReader would put first, and its log-odds against "no answer".

        Returns:
            The empty string and minus infinity where there is no text.
        """
        found = [(passage, window) for passage in passages for window in self._windows(query, passage)]
        if not found:
            return "", float("-inf")
        # Not in inference mode: sharded weights are put together in tensors that training uses again.
        with torch.no_grad():
            start, end = self._logits([window for _, window in found])
        scores = (start[:, :, None] + end[:, None, :]).masked_fill(
            ~torch.ones(start.shape[1], start.shape[1], dtype=torch.bool, device=start.device).triu(), 2 * NOWHERE
        )
        best = int(scores.argmax())
        row, first, last = np.unravel_index(best, scores.shape)
        passage, window = found[row]
        begin = window.in_text[0]
        characters = slice(window.characters[first - begin][0], window.characters[last - begin][1])
        return passage.text[characters], float(scores.flatten()[best])

    def _windows(self, query: str, passage: Passage, spans: Sequence[tuple[int, int]] = ()) -> list[Window]:
        return windows(
            self.reader.tokenizer, query, passage.text, spans, max_length=self.reader.max_length, stride=self.stride
        )

    def _logits(self, chosen: Sequence[Window]) -> tuple[Tensor, Tensor]:
        """Start and end log-odds of every token, shape [windows, longest]; NOWHERE outside of the passage."""
        width = max(len(window.ids) for window in chosen)

        def run(features: dict[str, Any]) -> Tensor:
            output = self.reader.model(**features)
            logits = torch.stack([output.start_logits, output.end_logits], dim=1).float()
            return functional.pad(logits, (0, width - logits.shape[2]))

        tokens = as_tokenized(chosen, self.reader.tokenizer.pad_token_id or 0)
        logits = forward_tokens(self.reader.model, run, tokens, replay=self.settings.gradient_caching)
        position = torch.arange(width, device=logits.device)
        begin, stop = torch.tensor([window.in_text for window in chosen], device=logits.device).T[..., None]
        masked = (CALIBRATION * logits).masked_fill(~((begin <= position) & (position < stop))[:, None], NOWHERE)
        return masked[:, 0], masked[:, 1]

    def _batches(self, epoch: int) -> EpochBatches[_Example]:
        per_step = self.settings.batch_size * self.accelerator.num_processes
        return EpochBatches(
            len(self.questions),
            per_step,
            self.settings.seed,
            epoch,
            lambda position, generator: self._example(self.questions[position], generator),
        )

    def _example(self, question: AnsweredQuestion, generator: np.random.Generator) -> _Example:
        chosen: list[Window] = []
        others: list[Window | Passage] = list(question.negatives)
        if question.positives:
            number = int(generator.integers(len(question.positives)))
            found = self._windows(question.query, question.positives[number], question.spans[number])
            chosen.append(_any_of([window for window in found if window.spans], generator))
            others += [window for window in found if not window.spans]
        # A question without an answer has one more negative, in the place of the positive.
        # The first one is its own passage, which looks most as if it had one.
        places = generator.permutation(len(others)).tolist()
        if not question.positives:
            places.sort(key=bool)
        for place in places[: self.negatives + (not question.positives)]:
            other = others[place]
            found = [other] if isinstance(other, Window) else self._windows(question.query, other)
            if found:
                chosen.append(_any_of(found, generator))
        return _Example(question.query_id, tuple(chosen))

    def _evaluate(self, dev: Sequence[AnsweredQuestion]) -> float:
        hidden = not (self.settings.show_progress and self.accelerator.is_main_process)
        total, may_refuse = 0.0, any(not question.answers for question in dev)
        for question in tqdm(dev, desc="Reading", unit="question", disable=hidden, leave=False):
            passages = [*question.positives, *question.negatives[: self.negatives + (not question.positives)]]
            text, odds = self.answer(question.query, passages)
            total += exact_match(text if odds > 0 or not may_refuse else "", question.answers)
        return total / len(dev)


def _with_readable_answers(questions: Sequence[AnsweredQuestion], tokenizer: Any) -> Sequence[AnsweredQuestion]:
    """The questions without those whose answer is no token, which no window could hold."""

    def answers(question: AnsweredQuestion) -> list[set[str]]:
        places = zip(question.positives, question.spans, strict=True)
        return [{passage.text[start:end] for start, end in spans} for passage, spans in places]

    texts = sorted({text for question in questions for found in answers(question) for text in found})
    ids = tokenizer(texts, add_special_tokens=False).input_ids if texts else []
    unreadable = {text for text, tokens in zip(texts, ids, strict=True) if not tokens}
    readable = [question for question in questions if not any(found <= unreadable for found in answers(question))]
    if left_out := len(questions) - len(readable):
        logger.warning("left out: %d questions whose answer is no token of the model", left_out)
    return readable


def _any_of(found: Sequence[Window], generator: np.random.Generator) -> Window:
    return found[int(generator.integers(len(found)))]


def _padded_spans(spans: Sequence[tuple[tuple[int, int], ...]]) -> Tensor:
    most = max(1, max(map(len, spans)))
    return torch.tensor([[*row, *[(-1, -1)] * (most - len(row))] for row in spans])
