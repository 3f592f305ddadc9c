"""Training a cross-encoder (RocketQA, section 3.4: the re-ranker that later denoises the negatives)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rocketqa_haystack.data import Collection, Passage, TrainingGroup
from rocketqa_haystack.encoders import CrossEncoder
from rocketqa_haystack.evaluation import Run, measure, rerank
from trainers.fingerprints import describe, model_name
from trainers.forward import forward_in_batches
from trainers.gathering import process_slice
from trainers.loop import Task, TrainingResult, start_accelerator, train
from trainers.losses import as_lists, listwise_loss, pointwise_loss, relevance
from trainers.sampling import (
    EpochBatches,
    KnownPositives,
    candidate_list,
    different_negatives,
    example_generator,
    known_positives,
)
from trainers.settings import TrainingSettings
from trainers.sharding import is_sharded
from trainers.training_data import Groups, check_dev, check_training_data, open_groups


@dataclass(frozen=True)
class _Example:
    query_id: str
    query: str
    passages: tuple[Passage, ...]  # one, or a list with the positive first
    label: int = 1  # of the one


class CrossEncoderTrainer:
    """Trains a re-ranker to tell a query's positive from negatives out of the retriever's top k.

    Pair by pair, as in RocketQA, so that a score is a probability; or list by list, as in RocketQAv2, which learns to
    rank from fewer questions.

    ```python
    from rocketqa_haystack.data import read_groups
    from trainers import CrossEncoderTrainer, TrainingSettings

    trainer = CrossEncoderTrainer("tuned-retriever", read_groups("groups.jsonl"), settings=TrainingSettings(epochs=2))
    trainer.train("tuned-ranker")
    ```

    Args:
        model: What to start from: a cross-encoder, or any encoder or language model, which gets a new head.
        groups: The training data: a sequence, or a file in any format of `TrainingGroups.read`, which stays on disk.
            The negatives of a group are its candidates: passages that a retriever ranks high and that are not judged
            relevant.
        dev: Questions to evaluate on, with `dev_candidates`, by RR@10 after re-ranking; the best weights seen are kept.
        dev_candidates: A retriever's run over the questions of `dev`.
        settings: Epochs, batch size (in pairs, or in lists), learning rate and the like.
        loss: `pointwise` (RocketQA, section 3.4) or `listwise` (RocketQAv2, section 3.2).
        negatives: Negatives sampled for each positive, anew in every epoch (RocketQA has 4 on MS MARCO, 1 on NQ).
        max_length: Longest pair in tokens; None keeps the model's.
        exclude_known_positives: Whether a passage that answers a query by any group is kept from being its negative.
            The released code does not look; False trains as it does.

    Attributes:
        report: What is wrong with the training data, by count and example; also logged as a warning.

    Raises:
        ValueError: A setting makes no sense, no group has a negative, or a group has no positive, an empty question or
            an empty positive.
    """

    def __init__(
        self,
        model: str | Path,
        groups: Groups,
        *,
        dev: Collection | None = None,
        dev_candidates: Run | None = None,
        settings: TrainingSettings | None = None,
        loss: Literal["pointwise", "listwise"] = "pointwise",
        negatives: int = 4,
        max_length: int | None = None,
        exclude_known_positives: bool = True,
    ) -> None:
        if loss not in ("pointwise", "listwise"):
            raise ValueError(f"loss must be pointwise or listwise, but got {loss!r}")
        if negatives < 1:
            raise ValueError(f"negatives must be at least 1, but got {negatives}")
        if (dev is None) != (dev_candidates is None):
            raise ValueError("dev and dev_candidates go together: a re-ranker is evaluated on a retriever's candidates")
        if dev_candidates is not None and not any(dev_candidates.values()):
            raise ValueError("dev_candidates has no candidate of any query")
        self.dev = check_dev(dev)
        self.settings = settings or TrainingSettings()
        self.accelerator = start_accelerator()
        self.groups = open_groups(groups)
        self._known = known_positives(self.groups) if exclude_known_positives else KnownPositives(())
        self.report = check_training_data(
            self.groups,
            known=self._known,
            negatives=negatives,
            main_process=self.accelerator.is_main_process,
            show_progress=self.settings.show_progress,
        )
        self.negatives = negatives
        self.listwise = loss == "listwise"
        # A pair's place in the data: a group's pairs follow those of the groups before it.
        counts = (1 + min(negatives, len(self._different_negatives(group))) for group in self.groups)
        self._ends = np.cumsum(np.fromiter(counts, np.int64, len(self.groups)))
        if self._ends[-1] == len(self.groups):
            raise ValueError("no training group has negatives: mine them from a retriever's top k first")
        self.encoder = CrossEncoder.for_training(
            model,
            device=str(self.accelerator.device),
            seed=self.settings.seed,
            prior=len(self.groups) / int(self._ends[-1]),
        )
        self.encoder.change_settings(passage_max_length=max_length)
        self.dev_candidates = dev_candidates
        self._options = {
            "trainer": type(self).__name__,
            "model": model_name(model),
            "loss": loss,
            "negatives": negatives,
            "exclude_known_positives": exclude_known_positives,
            **asdict(self.encoder.settings),
        }

    def train(self, output: str | Path | None = None) -> TrainingResult:
        """Trains the encoder in place and writes it as a model folder.

        Args:
            output: The folder, which appears whole or not at all; None writes nothing.

        Raises:
            FileExistsError: The folder is there already and is not empty.
        """
        task = Task(
            {"reranker": self.encoder},
            self.settings,
            self._batches,
            self.loss,
            self.accelerator,
            options=self._options,
            data=describe(self.groups, self.dev, self.dev_candidates),
            evaluate=partial(self._evaluate, self.dev, self.dev_candidates)
            if self.dev is not None and self.dev_candidates is not None
            else None,
            unit="list" if self.listwise else "pair",
            description="Training the re-ranker",
        )
        return train(task, output)

    def loss(self, batch: Sequence[_Example]) -> Tensor | None:
        """This process's share of the loss of a batch of all processes; None where it has no example of it."""
        own = batch[process_slice(len(batch))]
        if not own and not is_sharded(self.encoder.model):
            return None
        outputs = forward_in_batches(
            self.encoder.model,
            [self.encoder.pair_text((one.query, passage)) for one in own for passage in one.passages],
            "scores",
            prompt=self.encoder.prompt,
            max_length=self.encoder.settings.passage_max_length,
            replay=self.settings.gradient_caching,
        )
        if not own:
            return outputs.sum()  # of nothing, but all that was run takes part
        with torch.autocast(outputs.device.type, enabled=False):
            if self.listwise:
                logits, mask = as_lists(relevance(outputs), [len(one.passages) for one in own])
                return listwise_loss(logits, mask=mask, total=len(batch))
            labels = torch.tensor([one.label for one in own], device=outputs.device)
            return pointwise_loss(outputs, labels, total=len(batch))

    def _batches(self, epoch: int) -> EpochBatches[_Example]:
        per_step, seed = self.settings.batch_size * self.accelerator.num_processes, self.settings.seed
        if self.listwise:
            return EpochBatches(
                len(self.groups), per_step, seed, epoch, lambda number, _: self._list(seed, epoch, number)
            )
        pairs = int(self._ends[-1])
        return EpochBatches(pairs, per_step, seed, epoch, lambda position, _: self._pair(seed, epoch, position))

    def _list(self, seed: int, epoch: int, number: int) -> _Example:
        """A group's positive, then the negatives that it draws in this epoch."""
        group, generator = self.groups[number], example_generator(seed, epoch, number)
        passages = candidate_list(group, 1 + self.negatives, generator, known=self._known[group.query])
        return _Example(group.query_id, group.query, tuple(passages))

    def _pair(self, seed: int, epoch: int, position: int) -> _Example:
        """One of the group's list."""
        number = int(np.searchsorted(self._ends, position, side="right"))
        whole = self._list(seed, epoch, number)
        place = position - int(self._ends[number])  # from the end
        return _Example(whole.query_id, whole.query, (whole.passages[place],), int(-place == len(whole.passages)))

    def _different_negatives(self, group: TrainingGroup) -> list[Passage]:
        return different_negatives(group, known=self._known[group.query])

    def _evaluate(self, dev: Collection, candidates: Run) -> float:
        longest = max(map(len, candidates.values()))
        progress = self.settings.show_progress and self.accelerator.is_main_process
        run = rerank(self.encoder, dev.corpus, dev.queries, candidates, longest, show_progress=progress)
        return measure(run, dev.qrels, ["RR@10"])["RR@10"]
