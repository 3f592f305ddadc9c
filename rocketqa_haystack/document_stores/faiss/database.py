"""The documents and their vectors in one SQLite file: the truth that the FAISS index is derived from."""

import json
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from haystack import Document
from haystack.document_stores.errors import DocumentStoreError, DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy

from rocketqa_haystack.document_stores.faiss.filters import Condition
from rocketqa_haystack.document_stores.faiss.records import COLUMNS, encode_meta, from_row, to_row
from rocketqa_haystack.document_stores.faiss.vectors import STORED

APPLICATION_ID = 0x52514853  # "RQHS" in SQLite's file header tells our files from others
SCHEMA_VERSION = 1
LOCK_TIMEOUT = 30.0  # seconds a writer waits for another process's transaction
CHUNK = 10_000  # vectors read at once for the index

# A document's number is its place in the order of writing. AUTOINCREMENT never gives a number twice, not even that of a
# deleted document, and overwriting a document gives it a new one: a number stands for one vector for ever.
# `removed` tells indexes which vectors went in which generation, as far back as state.history.
_SCHEMA = (
    "CREATE TABLE state (store TEXT NOT NULL, generation INTEGER NOT NULL, history INTEGER NOT NULL, "
    "dimension INTEGER)",
    "CREATE TABLE documents (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, content TEXT, "
    "meta TEXT NOT NULL, score REAL, blob BLOB, blob_info TEXT, sparse_embedding TEXT)",
    "CREATE TABLE vectors (number INTEGER PRIMARY KEY, vector BLOB NOT NULL)",
    "CREATE TABLE removed (generation INTEGER, number INTEGER, PRIMARY KEY (generation, number)) WITHOUT ROWID",
    "CREATE TRIGGER remove_vector AFTER DELETE ON documents BEGIN "
    "INSERT INTO removed SELECT generation, number FROM state, vectors WHERE number = old.number; "
    "DELETE FROM vectors WHERE number = old.number; "
    "END",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_INSERT = f"INTO documents ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"


@dataclass(frozen=True)
class State:
    """
    Where the database stands.

    :param store: The identity of this store, which no other store has.
    :param generation: Grows with every transaction that writes.
    :param history: The generation from which on removed vectors are known.
    :param dimension: Numbers in a vector; None before the first.
    """

    store: str
    generation: int
    history: int
    dimension: int | None


class Database:
    """
    One connection to a database, for one thread at a time; every call stands inside a `transaction`.

    :param file: The SQLite file, created where there is none; None for a database in memory.
    :raises DocumentStoreError: If the file is no SQLite database, not ours, or written by a newer version.
    """

    def __init__(self, file: Path | None) -> None:
        self._name = "The document store in memory" if file is None else str(file)
        self._connection = sqlite3.connect(
            ":memory:" if file is None else file, timeout=LOCK_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        try:
            with self._readable_errors():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """
        Close the connection; a database in memory is gone.
        """
        self._connection.close()

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[None]:
        """
        Everything inside sees one committed state, and what it changes is committed as a whole or not at all.

        :param write: Whether to change something, which one process at a time can.
        :raises DocumentStoreError: If SQLite fails: a damaged file, a full disk, another writer that does not end.
        """
        with self._readable_errors():
            self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def state(self) -> State:
        """
        Return where the database stands.
        """
        return State(*self._connection.execute("SELECT store, generation, history, dimension FROM state").fetchone())

    def count(self, condition: Condition | None = None) -> int:
        """
        Return the number of documents, or of those that match.
        """
        return int(self._select("count(*)", condition)[0][0])

    def documents(self, condition: Condition | None = None) -> list[Document]:
        """
        Return all documents, or those that match, with their embeddings, in the order of writing.
        """
        rows = self._select(f"{', '.join(COLUMNS)}, vector", condition, "LEFT JOIN vectors USING (number)")
        return [from_row(*row) for row in rows]

    def numbers(self, condition: Condition) -> np.ndarray:
        """
        Return the numbers of the documents that match as int64 `[n]`.
        """
        return np.array(self._select("number", condition), dtype=np.int64).reshape(-1)

    def numbered_document(self, number: int, *, with_vector: bool) -> Document:
        """
        Return the document of this number.
        """
        vector = "(SELECT vector FROM vectors WHERE vectors.number = documents.number)" if with_vector else "NULL"
        sql = f"SELECT {', '.join(COLUMNS)}, {vector} FROM documents WHERE number = ?"
        return from_row(*self._connection.execute(sql, (number,)).fetchone())

    def metas(self, condition: Condition | None = None) -> list[str]:
        """
        Return the metadata, as JSON, of all documents or of those that match, in the order of writing.
        """
        return [meta for (meta,) in self._select("meta", condition)]

    def write(self, pairs: Iterable[tuple[Document, np.ndarray | None]], policy: DuplicatePolicy) -> int:
        """
        Write documents, each with its vector or None.

        :returns: How many were written.
        :raises DuplicateDocumentError: If the policy is FAIL and an id is there already or comes twice.
        :raises ValueError: If a vector has another dimension than those before it.
        """
        self._advance()
        dimension, written = self.state().dimension, 0
        for document, vector in pairs:
            row = to_row(document)
            if policy is DuplicatePolicy.OVERWRITE:
                self._connection.execute("DELETE FROM documents WHERE id = ?", (document.id,))
            cursor = self._connection.execute(f"INSERT OR IGNORE {_INSERT}", row)
            if cursor.rowcount == 0:
                if policy is DuplicatePolicy.SKIP:
                    continue
                raise DuplicateDocumentError(f"ID '{document.id}' already exists.")
            written += 1
            if vector is None:
                continue
            if dimension is None:
                dimension = len(vector)
                self._connection.execute("UPDATE state SET dimension = ?", (dimension,))
            elif len(vector) != dimension:
                raise ValueError(
                    f"The embedding of document {document.id!r} has {len(vector)} dimensions, but the embeddings in "
                    f"this store have {dimension}."
                )
            self._connection.execute("INSERT INTO vectors VALUES (?, ?)", (cursor.lastrowid, vector.tobytes()))
        return written

    def delete(self, ids: Iterable[str]) -> None:
        """
        Delete the documents with these ids; ids that are not there are passed over.
        """
        self._advance()
        self._connection.executemany("DELETE FROM documents WHERE id = ?", ((id_,) for id_ in ids))

    def delete_matching(self, condition: Condition) -> int:
        """
        Delete the documents that match and return how many they were.
        """
        self._advance()
        with self._filtering_by(condition):
            sql = f"DELETE FROM documents WHERE {condition.sql}"
            return self._connection.execute(sql, condition.parameters).rowcount

    def delete_all(self, *, forget_dimension: bool) -> None:
        """
        Delete every document; the next vector may have any dimension if `forget_dimension`.
        """
        self._advance()
        # Vectors first, so that the trigger finds nothing to note down: an index of before starts anew instead.
        self._connection.execute("DELETE FROM vectors")
        self._connection.execute("DELETE FROM documents")
        self.forget_removed()
        if forget_dimension:
            self._connection.execute("UPDATE state SET dimension = NULL")

    def update_meta(self, condition: Condition, changes: dict[str, Any]) -> int:
        """
        Merge `changes` into the metadata of the documents that match and return how many they were.
        """
        self._advance()
        encode_meta(changes, "meta")
        rows = self._select("number, meta", condition)
        self._connection.executemany(
            "UPDATE documents SET meta = ? WHERE number = ?",
            ((encode_meta({**json.loads(meta), **changes}, "meta"), number) for number, meta in rows),
        )
        return len(rows)

    def vectors_after(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """
        Yield the vectors of documents numbered above `number` in chunks: int64 numbers `[n]`, float32 `[n, dim]`.
        """
        sql = "SELECT number, vector FROM vectors WHERE number > ? ORDER BY number LIMIT ?"
        while rows := self._connection.execute(sql, (number, CHUNK)).fetchall():
            numbers, vectors = zip(*rows, strict=True)
            number = numbers[-1]
            yield (
                np.array(numbers, dtype=np.int64),
                np.frombuffer(b"".join(vectors), dtype=STORED).reshape(len(rows), -1),
            )

    def removed_after(self, generation: int) -> np.ndarray:
        """
        Return the numbers of the vectors removed after `generation`, which `State.history` must reach, int64 `[n]`.
        """
        sql = "SELECT number FROM removed WHERE generation > ?"
        return np.array(self._connection.execute(sql, (generation,)).fetchall(), dtype=np.int64).reshape(-1)

    def has_long_history(self) -> bool:
        """
        Whether more vectors are noted down as removed than documents are left.
        """
        sql = "SELECT (SELECT count(*) FROM removed) > (SELECT count(*) FROM documents)"
        return bool(self._connection.execute(sql).fetchone()[0])

    def forget_removed(self) -> None:
        """
        Forget which vectors were removed: an index older than this generation has to be built anew.
        """
        self._connection.execute("DELETE FROM removed")
        self._connection.execute("UPDATE state SET history = generation")

    def _advance(self) -> None:
        self._connection.execute("UPDATE state SET generation = generation + 1")

    def _select(self, what: str, condition: Condition | None, join: str = "") -> list[tuple[Any, ...]]:
        sql = f"SELECT {what} FROM documents {join}"
        if condition is None:
            return self._connection.execute(f"{sql} ORDER BY documents.number").fetchall()
        with self._filtering_by(condition):
            sql = f"{sql} WHERE {condition.sql} ORDER BY documents.number"
            return self._connection.execute(sql, condition.parameters).fetchall()

    @contextmanager
    def _filtering_by(self, condition: Condition) -> Iterator[None]:
        self._connection.create_function("matches", -1, condition.matches)
        try:
            yield
        except (sqlite3.Error, MemoryError):
            if condition.error is not None:
                raise condition.error from None
            raise

    def _prepare(self) -> None:
        with self.transaction():  # its three questions must be about one state: another process may be making it
            ours = self._is_ours()
        if not ours:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("BEGIN IMMEDIATE")
            if not self._is_ours():  # another process may have been faster
                for statement in _SCHEMA:
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO state VALUES (?, 0, 0, NULL)", (uuid.uuid4().hex,))
            self._connection.execute("COMMIT")
        # A commit is on the disk when it returns, not only in the system's cache.
        self._connection.execute("PRAGMA synchronous = FULL")

    def _is_ours(self) -> bool:
        """Whether the file is one of ours; False if it is new."""
        application_id, version, tables = (
            self._connection.execute(sql).fetchone()[0]
            for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        if application_id == APPLICATION_ID and version > SCHEMA_VERSION:
            raise DocumentStoreError(
                f"{self._name} has schema {version}, written by a newer rocketqa-haystack; this one reads "
                f"{SCHEMA_VERSION}. Update rocketqa-haystack."
            )
        if application_id != APPLICATION_ID and tables:
            raise DocumentStoreError(f"{self._name} is an SQLite database, but not of a FAISSDocumentStore.")
        return bool(application_id == APPLICATION_ID)

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DocumentStoreError(f"{self._name} cannot be used: {error}.") from error
