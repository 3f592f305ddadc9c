"""Training a cross-encoder on single pairs (RocketQA, section 4.2: the re-ranker that later denoises the negatives)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

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
from trainers.losses import pointwise_loss
from trainers.sampling import (
    EpochBatches,
    KnownPositives,
    different_negatives,
    example_generator,
    known_positives,
    sample_negatives,
    sample_positive,
)
from trainers.settings import TrainingSettings
from trainers.sharding import is_sharded
from trainers.training_data import Groups, check_training_data, open_groups


@dataclass(frozen=True)
class _Pair:
    query_id: str
    query: str
    passage: Passage
    label: int


class CrossEncoderTrainer:
    """Trains a re-ranker to tell a query's positive from negatives out of the retriever's top k.

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
        settings: Epochs, batch size (in pairs), learning rate and the like.
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
        negatives: int = 4,
        max_length: int | None = None,
        exclude_known_positives: bool = True,
    ) -> None:
        if negatives < 1:
            raise ValueError(f"negatives must be at least 1, but got {negatives}")
        if (dev is None) != (dev_candidates is None):
            raise ValueError("dev and dev_candidates go together: a re-ranker is evaluated on a retriever's candidates")
        self.settings = settings or TrainingSettings()
        self.accelerator = start_accelerator()
        self.groups = open_groups(groups)
        self.report = check_training_data(
            self.groups,
            negatives=negatives,
            main_process=self.accelerator.is_main_process,
            show_progress=self.settings.show_progress,
        )
        self._known = known_positives(self.groups) if exclude_known_positives else KnownPositives(())
        self.negatives = negatives
        # A pair's place in the data: a group's pairs follow those of the groups before it.
        counts = (1 + min(negatives, len(self._different_negatives(group))) for group in self.groups)
        self._ends = np.cumsum(np.fromiter(counts, np.int64, len(self.groups)))
        if self._ends[-1] == len(self.groups):
            raise ValueError("no training group has negatives: mine them from a retriever's top k first")
        self.encoder = CrossEncoder.for_training(model, device=str(self.accelerator.device), seed=self.settings.seed)
        self.encoder.change_settings(passage_max_length=max_length)
        self.dev = dev
        self.dev_candidates = dev_candidates or {}
        self._options = {
            "trainer": type(self).__name__,
            "model": model_name(model),
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
            data=describe(self.groups, self.dev),
            evaluate=partial(self._evaluate, self.dev) if self.dev is not None else None,
            unit="pair",
            description="Training the re-ranker",
        )
        return train(task, output)

    def loss(self, batch: Sequence[_Pair]) -> Tensor | None:
        """This process's share of the loss of a batch of all processes; None where it has no pair of it."""
        own = batch[process_slice(len(batch))]
        if not own and not is_sharded(self.encoder.model):
            return None
        logits = forward_in_batches(
            self.encoder.model,
            [self.encoder.pair_text((pair.query, pair.passage)) for pair in own],
            "scores",
            prompt=self.encoder.prompt,
            max_length=self.encoder.settings.passage_max_length,
            replay=self.settings.gradient_caching,
        )
        labels = torch.tensor([pair.label for pair in own], device=logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            return pointwise_loss(logits, labels, total=len(batch))

    def _batches(self, epoch: int) -> EpochBatches[_Pair]:
        per_step = self.settings.batch_size * self.accelerator.num_processes
        seed = self.settings.seed
        return EpochBatches(
            int(self._ends[-1]), per_step, seed, epoch, lambda position, _: self._pair(seed, epoch, position)
        )

    def _pair(self, seed: int, epoch: int, position: int) -> _Pair:
        """The group's positive, or one of the negatives that the group draws in this epoch, all from one generator."""
        number = int(np.searchsorted(self._ends, position, side="right"))
        group, left = self.groups[number], int(self._ends[number]) - position
        generator = example_generator(seed, epoch, number)
        positive = sample_positive(group, generator)
        negatives = sample_negatives(group, self.negatives, generator, known=self._known[group.query])
        passage, label = (negatives[-left], 0) if left <= len(negatives) else (positive, 1)
        return _Pair(group.query_id, group.query, passage, label)

    def _different_negatives(self, group: TrainingGroup) -> list[Passage]:
        return different_negatives(group, known=self._known[group.query])

    def _evaluate(self, dev: Collection) -> float:
        longest = max(map(len, self.dev_candidates.values()))
        progress = self.settings.show_progress and self.accelerator.is_main_process
        run = rerank(self.encoder, dev.corpus, dev.queries, self.dev_candidates, longest, show_progress=progress)
        return measure(run, dev.qrels, ["RR@10"])["RR@10"]
