"""The losses: equal to what numpy works out in float64, with the gradients that finite differences give."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainers.losses import (
    JOINT_PRESETS,
    JointLossSettings,
    contrastive_loss,
    joint_loss,
    listwise_loss,
    pointwise_loss,
)

DIRECTIONS = ("reranker_first", "retriever_first")
REDUCTIONS = ("element", "list")
SETTINGS = [
    JointLossSettings(direction, reduction, gradient, 0.7, 1.3, 2.5)
    for direction in DIRECTIONS
    for reduction in REDUCTIONS
    for gradient in (False, True)
]


def random_lists(seed: int, lengths: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, logits and mask of lists of these lengths, filled up with what must not count."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    scores = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    return scores, logits, mask


def by_hand(scores: Tensor, logits: Tensor, lengths: list[int], chosen: JointLossSettings) -> tuple[float, float]:
    """Cross-entropy and KL, list by list, in numpy."""

    def probabilities(row: Any) -> Any:
        return np.exp(row - row.max()) / np.exp(row - row.max()).sum()

    entropies, divergences = [], []
    for score, logit, length in zip(scores.detach().numpy(), logits.detach().numpy(), lengths, strict=True):
        entropies.append(-math.log(probabilities(logit[:length])[0]))
        p = probabilities(logit[:length] / chosen.temperature)
        q = probabilities(score[:length] / chosen.temperature)
        if chosen.direction == "retriever_first":
            p, q = q, p
        divergence = float((p * np.log(p / q)).sum())
        divergences.append(divergence / length if chosen.reduction == "element" else divergence)
    return float(np.mean(entropies)), float(np.mean(divergences))


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
@pytest.mark.parametrize("lengths", [[4, 4], [5, 2, 1]], ids=str)
def test_the_joint_loss_equals_the_one_worked_out_in_float64(chosen: JointLossSettings, lengths: list[int]) -> None:
    scores, logits, mask = random_lists(0, lengths)
    loss = joint_loss(scores, logits, mask, chosen)
    cross_entropy, kl = by_hand(scores, logits, lengths, chosen)
    assert loss.cross_entropy.item() == pytest.approx(cross_entropy, rel=1e-12)
    assert loss.kl.item() == pytest.approx(kl, rel=1e-12)
    assert loss.total.item() == pytest.approx(0.7 * cross_entropy + 1.3 * kl, rel=1e-12)
    assert listwise_loss(logits, mask=mask).item() == pytest.approx(cross_entropy, rel=1e-12)


@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_the_joint_losses_gradients_are_those_of_finite_differences(chosen: JointLossSettings) -> None:
    scores, logits, mask = random_lists(1, [4, 2, 3])
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: joint_loss(s, logits, mask, chosen).total, (scores,))
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: listwise_loss(x, mask=mask), (logits,))
    if chosen.reranker_gradient:
        assert torch.autograd.gradcheck(lambda x: joint_loss(scores.detach(), x, mask, chosen).total, (logits,))
        return
    # Otherwise the re-ranker's gradient is that of its cross-entropy alone.
    (joint,) = torch.autograd.grad(joint_loss(scores, logits, mask, chosen).total, logits)
    (alone,) = torch.autograd.grad(0.7 * listwise_loss(logits, mask=mask), logits)
    assert torch.equal(joint, alone)


def test_a_lists_positive_may_stand_anywhere() -> None:
    _, logits, _ = random_lists(2, [4, 4, 4])
    targets = torch.tensor([2, 0, 3])
    expected = -torch.log_softmax(logits, dim=1)[torch.arange(3), targets].mean()
    assert listwise_loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-12)
    first = torch.stack([row.roll(-int(target)) for row, target in zip(logits, targets, strict=True)])
    assert listwise_loss(first).item() == pytest.approx(expected.item(), rel=1e-12)


lengths_of_lists = st.lists(st.integers(1, 6), min_size=1, max_size=4)
chosen_settings = st.builds(
    JointLossSettings,
    st.sampled_from(DIRECTIONS),
    st.sampled_from(REDUCTIONS),
    st.booleans(),
    st.floats(0, 2),
    st.floats(0, 2),
    st.floats(0.1, 5),
)
seeds = st.integers(0, 1000)


@given(lengths_of_lists, chosen_settings, seeds)
def test_the_order_of_negatives_does_not_matter(lengths: list[int], chosen: JointLossSettings, seed: int) -> None:
    scores, logits, mask = random_lists(seed, lengths)
    order = torch.cat(
        [
            torch.zeros(1, dtype=torch.long),
            1 + torch.randperm(scores.shape[1] - 1, generator=torch.Generator().manual_seed(seed)),
        ]
    )
    whole = joint_loss(scores, logits, mask, chosen)
    shuffled = joint_loss(scores[:, order], logits[:, order], mask[:, order], chosen)
    torch.testing.assert_close(tuple(shuffled), tuple(whole))


@given(lengths_of_lists, chosen_settings, seeds, st.floats(-50, 50), st.floats(-50, 50))
def test_a_constant_added_to_a_whole_list_does_not_matter(
    lengths: list[int], chosen: JointLossSettings, seed: int, first: float, second: float
) -> None:
    scores, logits, mask = random_lists(seed, lengths)
    moved = joint_loss(scores + first, logits + second, mask, chosen)
    torch.testing.assert_close(tuple(moved), tuple(joint_loss(scores, logits, mask, chosen)), rtol=1e-9, atol=1e-9)


@given(lengths_of_lists, chosen_settings, seeds, st.sampled_from([1e9, -1e9, math.inf, -math.inf, math.nan]))
def test_what_fills_up_a_list_has_no_influence(
    lengths: list[int], chosen: JointLossSettings, seed: int, filling: float
) -> None:
    def losses_and_gradients(fill: float) -> tuple[Tensor, ...]:
        scores, logits, mask = random_lists(seed, [*lengths, 7])
        scores, logits = (x.masked_fill(~mask, fill)[:-1].requires_grad_() for x in (scores, logits))
        loss = joint_loss(scores, logits, mask[:-1], chosen)
        gradients = torch.autograd.grad(loss.total, (scores, logits))
        assert all(bool((gradient[~mask[:-1]] == 0).all()) for gradient in gradients)
        return (*loss, *gradients)

    torch.testing.assert_close(losses_and_gradients(filling), losses_and_gradients(0.0), rtol=0, atol=0)


@given(lengths_of_lists, st.sampled_from(DIRECTIONS), st.booleans(), seeds)
def test_the_kl_is_never_negative_and_zero_where_both_sides_agree(
    lengths: list[int], direction: Any, gradient: bool, seed: int
) -> None:
    scores, logits, mask = random_lists(seed, lengths)
    chosen = JointLossSettings(direction, "list", gradient)
    assert joint_loss(scores, logits, mask, chosen).kl.item() >= -1e-12
    assert joint_loss(logits + 1, logits, mask, chosen).kl.item() == pytest.approx(0, abs=1e-12)


@given(st.integers(1, 8), st.integers(1, 4), seeds)
def test_the_released_kl_is_the_papers_divided_by_the_length_of_the_lists(length: int, rows: int, seed: int) -> None:
    scores, logits, _ = random_lists(seed, [length] * rows)
    released = joint_loss(scores, logits).kl.item()
    by_list = joint_loss(scores, logits, None, JointLossSettings(reduction="list")).kl.item()
    assert released == pytest.approx(by_list / length, rel=1e-9, abs=1e-12)
    p, q = torch.log_softmax(logits, 1), torch.log_softmax(scores, 1)
    assert released == pytest.approx((p.exp() * (p - q)).mean().item(), rel=1e-9, abs=1e-12)


def test_presets_are_the_released_code_and_the_paper() -> None:
    assert JointLossSettings.preset("released") == JointLossSettings()
    assert JointLossSettings.preset("paper") == JointLossSettings("retriever_first", "list", True, 1.0, 1.0, 1.0)
    assert list(JOINT_PRESETS) == ["released", "paper"]
    with pytest.raises(ValueError, match="there is no preset 'v2' of the joint loss; there are released, paper"):
        JointLossSettings.preset("v2")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("direction", "forward"),
        ("reduction", "mean"),
        ("temperature", 0.0),
        ("kl_weight", -1.0),
        ("cross_entropy_weight", math.nan),
    ],
)
def test_joint_settings_that_make_no_sense_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must .*but got '?{value}"):
        replace(JointLossSettings(), **{name: value})


Chunked = Callable[[Tensor, slice, "int | None"], Tensor]

LOSSES: dict[str, Chunked] = {
    "contrastive": lambda x, rows, total: contrastive_loss(
        x[rows], torch.arange(len(x))[rows], torch.eye(len(x), 9).bool().roll(1, 1)[rows], total=total
    ),
    "pointwise, one output": lambda x, rows, total: pointwise_loss(
        x[rows, :1], (torch.arange(len(x)) % 2)[rows], total=total
    ),
    "pointwise, two outputs": lambda x, rows, total: pointwise_loss(
        x[rows, :2], (torch.arange(len(x)) % 2)[rows], total=total
    ),
    "listwise": lambda x, rows, total: listwise_loss(x[rows], mask=ragged(x)[rows], total=total),
    **{
        f"joint, {name}": lambda x, rows, total, chosen=chosen: (
            joint_loss(x[rows].sin(), x[rows], ragged(x)[rows], chosen, total=total).total
        )
        for name, chosen in JOINT_PRESETS.items()
    },
}


def ragged(x: Tensor) -> Tensor:
    return torch.arange(x.shape[1]) < (1 + torch.arange(len(x)) % x.shape[1])[:, None]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 7), max_size=4), seed=seeds)
def test_the_losses_of_chunks_add_up_to_the_whole_batchs(loss: Chunked, cuts: list[int], seed: int) -> None:
    scores = torch.randn(7, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    whole = loss(scores, slice(None), None)
    edges = [0, *sorted(cuts), 7]  # chunks may be empty, as a process's part of a small batch is
    chunks = [loss(scores, slice(start, stop), 7) for start, stop in pairwise(edges)]
    summed = torch.stack(chunks).sum()
    assert summed.item() == pytest.approx(whole.item(), rel=1e-12)
    for ours, expected in zip(torch.autograd.grad(summed, scores), torch.autograd.grad(whole, scores), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)
