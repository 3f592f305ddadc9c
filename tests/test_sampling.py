"""What a training group gives in an epoch: never a known positive as a negative, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketqa_haystack.data import Passage, TrainingGroup, TrainingGroups, write_groups
from trainers.sampling import (
    EpochBatches,
    epoch_generator,
    known_positives,
    sample_negatives,
    sample_positive,
)

passages = st.builds(Passage, st.sampled_from("abcd"), st.sampled_from(["", "T"]))


def group_of(query: str, positives: list[Passage], negatives: list[Passage]) -> TrainingGroup:
    """A group whose ids tell nothing: a passage may stand under several, and several under one."""
    return TrainingGroup(
        "q", query, ("p",) * len(positives), tuple(positives), ("n",) * len(negatives), tuple(negatives)
    )


# Few queries and passages: the same ones come again within a group and in other groups.
many_groups = st.lists(
    st.builds(
        group_of, st.sampled_from("xyz"), st.lists(passages, min_size=1, max_size=4), st.lists(passages, max_size=10)
    ),
    min_size=1,
    max_size=6,
)


@given(many_groups, st.integers(0, 8), st.integers(0, 100))
def test_a_known_positive_is_never_sampled_as_a_negative(groups: list[TrainingGroup], count: int, seed: int) -> None:
    known = known_positives(groups)
    for group in groups:
        positives = {p for other in groups if other.query == group.query for p in other.positives}
        sampled = sample_negatives(group, count, epoch_generator(seed, 0), known=known[group.query])
        assert len(sampled) == len(set(sampled)) == min(count, len(set(group.negatives) - positives))
        assert set(sampled) <= set(group.negatives) - positives
        assert sampled == sample_negatives(group, count, epoch_generator(seed, 0), known=known[group.query])
        # Without what other groups know, a group still knows its own positives.
        assert set(sample_negatives(group, count, epoch_generator(seed, 0))).isdisjoint(group.positives)
        assert sample_positive(group, epoch_generator(seed, 0)) in group.positives


@given(many_groups, st.lists(passages, max_size=12))
def test_exclusions_are_the_known_positives_of_each_query(groups: list[TrainingGroup], columns: list[Passage]) -> None:
    known, queries = known_positives(groups), [*"xyz", "unknown"]
    expected = [
        [any(g.query == query and passage in g.positives for g in groups) for passage in columns] for query in queries
    ]
    assert known.excluded(queries, columns).tolist() == expected
    assert [[passage in known[query] for passage in columns] for query in queries] == expected
    assert known.excluded(queries, columns).shape == (4, len(columns))


def test_questions_that_differ_in_spelling_share_their_known_positives() -> None:
    known = known_positives([group_of("Who is it?", [Passage("a")], []), group_of("who  is it", [Passage("b")], [])])
    for query in ("Who is it?", "WHO IS IT", "who is it..."):
        assert known.excluded([query], [Passage("a"), Passage("b"), Passage("c")]).tolist() == [[True, True, False]]
    assert Passage("a") not in known["Who was it?"]


def test_a_passage_is_known_by_title_and_text_and_not_by_what_they_make_together() -> None:
    known = known_positives([group_of("q", [Passage("bc", "a")], [])])["q"]
    assert Passage("bc", "a") in known
    for other in (Passage("c", "ab"), Passage("abc"), Passage("", "abc"), Passage("1 abc"), Passage("bc"), "bc"):
        assert other not in known


def test_known_positives_of_groups_on_disk_are_those_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    generator = np.random.default_rng(0)
    groups = [
        group_of(str(generator.integers(40)), [Passage(str(generator.integers(9)))], [Passage("n")]) for _ in range(200)
    ]
    path = tmp_path_factory.mktemp("groups") / "train.jsonl"
    write_groups(path, groups)
    queries, columns = [str(i) for i in range(41)], [Passage(str(i)) for i in range(10)]
    on_disk = known_positives(TrainingGroups.read(path)).excluded(queries, columns)
    assert on_disk.tolist() == known_positives(groups).excluded(queries, columns).tolist()
    assert on_disk.any()


@given(st.integers(0, 40), st.integers(1, 12), st.integers(0, 5), st.integers(0, 5))
def test_a_batch_made_alone_is_the_one_made_in_turn(length: int, batch_size: int, seed: int, epoch: int) -> None:
    def batches() -> EpochBatches[tuple[int, float]]:
        return EpochBatches(length, batch_size, seed, epoch, lambda i, generator: (i, float(generator.random())))

    in_turn = list(batches())
    assert sorted(i for batch in in_turn for i, _ in batch) == list(range(length))
    assert [len(batch) for batch in in_turn[:-1]] == [batch_size] * (len(in_turn) - 1)
    assert len(batches()) == len(in_turn)
    assert all(batches()[number] == batch for number, batch in enumerate(in_turn))
    assert batches()[1:] == in_turn[1:]
    assert len({draw for batch in in_turn for _, draw in batch}) == length
    with pytest.raises(IndexError):
        batches()[len(in_turn)]


def test_epochs_and_seeds_draw_differently() -> None:
    def drawn(seed: int, epoch: int) -> list[list[tuple[int, float]]]:
        return list(EpochBatches(20, 4, seed, epoch, lambda i, generator: (i, float(generator.random()))))

    assert drawn(0, 0) == drawn(0, 0)
    assert drawn(0, 0) != drawn(0, 1) != drawn(1, 0)
    assert {draw for batch in drawn(0, 0) for draw in batch}.isdisjoint(draw for batch in drawn(0, 1) for draw in batch)
