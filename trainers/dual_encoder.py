"""Training a dual encoder with in-batch and cross-batch negatives (RocketQA, section 3.3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from rocketqa_haystack.data import Collection, Passage, TrainingGroup
from rocketqa_haystack.evaluation import measure, retrieve
from trainers.fingerprints import describe, model_name
from trainers.gathering import as_share, gather_rows, process_slice
from trainers.loop import Task, TrainingResult, start_accelerator, train
from trainers.retriever import TrainedRetriever
from trainers.sampling import EpochBatches, KnownPositives, known_positives, sample_negatives, sample_positive
from trainers.settings import TrainingSettings
from trainers.training_data import Groups, check_dev, check_training_data, open_groups


@dataclass(frozen=True)
class _Example:
    query_id: str
    query: str
    positive: Passage
    negatives: Sequence[Passage]


class DualEncoderTrainer:
    """Trains a dual encoder so that a query is nearer to its positive than to every other passage of the batch.

    On one process the other passages are those of the batch (in-batch negatives); under `accelerate launch` they are
    those of all processes (cross-batch negatives). A passage that is a known positive of a query is never its negative.

    ```python
    from rocketqa_haystack.data import groups_from_collection, load_collection
    from trainers import DualEncoderTrainer, TrainingSettings

    groups = groups_from_collection(load_collection("my-corpus", "train"))
    trainer = DualEncoderTrainer("sentence-transformers/all-MiniLM-L6-v2", groups, settings=TrainingSettings(epochs=3))
    trainer.train("tuned-retriever")
    ```

    Args:
        model: What to start from: anything `DualEncoder.from_pretrained` takes.
        groups: The training data: a sequence, or a file in any format of `TrainingGroups.read`, which stays on disk.
        dev: Questions to evaluate on, by RR@10 over their whole corpus; the best weights seen are kept.
        settings: Epochs, batch size, learning rate and the like.
        hard_negatives: Negatives of each group that join every batch.
        temperature: What similarities are divided by. None is 1 for dot products, as in RocketQA, and 0.05 for cosines
            and for vectors of length 1, whose range of -1 to 1 would leave the loss flat.
        query_max_length: Longest query in tokens; None keeps the model's.
        passage_max_length: Longest passage in tokens; None keeps the model's.
        title: `pair` or `join`, see `EncoderSettings`; None keeps the model's.
        exclude_known_positives: Whether a passage that answers a query by any group is kept from being its negative.
            The released code does not look; False trains as it does.

    Attributes:
        report: What is wrong with the training data, by count and example; also logged as a warning.

    Raises:
        ValueError: A setting makes no sense, or a group has no positive, an empty question or an empty positive.
    """

    def __init__(
        self,
        model: str | Path,
        groups: Groups,
        *,
        dev: Collection | None = None,
        settings: TrainingSettings | None = None,
        hard_negatives: int = 0,
        temperature: float | None = None,
        query_max_length: int | None = None,
        passage_max_length: int | None = None,
        title: str | None = None,
        exclude_known_positives: bool = True,
    ) -> None:
        if hard_negatives < 0:
            raise ValueError(f"hard_negatives must not be negative, but got {hard_negatives}")
        self.dev = check_dev(dev)
        self.settings = settings or TrainingSettings()
        self.accelerator = start_accelerator()
        self.groups = open_groups(groups)
        self._known = known_positives(self.groups) if exclude_known_positives else KnownPositives(())
        self.report = check_training_data(
            self.groups,
            known=self._known,
            negatives=hard_negatives,
            main_process=self.accelerator.is_main_process,
            show_progress=self.settings.show_progress,
        )
        self.retriever = TrainedRetriever(
            model,
            self.accelerator.device,
            temperature=temperature,
            query_max_length=query_max_length,
            passage_max_length=passage_max_length,
            title=title,
            replay=self.settings.gradient_caching,
        )
        self.encoder = self.retriever.encoder
        self.hard_negatives = hard_negatives
        self._options = {
            "trainer": type(self).__name__,
            "model": model_name(model),
            "hard_negatives": hard_negatives,
            "exclude_known_positives": exclude_known_positives,
            "temperature": self.retriever.temperature,
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
            {"retriever": self.encoder},
            self.settings,
            self._batches,
            self.loss,
            self.accelerator,
            options=self._options,
            data=describe(self.groups, self.dev),
            evaluate=partial(self._evaluate, self.dev) if self.dev is not None else None,
            description="Training the retriever",
        )
        return train(task, output)

    def loss(self, batch: Sequence[_Example]) -> Tensor:
        """This process's share of the loss of a batch of all processes."""
        passages = [example.positive for example in batch]
        for example in batch:
            passages.extend(example.negatives)
        # Positives first, then the hard negatives; each process encodes its part of both.
        own = process_slice(len(batch))
        own_passages = process_slice(len(passages))
        queries = gather_rows(self.retriever.encode_queries([example.query for example in batch[own]]))
        vectors = gather_rows(self.retriever.encode_passages(passages[own_passages]))
        texts = [example.query for example in batch]
        loss = self.retriever.contrastive_loss(queries, vectors, range(len(batch)), texts, passages, self._known)
        return as_share(loss)

    def _batches(self, epoch: int) -> EpochBatches[_Example]:
        per_step = self.settings.batch_size * self.accelerator.num_processes
        return EpochBatches(
            len(self.groups),
            per_step,
            self.settings.seed,
            epoch,
            lambda position, generator: self._example(self.groups[position], generator),
        )

    def _example(self, group: TrainingGroup, generator: np.random.Generator) -> _Example:
        known = self._known[group.query]
        negatives = sample_negatives(group, self.hard_negatives, generator, known=known)
        return _Example(group.query_id, group.query, sample_positive(group, generator), negatives)

    def _evaluate(self, dev: Collection) -> float:
        progress = self.settings.show_progress and self.accelerator.is_main_process
        run = retrieve(self.encoder, dev.corpus, dev.queries, k=10, show_progress=progress)
        return measure(run, dev.qrels, ["RR@10"])["RR@10"]
