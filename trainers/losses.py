"""Losses: pure functions from scores to a scalar.

Each is a sum over rows (queries, pairs or lists) divided by their number. `total` is that number where the rows given
are only some of the batch's: the losses of its chunks, or of the processes that share it, then add up to the whole
batch's, and so do their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(
    scores: Tensor, targets: Tensor, excluded: Tensor | None = None, *, total: int | None = None
) -> Tensor:
    """Cross-entropy of each query's positive against all other passages of the batch (RocketQA, equation 2).

    Args:
        scores: Similarity of each query with each passage, shape [queries, passages].
        targets: Column of each query's positive, shape [queries].
        excluded: True where a passage must not count as a query's negative, shape [queries, passages]. The targets
            themselves are never excluded.
        total: Queries of the whole batch, where these are only some of them.

    Returns:
        The mean over the queries, or their sum divided by `total`.
    """
    if excluded is not None:
        excluded = excluded.clone()
        excluded[torch.arange(len(targets), device=targets.device), targets] = False
        scores = scores.masked_fill(excluded, float("-inf"))
    return _mean(functional.cross_entropy(scores, targets, reduction="none"), total)


def pointwise_loss(logits: Tensor, labels: Tensor, *, total: int | None = None) -> Tensor:
    """Binary cross-entropy of each pair's relevance on its own (RocketQA, section 3.4).

    The released toolkit trains on the loss after an adversarial step on the word embeddings, and its graph counts their
    gradient twice. Neither is in the paper and neither is done here: the gradient of this loss is the true one.

    Args:
        logits: The re-ranker's outputs, shape [pairs, 1], or [pairs, 2] for (not relevant, relevant).
        labels: 1 for relevant pairs, 0 for others, shape [pairs].
        total: Pairs of the whole batch, where these are only some of them.

    Returns:
        The mean over the pairs, or their sum divided by `total`.
    """
    if logits.shape[1] == 2:
        return _mean(functional.cross_entropy(logits, labels.long(), reduction="none"), total)
    labels = labels.to(logits.dtype)
    return _mean(functional.binary_cross_entropy_with_logits(logits.squeeze(1), labels, reduction="none"), total)


def listwise_loss(
    logits: Tensor, targets: Tensor | None = None, mask: Tensor | None = None, *, total: int | None = None
) -> Tensor:
    """Cross-entropy of each list's positive against the list's other candidates.

    Args:
        logits: One logit for each candidate, shape [lists, candidates]; of a model with two outputs, their difference.
        targets: Place of each list's positive, shape [lists]; the first by default.
        mask: True for candidates, False for what fills up shorter lists, shape [lists, candidates]. What stands there
            has no influence; it must not be a target.
        total: Lists of the whole batch, where these are only some of them.

    Returns:
        The mean over the lists, or their sum divided by `total`.
    """
    if targets is None:
        targets = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return contrastive_loss(logits, targets, None if mask is None else ~mask, total=total)


def reader_loss(
    start: Tensor,
    end: Tensor,
    spans: Tensor,
    *,
    selection_weight: float = 1.0,
    total: int | None = None,
) -> Tensor:
    """A reader's loss over the passages of each question: where the answer is, and in which passage, if in any.

    The log-odds of a span are the sum of its start's and its end's logits, against "no answer", which has 0. The
    selection score of a passage is the logarithm of the summed odds of all its spans (starts and ends taken as
    independent). The loss is the sum of

    1. the span loss: the first passage's spans, one of the answers' against all;
    2. the selection loss: the first passage against all others and "no answer", and "no answer" against those others,
       so that 0 divides passages that answer from passages that don't, whatever the question.

    DPR (Karpukhin et al., 2020, section 6.1) has a selection score of its own, from the first token. Here it comes from
    the spans' own logits, because readers that compare nothing but spans across passages are to be trained.

    Args:
        start: Start logits, shape [questions, passages, tokens]; the passage that answers comes first. Large and
            negative, but finite, where no answer can start, and for passages that only fill up.
        end: End logits, the same shape.
        spans: First and last token of each answer in the first passage, shape [questions, answers, 2]; rows of -1 fill
            up. A question without any span has no answer: its passages are all others.
        selection_weight: Factor of the selection loss.
        total: Questions of the whole batch, where these are only some of them.

    Returns:
        The mean over the questions, or their sum divided by `total`.
    """
    selection = start.logsumexp(-1) + end.logsumexp(-1)
    none = torch.zeros_like(selection[:, :1])
    real = spans[..., 0] >= 0
    first, last = spans.clamp(min=0).unbind(-1)
    gold = (start[:, 0].gather(1, first) + end[:, 0].gather(1, last)).masked_fill(~real, float("-inf"))
    answerable = real.any(1)
    # A question without an answer takes nothing from the first term; its -inf must not meet a gradient.
    gold = torch.where(answerable[:, None], gold, 0).logsumexp(1)
    found = torch.where(answerable, selection[:, 0] - gold, 0)
    best = torch.where(answerable, selection[:, 0], 0)
    chosen = torch.cat([none, selection], dim=1).logsumexp(1) - best
    others = torch.cat([none, selection[:, 1:]], dim=1).logsumexp(1)
    refused = torch.where(answerable, others, 0)
    return _mean(found + selection_weight * (chosen + refused), total)


def relevance(outputs: Tensor) -> Tensor:
    """One logit for each pair, shape [pairs]: a re-ranker's one output, or what its two differ by.

    Args:
        outputs: Shape [pairs, 1], or [pairs, 2] for (not relevant, relevant).
    """
    return outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs[:, 0]


def as_lists(values: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rows of the given lengths out of values one after another, and True where they are: each [lists, longest]."""
    mask = torch.arange(max(lengths), device=values.device) < torch.tensor(lengths, device=values.device).unsqueeze(1)
    return torch.zeros(mask.shape, device=values.device).masked_scatter(mask, values), mask


@dataclass(frozen=True)
class JointLossSettings:
    """How a retriever and a re-ranker learn together. The defaults are those of the released code.

    Args:
        direction: `reranker_first` for KL(re-ranker ‖ retriever), as released; `retriever_first` for
            KL(retriever ‖ re-ranker), as in the paper.
        reduction: `element` divides the KL of a list by its number of candidates, as released, which makes it the
            weaker the longer the lists are; `list` does not, as in the paper. Both then take the mean over the lists.
        reranker_gradient: Whether the KL's gradient reaches the re-ranker too, as in the paper. If not, as released,
            the re-ranker learns from the labels alone.
        cross_entropy_weight: Of the re-ranker's listwise cross-entropy. 0 with a frozen re-ranker is static
            distillation.
        kl_weight: Of the KL.
        temperature: What both sides' scores are divided by for the KL, not for the cross-entropy.
    """

    direction: Literal["reranker_first", "retriever_first"] = "reranker_first"
    reduction: Literal["element", "list"] = "element"
    reranker_gradient: bool = False
    cross_entropy_weight: float = 1.0
    kl_weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name, allowed in (("direction", ("reranker_first", "retriever_first")), ("reduction", ("element", "list"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {' or '.join(allowed)}, but got {getattr(self, name)!r}")
        for name in ("cross_entropy_weight", "kl_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, but got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be greater than 0, but got {self.temperature}")

    @staticmethod
    def preset(name: str) -> JointLossSettings:
        """The settings of the `released` code or of the `paper`.

        Raises:
            ValueError: There is no preset of this name.
        """
        if name not in JOINT_PRESETS:
            raise ValueError(f"there is no preset {name!r} of the joint loss; there are {', '.join(JOINT_PRESETS)}")
        return JOINT_PRESETS[name]


#: The joint loss as the two sources have it; they differ.
JOINT_PRESETS = {
    "released": JointLossSettings(),
    "paper": JointLossSettings(direction="retriever_first", reduction="list", reranker_gradient=True),
}


class JointLoss(NamedTuple):
    """The joint loss and what it is made of, each a scalar; the parts are before their weights."""

    total: Tensor
    cross_entropy: Tensor
    kl: Tensor


def joint_loss(
    retriever_scores: Tensor,
    reranker_logits: Tensor,
    mask: Tensor | None = None,
    settings: JointLossSettings | None = None,
    *,
    total: int | None = None,
) -> JointLoss:
    """Dynamic listwise distillation: the re-ranker learns the labels, the retriever the re-ranker (RocketQAv2).

    With p and q the softmax over each list of the re-ranker's logits and of the retriever's scores, and L the list's
    number of candidates, the released loss is mean(-log p[0]) + mean(Σ p·(log p - log q) / L) over the lists. Where all
    lists have L candidates, the second is the mean over all elements, as the released code writes it. Shorter lists are
    divided by their own number of candidates, so that what fills them up changes nothing.

    Args:
        retriever_scores: Similarity of each query with its candidates, shape [lists, candidates], positive first;
            cosines already divided by their own temperature.
        reranker_logits: One logit for each candidate, of the same shape; of a model with two outputs, their difference.
        mask: True for candidates, False for what fills up shorter lists, of the same shape. What stands there has no
            influence. The positives must be candidates.
        settings: Direction, reduction, weights; those of the released code by default.
        total: Lists of the whole batch, where these are only some of them.

    Returns:
        The loss and its parts: means over the lists, or sums divided by `total`.
    """
    settings = settings or JointLossSettings()
    mask = torch.ones_like(reranker_logits, dtype=torch.bool) if mask is None else mask
    cross_entropy = listwise_loss(reranker_logits, mask=mask, total=total)
    teacher = reranker_logits if settings.reranker_gradient else reranker_logits.detach()
    first = _log_softmax(teacher / settings.temperature, mask)
    second = _log_softmax(retriever_scores / settings.temperature, mask)
    if settings.direction == "retriever_first":
        first, second = second, first
    divergence = (first.exp() * (first - second)).sum(dim=1)
    if settings.reduction == "element":
        divergence = divergence / mask.sum(dim=1)
    kl = _mean(divergence, total)
    return JointLoss(settings.cross_entropy_weight * cross_entropy + settings.kl_weight * kl, cross_entropy, kl)


def _log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """The log-softmax of each row over its candidates, and 0 where there is none: an infinity would make NaN."""
    return functional.log_softmax(scores.masked_fill(~mask, float("-inf")), dim=1).masked_fill(~mask, 0.0)


def _mean(losses: Tensor, total: int | None) -> Tensor:
    return losses.sum() / (len(losses) if total is None else total)
