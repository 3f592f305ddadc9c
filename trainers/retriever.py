"""A dual encoder in training: vectors with gradient, their similarity, and the contrastive loss over a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from rocketqa_haystack.data import Passage
from rocketqa_haystack.encoders import DualEncoder
from rocketqa_haystack.encoders.batching import Text, tokenizes_texts
from rocketqa_haystack.encoders.dual_encoder import Side
from trainers.forward import forward_in_batches
from trainers.losses import contrastive_loss
from trainers.sampling import KnownPositives
from trainers.sharding import is_sharded


class TrainedRetriever:
    """What the trainers of a dual encoder have in common.

    Args:
        model: What to start from: anything `DualEncoder.from_pretrained` takes.
        device: Such as `cpu` or `cuda:0`.
        temperature: What similarities are divided by. None is 1 for dot products, as in RocketQA, and 0.05 for cosines
            and for vectors of length 1, whose range of -1 to 1 would leave the loss flat.
        query_max_length: Longest query in tokens; None keeps the model's.
        passage_max_length: Longest passage in tokens; None keeps the model's.
        title: `pair` or `join`, see `EncoderSettings`; None keeps the model's.
        replay: See `forward_in_batches`.

    Raises:
        ValueError: A temperature that is not positive, or a model that cannot be trained this way.
    """

    def __init__(
        self,
        model: str | Path,
        device: torch.device,
        *,
        temperature: float | None,
        query_max_length: int | None,
        passage_max_length: int | None,
        title: str | None,
        replay: bool,
    ) -> None:
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be greater than 0, but got {temperature}")
        self.encoder = DualEncoder.from_pretrained(model, device=str(device), dtype="float32")
        self.encoder.change_settings(
            query_max_length=query_max_length, passage_max_length=passage_max_length, title=title
        )
        if not tokenizes_texts(self.encoder.model):
            raise ValueError(f"{model} has no transformer to train")
        if self.encoder.similarity not in ("dot", "cosine"):
            raise ValueError(f"{model} compares by {self.encoder.similarity}; training needs dot or cosine")
        bounded = self.encoder.similarity == "cosine" or self.encoder.normalizes
        self.temperature = temperature or (0.05 if bounded else 1.0)
        self._device = device
        self._replay = replay

    def encode_queries(self, queries: Sequence[str]) -> Tensor:
        """Vectors of shape [queries, dimension]; none for no query."""
        return self._encode(queries, "query")

    def encode_passages(self, passages: Sequence[Passage]) -> Tensor:
        """Vectors of shape [passages, dimension]; none for no passage."""
        return self._encode([self.encoder.passage_text(passage) for passage in passages], "document")

    def _encode(self, texts: Sequence[Text], side: Side) -> Tensor:
        if not texts and not is_sharded(self.encoder.model):
            return torch.zeros((0, self.encoder.dimension), device=self._device)
        vectors = forward_in_batches(
            self.encoder.model,
            texts,
            "sentence_embedding",
            prompt=self.encoder.prompt(side),
            task=side,
            max_length=self.encoder.max_length(side),
            replay=self._replay,
        )[:, : self.encoder.dimension]
        return functional.normalize(vectors, dim=1) if self.encoder.similarity == "cosine" else vectors

    def contrastive_loss(
        self,
        queries: Tensor,
        vectors: Tensor,
        targets: Sequence[int],
        texts: Sequence[str],
        passages: Sequence[Passage],
        known: KnownPositives,
    ) -> Tensor:
        """Each query's positive against all other passages of the batch, less the query's known positives.

        Args:
            queries: Their vectors, shape [queries, dimension].
            vectors: The passages', shape [passages, dimension].
            targets: The place of each query's positive among the passages.
            texts: The queries.
            passages: The passages.
            known: The positives of all queries.

        Returns:
            The mean over the queries.
        """
        with torch.autocast(queries.device.type, enabled=False):
            scores = queries.float() @ vectors.float().T / self.temperature
            excluded = torch.from_numpy(known.excluded(texts, passages))
            places = torch.tensor(targets, device=scores.device)
            return contrastive_loss(scores, places, excluded.to(scores.device))
