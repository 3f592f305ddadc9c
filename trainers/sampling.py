"""Which positives and negatives a training group gives in an epoch. Pure functions of their input and a generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rocketqa_haystack.data import Passage, TrainingGroup


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """The random numbers of one epoch: the same on every process, and for the same seed."""
    return np.random.default_rng([seed, epoch])


def batches_of(length: int, batch_size: int, generator: np.random.Generator) -> list[list[int]]:
    """Positions 0 to length - 1 in random order, in batches; the last may be smaller."""
    order = generator.permutation(length).tolist()
    return [order[start : start + batch_size] for start in range(0, length, batch_size)]


def sample_positive(group: TrainingGroup, generator: np.random.Generator) -> Passage:
    """One of the group's positives at random."""
    return group.positives[int(generator.integers(len(group.positives)))]


def sample_negatives(
    group: TrainingGroup, count: int, generator: np.random.Generator, *, known: frozenset[Passage] = frozenset()
) -> list[Passage]:
    """Negatives of the group at random, without repeats: `count` of them, or all where there are fewer.

    Passages in `known`, those that answer the query, are never among them, whatever the file says.
    """
    candidates = [passage for passage in dict.fromkeys(group.negatives) if passage not in known]
    chosen = generator.choice(len(candidates), size=min(count, len(candidates)), replace=False)
    return [candidates[int(i)] for i in chosen]


def known_positives(groups: Sequence[TrainingGroup]) -> dict[str, frozenset[Passage]]:
    """All positives of each query text, those of other groups with the same text among them."""
    known: dict[str, set[Passage]] = {}
    for group in groups:
        known.setdefault(group.query, set()).update(group.positives)
    return {query: frozenset(passages) for query, passages in known.items()}
