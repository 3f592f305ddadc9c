"""
The FAISS index, derived from the database, and its snapshot on disk.

The snapshot is `index.faiss`, an ordinary FAISS file, and `index.json`, which says what the former holds. It only saves
time: whatever is wrong with it, the index is built anew from the database.
"""

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from haystack import logging

from rocketqa_haystack.document_stores.faiss.database import Database, State
from rocketqa_haystack.document_stores.faiss.vectors import normalized

Similarity = Literal["inner_product", "cosine"]

INDEX_FILE = "index.faiss"
TAG_FILE = "index.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tag:
    """
    What a snapshot holds.

    :param store: The identity of the store it was made from.
    :param generation: The generation of the database it holds.
    :param dimension: Numbers in a vector.
    :param similarity: How the vectors are compared.
    :param count: Vectors in it.
    :param checksum: CRC-32 of `index.faiss`.
    """

    store: str
    generation: int
    dimension: int
    similarity: Similarity
    count: int
    checksum: int


class VectorIndex:
    """
    The vectors of a database, searchable; one thread at a time may use it.

    :param similarity: `inner_product`, or `cosine`: the inner product of vectors scaled to length 1.
    :param folder: Where the snapshot is; None for an index without one.
    :raises ImportError: If FAISS is not installed.
    """

    def __init__(self, similarity: Similarity, folder: Path | None) -> None:
        self._faiss = _import_faiss()
        self._similarity = similarity
        self._folder = folder
        self._index: Any = None  # a FAISS index, or None as long as there is no vector
        self._generation: int | None = None  # of the database, as far as followed; None before the first look
        self._last_number = 0  # of the vectors added so far
        #: Whether the snapshot holds all that the index does.
        self.is_saved = True

    def __len__(self) -> int:
        return 0 if self._index is None else self._index.ntotal

    def refresh(self, database: Database) -> None:
        """
        Follow the database to where it stands: build, or replay what changed since the last time.
        """
        state = database.state()
        if self._generation == state.generation:
            return
        if self._generation is None:
            self._load(state)
        elif self._generation < state.history:
            self._clear()
        # In this order: a vector that came and went since is in neither.
        if len(self) and self._generation is not None:
            self._remove(database.removed_after(self._generation))
        for numbers, vectors in database.vectors_after(self._last_number):
            self._add(numbers, vectors)
        self._generation = state.generation

    def search(self, query: np.ndarray, top_k: int, among: np.ndarray | None = None) -> list[tuple[int, float]]:
        """
        Return the numbers and scores of the vectors most similar to `query`, best first.

        Of equal scores the vector written first comes first.

        :param query: A float32 vector `[dim]`.
        :param top_k: How many at most, greater than 0.
        :param among: The int64 numbers `[n]` to choose from; None for all. Numbers without a vector are passed over.
        :raises ValueError: If the query has another dimension than the vectors.
        """
        if not len(self):
            return []
        if len(query) != self._index.d:
            raise ValueError(
                f"The embedding of the query has {len(query)} dimensions, but the embeddings in this store have "
                f"{self._index.d}."
            )
        parameters = None
        if among is not None:
            parameters = self._faiss.SearchParameters(sel=self._faiss.IDSelectorBatch(among))
        # FAISS keeps any of the vectors that share the last score, so search on until none of them is left out. What
        # is not there to be found has the number -1.
        wanted = min(top_k + 1, len(self))
        while True:
            scores, numbers = self._index.search(self._comparable(query[np.newaxis]), wanted, params=parameters)
            if wanted == len(self) or numbers[0, -1] < 0 or scores[0, -1] < scores[0, top_k - 1]:
                break
            wanted = min(2 * wanted, len(self))
        found = [
            (int(number), float(score)) for number, score in zip(numbers[0], scores[0], strict=True) if number >= 0
        ]
        return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:top_k]

    def save(self, database: Database) -> None:
        """
        Write the snapshot if it is not what the index holds; inside a writing transaction, which keeps others out.

        :raises OSError: If it cannot be written; the snapshot of before then stays or counts as damaged.
        """
        if self._folder is None or self._index is None or self.is_saved:
            return
        state = database.state()
        new_index, new_tag = self._folder / f"{INDEX_FILE}.new", self._folder / f"{TAG_FILE}.new"
        try:
            try:
                self._faiss.write_index(self._index, str(new_index))
            except RuntimeError as error:
                raise OSError(f"{new_index} cannot be written: {error}") from error
            tag = Tag(state.store, state.generation, self._index.d, self._similarity, len(self), _checksum(new_index))
            new_tag.write_text(json.dumps(asdict(tag)) + "\n", encoding="utf-8")
            for new in (new_index, new_tag):
                _sync(new)
            # If the process ends between the two, the checksum tells.
            new_index.replace(self._folder / INDEX_FILE)
            new_tag.replace(self._folder / TAG_FILE)
        finally:
            new_index.unlink(missing_ok=True)
            new_tag.unlink(missing_ok=True)
        self.is_saved = True

    def _load(self, state: State) -> None:
        if self._folder is None or state.dimension is None:
            return
        if not (self._folder / TAG_FILE).exists():
            logger.info("Building the FAISS index of {folder}: there is no snapshot.", folder=str(self._folder))
            return
        try:
            tag = self._read_snapshot(self._folder, state)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            logger.warning(
                "Building the FAISS index of {folder} anew from the database: {error}",
                folder=str(self._folder),
                error=str(error),
            )
            self._clear()
            return
        self._generation = tag.generation

    def _read_snapshot(self, folder: Path, state: State) -> Tag:
        tag = Tag(**json.loads((folder / TAG_FILE).read_text(encoding="utf-8")))
        if tag.store != state.store:
            raise ValueError("its snapshot belongs to another store.")
        if (tag.dimension, tag.similarity) != (state.dimension, self._similarity):
            raise ValueError(f"its snapshot is for {tag.similarity} of {tag.dimension} dimensions.")
        if not state.history <= tag.generation <= state.generation:
            raise ValueError(
                f"its snapshot holds generation {tag.generation}, which cannot be brought to {state.generation}."
            )
        if _checksum(folder / INDEX_FILE) != tag.checksum:
            raise ValueError("its snapshot is damaged.")
        index = self._faiss.read_index(str(folder / INDEX_FILE))
        if (index.ntotal, index.d) != (tag.count, tag.dimension):
            raise ValueError("its snapshot does not hold what it says.")
        self._index = index
        self._last_number = int(self._faiss.vector_to_array(index.id_map).max(initial=0))
        return tag

    def _clear(self) -> None:
        self._index, self._last_number, self.is_saved = None, 0, False

    def _add(self, numbers: np.ndarray, vectors: np.ndarray) -> None:
        if self._index is None:
            self._index = self._faiss.IndexIDMap(self._faiss.IndexFlatIP(vectors.shape[1]))
        self._index.add_with_ids(self._comparable(vectors), numbers)
        self._last_number = int(numbers[-1])
        self.is_saved = False

    def _remove(self, numbers: np.ndarray) -> None:
        if len(numbers):
            self._index.remove_ids(numbers)
            self.is_saved = False

    def _comparable(self, vectors: np.ndarray) -> np.ndarray:
        return normalized(vectors) if self._similarity == "cosine" else vectors


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _import_faiss() -> Any:
    # Here and not at the top: importing rocketqa_haystack must neither need FAISS nor wait for it.
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "FAISSDocumentStore needs FAISS: install rocketqa-haystack[cpu], or rocketqa-haystack[gpu] for NVIDIA GPUs."
        ) from error
    return faiss
