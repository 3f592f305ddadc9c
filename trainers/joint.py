"""Training a retriever and a re-ranker together by dynamic listwise distillation (RocketQAv2, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate, chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rocketqa_haystack.data import Collection, Passage, TrainingGroup
from rocketqa_haystack.encoders import CrossEncoder
from rocketqa_haystack.evaluation import measure, retrieve
from trainers.fingerprints import describe, model_name
from trainers.forward import forward_in_batches
from trainers.gathering import as_share, gather_rows, process_slice
from trainers.loop import Task, TrainingResult, start_accelerator, train
from trainers.losses import JointLossSettings, as_lists, joint_loss, relevance
from trainers.retriever import TrainedRetriever
from trainers.sampling import EpochBatches, KnownPositives, candidate_list, different_negatives, known_positives
from trainers.settings import TrainingSettings
from trainers.sharding import is_sharded
from trainers.training_data import Groups, check_dev, check_training_data, open_groups


@dataclass(frozen=True)
class _List:
    query_id: str
    query: str
    passages: Sequence[Passage]  # the positive first


class JointTrainer:
    """Trains both encoders on the same lists of candidates: the re-ranker by labels, the retriever by the re-ranker.

    A list is a positive and negatives of its query, drawn anew in every epoch. The released code's loss is the default;
    the paper's and others are `JointLossSettings`.

    ```python
    from rocketqa_haystack.data import read_groups
    from trainers import JointTrainer, TrainingSettings

    settings = TrainingSettings(epochs=3, batch_size=8, learning_rate=1e-5, warmup_ratio=0.0)
    trainer = JointTrainer("tuned-retriever", "tuned-ranker", read_groups("groups.jsonl"), settings=settings)
    trainer.train("joint")  # joint/retriever and joint/reranker
    ```

    Args:
        retriever: What the retriever starts from: anything `DualEncoder.from_pretrained` takes.
        reranker: What the re-ranker starts from: a cross-encoder, or any encoder or language model, which gets a new
            head. Its architecture and tokenizer need not be the retriever's.
        groups: The training data: sequences, or files in any format of `TrainingGroups.read`, which stay on disk.
            Their negatives are the undenoised pool: passages that a retriever ranks high and that are not judged
            relevant.
        denoised: Groups whose negatives are denoised, such as by a re-ranker's scores. An epoch then has lists of both
            kinds, shuffled together (hybrid data augmentation, section 3.3).
        dev: Questions to evaluate the retriever on, by RR@10 over their whole corpus; the best weights seen are kept.
        settings: Epochs, batch size (in lists), learning rate and the like. Gradient caching reaches the re-ranker's
            lists too.
        list_length: Candidates of a list, the positive among them; shorter where a group has too few negatives
            (128 on MS MARCO, 32 on Natural Questions).
        reranker_learning_rate: None is that of the settings.
        loss: The distillation's direction, reduction, weights and temperature.
        contrastive_weight: Of the retriever's cross-batch contrastive loss over the passages of all lists; 0 leaves it
            out.
        freeze_reranker: Whether the re-ranker stays as it is and only teaches (static distillation).
        temperature: What the retriever's similarities are divided by, see `TrainedRetriever`.
        query_max_length: Longest query of the retriever in tokens; None keeps the model's.
        passage_max_length: Longest passage of the retriever in tokens; None keeps the model's.
        pair_max_length: Longest pair of the re-ranker in tokens; None keeps the model's.
        title: The retriever's, see `EncoderSettings`; None keeps the model's.
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
        retriever: str | Path,
        reranker: str | Path,
        groups: Groups,
        *,
        denoised: Groups = (),
        dev: Collection | None = None,
        settings: TrainingSettings | None = None,
        list_length: int = 8,
        reranker_learning_rate: float | None = None,
        loss: JointLossSettings | None = None,
        contrastive_weight: float = 0.0,
        freeze_reranker: bool = False,
        temperature: float | None = None,
        query_max_length: int | None = None,
        passage_max_length: int | None = None,
        pair_max_length: int | None = None,
        title: str | None = None,
        exclude_known_positives: bool = True,
    ) -> None:
        if list_length < 2:
            raise ValueError(f"list_length must be at least 2, a positive and a negative, but got {list_length}")
        if not contrastive_weight >= 0:
            raise ValueError(f"contrastive_weight must not be negative, but got {contrastive_weight}")
        if reranker_learning_rate is not None and not 0 < reranker_learning_rate < math.inf:
            raise ValueError(
                f"reranker_learning_rate must be greater than 0 and finite, but got {reranker_learning_rate}"
            )
        self.dev = check_dev(dev)
        self.settings = settings or TrainingSettings()
        self.accelerator = start_accelerator()
        self.groups = open_groups(groups)
        self.denoised = open_groups(denoised) if denoised else ()
        self._known = known_positives(self.groups, self.denoised) if exclude_known_positives else KnownPositives(())
        every = chain(self.groups, self.denoised)
        if not any(different_negatives(group, known=self._known[group.query]) for group in every):
            raise ValueError("no training group has negatives: mine them from a retriever's top k first")
        self.report = check_training_data(
            self.groups,
            self.denoised,
            known=self._known,
            negatives=list_length - 1,
            main_process=self.accelerator.is_main_process,
            show_progress=self.settings.show_progress,
        )
        self.retriever = TrainedRetriever(
            retriever,
            self.accelerator.device,
            temperature=temperature,
            query_max_length=query_max_length,
            passage_max_length=passage_max_length,
            title=title,
            replay=self.settings.gradient_caching,
        )
        self.reranker = CrossEncoder.for_training(
            reranker, device=str(self.accelerator.device), seed=self.settings.seed
        )
        self.reranker.change_settings(passage_max_length=pair_max_length)
        self.reranker.model.requires_grad_(not freeze_reranker)
        self.list_length = list_length
        self.reranker_learning_rate = reranker_learning_rate or self.settings.learning_rate
        self.joint_loss = loss or JointLossSettings()
        self.contrastive_weight = contrastive_weight
        self.freeze_reranker = freeze_reranker
        self._options = {
            "trainer": type(self).__name__,
            "retriever": model_name(retriever),
            "reranker": model_name(reranker),
            "list_length": list_length,
            "reranker_learning_rate": self.reranker_learning_rate,
            "loss": asdict(self.joint_loss),
            "contrastive_weight": contrastive_weight,
            "freeze_reranker": freeze_reranker,
            "exclude_known_positives": exclude_known_positives,
            "temperature": self.retriever.temperature,
            "pair_max_length": self.reranker.settings.passage_max_length,
            **asdict(self.retriever.encoder.settings),
        }

    def train(self, output: str | Path | None = None) -> TrainingResult:
        """Trains both encoders in place and writes them as the model folders `retriever` and `reranker` of a folder.

        Args:
            output: The folder, which appears whole or not at all; None writes nothing.

        Raises:
            FileExistsError: The folder is there already and is not empty.
        """
        task = Task(
            {"retriever": self.retriever.encoder, "reranker": self.reranker},
            self.settings,
            self._batches,
            self.loss,
            self.accelerator,
            options=self._options,
            data=describe(self.groups, self.dev) | ({"denoised": describe(self.denoised)} if self.denoised else {}),
            rate=self._rate,
            evaluate=partial(self._evaluate, self.dev) if self.dev is not None else None,
            unit="list",
            description="Training retriever and re-ranker",
        )
        return train(task, output)

    def loss(self, batch: Sequence[_List]) -> Tensor | None:
        """This process's share of the loss of a batch of all processes; None where it has no list of it."""
        own = batch[process_slice(len(batch))]
        queries = self.retriever.encode_queries([one.query for one in own])
        vectors = self.retriever.encode_passages([passage for one in own for passage in one.passages])
        taking_part = own or is_sharded(self.reranker.model)
        shares = [self._distillation(own, queries, vectors, len(batch))] if taking_part else []
        if self.contrastive_weight:
            # The whole batch's on every process, with its own rows carrying gradient: see trainers/gathering.py.
            queries, vectors = gather_rows(queries), gather_rows(vectors)
            positives = [0, *accumulate(len(one.passages) for one in batch)][:-1]
            passages = [passage for one in batch for passage in one.passages]
            texts = [one.query for one in batch]
            contrastive = self.retriever.contrastive_loss(queries, vectors, positives, texts, passages, self._known)
            shares.append(self.contrastive_weight * as_share(contrastive))
        return torch.stack(shares).sum() if shares else None

    def _distillation(self, lists: Sequence[_List], queries: Tensor, vectors: Tensor, total: int) -> Tensor:
        """The joint loss of some lists, as a share of that of `total`."""
        if self.freeze_reranker:
            self.reranker.model.eval()
        with torch.set_grad_enabled(not self.freeze_reranker):
            outputs = forward_in_batches(
                self.reranker.model,
                [self.reranker.pair_text((one.query, passage)) for one in lists for passage in one.passages],
                "scores",
                prompt=self.reranker.prompt,
                max_length=self.reranker.settings.passage_max_length,
                replay=self.settings.gradient_caching and not self.freeze_reranker,
            )
        if not lists:
            return outputs.sum() + queries.sum() + vectors.sum()  # of nothing, but all that was run takes part
        lengths = [len(one.passages) for one in lists]
        with torch.autocast(outputs.device.type, enabled=False):
            repeats = torch.tensor(lengths, device=outputs.device)
            own_query = queries.float().repeat_interleave(repeats, dim=0)
            similarities = (own_query * vectors.float()).sum(dim=1) / self.retriever.temperature
            scores, mask = as_lists(similarities, lengths)
            logits, _ = as_lists(relevance(outputs), lengths)
            return joint_loss(scores, logits, mask, self.joint_loss, total=total).total

    def _batches(self, epoch: int) -> EpochBatches[_List]:
        groups, denoised = self.groups, self.denoised

        def example(position: int, generator: np.random.Generator) -> _List:
            in_first = position < len(groups)
            return self._list(groups[position] if in_first else denoised[position - len(groups)], generator)

        per_step = self.settings.batch_size * self.accelerator.num_processes
        return EpochBatches(len(groups) + len(denoised), per_step, self.settings.seed, epoch, example)

    def _list(self, group: TrainingGroup, generator: np.random.Generator) -> _List:
        passages = candidate_list(group, self.list_length, generator, known=self._known[group.query])
        return _List(group.query_id, group.query, passages)

    def _rate(self, name: str) -> float:
        return self.reranker_learning_rate if name.startswith("reranker.") else self.settings.learning_rate

    def _evaluate(self, dev: Collection) -> float:
        progress = self.settings.show_progress and self.accelerator.is_main_process
        run = retrieve(self.retriever.encoder, dev.corpus, dev.queries, k=10, show_progress=progress)
        return measure(run, dev.qrels, ["RR@10"])["RR@10"]
