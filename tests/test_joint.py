"""Joint training: what a step is, that both encoders learn, and what is written."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from rocketqa_haystack import CrossEncoder, DualEncoder, Passage
from rocketqa_haystack.data import Collection, TrainingGroup, groups_from_collection
from rocketqa_haystack.evaluation import measure, rerank, retrieve
from trainers import CrossEncoderTrainer, DualEncoderTrainer, JointLossSettings, JointTrainer, TrainingSettings
from trainers.dropout import fast_dropout

FAST = TrainingSettings(show_progress=False, mixed_precision="no", batch_size=8, warmup_ratio=0.0)


@pytest.fixture(scope="module")
def groups(collection: Collection) -> list[TrainingGroup]:
    ids = list(collection.queries)
    negatives = {id: [f"p{(number * 7 + step) % 48}" for step in range(1, 8)] for number, id in enumerate(ids)}
    return groups_from_collection(collection, negatives)[:24]


def trainer_of(kind: str, encoder: Path, ranker: Path, groups: list[TrainingGroup], settings: TrainingSettings) -> Any:
    if kind == "dual":
        return DualEncoderTrainer(encoder, groups, settings=settings, hard_negatives=2)
    if kind == "cross":
        return CrossEncoderTrainer(ranker, groups, settings=settings)
    return JointTrainer(encoder, ranker, groups, settings=settings, list_length=5, contrastive_weight=0.5)


def gradients(trainer: Any, batch: Any) -> dict[str, torch.Tensor]:
    """Of one step with dropout."""
    models = {"r": trainer.retriever.encoder.model} if hasattr(trainer, "retriever") else {"e": trainer.encoder.model}
    if isinstance(trainer, JointTrainer):
        models["c"] = trainer.reranker.model
    torch.manual_seed(3)
    for model in models.values():
        model.train()
        model.zero_grad()
    with fast_dropout(torch.device("cpu")):
        loss = trainer.loss(batch)
    loss.backward()
    return {
        f"{key}.{name}": parameter.grad.clone()
        for key, model in models.items()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("kind", ["dual", "cross", "joint"])
def test_gradient_caching_takes_the_same_step_with_the_same_dropout(
    kind: str,
    encoder_folder: Path,
    ranker_folder: Path,
    groups: list[TrainingGroup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rocketqa_haystack.encoders.batching.TOKEN_BUDGETS", {"cpu": 600})
    monkeypatch.setattr("trainers.forward.MOST_TOKENS", 60)  # a few texts at a time
    found = []
    for caching in (False, True):
        settings = replace(FAST, gradient_caching=caching)
        trainer = trainer_of(kind, encoder_folder, ranker_folder, groups, settings)
        found.append(gradients(trainer, trainer._batches(0)[0]))
    whole, cached = found
    assert whole.keys() == cached.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(cached[name], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["dual", "cross", "joint"])
def test_gradient_caching_takes_the_same_steps_in_bfloat16(
    kind: str,
    encoder_folder: Path,
    ranker_folder: Path,
    groups: list[TrainingGroup],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainers.forward.MOST_TOKENS", 60)
    found = []
    for caching in (False, True):
        settings = replace(FAST, mixed_precision="bf16", learning_rate=1e-3, gradient_caching=caching)
        trainer = trainer_of(kind, encoder_folder, ranker_folder, groups, settings)
        trainer.train()
        encoder = trainer.retriever.encoder if kind == "joint" else trainer.encoder
        found.append(torch.cat([parameter.detach().flatten() for parameter in encoder.model.parameters()]))
    assert float((found[0] - found[1]).abs().max()) < 1e-6


@pytest.mark.parametrize("value", [math.inf, 0.0, math.nan])
def test_a_re_rankers_learning_rate_that_nothing_is_learned_with_is_refused(
    value: float, encoder_folder: Path, ranker_folder: Path, groups: list[TrainingGroup]
) -> None:
    with pytest.raises(ValueError, match="reranker_learning_rate must be greater than 0 and finite"):
        JointTrainer(encoder_folder, ranker_folder, groups, settings=FAST, reranker_learning_rate=value)


@pytest.mark.parametrize("kind", ["dual", "cross", "joint"])
def test_gradient_caching_keeps_no_activations_of_a_batch(
    kind: str, encoder_folder: Path, ranker_folder: Path, groups: list[TrainingGroup]
) -> None:
    def kept(caching: bool, batch_size: int) -> int:
        """Bytes that the forward pass leaves behind, for the backward pass or by mistake, weights aside."""
        settings = replace(FAST, gradient_caching=caching, batch_size=batch_size)
        trainer: Any
        if kind == "dual":
            trainer = DualEncoderTrainer(encoder_folder, groups, settings=settings)
            models = [trainer.encoder.model]
        elif kind == "cross":
            trainer = CrossEncoderTrainer(ranker_folder, groups, settings=settings)
            models = [trainer.encoder.model]
        else:
            trainer = JointTrainer(encoder_folder, ranker_folder, groups, settings=settings)
            models = [trainer.retriever.encoder.model, trainer.reranker.model]
        weights = {parameter.data_ptr() for model in models for parameter in model.train().parameters()}
        found: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in weights:
                found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        made: list[weakref.ref[torch.Tensor]] = []

        def remember(_module: object, _inputs: object, outputs: object) -> None:
            made.extend(weakref.ref(each) for each in tree_leaves(outputs) if isinstance(each, torch.Tensor))

        for layer in (layer for model in models for layer in model.modules()):
            layer.register_forward_hook(remember)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = trainer.loss(trainer._batches(0)[0])
        assert loss is not None
        for tensor in (reference() for reference in made):
            if tensor is not None:
                pack(tensor)
        return sum(found.values())

    assert kept(True, 24) < kept(False, 24) / 20
    assert kept(True, 24) < kept(False, 2)


def test_a_list_has_the_loss_worked_out_by_hand(encoder_folder: Path, ranker_folder: Path) -> None:
    passages = [Passage(word) for word in ("dada", "kaka", "tata")]
    group = TrainingGroup("q", "mama", ("p",), (passages[0],), ("n", "m"), tuple(passages[1:]))
    scores = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="float32")
    retriever = scores.encode_passages(passages) @ scores.encode_queries(["mama"])[0]
    ranker = CrossEncoder.from_pretrained(ranker_folder, device="cpu", dtype="float32")
    reranker = ranker.logits([("mama", passage) for passage in passages])
    p, q = (np.exp(s - s.max()) / np.exp(s - s.max()).sum() for s in (reranker.astype(float), retriever.astype(float)))
    trainer = JointTrainer(encoder_folder, ranker_folder, [group], settings=FAST, list_length=3)
    for model in (trainer.retriever.encoder.model, trainer.reranker.model):
        model.eval()
    (batch,) = trainer._batches(0)
    loss = trainer.loss(batch)
    assert loss is not None
    expected = -math.log(p[0]) + float((p * np.log(p / q)).sum()) / 3
    assert loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("side", ["retriever", "reranker"])
def test_a_gradient_that_is_not_finite_stops_the_run_whichever_encoders_it_is(
    side: str, encoder_folder: Path, ranker_folder: Path, groups: list[TrainingGroup]
) -> None:
    trainer = JointTrainer(encoder_folder, ranker_folder, groups[:4], settings=FAST, list_length=3)
    model = trainer.retriever.encoder.model if side == "retriever" else trainer.reranker.model
    next(model.parameters()).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(FloatingPointError, match="the gradient's length is nan at step 1"):
        trainer.train()


def test_both_encoders_learn_and_are_written(
    encoder_folder: Path, ranker_folder: Path, groups: list[TrainingGroup], collection: Collection, tmp_path: Path
) -> None:
    asked = {group.query_id: group.query for group in groups}
    dev = Collection(collection.corpus, asked, {id: collection.qrels[id] for id in asked})
    candidates = {g.query_id: dict.fromkeys([*g.negative_ids, *g.positive_ids], 0.0) for g in groups}

    def quality(retriever: str | Path, reranker: str | Path) -> tuple[float, float]:
        found = retrieve(DualEncoder.from_pretrained(retriever, device="cpu"), dev.corpus, dev.queries, 10)
        ranked = rerank(CrossEncoder.from_pretrained(reranker, device="cpu"), dev.corpus, dev.queries, candidates, 10)
        first, second = (measure(run, dev.qrels, ["RR@10"])["RR@10"] for run in (found, ranked))
        return first, second

    trainer = JointTrainer(
        encoder_folder,
        ranker_folder,
        groups,
        denoised=groups[:4],
        settings=replace(FAST, epochs=40, learning_rate=2e-3, evaluations=0),
        list_length=6,
        loss=JointLossSettings(reduction="list"),
        contrastive_weight=0.5,
        query_max_length=16,
    )
    result = trainer.train(tmp_path / "joint")
    assert len(result.losses) == 40 * math.ceil(28 / 8), "lists of both kinds in every epoch"
    before = quality(encoder_folder, ranker_folder)
    after = quality(tmp_path / "joint" / "retriever", tmp_path / "joint" / "reranker")
    assert after[0] > before[0] + 0.3
    assert after[1] > before[1] + 0.2
    assert DualEncoder.from_pretrained(tmp_path / "joint" / "retriever", device="cpu").settings.query_max_length == 16


def test_a_frozen_re_ranker_teaches_and_stays_as_it_is(
    encoder_folder: Path, two_way_ranker_folder: Path, groups: list[TrainingGroup]
) -> None:
    trainer = JointTrainer(
        encoder_folder, two_way_ranker_folder, groups, settings=FAST, list_length=3, freeze_reranker=True
    )
    before = [p.detach().clone() for p in trainer.reranker.model.parameters()]
    start = [p.detach().clone() for p in trainer.retriever.encoder.model.parameters()]
    trainer.train()
    assert all(map(torch.equal, before, trainer.reranker.model.parameters()))
    assert not all(map(torch.equal, start, trainer.retriever.encoder.model.parameters()))


def test_the_re_ranker_has_a_learning_rate_of_its_own(
    encoder_folder: Path, ranker_folder: Path, groups: list[TrainingGroup]
) -> None:
    def moved(rate: float) -> tuple[float, float]:
        trainer = JointTrainer(
            encoder_folder, ranker_folder, groups, settings=replace(FAST, batch_size=32), reranker_learning_rate=rate
        )
        models = (trainer.retriever.encoder.model, trainer.reranker.model)
        before = [torch.nn.utils.parameters_to_vector(m.parameters()).detach().clone() for m in models]
        trainer.train()
        first, second = (
            float((torch.nn.utils.parameters_to_vector(m.parameters()).detach() - b).abs().max())
            for m, b in zip(models, before, strict=True)
        )
        return first, second

    slow, fast = moved(1e-6), moved(1e-3)
    assert slow[0] == pytest.approx(fast[0])
    assert fast[1] > 100 * slow[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"list_length": 1}, "list_length must be at least 2"),
        ({"contrastive_weight": -1.0}, "contrastive_weight must not be negative"),
        ({"reranker_learning_rate": 0.0}, "reranker_learning_rate must be greater than 0"),
        ({"temperature": 0.0}, "temperature must be greater than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    options: dict[str, Any], message: str, encoder_folder: Path, ranker_folder: Path, groups: list[TrainingGroup]
) -> None:
    with pytest.raises(ValueError, match=message):
        JointTrainer(encoder_folder, ranker_folder, groups, settings=FAST, **options)


def test_a_known_positive_is_in_no_list_as_a_negative(encoder_folder: Path, ranker_folder: Path) -> None:
    shared, other = Passage("mama dada"), Passage("kaka tata")
    crossed = [
        TrainingGroup("1", "baba", ("p",), (shared,), ("o", "x"), (other, Passage("rara"))),
        TrainingGroup("2", "baba", ("o",), (other,), ("p",), (shared,)),
    ]
    trainer = JointTrainer(encoder_folder, ranker_folder, crossed, settings=FAST, contrastive_weight=1.0)
    for epoch in range(3):
        for batch in trainer._batches(epoch):
            for one in batch:
                assert not {shared, other} & set(one.passages[1:])
