"""The trainers: what they take a step on, that they learn, and that what they write loads as it is."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder as SentenceTransformersCrossEncoder
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from torch.nn import functional
from transformers import BertTokenizerFast

from rocketqa_haystack import CrossEncoder, DualEncoder, Passage, RocketQARanker, RocketQATextEmbedder
from rocketqa_haystack.data import Collection, TrainingGroup, groups_from_collection
from rocketqa_haystack.encoders import ModelError
from rocketqa_haystack.evaluation import measure, rerank, retrieve
from trainers import CrossEncoderTrainer, DualEncoderTrainer, TrainingResult, TrainingSettings, mine_groups
from trainers.dropout import fast_dropout
from trainers.losses import contrastive_loss, pointwise_loss
from trainers.sampling import epoch_generator, known_positives, sample_negatives

CPU = torch.device("cpu")
FAST = {"show_progress": False, "mixed_precision": "no"}


@pytest.fixture(scope="module")
def groups(collection: Collection) -> list[TrainingGroup]:
    return groups_from_collection(collection)


@pytest.fixture(scope="module")
def trained(
    encoder_folder: Path, groups: list[TrainingGroup], collection: Collection, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainingResult]:
    """A retriever trained on the collection: the one training run that several tests look at."""
    output = tmp_path_factory.mktemp("trained") / "retriever"
    trainer = DualEncoderTrainer(
        encoder_folder,
        groups,
        dev=collection,
        settings=TrainingSettings(epochs=20, batch_size=16, learning_rate=3e-3, evaluations=3, **FAST),
        query_max_length=16,
        title="pair",
    )
    return output, trainer.train(output)


def rr(encoder: DualEncoder, collection: Collection) -> float:
    return measure(retrieve(encoder, collection.corpus, collection.queries, 10), collection.qrels, ["RR@10"])["RR@10"]


def test_training_makes_the_retriever_find_the_passages(
    trained: tuple[Path, TrainingResult], encoder_folder: Path, collection: Collection
) -> None:
    before = rr(DualEncoder.from_pretrained(encoder_folder, device="cpu"), collection)
    after = rr(DualEncoder.from_pretrained(trained[0], device="cpu"), collection)
    assert after > before + 0.3


def test_the_best_weights_seen_are_the_ones_kept(trained: tuple[Path, TrainingResult], collection: Collection) -> None:
    folder, result = trained
    assert [step for step, _ in result.evaluations] == [0, 20, 40, 60]
    best = max(value for _, value in result.evaluations)
    assert dict(result.evaluations)[result.best_step or 0] == best
    encoder = DualEncoder.from_pretrained(folder, device="cpu", dtype="float32")
    assert rr(encoder, collection) == pytest.approx(best, abs=1e-6)


def test_weights_that_only_get_worse_are_not_kept(
    encoder_folder: Path, groups: list[TrainingGroup], collection: Collection
) -> None:
    wild = TrainingSettings(epochs=1, batch_size=16, learning_rate=5.0, max_grad_norm=1e9, evaluations=1, **FAST)
    trainer = DualEncoderTrainer(encoder_folder, groups, dev=collection, settings=wild)
    before = {name: tensor.clone() for name, tensor in trainer.encoder.model.state_dict().items()}
    result = trainer.train()
    assert result.best_step == 0
    for name, tensor in trainer.encoder.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_an_exported_retriever_loads_as_it_is(trained: tuple[Path, TrainingResult]) -> None:
    folder = trained[0]
    encoder = DualEncoder.from_pretrained(folder, device="cpu", dtype="float32")
    assert (encoder.settings.query_max_length, encoder.settings.title) == (16, "pair")
    peer = SentenceTransformer(str(folder), device="cpu")
    passages = [Passage("mama dada", "kaka"), Passage("tata")]
    expected = peer.encode_document([(p.title, p.text) for p in passages])
    np.testing.assert_allclose(encoder.encode_passages(passages), expected, atol=1e-5)
    component = RocketQATextEmbedder(model=folder, dtype="float32")
    np.testing.assert_allclose(component.run("mama dada")["embedding"], peer.encode_query("mama dada"), atol=1e-5)
    assert not list(folder.rglob("*.bin"))
    assert not list(folder.parent.glob(".*")), "a temporary folder was left behind"


def test_the_same_seed_gives_the_same_weights(encoder_folder: Path, groups: list[TrainingGroup]) -> None:
    def weights(seed: int) -> torch.Tensor:
        run = TrainingSettings(batch_size=8, learning_rate=1e-3, seed=seed, **FAST)
        trainer = DualEncoderTrainer(encoder_folder, groups, settings=run)
        trainer.train()
        return torch.cat([p.flatten() for p in trainer.encoder.model.parameters()])

    first = weights(1)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_training_runs_after_another_trainer_has_chosen_a_precision(
    encoder_folder: Path, collection_folder: Path
) -> None:
    script = f"""
from accelerate import Accelerator
Accelerator(mixed_precision="bf16", cpu=True)
from rocketqa_haystack.data import groups_from_collection, load_collection
from trainers import DualEncoderTrainer, TrainingSettings
groups = groups_from_collection(load_collection({str(collection_folder)!r}, "train"))[:4]
settings = TrainingSettings(show_progress=False)
print(len(DualEncoderTrainer({str(encoder_folder)!r}, groups, settings=settings).train().losses))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.stdout.strip().endswith("1"), result.stderr


def test_a_single_step_changes_the_weights(encoder_folder: Path, groups: list[TrainingGroup]) -> None:
    trainer = DualEncoderTrainer(encoder_folder, groups, settings=TrainingSettings(batch_size=64, **FAST))
    before = torch.cat([p.detach().flatten().clone() for p in trainer.encoder.model.parameters()])
    assert len(trainer.train().losses) == 1
    after = torch.cat([p.detach().flatten() for p in trainer.encoder.model.parameters()])
    assert float((after - before).abs().max()) > 1e-6


def test_a_folder_that_is_there_is_not_written_over(encoder_folder: Path, groups: list[TrainingGroup]) -> None:
    trainer = DualEncoderTrainer(encoder_folder, groups, settings=TrainingSettings(**FAST))
    with pytest.raises(FileExistsError, match="is there already"):
        trainer.train(encoder_folder)


def test_a_known_positive_of_a_query_is_never_its_negative(encoder_folder: Path) -> None:
    shared, other = Passage("mama dada"), Passage("kaka tata")
    # Both questions have the same positive: in a batch of the two there is no negative, so nothing to lose.
    same = [TrainingGroup(str(i), f"baba {i}", ("p",), (shared,)) for i in range(2)]
    # The second group's positive also answers the first group's question, and is a negative of it in the file.
    crossed = [
        TrainingGroup("1", "baba", ("p", "o"), (shared, shared), ("o",), (other,)),
        TrainingGroup("2", "baba", ("o",), (other,)),
    ]
    for groups in (same, crossed):
        trainer = DualEncoderTrainer(
            encoder_folder, groups, settings=TrainingSettings(batch_size=2, **FAST), hard_negatives=1
        )
        assert trainer.train().losses == [0.0]


def test_hard_negatives_join_the_batch(encoder_folder: Path, collection: Collection) -> None:
    encoder = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="float32")
    groups = [TrainingGroup("q", "mama", ("p",), (Passage("dada"),), ("n", "m"), (Passage("kaka"), Passage("tata")))]
    settings = TrainingSettings(batch_size=1, **FAST)
    trainer = DualEncoderTrainer(encoder_folder, groups, settings=settings, hard_negatives=2)
    trainer.encoder.model.eval()
    trainer.encoder.model.train = lambda mode=True: trainer.encoder.model  # type: ignore[method-assign] # no dropout
    query, vectors = encoder.encode_queries(["mama"])[0], encoder.encode_passages(["dada", "kaka", "tata"])
    scores = vectors @ query
    assert trainer.train().losses[0] == pytest.approx(math.log(np.exp(scores - scores[0]).sum()), abs=1e-4)


def test_the_re_ranker_learns_to_rank_the_retrievers_candidates(
    ranker_folder: Path, trained: tuple[Path, TrainingResult], collection: Collection, tmp_path: Path
) -> None:
    asked = Collection(collection.corpus, dict(list(collection.queries.items())[:16]), collection.qrels)
    groups = mine_groups(DualEncoder.from_pretrained(trained[0], device="cpu"), asked, k=5)
    for group in groups:
        assert not set(group.positive_ids) & set(group.negative_ids)
        assert len(group.negative_ids) in (4, 5)
    candidates = {g.query_id: dict.fromkeys([*g.negative_ids, *g.positive_ids], 0.0) for g in groups}
    qrels = {query_id: asked.qrels[query_id] for query_id in asked.queries}
    trainer = CrossEncoderTrainer(
        ranker_folder,
        groups,
        dev=Collection(asked.corpus, asked.queries, qrels),
        dev_candidates=candidates,
        settings=TrainingSettings(epochs=80, batch_size=16, learning_rate=1e-3, evaluations=1, **FAST),
        negatives=4,
        max_length=24,
    )
    result = trainer.train(tmp_path / "ranker")
    (_, before), (_, after) = result.evaluations
    assert after > before + 0.3
    loaded = CrossEncoder.from_pretrained(tmp_path / "ranker", device="cpu", dtype="float32")
    run = rerank(loaded, asked.corpus, asked.queries, candidates, k=50)
    assert measure(run, qrels, ["RR@10"])["RR@10"] == pytest.approx(after, abs=1e-6)
    peer = SentenceTransformersCrossEncoder(str(tmp_path / "ranker"), device="cpu")
    pairs = [("mama", Passage("dada", "kaka"))]
    np.testing.assert_allclose(loaded.score(pairs), peer.predict([("mama", "kaka dada")]), atol=1e-5)
    assert RocketQARanker(model=tmp_path / "ranker").run(query="mama", documents=[])["documents"] == []


@pytest.mark.parametrize("ranker", ["ranker_folder", "two_way_ranker_folder"])
def test_a_re_ranker_learns_from_lists(ranker: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(ranker)
    passages = [Passage("dada"), Passage("kaka"), Passage("tata")]
    groups = [
        TrainingGroup("1", "mama", ("p",), (passages[0],), ("n", "m"), tuple(passages[1:])),
        TrainingGroup("2", "baba", ("p",), (passages[2],), ("n",), (passages[1],)),  # a shorter list
    ]
    run = TrainingSettings(batch_size=2, **FAST)
    trainer = CrossEncoderTrainer(folder, groups, settings=run, loss="listwise", negatives=2)
    encoder = CrossEncoder.from_pretrained(folder, device="cpu", dtype="float32")
    expected = []
    for query, (positive, *negatives) in (("mama", passages), ("baba", [passages[2], passages[1]])):
        scores = encoder.logits([(query, positive), *((query, passage) for passage in negatives)])
        expected.append(math.log(np.exp(scores - scores[0]).sum()))
    (batch,) = trainer._batches(0)
    loss = trainer.loss(batch)  # in evaluation mode: no dropout
    assert loss is not None
    assert loss.item() == pytest.approx(np.mean(expected), abs=1e-5)
    assert len(trainer.train().losses) == 1


@pytest.mark.parametrize("start", ["language_model", "encoder_folder", "two_way_ranker_folder"])
def test_a_re_ranker_starts_from_any_encoder(
    start: str, collection: Collection, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    negatives = {id: ["p1", "p2", "p3"] for id in collection.queries}
    groups = groups_from_collection(collection, negatives)[:4]
    run = TrainingSettings(batch_size=8, **FAST)
    trainer = CrossEncoderTrainer(request.getfixturevalue(start), groups, settings=run, negatives=2)
    trainer.train(tmp_path / "ranker")
    CrossEncoder.from_pretrained(tmp_path / "ranker").score([("mama", "dada")])


def test_a_new_head_starts_from_the_share_of_relevant_pairs(
    encoder_folder: Path, ranker_folder: Path, collection: Collection
) -> None:
    mined = {id: ["p1", "p2", "p3"][:count] for id, count in zip(collection.queries, (3, 3, 3, 2), strict=False)}
    groups = [group for group in groups_from_collection(collection, mined) if group.negatives][:4]
    pairs = [(query, passage) for query in collection.queries.values() for passage in collection.corpus.values()][:50]

    def start(folder: Path, negatives: int) -> np.ndarray:
        return CrossEncoderTrainer(folder, groups, negatives=negatives).encoder.logits(pairs)

    even = start(encoder_folder, 1)  # as many positives as negatives
    total = sum(1 + len(group.negatives) for group in groups)
    np.testing.assert_allclose(start(encoder_folder, 3), even + math.log(4 / (total - 4)), atol=1e-5)
    there = CrossEncoder.from_pretrained(ranker_folder, dtype="float32").logits(pairs)
    np.testing.assert_allclose(start(ranker_folder, 3), there, atol=1e-5)


def test_a_model_that_can_have_no_head_is_refused(collection: Collection, tmp_path: Path) -> None:
    groups = groups_from_collection(collection, {id: ["p1"] for id in collection.queries})
    with pytest.raises(ModelError, match="neither modules"):
        CrossEncoderTrainer(tmp_path, groups)


def test_a_model_without_a_transformer_is_refused(language_model: Path, groups: list[TrainingGroup]) -> None:
    folder = language_model.with_name("static")
    tokenizer = BertTokenizerFast.from_pretrained(language_model).backend_tokenizer
    modules = [StaticEmbedding(tokenizer, embedding_dim=8)]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder))
    with pytest.raises(ValueError, match="has no transformer to train"):
        DualEncoderTrainer(folder, groups)


def test_training_data_that_cannot_train_is_refused(encoder_folder: Path, groups: list[TrainingGroup]) -> None:
    with pytest.raises(ValueError, match="there are no training groups"):
        DualEncoderTrainer(encoder_folder, [])
    with pytest.raises(ValueError, match="no training group has negatives"):
        CrossEncoderTrainer(encoder_folder, groups)


@pytest.mark.parametrize(
    ("similarity", "normalized", "temperature"), [("dot", False, 1.0), ("dot", True, 0.05), ("cosine", False, 0.05)]
)
def test_scores_between_minus_one_and_one_are_divided_by_a_temperature(
    similarity: str,
    normalized: bool,
    temperature: float,
    language_model: Path,
    groups: list[TrainingGroup],
    tmp_path: Path,
) -> None:
    modules = [Transformer(str(language_model)), Pooling(32, "mean"), *([Normalize()] * normalized)]
    SentenceTransformer(modules=modules, device="cpu", similarity_fn_name=similarity).save_pretrained(str(tmp_path))
    assert DualEncoderTrainer(tmp_path, groups).retriever.temperature == temperature


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch_size", 0), ("learning_rate", -1e-5), ("warmup_ratio", 1.0), ("mixed_precision", "fp8")],
)
def test_settings_that_make_no_sense_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must .*{value}"):
        TrainingSettings(**{name: value})


def test_a_loss_that_is_not_finite_stops_the_run_with_the_step(
    encoder_folder: Path, groups: list[TrainingGroup]
) -> None:
    trainer = DualEncoderTrainer(encoder_folder, groups, settings=TrainingSettings(batch_size=16, **FAST))
    with torch.no_grad():
        next(trainer.encoder.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1 of 3"):
        trainer.train()


def test_the_contrastive_loss_equals_the_one_worked_out_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 1, 2])
    excluded = torch.zeros(3, 5, dtype=torch.bool)
    excluded[0, 3] = excluded[1, 1] = True  # the target of the second query is marked, and still counts
    expected = 0.0
    for row, target, out in zip(scores.detach().numpy(), targets.tolist(), excluded.numpy(), strict=True):
        kept = [s for column, s in enumerate(row) if column == target or not out[column]]
        expected += math.log(sum(math.exp(s) for s in kept)) - row[target]
    assert contrastive_loss(scores, targets, excluded).item() == pytest.approx(expected / 3, rel=1e-12)
    assert torch.autograd.gradcheck(lambda s: contrastive_loss(s, targets, excluded), (scores,))


def test_the_pointwise_loss_equals_the_one_worked_out_in_float64() -> None:
    logits = torch.tensor([[2.0], [-1.0], [0.5]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([1, 0, 0])
    probabilities = [1 / (1 + math.exp(-value)) for value in logits.detach().flatten().tolist()]
    expected = (
        -sum(math.log(p if label else 1 - p) for p, label in zip(probabilities, labels.tolist(), strict=True)) / 3
    )
    assert pointwise_loss(logits, labels).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: pointwise_loss(x, labels), (logits,))
    two_way = torch.cat([torch.zeros_like(logits), logits], dim=1)
    assert pointwise_loss(two_way, labels).item() == pytest.approx(expected, rel=1e-12)


def test_fast_dropout_drops_the_asked_share_and_keeps_the_mean() -> None:
    ones = torch.ones(400, 500, requires_grad=True)
    torch.manual_seed(0)
    with fast_dropout(CPU):
        dropped = functional.dropout(ones, 0.1, training=True)
        module = torch.nn.Dropout(0.5)(ones)
        assert functional.dropout(ones, 0.1, training=False) is ones
    assert float((dropped == 0).float().mean()) == pytest.approx(26 / 256, abs=3e-3)
    assert float(dropped.detach().mean()) == pytest.approx(1.0, abs=5e-3)
    assert float((module == 0).float().mean()) == pytest.approx(0.5, abs=5e-3)
    dropped.sum().backward()
    assert ones.grad is not None
    assert torch.equal(ones.grad, dropped.detach())


def test_fast_dropout_follows_torchs_seed() -> None:
    def mask(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        with fast_dropout(CPU):
            return functional.dropout(torch.ones(1000), 0.3)

    assert torch.equal(mask(1), mask(1))
    assert not torch.equal(mask(1), mask(2))
    torch.manual_seed(1)
    assert not torch.equal(mask(1), functional.dropout(torch.ones(1000), 0.3)), "torch's own dropout outside the block"


passages = st.builds(Passage, st.sampled_from(["a", "b", "c", "d", "e"]))


@settings(max_examples=200)
@given(
    positives=st.lists(passages, min_size=1, max_size=3),
    negatives=st.lists(passages, max_size=8),
    count=st.integers(0, 6),
    seed=st.integers(0, 100),
)
def test_sampled_negatives_are_never_positives_and_never_repeat(
    positives: list[Passage], negatives: list[Passage], count: int, seed: int
) -> None:
    ids = tuple(str(i) for i in range(len(negatives)))
    group = TrainingGroup("q", "?", tuple("p" for _ in positives), tuple(positives), ids, tuple(negatives))
    known = known_positives([group])["?"]
    sampled = sample_negatives(group, count, epoch_generator(seed, 0), known=known)
    assert len(sampled) == len(set(sampled)) == min(count, len(set(negatives) - set(positives)))
    assert set(sampled) <= set(negatives) - set(positives)
    assert sampled == sample_negatives(group, count, epoch_generator(seed, 0), known=known)
