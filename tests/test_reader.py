"""The reader: what it is trained on, that it learns, and that Haystack's reader finds what it was trained to find."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from haystack import Document
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_answers import made_up
from transformers import AutoModelForQuestionAnswering, BertTokenizerFast

from rocketqa_haystack import DualEncoder, Passage
from rocketqa_haystack.data import AnsweredCollection, AnsweredQuestion, Collection
from rocketqa_haystack.encoders import ModelError
from rocketqa_haystack.evaluation import exact_match, has_answer
from trainers import ReaderTrainer, TrainingSettings, mine_distractors
from trainers import reader as reader_module
from trainers.losses import reader_loss
from trainers.reader_windows import windows

FAST: dict[str, Any] = {"show_progress": False, "mixed_precision": "no"}


def haystacks_reader(folder: Path, **options: Any) -> TransformersExtractiveReader:
    return TransformersExtractiveReader(folder, max_seq_length=40, stride=13, **options)


def test_a_trained_reader_finds_answers_among_distractors_and_says_when_there_is_none(reader_folder: Path) -> None:
    reader = haystacks_reader(reader_folder, top_k=3)
    for question in made_up(12, seed=1):
        distractors = [Document(content=passage.text) for passage in question.negatives]
        documents = [*distractors, Document(content=question.positives[0].text)]
        best = reader.run(question.query, documents)["answers"][0]
        assert exact_match(best.data or "", question.answers) == 1
        assert best.document == documents[-1]
        assert best.score > 0.5
        best = reader.run(question.query, distractors)["answers"][0]
        assert best.data is None, "no answer is the best where there is none"


def test_the_trainer_and_haystacks_reader_give_the_same_answer_and_score(reader_folder: Path) -> None:
    trainer = ReaderTrainer(reader_folder, made_up(4, seed=0), settings=TrainingSettings(**FAST), negatives=0)
    assert trainer.reader.max_length == 40, "the folder keeps the length of a window"
    reader = haystacks_reader(reader_folder, no_answer=False)
    for question in made_up(8, seed=2, length=80):  # several windows each
        passages = [*question.negatives, *question.positives]
        answer, odds = trainer.answer(question.query, passages)
        theirs = reader.run(question.query, [Document(content=passage.text) for passage in passages])["answers"][0]
        assert answer == theirs.data
        assert 1 / (1 + math.exp(-odds)) == pytest.approx(theirs.score, rel=1e-4)


def test_a_reader_folder_holds_no_pickle_and_trains_on(reader_folder: Path) -> None:
    assert "rocketqa" not in (reader_folder / "config.json").read_text(), "nothing here is needed to load it"
    assert not [file for file in reader_folder.rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]
    trainer = ReaderTrainer(reader_folder, made_up(4, seed=3), settings=TrainingSettings(**FAST), negatives=1)
    saved = AutoModelForQuestionAnswering.from_pretrained(reader_folder).state_dict()
    for name, tensor in trainer.reader.model.state_dict().items():
        assert torch.equal(tensor, saved[name]), "a trained head is taken as it is"


def test_a_question_without_an_answer_is_always_held_against_its_own_passage(language_model: Path) -> None:
    passages = tuple(Passage("dada " * (1 + n)) for n in range(20))
    question = AnsweredQuestion("none", "baba", (), (), (), passages)
    settings = TrainingSettings(**FAST)
    trainer = ReaderTrainer(language_model, [question, *made_up(2, seed=0)], settings=settings, negatives=2)
    own = trainer._windows("baba", passages[0])[0].ids
    drawn = [trainer._example(question, np.random.default_rng(seed)).windows for seed in range(8)]
    assert all(len(windows) == 3 and windows[0].ids == own for windows in drawn)
    assert len({tuple(windows[1].ids) for windows in drawn}) > 1


def test_the_best_weights_on_dev_are_kept_and_questions_without_an_answer_count(language_model: Path) -> None:
    dev = [*made_up(8, seed=4), AnsweredQuestion("none", "baba", (), (), (), (Passage("dada kaka"),))]
    run = TrainingSettings(epochs=8, batch_size=16, learning_rate=1e-2, evaluations=2, **FAST)
    trainer = ReaderTrainer(language_model, made_up(64, seed=0), dev=dev, settings=run, negatives=2)
    result = trainer.train()
    values = dict(result.evaluations)
    assert values[result.best_step or 0] == max(values.values()) > values[0]
    assert max(values.values()) > 0.8


def test_the_same_seed_gives_the_same_reader(language_model: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        run = TrainingSettings(batch_size=8, learning_rate=1e-3, seed=seed, **FAST)
        trainer = ReaderTrainer(language_model, made_up(16, seed=0), settings=run)
        trainer.train()
        return torch.cat([parameter.flatten() for parameter in trainer.reader.model.parameters()])

    first = weights(1)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))


def test_an_interrupted_training_ends_with_the_same_reader(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = TrainingSettings(epochs=2, batch_size=8, learning_rate=1e-3, checkpoint_every=2, **FAST)

    def trainer() -> ReaderTrainer:
        return ReaderTrainer(language_model, made_up(24, seed=0), settings=run)

    whole = trainer()
    losses = whole.train().losses
    cut, steps = trainer(), iter(range(4))

    def loss(batch: Any) -> Any:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return ReaderTrainer.loss(cut, batch)

    monkeypatch.setattr(cut, "loss", loss)
    with pytest.raises(KeyboardInterrupt):
        cut.train(tmp_path / "reader")
    continued = trainer()
    assert continued.train(tmp_path / "reader").losses == losses
    for name, tensor in whole.reader.model.state_dict().items():
        assert torch.equal(continued.reader.model.state_dict()[name], tensor)
    card = (tmp_path / "reader" / "README.md").read_text()
    assert "TransformersExtractiveReader" in card
    assert "question-answering" in card


def without_dropout(trainer: ReaderTrainer) -> ReaderTrainer:
    trainer.reader.model.eval()
    return trainer


def gradient(trainer: ReaderTrainer, batch: Any) -> torch.Tensor:
    trainer.reader.model.zero_grad()
    loss = trainer.loss(batch)
    assert loss is not None
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in trainer.reader.model.parameters() if p.grad is not None])


def test_the_shares_of_processes_add_up_and_gradient_caching_changes_nothing(
    language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [*made_up(5, seed=5), AnsweredQuestion("none", "baba", (), (), (), (Passage("dada"), Passage("kaka")))]
    run = TrainingSettings(batch_size=6, **FAST)
    trainer = without_dropout(ReaderTrainer(language_model, questions, settings=run))
    (batch,) = trainer._batches(0)
    whole = gradient(trainer, batch)
    cached = TrainingSettings(batch_size=6, gradient_caching=True, **FAST)
    replayed = gradient(without_dropout(ReaderTrainer(language_model, questions, settings=cached)), batch)
    torch.testing.assert_close(replayed, whole)
    shares = []
    for part in (slice(0, 2), slice(2, 6)):
        monkeypatch.setattr(reader_module, "process_slice", lambda length, part=part: part)
        shares.append(gradient(trainer, batch))
    torch.testing.assert_close(sum(shares), whole)
    monkeypatch.setattr(reader_module, "process_slice", lambda length: slice(6, 6))
    assert trainer.loss(batch) is None


def test_distractors_are_what_the_retriever_finds_less_what_holds_an_answer(
    collection: Collection, encoder_folder: Path
) -> None:
    encoder = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="float32")
    answers = {id: (collection.corpus[next(iter(judged))].text.split()[0],) for id, judged in collection.qrels.items()}
    data = AnsweredCollection(collection, answers)
    mined = mine_distractors(encoder, data, 48)
    for query_id, ids in mined.items():
        without = {id for id, p in collection.corpus.items() if not has_answer(p.text, answers[query_id])}
        assert set(ids) == without
    assert all(question.negatives for question in data.questions(mined))


def brute_force(start: torch.Tensor, end: torch.Tensor, spans: list[list[tuple[int, int]]]) -> float:
    """The loss from its definition: sums over all spans of all passages, one question after another."""
    losses = []
    for question, gold in enumerate(spans):
        odds = [
            sum(math.exp(s + e) for s in start[question, passage].tolist() for e in end[question, passage].tolist())
            for passage in range(start.shape[1])
        ]
        if not gold:
            losses.append(math.log(1 + sum(odds)))
            continue
        right = sum(math.exp(start[question, 0, first] + end[question, 0, last]) for first, last in gold)
        losses.append(math.log(odds[0] / right) + math.log((1 + sum(odds)) / odds[0]) + math.log(1 + sum(odds[1:])))
    return sum(losses) / len(losses)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=3), min_size=1)
)
def test_the_loss_is_that_of_all_spans_of_all_passages(seed: int, spans: list[list[tuple[int, int]]]) -> None:
    spans = [list(dict.fromkeys(gold)) for gold in spans[:4]]
    generator = torch.Generator().manual_seed(seed)
    start, end = 2 * torch.randn(2, len(spans), 3, 5, generator=generator, dtype=torch.float64)
    start.requires_grad_(True)
    padded = reader_module._padded_spans([tuple(gold) for gold in spans])
    loss = reader_loss(start, end, padded)
    assert loss.item() == pytest.approx(brute_force(start.detach(), end, spans))
    loss.backward()
    assert torch.isfinite(start.grad).all()
    rows = [slice(i, i + 1) for i in range(len(spans))]
    parts = [reader_loss(start[row], end[row], padded[row], total=len(spans)).item() for row in rows]
    assert sum(parts) == pytest.approx(loss.item())
    selection = reader_loss(start, end, padded) - reader_loss(start, end, padded, selection_weight=0.0)
    assert reader_loss(start, end, padded, selection_weight=2.0).item() == pytest.approx((loss + selection).item())


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_answer_is_whole_in_a_window_and_at_its_place(language_model: Path, data: st.DataObject) -> None:
    tokenizer = BertTokenizerFast.from_pretrained(language_model)
    words = data.draw(st.lists(st.sampled_from(["baba", "Dédé", "1973,", "x", "(kiki)"]), min_size=1, max_size=60))
    text = "  ".join(words)
    word = data.draw(st.integers(0, len(words) - 1))
    start = len("  ".join(words[:word])) + (2 if word else 0)
    span = (start, start + len(words[word]))
    found = windows(tokenizer, "kaka di", text, [span], max_length=24, stride=8)
    holding = [window for window in found if window.spans]
    assert holding
    for window in holding:
        ((first, last),) = window.spans
        begin = window.in_text[0]
        assert (window.characters[first - begin][0], window.characters[last - begin][1]) == span
        assert len(window.ids) <= 24


def test_an_answer_longer_than_a_window_is_in_all_that_hold_a_part(language_model: Path) -> None:
    tokenizer = BertTokenizerFast.from_pretrained(language_model)
    text = " ".join(["baba"] * 60)
    found = windows(tokenizer, "kaka", text, [(0, len(text))], max_length=24, stride=8)
    assert len(found) > 2
    assert all(window.spans == ((window.in_text[0], window.in_text[1] - 1),) for window in found)
    assert windows(tokenizer, "kaka", " ", max_length=24, stride=8) == []


def test_a_long_passages_windows_without_the_answer_are_negatives_too(language_model: Path) -> None:
    (question,) = made_up(1, seed=6, length=120)
    trainer = ReaderTrainer(language_model, [question], settings=TrainingSettings(**FAST), negatives=50)
    ((example,),) = trainer._batches(0)
    assert len(example.windows) > 1 + len(question.negatives)
    assert example.windows[0].spans
    assert not any(window.spans for window in example.windows[1:])


def invisible_answer() -> AnsweredQuestion:
    text = "baba \u200b kaka"
    return AnsweredQuestion("invisible", "baba", ("\u200b",), (Passage(text),), (((5, 6),),), (Passage("kaka"),))


def test_questions_whose_answer_is_no_token_are_left_out_and_counted(
    language_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    questions = [invisible_answer(), *made_up(2, seed=7), invisible_answer()]
    trainer = ReaderTrainer(language_model, questions, settings=TrainingSettings(batch_size=2, **FAST))
    assert trainer.train().losses
    assert [question.query_id for question in trainer.questions] == ["0", "1"]
    assert "left out: 2 questions whose answer is no token of the model" in caplog.text


@pytest.mark.parametrize("max_length", [16, 21, 64])
def test_the_widest_stride_takes_a_question_longer_than_a_window(language_model: Path, max_length: int) -> None:
    text = "baba dede " * 60 + "7"
    long = AnsweredQuestion("q", "? " * 200, ("7",), (Passage(text),), (((len(text) - 1, len(text)),),))
    widest = (max_length - 3) // 2 - 1
    run = TrainingSettings(batch_size=1, **FAST)
    trainer = ReaderTrainer(language_model, [long], settings=run, negatives=0, max_length=max_length, stride=widest)
    assert trainer.train().losses


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"questions": []}, "no questions with an answer"),
        ({"negatives": -1}, "negatives must not be negative, but got -1"),
        ({"questions": "without negatives"}, "mine them from a retriever's top k first, or ask for 0"),
        ({"selection_weight": -1.0}, "selection_weight must not be negative"),
        ({"max_length": 65}, "max_length must be between 16 and the 64 tokens"),
        ({"stride": 30}, "stride must be 0 to 29 for a max_length of 64, but got 30"),
        ({"questions": "without an answer that is a token"}, "no questions with an answer"),
        ({"model": "/nowhere"}, "there is no model folder '/nowhere'"),
    ],
)
def test_a_reader_that_cannot_be_trained_is_refused(
    changes: dict[str, Any], message: str, language_model: Path
) -> None:
    arguments: dict[str, Any] = {"model": language_model, "questions": made_up(2, seed=0), **changes}
    if arguments["questions"] == "without negatives":
        arguments["questions"] = [AnsweredQuestion("q", "a", ("b",), (Passage("b"),), (((0, 1),),))]
    elif arguments["questions"] == "without an answer that is a token":
        arguments["questions"] = [invisible_answer()]
    with pytest.raises(ValueError, match=message):
        ReaderTrainer(settings=TrainingSettings(**FAST), **arguments)


def test_a_model_of_two_towers_or_without_weights_is_refused(tmp_path: Path, language_model: Path) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([{"path": "", "type": "sentence_transformers.models.Router"}]))
    with pytest.raises(ModelError, match="begins with a Router"):
        ReaderTrainer(tmp_path, made_up(2, seed=0))
    (tmp_path / "modules.json").unlink()
    (tmp_path / "config.json").write_text((language_model / "config.json").read_text())
    with pytest.raises(ModelError, match="cannot be loaded as a reader"):
        ReaderTrainer(tmp_path, made_up(2, seed=0))
