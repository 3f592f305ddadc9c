"""The FAISS index, derived from the database."""

from pathlib import Path
from typing import Any

import numpy as np
from haystack import logging
from tqdm.auto import tqdm

from rocketqa_haystack.document_stores.faiss.database import Database, State
from rocketqa_haystack.document_stores.faiss.filters import Condition
from rocketqa_haystack.document_stores.faiss.gpu import GPU
from rocketqa_haystack.document_stores.faiss.index_types import (
    ENOUGH_POINTS,
    EVERY_LIST,
    EXACT,
    TRAINING_POINTS,
    Similarity,
    centroids,
    import_faiss,
    is_exact,
    make_index,
    search_parameters,
    supports_selectors,
    with_whole_vectors,
)
from rocketqa_haystack.document_stores.faiss.snapshot import Tag, in_own_memory, read_snapshot, write_snapshot
from rocketqa_haystack.document_stores.faiss.vectors import normalized

# What so many filters selected is remembered, a bit for each vector.
FILTERS = 64
# From so many vectors on, building an index takes long enough for a progress bar.
MANY = 100_000

#: A document's number and its score.
Hit = tuple[int, float]

logger = logging.getLogger(__name__)


class VectorIndex:
    """
    The vectors of a database, searchable.

    `refresh` needs it alone; searches may run side by side between two of them.

    :param similarity: `inner_product`, or `cosine`: the inner product of vectors scaled to length 1, or `l2`.
    :param factory: FAISS's name of the index type; None for what the database says.
    :param folder: Where the snapshot is; None for an index without one.
    :param is_new: Whether there was nothing to make a snapshot of yet.
    :param gpu: Whether to search on a GPU: without filters, and as long as no vector was removed.
    :raises ImportError: If FAISS is not installed, or not for GPUs.
    """

    def __init__(
        self,
        similarity: Similarity,
        factory: str | None,
        folder: Path | None = None,
        *,
        is_new: bool = True,
        gpu: bool = False,
    ) -> None:
        self._faiss = import_faiss()
        self._similarity = similarity
        self._factory = factory
        self._folder = folder
        self._is_new = is_new
        self._gpu = GPU() if gpu else None
        self._wanted: str | None = None  # the index type followed
        self._clear()
        #: Whether the snapshot holds all that the index does.
        self.is_saved = True
        #: The generation of the database that the snapshot is of.
        self.saved_generation = 0

    def _clear(self) -> None:
        self._index: Any = None  # an IndexIDMap, or None as long as there is no vector
        self._inner: Any = None  # what it maps: positions in it are 0, 1, 2 and so on
        self._searched: Any = None  # the same, or its copy on a GPU
        self._type = EXACT  # of the index: one that has to be trained is exact before
        self._selects = True
        self._whole: Any = None  # the part of it that can compare a query with whole vectors
        self._last_chosen: tuple[dict[str, Any], Any] = ({}, None)
        self._selections: dict[bytes, np.ndarray] = {}  # bits, by the key of the condition
        # By position, in FAISS's memory. They rise; that of a removed vector is negated and the vector never found,
        # because few index types can let go of one.
        self._numbers = np.empty(0, dtype=np.int64)
        self._live = np.empty(0, dtype=bool)
        self._count = self._removed = 0  # of live and of removed vectors
        self._generation: int | None = None  # of the database, as far as followed
        self._is_mapped = False  # and must not be changed
        self.is_saved = False

    def follows(self, state: State) -> bool:
        """
        Whether the index holds what the database does in this state.
        """
        return self._generation == state.generation and self._wanted == (self._factory or state.factory)

    def refresh(self, database: Database, state: State, *, anew: bool = False) -> None:
        """
        Follow the database to `state`, in which it is: build, or replay what changed since the last time.

        :param anew: Whether to build even where there is a snapshot.
        :raises ValueError: If FAISS cannot make an index of this type for the vectors' dimension.
        :raises DocumentStoreError: If the database is damaged.
        """
        wanted = self._factory or state.factory
        self._selections = {}
        if self._generation is None or self._generation < state.history or self._wanted != wanted:
            self._clear()
            if not anew:
                self._restore(database, state, wanted)
        self._wanted = wanted
        if self._index is not None and self._generation is not None:
            removed = database.removed_after(self._generation)
            if self._is_mapped and (len(removed) or self._count != state.vectors):
                self._hold(in_own_memory(self._index), self._type)
                self._is_mapped = False
            self._remove(removed)
        # Nothing is followed while the index is between two states.
        self._generation = None
        if state.dimension is None:
            self._clear()
        else:
            due = self._due_type(wanted, state.dimension, state.vectors)
            if self._index is None or self._type not in (wanted, due) or self._removed > state.vectors:
                self._start(due, state.dimension, database)
            if self._count != state.vectors:
                self._add_new(database, state.vectors - self._count)
            if self._count != state.vectors:
                count = self._count
                self._clear()
                raise database.damage(f"it has {count} vectors, but should have {state.vectors}")
            self._searched = self._inner  # the copy of before goes first: a GPU might not hold two
            if self._gpu is not None:
                self._searched = self._gpu.copy(self._inner)
        self._generation = state.generation

    def search(
        self,
        database: Database,
        queries: np.ndarray,
        top_k: int,
        condition: Condition | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> list[list[Hit]]:
        """
        Return the numbers and scores of the vectors most similar to each query, best first.

        Of equal scores the vector written first comes first. Those that match a condition are compared one and all,
        whatever the type of index.

        :param database: The database, in the state that the index follows.
        :param queries: Float32 vectors `[n, dim]`.
        :param top_k: How many at most, greater than 0.
        :param condition: What the documents found have to match; None for nothing.
        :param parameters: Search parameters by FAISS's names.
        :raises ValueError: If the queries have another dimension than the vectors.
        :raises FilterError: If the condition compares what cannot be compared.
        """
        selected = None if condition is None else self._selected(database, condition)
        if not self._count:
            return [[] for _ in queries]
        if queries.shape[1] != self._index.d:
            raise ValueError(
                f"The embedding of the query has {queries.shape[1]} dimensions, but the embeddings in this store have "
                f"{self._index.d}."
            )
        queries, parameters = self._comparable(queries), parameters or {}
        if selected is None:
            hits = self._search_all(queries, top_k, parameters)
            if self._are_enough(hits, top_k):
                return hits
            return self._search_one_by_one(database, queries, top_k, self._live)
        if self._whole is None:
            return self._search_one_by_one(database, queries, top_k, selected)
        chosen = search_parameters(self._whole, EVERY_LIST, selected)
        return self._hits(self._whole, self._numbers, queries, top_k, chosen, exact=True)

    def search_alone(self, query: np.ndarray, top_k: int, parameters: dict[str, Any]) -> tuple[int, list[Hit]]:
        """
        Return the generation that the index follows, and in it what `search` finds for one query `[1, dim]`.

        Nothing where the database is needed, or where a query does not fit the index, which may be out of date.
        """
        if not self._count or self._generation is None or query.shape[1] != self._index.d:
            return 0, []
        hits = self._search_all(self._comparable(query), top_k, parameters)
        return self._generation, hits[0] if self._are_enough(hits, top_k) else []

    def save(self, database: Database, state: State) -> None:
        """
        Write the snapshot if it is not what the index holds, which follows `state`.

        :raises OSError: If it cannot be written; the snapshot of before then stays.
        """
        if self._folder is None or self._index is None or self.is_saved:
            return
        write_snapshot(
            self._folder,
            self._index,
            store=state.store,
            session=database.session(state.generation),
            generation=state.generation,
            similarity=self._similarity,
            factory=self._type,
        )
        self.is_saved, self.saved_generation = True, state.generation

    def _due_type(self, wanted: str, dimension: int, count: int) -> str:
        return wanted if count >= ENOUGH_POINTS * centroids(wanted, dimension, self._similarity) else EXACT

    def _restore(self, database: Database, state: State, wanted: str) -> None:
        if self._folder is None or not state.vectors:
            return

        def check(tag: Tag) -> None:
            if tag.store != state.store:
                raise ValueError("its snapshot belongs to another store.")
            due = self._due_type(wanted, tag.dimension, state.vectors)
            expected = (state.dimension, self._similarity, wanted if tag.factory == wanted else due)
            if (tag.dimension, tag.similarity, tag.factory) != expected:
                raise ValueError(f"its snapshot is {tag.factory} for {tag.similarity} of {tag.dimension} dimensions.")
            known = tag.session == database.session(tag.generation)
            if not known or not state.history <= tag.generation <= state.generation:
                raise ValueError(
                    f"its snapshot holds generation {tag.generation}, which cannot be brought to {state.generation}."
                )

        try:
            snapshot = read_snapshot(self._folder, check)
            if snapshot is None:
                raise ValueError("there is no snapshot.")
        except ValueError as error:
            log = logger.info if self._is_new else logger.warning
            log(
                "Building the FAISS index of {folder} anew from the database: {error}",
                folder=str(self._folder),
                error=str(error),
            )
            return
        self._hold(snapshot.index, snapshot.tag.factory)
        self._generation = self.saved_generation = snapshot.tag.generation
        self._is_mapped, self.is_saved = snapshot.is_mapped, True

    def _hold(self, index: Any, factory: str) -> None:
        self._index, self._inner, self._type = index, self._faiss.downcast_index(index.index), factory
        self._selects = supports_selectors(self._inner)
        self._whole = with_whole_vectors(self._inner)
        self._count_numbers()

    def _count_numbers(self) -> None:
        numbers = self._index.id_map
        if numbers.size():
            self._numbers = self._faiss.rev_swig_ptr(numbers.data(), numbers.size())
        self._live = self._numbers > 0
        self._count = int(np.count_nonzero(self._live))
        self._removed = len(self._live) - self._count
        self._last_chosen = ({}, None)  # search parameters depend on how many vectors there are

    def _start(self, factory: str, dimension: int, database: Database) -> None:
        """Begin an index without vectors, trained if it has to be."""
        self._clear()
        index = make_index(factory, dimension, self._similarity)
        if not index.is_trained:
            sample = database.sample_vectors(TRAINING_POINTS * centroids(factory, dimension, self._similarity))
            index.train(self._comparable(sample))
        self._hold(self._faiss.IndexIDMap(index), factory)

    def _add_new(self, database: Database, missing: int) -> None:
        last = abs(int(self._numbers[-1])) if len(self._numbers) else 0
        is_long = True if missing < MANY else None  # tqdm then looks whether there is a terminal
        with tqdm(total=missing, desc=f"Building {self._type}", unit="vector", disable=is_long) as progress:
            for numbers, vectors in database.vectors_after(last):
                self._index.add_with_ids(self._comparable(vectors), numbers)
                progress.update(len(numbers))
                self.is_saved = False
        self._count_numbers()

    def _remove(self, removed: np.ndarray) -> None:
        positions = np.flatnonzero(self._positions_of(removed))
        if len(positions):
            self._numbers[positions] *= -1
            self._count_numbers()
            self.is_saved = False

    def _selected(self, database: Database, condition: Condition) -> np.ndarray:
        """Which positions match, bool `[n]`: asking the database takes longer than most searches."""
        kept = self._selections  # never changed, only replaced: other threads may do that at any time
        if condition.key in kept:
            return np.unpackbits(kept[condition.key], count=len(self._live)).view(bool)
        selected = self._positions_of(database.numbers(condition))
        if condition.key is not None:
            latest = list(kept.items())[1 - FILTERS :]
            self._selections = {**dict(latest), condition.key: np.packbits(selected)}
        return selected

    def _positions_of(self, numbers: np.ndarray) -> np.ndarray:
        """Which positions have these numbers and are live, bool `[n]`."""
        own, selected = np.abs(self._numbers), np.zeros(len(self._live), dtype=bool)
        positions = np.searchsorted(own, numbers)
        inside = positions < len(own)
        positions, numbers = positions[inside], numbers[inside]
        selected[positions[own[positions] == numbers]] = True
        return selected & self._live

    def _search_all(self, queries: np.ndarray, top_k: int, parameters: dict[str, Any]) -> list[list[Hit]]:
        index = self._inner if self._removed else self._searched
        exact = is_exact(self._inner)
        if self._removed and self._selects:
            chosen = search_parameters(index, parameters, self._live)
            return self._hits(index, self._numbers, queries, top_k, chosen, exact=exact)
        chosen = self._chosen(parameters)
        if not self._removed:
            return self._hits(index, self._numbers, queries, top_k, chosen, exact=exact)
        found = self._hits(index, self._numbers, queries, top_k + self._removed, chosen, exact=exact)
        return [[hit for hit in hits if hit[0] > 0][:top_k] for hits in found]

    def _are_enough(self, hits: list[list[Hit]], top_k: int) -> bool:
        """Around removed vectors an approximate index may see nothing else."""
        return not self._removed or all(len(each) >= min(top_k, self._count) for each in hits)

    def _chosen(self, parameters: dict[str, Any]) -> Any:
        """FAISS's search parameters without a selection, which are made once for many queries."""
        last = self._last_chosen  # once: another thread may put its own there
        if parameters != last[0]:
            last = self._last_chosen = (parameters, search_parameters(self._inner, parameters, None))
        return last[1]

    def _search_one_by_one(
        self, database: Database, queries: np.ndarray, top_k: int, selected: np.ndarray
    ) -> list[list[Hit]]:
        """Compare the queries with the selected vectors as the database has them."""
        best: list[list[Hit]] = [[] for _ in queries]
        for numbers, vectors in database.vectors_of(self._numbers[selected]):
            exact = make_index(EXACT, vectors.shape[1], self._similarity)
            exact.add(self._comparable(vectors))
            found = self._hits(exact, numbers, queries, top_k, None, exact=True)
            best = [_best(old + new, top_k) for old, new in zip(best, found, strict=True)]
        return best

    def _hits(
        self, index: Any, numbers: np.ndarray, queries: np.ndarray, top_k: int, parameters: Any, *, exact: bool
    ) -> list[list[Hit]]:
        if exact and self._similarity == "l2" and parameters is None:
            # For many queries FAISS multiplies matrices, |q|² - 2qv + |v|², in which the distances of vectors that are
            # close to each other are lost; not if there is a selection, even of all.
            parameters = self._faiss.SearchParameters(sel=self._faiss.IDSelectorAll())
        # An exact search keeps any of the vectors that share the last score, so search on until none of them is left
        # out. What is not there to be found has the position -1.
        count = index.ntotal
        wanted = min(top_k + exact, count)
        scores, positions = self._scored(index.search(queries, wanted, params=parameters))
        hits = _pairs(scores, positions, numbers, top_k)
        unsure = np.arange(len(queries))
        while exact and wanted < count:
            ties = (positions[:, -1] >= 0) & (scores[:, -1] == scores[:, top_k - 1])
            if not ties.any():
                break
            unsure, wanted = unsure[ties], min(2 * wanted, count)
            scores, positions = self._scored(index.search(queries[unsure], wanted, params=parameters))
            for query, pairs in zip(unsure, _pairs(scores, positions, numbers, top_k), strict=True):
                hits[query] = pairs
        return hits

    def _scored(self, found: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What FAISS found, with scores in place of squared distances: several of these may have one root."""
        distances, positions = found
        return distances if self._similarity != "l2" else -np.sqrt(np.maximum(distances, 0)), positions

    def _comparable(self, vectors: np.ndarray) -> np.ndarray:
        return normalized(vectors) if self._similarity == "cosine" else vectors


def _pairs(scores: np.ndarray, positions: np.ndarray, numbers: np.ndarray, top_k: int) -> list[list[Hit]]:
    results = []
    for places, own, values in zip(positions.tolist(), numbers[positions].tolist(), scores.tolist(), strict=True):
        hits = list(zip(own, values, strict=True))
        if -1 in places:  # it took the last number
            hits = [hit for hit, place in zip(hits, places, strict=True) if place >= 0]
        # FAISS gives the best first, but equal ones in any order.
        results.append(hits[:top_k] if len(set(values)) == len(values) else _best(hits, top_k))
    return results


def _best(hits: list[Hit], top_k: int) -> list[Hit]:
    return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:top_k]
