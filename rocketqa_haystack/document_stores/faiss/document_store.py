"""The Haystack document store on SQLite and FAISS."""

import asyncio
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, get_args

import numpy as np
from haystack import Document, default_from_dict, default_to_dict
from haystack.document_stores.errors import DocumentStoreError
from haystack.document_stores.types import DuplicatePolicy

from rocketqa_haystack.document_stores.faiss.connections import Connections
from rocketqa_haystack.document_stores.faiss.database import Database, State
from rocketqa_haystack.document_stores.faiss.filters import Condition
from rocketqa_haystack.document_stores.faiss.index import Hit, VectorIndex
from rocketqa_haystack.document_stores.faiss.index_types import (
    EXACT,
    Similarity,
    check_search_parameters,
    import_faiss,
    make_index,
)
from rocketqa_haystack.document_stores.faiss.read_write_lock import ReadWriteLock
from rocketqa_haystack.document_stores.faiss.vectors import as_vector
from rocketqa_haystack.top_k import check_top_k

DATABASE_FILE = "documents.sqlite"

#: Bytes of a database up to which it is verified when it is opened, which takes less than a second.
VERIFIED = 64 * 2**20

# What InMemoryDocumentStore divides an inner product by before it squashes it.
_SCORE_SCALE = 100


@dataclass
class _Opened:
    """What an open store works with; searches hold `lock` for reading, changes of `index` for writing."""

    connections: Connections
    index: VectorIndex
    lock: ReadWriteLock
    has_written: bool = False
    is_in_step: bool = False  # whether the index was at the last look; if not, the next search will hardly find it so


class FAISSDocumentStore:
    """
    Keeps documents in SQLite and finds the most similar ones with FAISS, in memory or in a folder.

    SQLite is the truth: what a method has written is on the disk when it returns, the whole of it or nothing. The FAISS
    index is derived from it: brought up to date before every search, with what other processes wrote too, and saved
    beside it when the store is closed, so that the next opening need not build it. A folder is for one writer at a time
    (another one waits) and any number of readers, in one process or several. Threads search side by side.

    The search is exact unless another type of index is chosen. Filters are applied before it, not after: a filtered
    search is exact, whatever the type of index. Documents without an embedding are kept and filtered like all others,
    but not searched.

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

    def __init__(
        self,
        *,
        path: str | Path | None = None,
        similarity: Similarity = "inner_product",
        index: str | None = None,
        search_parameters: dict[str, Any] | None = None,
        return_embedding: bool = False,
        gpu: bool = False,
    ) -> None:
        """
        Create the store; nothing is read or written before its first use.

        :param path: The folder, made where there is none; None keeps everything in memory.
        :param similarity: How embeddings are compared: by `inner_product`; by `cosine`, the inner product of
            embeddings scaled to length 1; or by `l2`, whose score is the Euclidean distance, negated so that more is
            better. It can be another one each time a folder is opened.
        :param index: The type of index, as a FAISS factory string: `Flat` (exact), `HNSW32`, `IVF1024,Flat`,
            `IVF4096,PQ48`, `SQfp16`, `OPQ16,IVF1024,PQ16` and so on, see
            https://github.com/facebookresearch/faiss/wiki/The-index-factory. One that has to be trained is trained on
            the stored embeddings as soon as there are 39 for each of its centroids; before that the search is exact.
            None takes the type that the folder's index was last saved as, and `Flat` for a new folder.
        :param search_parameters: How thoroughly an approximate index is searched, by FAISS's names: `nprobe` and
            `max_codes` (IVF), `efSearch` (HNSW), `quantizer_efSearch` (IVF..._HNSW...), `k_factor` (..., RFlat).
            FAISS's own defaults are quick and rough (`nprobe` 1, `efSearch` 16). Filtered searches need none.
        :param return_embedding: Whether documents come back with their embeddings where a method is not told.
        :param gpu: Whether to search on the first GPU; needs the extra `gpu`. Filtered searches, and all searches as
            long as the index holds deleted documents, stay on the CPU.
        :raises ValueError: If `path` is a file, or `similarity` or a search parameter is something else.
        """
        if similarity not in get_args(Similarity):
            raise ValueError(f"similarity must be one of {', '.join(get_args(Similarity))}, but got {similarity!r}")
        if path is not None and Path(path).is_file():
            raise ValueError(f"path must be a folder, but {str(path)!r} is a file")
        if index is not None and not (isinstance(index, str) and index):
            raise ValueError(f"index must be a FAISS factory string such as 'HNSW32', but got {index!r}")
        check_search_parameters(search_parameters or {})
        self.path = None if path is None else str(path)
        self.similarity = similarity
        self.index = index
        self.search_parameters = search_parameters
        self.return_embedding = return_embedding
        self.gpu = gpu
        self._opening = Lock()
        self._opened: _Opened | None = None

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
        return default_to_dict(
            self,
            path=self.path,
            similarity=self.similarity,
            index=self.index,
            search_parameters=self.search_parameters,
            return_embedding=self.return_embedding,
            gpu=self.gpu,
        )

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
        with self._opening:
            opened, self._opened = self._opened, None
        if opened is None:
            return
        try:
            if opened.has_written or not opened.index.is_saved:
                self._save(opened)
        finally:
            opened.connections.close()

    def save_index(self) -> None:
        """
        Save the FAISS index if it changed, so that the next opening of the folder need not build it.

        It is saved whole or not at all, and no document depends on it. Searches and writers go on meanwhile. A store in
        memory has nothing to save.

        :raises DocumentStoreError: If it cannot be written.
        """
        self._save(self._open())

    def verify(self) -> None:
        """
        Read all that is stored and compare it with its checksums.

        A folder with a database of up to 64 MiB is verified whenever it is opened; what comes out of a larger one is
        compared as it is read.

        :raises DocumentStoreError: If something is damaged.
        """
        with self._transaction() as database:
            database.verify()

    def state(self) -> tuple[str, int]:
        """
        Return the store's identity and a number that grows with whatever is written: equal as long as nothing changes.
        """
        with self._transaction() as database:
            state = database.state()
        return state.store, state.generation

    def rebuild(self, index: str | None = None) -> None:
        """
        Build the FAISS index anew, as another type if wanted, and save it.

        Searches and writers go on meanwhile; it takes the memory of both indexes. An index that is trained is trained
        on what the store holds now, which pays off when it has grown by much since. The folder remembers the type:
        other processes that were not given another one by `index` take it over at their next search.

        :param index: The new type, see the class; None for the one that it has.
        :raises ValueError: If FAISS cannot make such an index for the embeddings here.
        :raises DocumentStoreError: If it cannot be saved.
        """
        opened = self._open()
        with opened.connections.transaction() as database:
            state = database.state()
            state = replace(state, factory=index or self.index or state.factory)
            if state.dimension is not None:
                make_index(state.factory, state.dimension, self.similarity)
            rebuilt = self._new_index(self.index and state.factory)
            rebuilt.refresh(database, state, anew=True)
            # Saved first: other processes that take over the new type find it built.
            self._save_as(database, rebuilt, state)
        with opened.lock.writing(), opened.connections.transaction(write=True) as database:
            database.set_factory(state.factory)
            opened.index = rebuilt
            self.index = self.index and state.factory

    def count_documents(self) -> int:
        """
        Count the documents.

        :returns: Their number.
        """
        with self._transaction() as database:
            return database.state().documents

    def filter_documents(
        self, filters: dict[str, Any] | None = None, return_embedding: bool | None = None
    ) -> list[Document]:
        """
        Return the documents that match, in the order of writing.

        :param filters: Filters, see https://docs.haystack.deepset.ai/docs/metadata-filtering; None or `{}` for all
            documents.
        :param return_embedding: Whether they come with their embeddings; None for what the store was made with.
        :returns: The documents.
        :raises FilterError: If the filters are malformed, or compare what cannot be compared.
        """
        condition = _condition(filters)
        with self._transaction() as database:
            return database.documents(condition, with_vectors=self._returns_embedding(return_embedding))

    def get_documents_by_id(self, document_ids: list[str], return_embedding: bool | None = None) -> list[Document]:
        """
        Return the documents with these ids.

        :param document_ids: The ids; those that are not there are passed over.
        :param return_embedding: Whether they come with their embeddings; None for what the store was made with.
        :returns: The documents, in the order of the ids.
        """
        with self._transaction() as database:
            with_vectors = self._returns_embedding(return_embedding)
            return database.documents_with_ids(document_ids, with_vectors=with_vectors)

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
        :raises ValueError: If they are not a list of strings.
        """
        if not isinstance(document_ids, list | tuple) or not all(isinstance(id, str) for id in document_ids):
            raise ValueError(f"document_ids must be a list of strings, but got {document_ids!r:.80}.")
        with self._transaction(write=True) as database:
            database.delete(document_ids)

    def delete_all_documents(self, recreate_index: bool = False) -> None:
        """
        Delete every document.

        :param recreate_index: Whether to forget the dimension of the embeddings too, so that new ones may have another.
        """
        with self._transaction(write=True) as database:
            database.delete_all(forget_dimension=recreate_index)

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """
        Delete the documents that match.

        :param filters: Filters, as in `filter_documents`, but not empty.
        :returns: How many documents were deleted.
        :raises FilterError: If the filters are malformed, or compare what cannot be compared.
        """
        condition = Condition(filters)
        with self._transaction(write=True) as database:
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
        with self._transaction(write=True) as database:
            return database.update_meta(condition, meta)

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """
        Count the documents that match.

        :param filters: Filters, as in `filter_documents`.
        :returns: Their number.
        :raises FilterError: If the filters are malformed, or compare what cannot be compared.
        """
        condition = _condition(filters)
        with self._transaction() as database:
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
        return_embedding: bool | None = None,
        search_parameters: dict[str, Any] | None = None,
    ) -> list[Document]:
        """
        Return the documents whose embeddings are most similar to a query's.

        :param query_embedding: The query's embedding, of as many dimensions as the documents'.
        :param filters: Search only documents that match, as in `filter_documents`.
        :param top_k: How many documents to return at most; greater than 0.
        :param scale_score: Whether to bring the scores between 0 and 1, as InMemoryDocumentStore does: the logistic
            function of a hundredth of the inner product, or (cosine + 1) / 2; of an L2 distance 1 / (1 + distance).
        :param return_embedding: Whether documents come with their embeddings; None for what the store was made with.
        :param search_parameters: As for the class, in place of those given there.
        :returns: The documents with their scores, best first; of equal scores, the one written first comes first.
        :raises ValueError: If `top_k` is not greater than 0, the query's embedding has another dimension than the
            documents' or holds NaN or infinity, or there is no such search parameter.
        :raises FilterError: If the filters are malformed, or compare what cannot be compared.
        :raises DocumentStoreError: If there are documents, but none with an embedding.
        """
        query = as_vector(query_embedding, "the query")[np.newaxis]
        return self._search(query, filters, top_k, scale_score, return_embedding, search_parameters)[0]

    def embedding_retrieval_batch(
        self,
        query_embeddings: Sequence[Sequence[float]] | np.ndarray,
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool | None = None,
        search_parameters: dict[str, Any] | None = None,
    ) -> list[list[Document]]:
        """
        Search for many queries at once: faster than one after another, all CPU cores working, and over one state.

        :param query_embeddings: The queries' embeddings, `[n, dim]`.
        :param filters: As in `embedding_retrieval`, for all queries.
        :param top_k: As in `embedding_retrieval`, for each query.
        :param scale_score: As in `embedding_retrieval`.
        :param return_embedding: As in `embedding_retrieval`.
        :param search_parameters: As in `embedding_retrieval`.
        :returns: For each query its documents, as `embedding_retrieval` returns them.
        :raises ValueError: As `embedding_retrieval` does, and if the embeddings differ in dimension.
        :raises FilterError: As `embedding_retrieval` does.
        :raises DocumentStoreError: As `embedding_retrieval` does.
        """
        queries = [as_vector(each, f"query {number}") for number, each in enumerate(query_embeddings)]
        if len({len(query) for query in queries}) > 1:
            raise ValueError("The embeddings of the queries differ in dimension.")
        if not queries:
            return []
        return self._search(np.stack(queries), filters, top_k, scale_score, return_embedding, search_parameters)

    async def count_documents_async(self) -> int:
        """
        `count_documents` without blocking the event loop.
        """
        return await asyncio.to_thread(self.count_documents)

    async def filter_documents_async(
        self, filters: dict[str, Any] | None = None, return_embedding: bool | None = None
    ) -> list[Document]:
        """
        `filter_documents` without blocking the event loop.
        """
        return await asyncio.to_thread(self.filter_documents, filters, return_embedding)

    async def get_documents_by_id_async(
        self, document_ids: list[str], return_embedding: bool | None = None
    ) -> list[Document]:
        """
        `get_documents_by_id` without blocking the event loop.
        """
        return await asyncio.to_thread(self.get_documents_by_id, document_ids, return_embedding)

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
        return_embedding: bool | None = None,
        search_parameters: dict[str, Any] | None = None,
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
            search_parameters=search_parameters,
        )

    async def embedding_retrieval_batch_async(
        self,
        query_embeddings: Sequence[Sequence[float]] | np.ndarray,
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool | None = None,
        search_parameters: dict[str, Any] | None = None,
    ) -> list[list[Document]]:
        """
        `embedding_retrieval_batch` without blocking the event loop.
        """
        return await asyncio.to_thread(
            self.embedding_retrieval_batch,
            query_embeddings,
            filters=filters,
            top_k=top_k,
            scale_score=scale_score,
            return_embedding=return_embedding,
            search_parameters=search_parameters,
        )

    def _open(self) -> _Opened:
        with self._opening:
            if self._opened is None:
                import_faiss()  # before anything is made
                file = None
                if self.path is not None:
                    Path(self.path).mkdir(parents=True, exist_ok=True)
                    file = Path(self.path) / DATABASE_FILE
                connections = Connections(file, self.index or EXACT)
                try:
                    with connections.transaction() as database:
                        if file is not None and file.stat().st_size <= VERIFIED:
                            database.verify()
                        index = self._new_index(self.index, is_new=not database.state().vectors)
                except BaseException:
                    connections.close()
                    raise
                self._opened = _Opened(connections, index, ReadWriteLock())
            return self._opened

    def _new_index(self, factory: str | None, *, is_new: bool = True) -> VectorIndex:
        folder = None if self.path is None else Path(self.path)
        return VectorIndex(self.similarity, factory, folder, is_new=is_new, gpu=self.gpu)

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[Database]:
        opened = self._open()
        opened.has_written |= write
        with opened.connections.transaction(write=write) as database:
            yield database

    @contextmanager
    def _in_step(self, opened: _Opened) -> Iterator[tuple[Database, VectorIndex, State]]:
        """A transaction, and the index following the state that it sees."""
        # Always the lock first and then the transaction, so that the state is never older than the index.
        with opened.lock.reading(), opened.connections.transaction() as database:
            state = database.state()
            opened.is_in_step = opened.index.follows(state)
            if opened.is_in_step:
                yield database, opened.index, state
                return
        with opened.lock.writing(), opened.connections.transaction() as database:
            state = database.state()
            opened.index.refresh(database, state)
            yield database, opened.index, state

    def _save(self, opened: _Opened) -> None:
        if self.path is None:
            return
        with self._in_step(opened):
            pass  # so that below, most likely, only readers are needed, beside whom searches go on
        with self._in_step(opened) as (database, index, state):
            self._save_as(database, index, state)
            forgets, factory = database.has_long_history(), self.index or state.factory
            saved = index.saved_generation if index.is_saved else state.generation
        if forgets or factory != state.factory:
            with opened.connections.transaction(write=True) as database:
                database.set_factory(factory)
                if forgets:
                    database.forget_removed(saved)

    def _save_as(self, database: Database, index: VectorIndex, state: State) -> None:
        try:
            index.save(database, state)
        except OSError as error:
            raise DocumentStoreError(f"The FAISS index of {self.path} cannot be saved: {error}") from error

    def _write(
        self, pairs: Iterable[tuple[Document, Sequence[float] | np.ndarray | None]], policy: DuplicatePolicy
    ) -> int:
        if not isinstance(policy, DuplicatePolicy):
            raise ValueError(f"policy must be a DuplicatePolicy, but got {policy!r}.")
        checked = (
            (document, None if vector is None else as_vector(vector, f"document {document.id!r}"))
            for document, vector in pairs
        )
        with self._transaction(write=True) as database:
            has_dimension = database.state().dimension is not None
            written = database.write(checked, policy)
            state = database.state()
            if not has_dimension and state.dimension is not None:
                make_index(self.index or state.factory, state.dimension, self.similarity)  # refuses what cannot be
            return written

    def _search(
        self,
        queries: np.ndarray,
        filters: dict[str, Any] | None,
        top_k: int,
        scale_score: bool,
        return_embedding: bool | None,
        search_parameters: dict[str, Any] | None,
    ) -> list[list[Document]]:
        check_top_k(top_k)
        check_search_parameters(search_parameters or {})
        parameters = {**(self.search_parameters or {}), **(search_parameters or {})}
        condition, with_vectors = _condition(filters), self._returns_embedding(return_embedding)
        opened = self._open()

        def fetch(database: Database, generation: int, hits: list[Hit]) -> list[Document] | None:
            scored = [(number, self._scaled(score)) for number, score in hits] if scale_score else hits
            return database.scored_documents(scored, with_vectors=with_vectors, generation=generation)

        if opened.is_in_step and condition is None and len(queries) == 1:
            # Without a transaction, which takes a while beside the search of a quick index.
            with opened.lock.reading():
                generation, found = opened.index.search_alone(queries, top_k, parameters)
                if found:
                    database = opened.connections.take()
                    try:
                        documents = fetch(database, generation, found)
                    finally:
                        opened.connections.give_back(database)
                    if documents is not None:
                        return [documents]
        with self._in_step(opened) as (database, index, state):
            if state.documents and not state.vectors:
                raise DocumentStoreError(
                    f"There are {state.documents} documents, but no document has an embedding: embed them with a "
                    "DocumentEmbedder before writing them."
                )
            results = []
            for hits in index.search(database, queries, top_k, condition, parameters):
                documents = fetch(database, state.generation, hits)
                if documents is None:
                    raise database.damage("a document of a vector is missing")
                results.append(documents)
            return results

    def _metas(self, filters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        condition = _condition(filters)
        with self._transaction() as database:
            return database.metas(condition)

    def _returns_embedding(self, asked: bool | None) -> bool:
        return self.return_embedding if asked is None else asked

    def _scaled(self, score: float) -> float:
        if self.similarity == "cosine":
            return min(1.0, max(0.0, (score + 1) / 2))  # a cosine may be rounded to more than 1
        if self.similarity == "l2":
            return 1 / (1 - score)
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
