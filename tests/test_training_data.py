"""What the trainers make of training data: known positives are no negatives, pairs are drawn late, faults are told."""

from __future__ import annotations

import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_words import WORDS

from rocketqa_haystack import DualEncoder, Passage
from rocketqa_haystack.data import TrainingGroup, TrainingGroups, write_groups
from trainers import CrossEncoderTrainer, DualEncoderTrainer, JointTrainer, TrainingSettings

FAST = TrainingSettings(show_progress=False, mixed_precision="no", batch_size=8, evaluations=0)
TRAINERS = ["dual", "cross", "joint"]


def make(kind: str, encoder: Path, ranker: Path, groups: Any, **options: Any) -> Any:
    if kind == "dual":
        return DualEncoderTrainer(encoder, groups, settings=FAST, hard_negatives=2, **options)
    if kind == "cross":
        return CrossEncoderTrainer(ranker, groups, settings=FAST, negatives=2, **options)
    return JointTrainer(encoder, ranker, groups, settings=FAST, list_length=3, contrastive_weight=1.0, **options)


@pytest.fixture(scope="module")
def crowded() -> list[TrainingGroup]:
    """Few questions and passages: the same ones come again within groups and in others, as positives and negatives."""
    generator = random.Random(1)
    passages = [Passage(" ".join(generator.sample(WORDS, 4)), word) for word in WORDS[:12]]
    groups = []
    for number in range(48):
        positives = generator.choices(passages, k=generator.randint(1, 3))
        negatives = generator.choices(passages, k=generator.randint(2, 9))
        ids = tuple("p" for _ in positives), tuple("n" for _ in negatives)
        query = generator.choice(WORDS[:10])
        groups.append(TrainingGroup(str(number), query, ids[0], tuple(positives), ids[1], tuple(negatives)))
    return groups


def answers(groups: list[TrainingGroup]) -> dict[str, set[Passage]]:
    found: dict[str, set[Passage]] = {}
    for group in groups:
        found.setdefault(group.query, set()).update(group.positives)
    return found


def negatives_of(kind: str, trainer: Any) -> list[tuple[str, Passage]]:
    """Queries with their own negatives, over three epochs."""
    every = [example for epoch in range(3) for batch in trainer._batches(epoch) for example in batch]
    if kind == "cross":
        return [(pair.query, passage) for pair in every for passage in pair.passages if not pair.label]
    if kind == "joint":
        return [(one.query, passage) for one in every for passage in one.passages[1:]]
    return [(example.query, passage) for example in every for passage in example.negatives]


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_known_positive_is_drawn_as_a_negative_only_when_asked_for(
    kind: str, encoder_folder: Path, ranker_folder: Path, crowded: list[TrainingGroup]
) -> None:
    known = answers(crowded)
    drawn = negatives_of(kind, make(kind, encoder_folder, ranker_folder, crowded))
    assert drawn
    assert not any(passage in known[query] for query, passage in drawn)
    asked = make(kind, encoder_folder, ranker_folder, crowded, exclude_known_positives=False)
    assert any(passage in known[query] for query, passage in negatives_of(kind, asked))


@pytest.mark.parametrize("exclude", [True, False])
def test_the_batchs_other_passages_are_negatives_but_for_known_positives_unless_asked_for(
    exclude: bool, encoder_folder: Path, ranker_folder: Path, crowded: list[TrainingGroup]
) -> None:
    trainer = make("dual", encoder_folder, ranker_folder, crowded, exclude_known_positives=exclude)
    encoder = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="float32")
    known, batch = answers(crowded), trainer._batches(0)[0]
    passages = [example.positive for example in batch] + [n for example in batch for n in example.negatives]
    queries = [example.query for example in batch]
    scores = encoder.encode_queries(queries).astype(float) @ encoder.encode_passages(passages).astype(float).T
    masked = 0
    for row, query in enumerate(queries):
        for column, passage in enumerate(passages):
            if exclude and column != row and passage in known[query]:
                scores[row, column] = -np.inf
                masked += 1
    expected = np.mean([np.log(np.exp(line - line[row]).sum()) for row, line in enumerate(scores)])
    assert trainer.loss(batch).item() == pytest.approx(expected, abs=1e-4)
    assert bool(masked) == exclude


def test_a_re_ranker_sees_each_groups_positive_and_its_negatives_once_an_epoch(
    encoder_folder: Path, ranker_folder: Path, crowded: list[TrainingGroup], tmp_path: Path
) -> None:
    groups = [group for number, group in enumerate(crowded) if number % 3]
    write_groups(tmp_path / "groups.jsonl", groups)
    trainer = make("cross", encoder_folder, ranker_folder, tmp_path / "groups.jsonl")
    known, epochs = answers(groups), []
    for epoch in range(2):
        batches = trainer._batches(epoch)
        pairs = [pair for batch in batches for pair in batch]
        assert [len(batch) for batch in batches][:-1] == [8] * (len(batches) - 1)
        assert batches[len(batches) // 2] == trainer._batches(epoch)[len(batches) // 2]
        positives = Counter(pair.query_id for pair in pairs if pair.label)
        assert positives == Counter(group.query_id for group in groups)
        for group in groups:
            drawn = [pair.passages[0] for pair in pairs if pair.query_id == group.query_id and not pair.label]
            assert len(drawn) == len(set(drawn)) == min(2, len(set(group.negatives) - known[group.query]))
        epochs.append(Counter(pairs))
    assert epochs[0] != epochs[1], "negatives are drawn anew"


@pytest.mark.parametrize("kind", TRAINERS)
def test_data_that_cannot_be_learned_from_is_refused_by_count_and_example(
    kind: str, encoder_folder: Path, ranker_folder: Path, crowded: list[TrainingGroup]
) -> None:
    useless = [TrainingGroup(f"bad {number}", "mama", (), (), ("n",), (Passage("dada"),)) for number in range(5)]
    useless.append(TrainingGroup("blank", " ", ("p",), (Passage("dada"),)))
    with pytest.raises(ValueError, match=r"5 with no positive passage \(such as 'bad 0', 'bad 1', 'bad 2'\)") as error:
        make(kind, encoder_folder, ranker_folder, crowded + useless)
    assert "1 with an empty question (such as 'blank')" in str(error.value)
    with pytest.raises(ValueError, match="there are no training groups"):
        make(kind, encoder_folder, ranker_folder, [])


@pytest.mark.parametrize("kind", TRAINERS)
def test_too_few_negatives_and_empty_ones_are_told_before_training(
    kind: str,
    encoder_folder: Path,
    ranker_folder: Path,
    crowded: list[TrainingGroup],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    few = TrainingGroup("few", "mama", ("p",), (Passage("dada"),), ("n",), (Passage(" "),))
    write_groups(tmp_path / "groups.jsonl", [few])
    for groups in ([few], TrainingGroups.read(tmp_path / "groups.jsonl"), tmp_path / "groups.jsonl"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            trainer = make(kind, encoder_folder, ranker_folder, groups)
        assert caplog.messages == [str(trainer.report)]
        assert "1 with an empty negative passage (such as 'few')" in caplog.text
        assert "1 with fewer than 2 different negatives (such as 'few')" in caplog.text
