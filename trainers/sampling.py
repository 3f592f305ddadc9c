"""What is drawn: negatives of a query from its candidates, and what a training group gives in an epoch.

Pure functions of candidates, re-ranker's probabilities and a seed or generator.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from rocketqa_haystack.data import Passage, TrainingGroup, TrainingGroups

Example = TypeVar("Example")


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """The random numbers of one epoch: the same on every process, and for the same seed."""
    return np.random.default_rng([seed, epoch])


def example_generator(seed: int, epoch: int, position: int) -> np.random.Generator:
    """The random numbers of what stands at one position of the training data in one epoch."""
    return np.random.default_rng([seed, epoch, position])


class EpochBatches(Sequence[list[Example]], Generic[Example]):
    """The batches of one epoch, each made when it is asked for.

    What an example draws depends on the seed, the epoch and its position alone. A batch is therefore the same whether
    or not those before it were made, and an interrupted epoch goes on in its middle.

    Args:
        length: Positions to go through, such as the number of training groups.
        batch_size: Examples of a batch; the last may have fewer.
        seed: The run's.
        epoch: The epoch's number.
        example: What stands at a position, drawn with the generator given.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        epoch: int,
        example: Callable[[int, np.random.Generator], Example],
    ) -> None:
        self.examples = length
        self.batch_size = batch_size
        self.epoch = epoch
        # Four bytes for each position: there may be some hundred millions.
        positions = np.arange(length, dtype=np.uint32 if length <= 1 << 32 else np.uint64)
        self._order = epoch_generator(seed, epoch).permutation(positions)
        self._seeds = (seed, epoch)
        self._example = example

    def __len__(self) -> int:
        return -(-len(self._order) // self.batch_size)

    @overload
    def __getitem__(self, index: int) -> list[Example]: ...

    @overload
    def __getitem__(self, index: slice) -> list[list[Example]]: ...

    def __getitem__(self, index: int | slice) -> list[Example] | list[list[Example]]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self._batch(number) for number in numbers]
        return self._batch(numbers)

    def _batch(self, number: int) -> list[Example]:
        positions = self._order[number * self.batch_size : (number + 1) * self.batch_size].tolist()
        return [self._example(i, example_generator(*self._seeds, i)) for i in positions]


def sample_positive(group: TrainingGroup, generator: np.random.Generator) -> Passage:
    """One of the group's positives at random."""
    return group.positives[int(generator.integers(len(group.positives)))]


def sample_negatives(
    group: TrainingGroup, count: int, generator: np.random.Generator, *, known: Container[Passage] = frozenset()
) -> list[Passage]:
    """Negatives of the group at random, without repeats: `count` of them, or all where there are fewer.

    The group's own positives, and passages in `known`, those that answer the query by other groups, are never among
    them, whatever the file says.
    """
    candidates = different_negatives(group, known=known)
    chosen = generator.choice(len(candidates), size=min(count, len(candidates)), replace=False)
    return [candidates[int(i)] for i in chosen]


def different_negatives(group: TrainingGroup, *, known: Container[Passage] = frozenset()) -> list[Passage]:
    """What `sample_negatives` draws from, in the group's order."""
    different = dict.fromkeys(group.negatives)
    return [passage for passage in different if passage not in group.positives and passage not in known]


@dataclass(frozen=True)
class _Hashed(Container[Passage]):
    """Passages that are known by their hashes only."""

    hashes: frozenset[int]

    def __contains__(self, passage: object) -> bool:
        return isinstance(passage, Passage) and _passage_hash(passage) in self.hashes


class KnownPositives:
    """All positives of each question, those of all groups that ask the same (by `question_key`) among them.

    A passage is its title and text: the same passage under two ids is one. Only hashes of 64 bits are kept, 16 bytes
    for each positive of each group. That any two of ten million are equal by chance has a probability of 3e-6, and the
    price would be a single passage that is not a negative of a single query.

    Args:
        groups: The training data, gone through once.
    """

    def __init__(self, groups: Iterable[TrainingGroup]) -> None:
        queries, passages = array("Q"), array("Q")
        for group in groups:
            query = _text_hash(question_key(group.query))
            for positive in group.positives:
                queries.append(query)
                passages.append(_passage_hash(positive))
        order = np.argsort(np.frombuffer(queries, np.uint64), kind="stable")
        self._queries: NDArray[np.uint64] = np.frombuffer(queries, np.uint64)[order]
        self._passages: NDArray[np.uint64] = np.frombuffer(passages, np.uint64)[order]

    def __getitem__(self, query: str) -> Container[Passage]:
        """The positives of a question, none where no group asks it: what `in` can be asked of."""
        return _Hashed(self._hashes(query))

    def excluded(self, queries: Sequence[str], passages: Sequence[Passage]) -> NDArray[np.bool_]:
        """True where a passage is a known positive of a query: shape [queries, passages]."""
        columns: dict[int, list[int]] = {}
        for column, passage in enumerate(passages):
            columns.setdefault(_passage_hash(passage), []).append(column)
        found = np.zeros((len(queries), len(passages)), dtype=bool)
        for row, query in enumerate(queries):
            for known in self._hashes(query):
                found[row, columns.get(known, [])] = True
        return found

    def _hashes(self, query: str) -> frozenset[int]:
        wanted = np.uint64(_text_hash(question_key(query)))
        start, stop = np.searchsorted(self._queries, wanted), np.searchsorted(self._queries, wanted, side="right")
        return frozenset(self._passages[start:stop].tolist())


def known_positives(*pools: Sequence[TrainingGroup]) -> KnownPositives:
    """All positives of each question; of groups on disk, their negatives are not read for it."""
    positives = (pool.without_negatives() if isinstance(pool, TrainingGroups) else pool for pool in pools)
    return KnownPositives(chain.from_iterable(positives))


def question_key(text: str) -> str:
    """The same for questions that differ in case, white space and punctuation at their end only."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" .?!\u2026\u3002\u061f;:,\"'")


def _passage_hash(passage: Passage) -> int:
    # The title's length tells where it ends.
    return _text_hash(f"{len(passage.title)} {passage.title}{passage.text}")


def _text_hash(text: str) -> int:
    # Python's own hash differs from process to process; this one is the same everywhere.
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Thresholds:
    """What a re-ranker's probabilities say of unlabelled passages (RocketQA, sections 3.3.2 and 3.3.3).

    Args:
        negative_below: A passage with a lower probability is a negative.
        positive_above: A passage with a higher one is a positive.
    """

    negative_below: float = 0.1
    positive_above: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.negative_below <= self.positive_above <= 1:
            raise ValueError(
                "thresholds must satisfy 0 <= negative_below <= positive_above <= 1, "
                f"but got {self.negative_below} and {self.positive_above}"
            )


def query_seed(seed: int, query_id: str) -> int:
    """A query's own seed: what is drawn for it does not depend on the other queries."""
    return _text_hash(f"{seed} {query_id}")


def random_negatives(ids: Sequence[str], excluded: Collection[str], count: int, seed: int) -> list[str]:
    """Passages of the corpus at random, without repeats.

    Args:
        ids: All passages, each once.
        excluded: Those that must not be drawn, such as the known positives.
        count: How many: all that there are where there are fewer, and none where it is not positive.
        seed: The same one draws the same passages.
    """
    generator, drawn = np.random.default_rng(seed), dict.fromkeys(excluded, False)
    if len(ids) > 4 * (count + len(excluded)):  # by trial, as most are neither excluded nor drawn before
        while sum(drawn.values()) < count:
            drawn.setdefault(ids[int(generator.integers(len(ids)))], True)
        return [id for id, new in drawn.items() if new]
    return _drawn([id for id in dict.fromkeys(ids) if id not in drawn], count, generator)


def undenoised_negatives(ranked: Sequence[str], known: Collection[str], count: int, k: int, seed: int) -> list[str]:
    """Passages of a retriever's top k at random, whatever they say: RocketQA's hard negatives before denoising.

    Args:
        ranked: The candidates, best first.
        known: The query's known positives, never drawn.
        count: How many: all that there are where there are fewer, and none where it is not positive.
        k: How many of the candidates count.
        seed: The same one draws the same passages.
    """
    return _drawn(_without(ranked[:k], known), count, np.random.default_rng(seed))


def denoised_negatives(
    ranked: Sequence[str],
    probabilities: Mapping[str, float],
    known: Collection[str],
    count: int,
    k: int,
    seed: int,
    *,
    thresholds: Thresholds | None = None,
    judged: Sequence[str] = (),
    beyond: Sequence[str] = (),
) -> list[str]:
    """Passages of the top k that the re-ranker is sure do not answer (RocketQA, section 3.3.2).

    Before them come those that a person has judged not to answer.

    With a higher threshold more passages may be drawn, and one that was drawn before is drawn again unless another
    takes its place.

    Args:
        ranked: The candidates, best first.
        probabilities: The re-ranker's, by passage; a passage that has none is no denoised negative.
        known: The query's known positives, never drawn.
        count: How many; none where it is not positive.
        k: How many of the candidates count.
        seed: The same one draws the same passages.
        thresholds: See `Thresholds`.
        judged: Passages that a person has judged not to answer the query: surer than any score and drawn first, in the
            top k or not.
        beyond: Where too few are left, the rest are drawn from these less the top k: the whole corpus, for RocketQA's
            random negatives from beyond rank k.
    """
    thresholds = thresholds or Thresholds()
    top = list(dict.fromkeys(ranked[:k]))
    # All are put in order, then filtered: the order of two passages does not depend on the threshold.
    generator = np.random.default_rng(seed)
    order = _drawn(_without(top, known), len(top), generator)
    wrong = _drawn(_without(judged, known), len(judged), generator)
    sure = [id for id in order if probabilities.get(id, 1.0) < thresholds.negative_below]
    chosen = list(dict.fromkeys([*wrong, *sure]))[: max(0, count)]
    return chosen + random_negatives(beyond, {*top, *known, *wrong}, count - len(chosen), seed)


def denoised_positives(
    ranked: Sequence[str],
    probabilities: Mapping[str, float],
    k: int,
    *,
    thresholds: Thresholds | None = None,
) -> list[str]:
    """Passages of the top k that the re-ranker is sure do answer, the surest first (RocketQA, section 3.3.3)."""
    thresholds = thresholds or Thresholds()
    found = [id for id in dict.fromkeys(ranked[:k]) if probabilities.get(id, 0.0) > thresholds.positive_above]
    return sorted(found, key=probabilities.__getitem__, reverse=True)


def candidate_list(
    group: TrainingGroup, length: int, generator: np.random.Generator, *, known: Container[Passage] = frozenset()
) -> list[Passage]:
    """A positive of the group, first, and negatives of it: a list of RocketQAv2.

    Args:
        group: The query with its positives and its pool of negatives.
        length: Passages of the list; fewer where the pool has not as many negatives.
        generator: What is drawn depends on it alone.
        known: Passages that answer the query by other groups.
    """
    negatives = sample_negatives(group, length - 1, generator, known=known)
    return [sample_positive(group, generator), *negatives]


def hybrid_lists(
    undenoised: Sequence[TrainingGroup], denoised: Sequence[TrainingGroup], length: int, seed: int, epoch: int
) -> list[tuple[str, list[Passage]]]:
    """The lists of one epoch, of both kinds together, in the order of training (RocketQAv2, section 3.3).

    They are what `JointTrainer` trains on with these pools and this seed: drawn anew in every epoch.

    Args:
        undenoised: Groups whose negatives are a retriever's top k.
        denoised: Groups whose negatives a re-ranker has denoised; empty for lists of one kind.
        length: Passages of a list, its positive among them.
        seed: The run's.
        epoch: The epoch's number.

    Returns:
        The query and the passages of each list, the positive first.
    """
    groups = [*undenoised, *denoised]
    known = known_positives(groups)

    def example(position: int, generator: np.random.Generator) -> tuple[str, list[Passage]]:
        group = groups[position]
        return group.query, candidate_list(group, length, generator, known=known[group.query])

    return [one for batch in EpochBatches(len(groups), len(groups) or 1, seed, epoch, example) for one in batch]


def _without(ids: Iterable[str], known: Collection[str]) -> list[str]:
    return [id for id in dict.fromkeys(ids) if id not in known]


def _drawn(ids: Sequence[str], count: int, generator: np.random.Generator) -> list[str]:
    return [ids[int(place)] for place in generator.permutation(len(ids))[: max(0, count)]]
