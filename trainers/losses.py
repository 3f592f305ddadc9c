"""Losses: pure functions from scores to a scalar."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(scores: Tensor, targets: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Cross-entropy of each query's positive against all other passages of the batch (RocketQA, equation 2).

    Args:
        scores: Similarity of each query with each passage, shape [queries, passages].
        targets: Column of each query's positive, shape [queries].
        excluded: True where a passage must not count as a query's negative, shape [queries, passages]. The targets
            themselves are never excluded.

    Returns:
        The mean over the queries.
    """
    if excluded is not None:
        excluded = excluded.clone()
        excluded[torch.arange(len(targets), device=targets.device), targets] = False
        scores = scores.masked_fill(excluded, float("-inf"))
    return functional.cross_entropy(scores, targets)


def pointwise_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of each pair's relevance on its own (RocketQA, section 3.2).

    Args:
        logits: The re-ranker's outputs, shape [pairs, 1], or [pairs, 2] for (not relevant, relevant).
        labels: 1 for relevant pairs, 0 for others, shape [pairs].

    Returns:
        The mean over the pairs.
    """
    if logits.shape[1] == 2:
        return functional.cross_entropy(logits, labels.long())
    return functional.binary_cross_entropy_with_logits(logits.squeeze(1), labels.to(logits.dtype))
