"""The Haystack document store on SQLite and FAISS."""

import asyncio
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any

import numpy as np
from haystack import Document, default_from_dict, default_to_dict
from haystack.document_stores.errors import DocumentStoreError
from haystack.document_stores.types import DuplicatePolicy

from rocketqa_haystack.document_stores.faiss.database import Database
from rocketqa_haystack.document_stores.faiss.filters import Condition
from rocketqa_haystack.document_stores.faiss.index import Similarity, VectorIndex
from rocketqa_haystack.document_stores.faiss.vectors import as_vector

DATABASE_FILE = "documents.sqlite"

# What InMemoryDocumentStore divides an inner product by before it squashes it.
_SCORE_SCALE = 100


class FAISSDocumentStore:
    """
    Keeps documents in SQLite and finds the most similar ones with FAISS, in memory or in a folder.

    SQLite is the truth: what a method has written is on the disk when it returns, the whole of it or nothing. The FAISS
    index is derived from it: brought up to date before every search, with what other processes wrote too, and saved
    beside it when the store is closed, so that the next opening need not build it. A folder is for one writer at a time
    (another one waits) and any number of readers. An instance may be used by several threads.

    The search is exact. Filters are applied before it, not after: a filtered search returns the true top k of the
    documents that match. Documents without an embedding are kept and filtered like all others, but not searched.

    Metadata must be JSON (None, booleans, finite numbers, strings, and lists and dictionaries of these): anything that
    would come back different is refused. Embeddings are kept as float32. The folder is opened at first use and opened
    again when used after `close`; a store in memory is empty then.

    ### Usage example
    ```python
    from haystack import Document
    from rocketqa_haystack import FAISSDocumentStore

    with FAISSDocumentStore(path="hotel") as store:
        store.delete_all_documents()
        store.write_documents(
            [
                Document(content="The pool opens at seven.", embedding=[0.9, 0.1], meta={"floor": 0}),
                Document(content="Breakfast is served until ten.", embedding=[0.2, 0.8], meta={"floor": 1}),
            ]
        )
        ground_floor = {"field": "meta.floor", "operator": "==", "value": 0}
        for document in store.embedding_retrieval([0.0, 1.0], filters=ground_floor):
            print(document.content, document.score)
    # The pool opens at seven. 0.10000000149011612
    ```
    """

    def __init__(self, *, path: str | Path | None = None, similarity: Similarity = "inner_product") -> None:
        """
        Create the store; nothing is read or written before its first use.

        :param path: The folder, made where there is none; None keeps everything in memory.
        :param similarity: How embeddings are compared: by `inner_product`, or by `cosine`, the inner product of
            embeddings scaled to length 1. It can be another one each time a folder is opened.
        :raises ValueError: If `path` is a file or `similarity` is something else.
        """
        if similarity not in ("inner_product", "cosine"):
            raise ValueError(f"similarity must be 'inner_product' or 'cosine', but got {similarity!r}")
        if path is not None and Path(path).is_file():
            raise ValueError(f"path must be a folder, but {str(path)!r} is a file")
        self.path = None if path is None else str(path)
        self.similarity = similarity
        self._lock = RLock()
        self._opened: tuple[Database, VectorIndex] | None = None
        self._has_written = False

    def __enter__(self) -> "FAISSDocumentStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def to_dict(self) -> dict[str, Any]:
        """
        Serializes the store's settings, not its documents, to a dictionary.

        :returns: The dictionary.
        """
        return default_to_dict(self, path=self.path, similarity=self.similarity)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "FAISSDocumentStore":
        """
        Deserializes the store from a dictionary.

        :param data: The dictionary of `to_dict`.
        :returns: The store.
        """
        return default_from_dict(cls, data)

    def close(self) -> None:
        """
        Save the FAISS index if it changed and let go of the folder.

        :raises DocumentStoreError: If the index cannot be saved; the folder is let go of all the same, and the next
            opening builds the index.
        """
        with self._lock:
            if self._opened is None:
                return
            database, index = self._opened
            try:
                if self._has_written or not index.is_saved:
                    self.save_index()
            finally:
                database.close()
                self._opened, self._has_written = None, False

    def save_index(self) -> None:
        """
        Save the FAISS index if it changed, so that the next opening of the folder need not build it.

        It is saved whole or not at all, and no document depends on it. A store in memory has nothing to save.

        :raises DocumentStoreError: If it cannot be written.
        """
        if self.path is None:
            return
        with self._transaction(write=True) as (database, index):
            index.refresh(database)
            try:
                index.save(database)
            except OSError as error:
                raise DocumentStoreError(f"The FAISS index of {self.path} cannot be saved: {error}") from error
            if database.has_long_history():
                database.forget_removed()

    def count_documents(self) -> int:
        """
        Count the documents.

        :returns: Their number.
        """
        with self._transaction() as (database, _):
            return database.count()

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """
        Return the documents that match, with their embeddings, in the order of writing.

        :param filters: Filters, see https://docs.haystack.deepset.ai/docs/metadata-filtering; None or `{}` for all
            documents.
        :returns: The documents.
        :raises FilterError: If the filters are malformed, or compare what cannot be compared.
        """
        condition = _condition(filters)
        with self._transaction() as (database, _):
            return database.documents(condition)

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """
        Write documents, all of them or, if an error is raised, none.

        :param documents: The documents. Their embeddings, where they have one, must have the same dimension as those in
            the store.
        :param policy: What to do about an id that is there already or comes twice: `FAIL` (as does `NONE`) raises,
            `SKIP` keeps the old document, `OVERWRITE` writes the new one in its stead, at the end of the order.
        :returns: How many documents were written.
        :raises ValueError: If `documents` is no list of Documents, an embedding has another dimension or holds NaN or
            infinity, or a document would come back different (see the class).
        :raises DuplicateDocumentError: If the policy is `FAIL` or `NONE` and an id is there already.
        """
        _check_documents(documents)
        return self._write(((document, document.embedding) for document in documents), policy)

    def write_vectors(
        self, documents: list[Document], vectors: np.ndarray, policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """
        Write documents with embeddings given as one array, which saves turning it into lists of floats.

        :param documents: The documents; their own embeddings are ignored.
        :param vectors: Their embeddings, `[n, dim]`, float32 or what converts to it.
        :param policy: As in `write_documents`.
        :returns: How many documents were written.
        :raises ValueError: As in `write_documents`, and if there is not one vector for each document.
        :raises DuplicateDocumentError: If the policy is `FAIL` or `NONE` and an id is there already.
        """
        _check_documents(documents)
        if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or len(vectors) != len(documents):
            shape = vectors.shape if isinstance(vectors, np.ndarray) else type(vectors).__name__
            raise ValueError(f"vectors must be an array of shape [{len(documents)}, dim], but got {shape}.")
        return self._write(zip(documents, vectors, strict=True), policy)

    def delete_documents(self, document_ids: list[str]) -> None:
        """
        Delete documents.

        :param document_ids: Their ids; those that are not there are passed over.
        """
        with self._transaction(write=True) as (database, _):
            database.delete(document_ids)

    def delete_all_documents(self, recreate_index: bool = False) -> None:
        """
        Delete every document.

        :param recreate_index: Whether to forget the dimension of the embeddings too, so that new ones may have another.
        """
        with self._transaction(write=True) as (database, _):
            database.delete_all(forget_dimension=recreate_index)

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """
        Delete the documents that match.

        :param filters: Filters, as in `filter_documents`, but not empty.
        :returns: How many documents were deleted.
        :raises FilterError: If the filters are malformed, or compare what cannot be compared.
        """
        condition = Condition(filters)
        with self._transaction(write=True) as (database, _):
            return database.delete_matching(condition)

    def update_by_filter(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """
        Change the metadata of the documents that match.

        :param filters: Filters, as in `filter_documents`, but not empty.
        :param meta: Keys and values to set; other keys stay as they are.
        :returns: How many documents were changed.
        :raises FilterError: If the filters are malformed, or compare what cannot be compared.
        :raises ValueError: If `meta` holds what metadata cannot hold (see the class).
        """
        condition = Condition(filters)
        with self._transaction(write=True) as (database, _):
            return database.update_meta(condition, meta)

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """
        Count the documents that match.

        :param filters: Filters, as in `filter_documents`.
        :returns: Their number.
        :raises FilterError: If the filters are malformed, or compare what cannot be compared.
        """
        condition = _condition(filters)
        with self._transaction() as (database, _):
            return database.count(condition)

    def count_unique_metadata_by_filter(self, filters: dict[str, Any], metadata_fields: list[str]) -> dict[str, int]:
        """
        Count the different values of metadata fields in the documents that match.

        :param filters: Filters, as in `filter_documents`.
        :param metadata_fields: Keys of the metadata, with or without `meta.` before them.
        :returns: For each key, without `meta.`, the number of its values. None is no value; 1, 1.0, "1" and True are
            four.
        :raises FilterError: If the filters are malformed, or compare what cannot be compared.
        """
        metas = self._metas(filters)
        keys = [field.removeprefix("meta.") for field in metadata_fields]
        return {key: len(_unique_values(metas, key)) for key in keys}

    def get_metadata_fields_info(self) -> dict[str, dict[str, str]]:
        """
        Return the metadata fields there are and their types.

        :returns: For each key `{"type": ...}`: `boolean`, `int`, `float` (integers among them or not), or `keyword` for
            everything else. A key whose value is None everywhere is left out.
        """
        types: dict[str, set[type]] = {}
        for meta in self._metas():
            for key, value in meta.items():
                if value is not None:
                    types.setdefault(key, set()).add(type(value))
        return {key: {"type": _type_name(found)} for key, found in types.items()}

    def get_metadata_field_min_max(self, metadata_field: str) -> dict[str, Any]:
        """
        Return the smallest and the largest value of a metadata field.

        :param metadata_field: A key of the metadata, with or without `meta.` before it.
        :returns: `{"min": ..., "max": ...}` of its numbers or strings; both None if there are none, or some of each.
        """
        key = metadata_field.removeprefix("meta.")
        values = [meta[key] for meta in self._metas() if isinstance(meta.get(key), int | float | str)]
        if not values or len({isinstance(value, str) for value in values}) == 2:
            return {"min": None, "max": None}
        return {"min": min(values), "max": max(values)}

    def get_metadata_field_unique_values(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """
        Return a page of the different values of a metadata field, in alphabetical order.

        :param metadata_field: A key of the metadata, with or without `meta.` before it.
        :param search_term: Only values whose text contains this, upper or lower case.
        :param from_: How many values to leave out before the page.
        :param size: How many values the page has at most.
        :param filters: Only values of documents that match, as in `filter_documents`.
        :returns: The page, and how many values there are in all. None is no value; 1, 1.0, "1" and True are four.
        :raises FilterError: If the filters are malformed, or compare what cannot be compared.
        """
        values = _unique_values(self._metas(filters), metadata_field.removeprefix("meta."))
        if search_term:
            values = [value for value in values if search_term.lower() in str(value).lower()]
        values.sort(key=lambda value: (str(value), type(value).__name__))
        return values[from_ : from_ + size], len(values)

    def embedding_retrieval(
        self,
        query_embedding: Sequence[float] | np.ndarray,
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool = False,
    ) -> list[Document]:
        """
        Return the documents whose embeddings are most similar to a query's.

        :param query_embedding: The query's embedding, of as many dimensions as the documents'.
        :param filters: Search only documents that match, as in `filter_documents`.
        :param top_k: How many documents to return at most; greater than 0.
        :param scale_score: Whether to bring the scores between 0 and 1, as InMemoryDocumentStore does: the logistic
            function of a hundredth of the inner product, or (cosine + 1) / 2.
        :param return_embedding: Whether documents come back with their embeddings.
        :returns: The documents with their scores, best first; of equal scores, the one written first comes first.
        :raises ValueError: If `top_k` is not greater than 0, or the query's embedding has another dimension than the
            documents' or holds NaN or infinity.
        :raises FilterError: If the filters are malformed, or compare what cannot be compared.
        :raises DocumentStoreError: If there are documents, but none with an embedding.
        """
        if top_k <= 0:
            raise ValueError(f"top_k must be greater than 0, but got {top_k}")
        query, condition = as_vector(query_embedding, "the query"), _condition(filters)
        with self._transaction() as (database, index):
            index.refresh(database)
            if not len(index) and database.count():
                raise DocumentStoreError(
                    f"There are {database.count()} documents, but no document has an embedding: embed them with a "
                    "DocumentEmbedder before writing them."
                )
            among = None if condition is None else database.numbers(condition)
            return [
                replace(
                    database.numbered_document(number, with_vector=return_embedding),
                    score=self._scaled(score) if scale_score else score,
                )
                for number, score in index.search(query, top_k, among)
            ]

    async def count_documents_async(self) -> int:
        """
        `count_documents` without blocking the event loop.
        """
        return await asyncio.to_thread(self.count_documents)

    async def filter_documents_async(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """
        `filter_documents` without blocking the event loop.
        """
        return await asyncio.to_thread(self.filter_documents, filters)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """
        `write_documents` without blocking the event loop.
        """
        return await asyncio.to_thread(self.write_documents, documents, policy)

    async def write_vectors_async(
        self, documents: list[Document], vectors: np.ndarray, policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """
        `write_vectors` without blocking the event loop.
        """
        return await asyncio.to_thread(self.write_vectors, documents, vectors, policy)

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """
        `delete_documents` without blocking the event loop.
        """
        await asyncio.to_thread(self.delete_documents, document_ids)

    async def delete_all_documents_async(self, recreate_index: bool = False) -> None:
        """
        `delete_all_documents` without blocking the event loop.
        """
        await asyncio.to_thread(self.delete_all_documents, recreate_index)

    async def delete_by_filter_async(self, filters: dict[str, Any]) -> int:
        """
        `delete_by_filter` without blocking the event loop.
        """
        return await asyncio.to_thread(self.delete_by_filter, filters)

    async def update_by_filter_async(self, filters: dict[str, Any], meta: dict[str, Any]) -> int:
        """
        `update_by_filter` without blocking the event loop.
        """
        return await asyncio.to_thread(self.update_by_filter, filters, meta)

    async def count_documents_by_filter_async(self, filters: dict[str, Any]) -> int:
        """
        `count_documents_by_filter` without blocking the event loop.
        """
        return await asyncio.to_thread(self.count_documents_by_filter, filters)

    async def count_unique_metadata_by_filter_async(
        self, filters: dict[str, Any], metadata_fields: list[str]
    ) -> dict[str, int]:
        """
        `count_unique_metadata_by_filter` without blocking the event loop.
        """
        return await asyncio.to_thread(self.count_unique_metadata_by_filter, filters, metadata_fields)

    async def get_metadata_fields_info_async(self) -> dict[str, dict[str, str]]:
        """
        `get_metadata_fields_info` without blocking the event loop.
        """
        return await asyncio.to_thread(self.get_metadata_fields_info)

    async def get_metadata_field_min_max_async(self, metadata_field: str) -> dict[str, Any]:
        """
        `get_metadata_field_min_max` without blocking the event loop.
        """
        return await asyncio.to_thread(self.get_metadata_field_min_max, metadata_field)

    async def get_metadata_field_unique_values_async(
        self,
        metadata_field: str,
        search_term: str | None = None,
        from_: int = 0,
        size: int = 10,
        filters: dict[str, Any] | None = None,
    ) -> tuple[list[Any], int]:
        """
        `get_metadata_field_unique_values` without blocking the event loop.
        """
        return await asyncio.to_thread(
            self.get_metadata_field_unique_values, metadata_field, search_term, from_, size, filters
        )

    async def embedding_retrieval_async(
        self,
        query_embedding: Sequence[float] | np.ndarray,
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool = False,
    ) -> list[Document]:
        """
        `embedding_retrieval` without blocking the event loop.
        """
        return await asyncio.to_thread(
            self.embedding_retrieval,
            query_embedding,
            filters=filters,
            top_k=top_k,
            scale_score=scale_score,
            return_embedding=return_embedding,
        )

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[tuple[Database, VectorIndex]]:
        # One thread at a time has the connection and the index, and sees one committed state of both throughout.
        with self._lock:
            if self._opened is None:
                self._opened = self._open()
            self._has_written |= write
            with self._opened[0].transaction(write=write):
                yield self._opened

    def _open(self) -> tuple[Database, VectorIndex]:
        if self.path is None:
            return Database(None), VectorIndex(self.similarity, None)
        folder = Path(self.path)
        index = VectorIndex(self.similarity, folder)
        folder.mkdir(parents=True, exist_ok=True)
        return Database(folder / DATABASE_FILE), index

    def _write(
        self, pairs: Iterable[tuple[Document, Sequence[float] | np.ndarray | None]], policy: DuplicatePolicy
    ) -> int:
        checked = (
            (document, None if vector is None else as_vector(vector, f"document {document.id!r}"))
            for document, vector in pairs
        )
        with self._transaction(write=True) as (database, _):
            return database.write(checked, policy)

    def _metas(self, filters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        condition = _condition(filters)
        with self._transaction() as (database, _):
            texts = database.metas(condition)
        return [json.loads(text) for text in texts]

    def _scaled(self, score: float) -> float:
        if self.similarity == "cosine":
            return (score + 1) / 2
        return (1 + math.tanh(score / _SCORE_SCALE / 2)) / 2  # the logistic function, without its overflow


def _condition(filters: dict[str, Any] | None) -> Condition | None:
    return Condition(filters) if filters else None


def _check_documents(documents: list[Document]) -> None:
    if not isinstance(documents, list):
        raise ValueError(f"documents must be a list of Documents, but got {type(documents).__name__}.")
    for document in documents:
        if not isinstance(document, Document):
            raise ValueError(f"documents must be a list of Documents, but it holds {document!r:.80}.")


def _unique_values(metas: list[dict[str, Any]], key: str) -> list[Any]:
    # As JSON, because 1, 1.0 and True are equal in Python and lists cannot be keys.
    values = {json.dumps(meta[key], sort_keys=True): meta[key] for meta in metas if meta.get(key) is not None}
    return list(values.values())


def _type_name(types: set[type]) -> str:
    if types == {bool}:
        return "boolean"
    if types == {int}:
        return "int"
    return "float" if types <= {int, float} else "keyword"
