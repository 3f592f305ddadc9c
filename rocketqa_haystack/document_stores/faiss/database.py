"""The documents and their vectors in one SQLite file: the truth that the FAISS index is derived from."""

import json
import shutil
import sqlite3
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from haystack import Document
from haystack.document_stores.errors import DocumentStoreError, DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy

from rocketqa_haystack.document_stores.faiss.filters import Condition
from rocketqa_haystack.document_stores.faiss.records import COLUMNS, checksum, encode_meta, from_row, to_row
from rocketqa_haystack.document_stores.faiss.snapshot import INDEX_FILE, TAG_FILE
from rocketqa_haystack.document_stores.faiss.vectors import STORED

APPLICATION_ID = 0x52514853  # "RQHS" in SQLite's file header tells our files from others
SCHEMA_VERSION = 5
LOCK_TIMEOUT = 30.0  # seconds a writer waits for another's transaction
CHUNK = 10_000  # vectors read at once for the index
LEAST_ROOM = 64 * 2**10  # bytes on the disk that SQLite needs to open a file
CHECKPOINT = 256 * 2**20  # bytes from which on the write-ahead log is emptied, if readers leave a gap for it

# A document's number is its place in the order of writing. AUTOINCREMENT never gives a number twice, not even that of a
# deleted document, and overwriting a document gives it a new one: a number stands for one vector for ever.
# `removed` tells indexes which vectors went in which generation, as far back as state.history.
# `sessions` are the connections that wrote and their first generations: a number that comes twice, before and after the
# file was restored from a backup, does not stand for one generation.
# Checksums, which SQLite does not have, tell damaged rows from whole ones.
_SCHEMA = (
    "CREATE TABLE state (store TEXT NOT NULL, generation INTEGER NOT NULL, history INTEGER NOT NULL, "
    "dimension INTEGER, factory TEXT NOT NULL, documents INTEGER NOT NULL, vectors INTEGER NOT NULL)",
    "CREATE TABLE documents (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, content TEXT, "
    "meta TEXT NOT NULL, other TEXT, blob BLOB, checksum INTEGER NOT NULL)",
    "CREATE TABLE vectors (number INTEGER PRIMARY KEY, vector BLOB NOT NULL, checksum INTEGER NOT NULL)",
    "CREATE TABLE sessions (number INTEGER PRIMARY KEY, session TEXT NOT NULL UNIQUE, generation INTEGER)",
    "CREATE TABLE removed (generation INTEGER, number INTEGER, PRIMARY KEY (generation, number)) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    "CREATE TRIGGER remove_vector AFTER DELETE ON documents BEGIN "
    "UPDATE state SET documents = documents - 1; "
    "INSERT INTO removed SELECT generation, number FROM state, vectors WHERE number = old.number; "
    "DELETE FROM vectors WHERE number = old.number; "
    "END",
    "CREATE TRIGGER count_document AFTER INSERT ON documents BEGIN UPDATE state SET documents = documents + 1; END",
    "CREATE TRIGGER count_vector AFTER INSERT ON vectors BEGIN UPDATE state SET vectors = vectors + 1; END",
    "CREATE TRIGGER discount_vector AFTER DELETE ON vectors BEGIN UPDATE state SET vectors = vectors - 1; END",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_INSERT = (
    f"INSERT INTO documents (number, {', '.join(COLUMNS)}, checksum) VALUES (?, {', '.join('?' * len(COLUMNS))}, ?) "
    "ON CONFLICT (id) DO NOTHING"
)
_ROW = ", ".join(f"documents.{column}" for column in ("number", *COLUMNS, "checksum"))
_WIDTH = 1 + len(COLUMNS)  # of what a document's checksum is of
_WITHOUT_VECTORS = f"{_ROW} FROM documents"
_WITH_VECTORS = f"{_ROW}, vectors.vector, vectors.checksum FROM documents LEFT JOIN vectors USING (number)"


@dataclass(frozen=True)
class State:
    """
    Where the database stands.

    :param store: The identity of this store, which no other store has.
    :param generation: Grows with every transaction that writes.
    :param history: The generation from which on removed vectors are known.
    :param dimension: Numbers in a vector; None before the first.
    :param factory: The type of FAISS index that the folder was made for or that was last saved there.
    :param documents: How many documents there are.
    :param vectors: How many of them have a vector.
    """

    store: str
    generation: int
    history: int
    dimension: int | None
    factory: str
    documents: int
    vectors: int


class Database:
    """
    One connection to a database, for one thread at a time; every call but `scored_documents` needs a `transaction`.

    :param file: The SQLite file, created where there is none; None for a database in memory.
    :param factory: The type of FAISS index that a new database is for.
    :raises DocumentStoreError: If the file is no SQLite database, not ours, or written by a newer version.
    """

    def __init__(self, file: Path | None, factory: str) -> None:
        self._name = "The document store in memory" if file is None else str(file)
        self._file = file
        self._session = uuid.uuid4().hex
        try:
            self._connection = sqlite3.connect(
                ":memory:" if file is None else file,
                timeout=LOCK_TIMEOUT,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._prepare(factory)
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            raise self._readable(error) from error

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
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield
                execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._readable(error) from error
        if write:
            self._empty_long_log()

    def state(self) -> State:
        """
        Return where the database stands.
        """
        sql = "SELECT store, generation, history, dimension, factory, documents, vectors FROM state"
        return State(*self._connection.execute(sql).fetchone())

    def count(self, condition: Condition | None) -> int:
        """
        Return the number of documents, or of those that match.
        """
        return int(self._select("count(*) FROM documents", condition)[0][0])

    def documents(self, condition: Condition | None = None, *, with_vectors: bool) -> list[Document]:
        """
        Return all documents, or those that match, in the order of writing.
        """
        rows = self._select(_WITH_VECTORS if with_vectors else _WITHOUT_VECTORS, condition)
        if condition is None:
            state, vectors = self.state(), sum(row[-1] is not None for row in rows) if with_vectors else 0
            if len(rows) != state.documents or (with_vectors and vectors != state.vectors):
                raise self.damage(
                    f"it has {len(rows)} documents and {vectors} vectors, but should have {state.documents} and "
                    f"{state.vectors}"
                )
        return [self._document(row) for row in rows]

    def documents_with_ids(self, ids: Iterable[str], *, with_vectors: bool) -> list[Document]:
        """
        Return the documents with these ids, in the order of the ids; those that are not there are left out.
        """
        sql = f"SELECT {_WITH_VECTORS if with_vectors else _WITHOUT_VECTORS} WHERE id = ?"
        rows = (self._connection.execute(sql, (id_,)).fetchone() for id_ in _possible(ids))
        return [self._document(row) for row in rows if row is not None]

    def numbers(self, condition: Condition) -> np.ndarray:
        """
        Return the numbers of the documents that match as int64 `[n]`, rising.
        """
        return _column(self._select("number FROM documents", condition))

    def scored_documents(
        self, hits: list[tuple[int, float]], *, with_vectors: bool, generation: int
    ) -> list[Document] | None:
        """
        Return the documents with these numbers, with these scores, in this order, or None if they are not all there.

        One statement, so that a transaction is not needed.

        :param generation: The generation that the database has to be in; none of them is there in another.
        """
        numbers = [number for number, _ in hits]
        few = len(numbers) <= 100  # a statement without a list of its own is quicker, but has to stay short
        values = (generation, *(numbers if few else [json.dumps(numbers)]))
        try:
            rows = self._connection.execute(_by_number(len(numbers) if few else None, with_vectors), values).fetchall()
        except sqlite3.Error as error:
            raise self._readable(error) from error
        if len(rows) < len(numbers):
            return None
        by_number = {row[0]: row for row in rows}
        return [self._document(by_number[number], score) for number, score in hits]

    def metas(self, condition: Condition | None = None) -> list[dict[str, Any]]:
        """
        Return the metadata of all documents, or of those that match, in the order of writing.
        """
        return [self._decoded(meta) for (meta,) in self._select("meta FROM documents", condition)]

    def write(self, pairs: Iterable[tuple[Document, np.ndarray | None]], policy: DuplicatePolicy) -> int:
        """
        Write documents, each with its vector or None.

        :returns: How many were written.
        :raises DuplicateDocumentError: If the policy is FAIL and an id is there already or comes twice.
        :raises ValueError: If a vector has another dimension than those before it.
        """
        self._advance()
        dimension, written, number = self.state().dimension, 0, self._next_number()
        for document, vector in pairs:
            row = to_row(document)
            if policy is DuplicatePolicy.OVERWRITE:
                self._connection.execute("DELETE FROM documents WHERE id = ?", (document.id,))
            cursor = self._connection.execute(_INSERT, (number, *row, checksum(number, row)))
            if cursor.rowcount == 0:
                if policy is DuplicatePolicy.SKIP:
                    continue
                raise DuplicateDocumentError(f"ID '{document.id}' already exists.")
            written, number, own = written + 1, number + 1, number
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
            stored = vector.tobytes()
            self._connection.execute(
                "INSERT INTO vectors VALUES (?, ?, ?)", (own, stored, _vector_checksum(own, stored))
            )
        return written

    def delete(self, ids: Iterable[str]) -> None:
        """
        Delete the documents with these ids; ids that are not there are passed over.
        """
        self._advance()
        self._connection.executemany("DELETE FROM documents WHERE id = ?", ((id_,) for id_ in _possible(ids)))

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
        self.forget_removed(self.state().generation)
        if forget_dimension:
            self._connection.execute("UPDATE state SET dimension = NULL")

    def update_meta(self, condition: Condition, changes: dict[str, Any]) -> int:
        """
        Merge `changes` into the metadata of the documents that match and return how many they were.
        """
        self._advance()
        encode_meta(changes, "meta")
        rows = self._select(_WITHOUT_VECTORS, condition)
        for row in rows:
            self._check(row)
            number, id_, content, meta, *rest, _ = row
            meta = encode_meta({**json.loads(meta), **changes}, "meta")
            self._connection.execute(
                "UPDATE documents SET meta = ?, checksum = ? WHERE number = ?",
                (meta, checksum(number, (id_, content, meta, *rest)), number),
            )
        return len(rows)

    def vectors_after(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """
        Yield the vectors of documents numbered above `number` in chunks: int64 numbers `[n]`, float32 `[n, dim]`.
        """
        sql = "SELECT number, vector, checksum FROM vectors WHERE number > ? ORDER BY number LIMIT ?"
        while rows := self._connection.execute(sql, (number, CHUNK)).fetchall():
            yield self._vectors(rows)
            number = rows[-1][0]

    def vectors_of(self, numbers: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """
        Yield the vectors of the documents with these numbers, which rise, in chunks as `vectors_after` does.
        """
        sql = (
            "SELECT number, vector, checksum FROM vectors WHERE number IN (SELECT value FROM json_each(?)) "
            "ORDER BY number"
        )
        for start in range(0, len(numbers), CHUNK):
            chunk = numbers[start : start + CHUNK].tolist()
            rows = self._connection.execute(sql, (json.dumps(chunk),)).fetchall()
            if len(rows) != len(chunk):
                raise self.damage(f"of {len(chunk)} vectors {len(chunk) - len(rows)} are missing")
            yield self._vectors(rows)

    def sample_vectors(self, count: int) -> np.ndarray:
        """
        Return `count` vectors chosen at random, always the same ones, or all if there are fewer, float32 `[n, dim]`.
        """
        numbers = _column(self._connection.execute("SELECT number FROM vectors ORDER BY number").fetchall())
        if len(numbers) > count:
            numbers = np.sort(np.random.default_rng(0).choice(numbers, count, replace=False))
        return np.concatenate([vectors for _, vectors in self.vectors_of(numbers)])

    def removed_after(self, generation: int) -> np.ndarray:
        """
        Return the numbers of the vectors removed after `generation`, which `State.history` must reach, int64 `[n]`.
        """
        sql = "SELECT number FROM removed WHERE generation > ?"
        return _column(self._connection.execute(sql, (generation,)).fetchall())

    def session(self, generation: int) -> str:
        """
        Return the last session that had written at this generation.
        """
        sql = "SELECT session FROM sessions WHERE generation <= ? ORDER BY number DESC LIMIT 1"
        row = self._connection.execute(sql, (generation,)).fetchone()
        return "" if row is None else str(row[0])

    def set_factory(self, factory: str) -> None:
        """
        Note down the type of FAISS index that the folder is for.
        """
        self._advance()
        self._connection.execute("UPDATE state SET factory = ?", (factory,))

    def has_long_history(self) -> bool:
        """
        Whether more vectors are noted down as removed than documents are left.
        """
        sql = "SELECT (SELECT count(*) FROM removed) > documents FROM state"
        return bool(self._connection.execute(sql).fetchone()[0])

    def forget_removed(self, until: int) -> None:
        """
        Forget which vectors were removed up to generation `until`: an index older than it has to be built anew.
        """
        self._connection.execute("DELETE FROM removed WHERE generation <= ?", (until,))
        self._connection.execute("UPDATE state SET history = max(history, ?)", (until,))

    def verify(self) -> None:
        """
        Read everything, and compare it with its checksums and its indexes.

        :raises DocumentStoreError: If something is damaged.
        """
        (found,) = self._connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise self.damage(str(found))
        state, documents, vectors, number = self.state(), 0, 0, -1
        sql = f"SELECT {_WITH_VECTORS} WHERE documents.number > ? ORDER BY documents.number LIMIT ?"
        while rows := self._connection.execute(sql, (number, CHUNK)).fetchall():
            for row in rows:
                self._check(row)
                if row[-1] is not None and len(row[-2]) != STORED.itemsize * (state.dimension or 0):
                    raise self.damage(f"the vector of document {row[1]!r} has not {state.dimension} dimensions")
            documents, vectors = documents + len(rows), vectors + sum(row[-1] is not None for row in rows)
            number = rows[-1][0]
        (stored,) = self._connection.execute("SELECT count(*) FROM vectors").fetchone()
        if (documents, vectors, stored) != (state.documents, state.vectors, state.vectors):
            raise self.damage(
                f"it has {documents} documents and {stored} vectors, {vectors} of them of documents, but should have "
                f"{state.documents} and {state.vectors}"
            )

    def damage(self, what: str) -> DocumentStoreError:
        """
        Return the error that says what is damaged.
        """
        return DocumentStoreError(f"{self._name} is damaged: {what}. Restore it from a backup.")

    def _next_number(self) -> int:
        sql = (
            "SELECT max(ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'documents'), 0), "
            "ifnull((SELECT max(number) FROM documents), 0))"
        )
        return int(self._connection.execute(sql).fetchone()[0]) + 1

    def _advance(self) -> None:
        self._connection.execute("UPDATE state SET generation = generation + 1")
        self._connection.execute(
            "INSERT OR IGNORE INTO sessions (session, generation) SELECT ?, generation FROM state", (self._session,)
        )

    def _select(self, what: str, condition: Condition | None) -> list[tuple[Any, ...]]:
        if condition is None:
            return self._connection.execute(f"SELECT {what} ORDER BY documents.number").fetchall()
        with self._filtering_by(condition):
            sql = f"SELECT {what} WHERE {condition.sql} ORDER BY documents.number"
            return self._connection.execute(sql, condition.parameters).fetchall()

    @contextmanager
    def _filtering_by(self, condition: Condition) -> Iterator[None]:
        self._connection.create_function("matches", -1, condition.matches)
        try:
            yield
        except (sqlite3.Error, MemoryError):
            if isinstance(condition.error, json.JSONDecodeError):
                raise self.damage(f"metadata is no JSON: {condition.error}") from condition.error
            if condition.error is not None:
                raise condition.error from None
            raise

    def _check(self, row: tuple[Any, ...]) -> None:
        number = row[0]
        if checksum(number, row[1:_WIDTH]) != row[_WIDTH]:
            raise self.damage(f"document {row[1]!r} is not as it was written")
        if len(row) > _WIDTH + 1 and row[-2] is not None and not _is_whole(number, row[-2], row[-1]):
            raise self.damage(f"the vector of document {row[1]!r} is not as it was written")

    def _document(self, row: tuple[Any, ...], score: float | None = None) -> Document:
        self._check(row)
        _, id_, content, meta, other, blob, *vector = row
        return from_row(id_, content, meta, other, blob, vector[1] if len(vector) > 1 else None, score)

    def _vectors(self, rows: list[tuple[int, bytes, int]]) -> tuple[np.ndarray, np.ndarray]:
        for number, vector, expected in rows:
            if not _is_whole(number, vector, expected):
                raise self.damage(f"the vector of document number {number} is not as it was written")
        stored = np.frombuffer(b"".join([vector for _, vector, _ in rows]), dtype=STORED)
        return _column(rows), stored.reshape(len(rows), -1)

    def _decoded(self, meta: str) -> dict[str, Any]:
        try:
            decoded: dict[str, Any] = json.loads(meta)
            return decoded
        except ValueError as error:
            raise self.damage(f"metadata is no JSON: {error}") from error

    def _empty_long_log(self) -> None:
        # SQLite does so by itself as long as there are moments without a reader.
        if self._file is None:
            return
        try:
            if self._file.with_name(f"{self._file.name}-wal").stat().st_size > CHECKPOINT:
                # Now or another time: whoever waits for readers keeps other writers waiting.
                self._connection.execute("PRAGMA busy_timeout = 0")
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (OSError, sqlite3.Error):
            pass  # what is committed is safe in the log too
        finally:
            self._connection.execute(f"PRAGMA busy_timeout = {int(1000 * LOCK_TIMEOUT)}")

    def _prepare(self, factory: str) -> None:
        if self._file is not None:
            # In this order: who makes a new store writes its file before any other.
            left = self._beside(f"{self._file.name}-wal", INDEX_FILE, TAG_FILE)
            if left and not _size(self._file):
                raise self._lost(left)
        with self.transaction():  # its three questions must be about one state: another process may be making it
            is_ours = self._is_ours()
        if not is_ours:
            self._connection.execute("PRAGMA journal_mode = WAL")
            with self.transaction(write=True):
                if not self._is_ours():  # another process may have been faster
                    if left := self._beside(INDEX_FILE, TAG_FILE):
                        raise self._lost(left)
                    for statement in _SCHEMA:
                        self._connection.execute(statement)
                    self._connection.execute(
                        "INSERT INTO state VALUES (?, 0, 0, NULL, ?, 0, 0)", (uuid.uuid4().hex, factory)
                    )
        # A commit is on the disk when it returns, not only in the system's cache.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA cell_size_check = ON")

    def _beside(self, *names: str) -> list[str]:
        """Those of these files that are there, beside the database's, and not empty."""
        return [] if self._file is None else [name for name in names if _size(self._file.with_name(name))]

    def _lost(self, left: list[str]) -> DocumentStoreError:
        """A file without tables would be made a new store: not where another stood, of which something is left."""
        return DocumentStoreError(
            f"{self._name} is missing or empty, but {', '.join(left)} beside it belongs to it. Restore it from a "
            "backup, or remove those files to begin a new store."
        )

    def _is_ours(self) -> bool:
        """Whether the file is one of ours; False if it is new."""
        application_id, version, tables = (
            self._connection.execute(sql).fetchone()[0]
            for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        if application_id == APPLICATION_ID and version != SCHEMA_VERSION:
            age, remedy = ("newer", "Update it") if version > SCHEMA_VERSION else ("older", "Index the corpus again")
            raise DocumentStoreError(
                f"{self._name} has schema {version}, written by a rocketqa-haystack that is {age}; this one reads "
                f"{SCHEMA_VERSION}. {remedy}."
            )
        if application_id != APPLICATION_ID and tables:
            raise DocumentStoreError(f"{self._name} is an SQLite database, but not of a FAISSDocumentStore.")
        return bool(application_id == APPLICATION_ID)

    def _readable(self, error: sqlite3.Error) -> DocumentStoreError:
        if str(error) == "database is locked":
            return self.busy()
        is_full = self._file is not None and shutil.disk_usage(self._file.parent).free < LEAST_ROOM
        room = "; there is no space left on its disk" if is_full else ""  # SQLite tells in many ways, most of them none
        return DocumentStoreError(f"{self._name} cannot be used: {error}{room}.")

    def busy(self) -> DocumentStoreError:
        """
        Return the error that says that another writer does not end.
        """
        return DocumentStoreError(
            f"{self._name} cannot be used: database is locked. Another writer has been at it for more than "
            f"{LOCK_TIMEOUT:g} seconds; try again when it has finished."
        )


@cache
def _by_number(count: int | None, with_vectors: bool) -> str:
    """The statement for documents with so many numbers, or with those of a list, in a generation."""
    among = "SELECT value FROM json_each(?)" if count is None else ", ".join("?" * count)
    return (
        f"SELECT {_WITH_VECTORS if with_vectors else _WITHOUT_VECTORS} "
        f"WHERE (SELECT generation FROM state) = ? AND documents.number IN ({among})"
    )


def _possible(ids: Iterable[str]) -> Iterator[str]:
    """Those that a document can have: what is not valid Unicode is no document's id."""
    return (id_ for id_ in ids if id_ == id_.encode(errors="ignore").decode())


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _vector_checksum(number: int, vector: bytes) -> int:
    return zlib.crc32(vector, number & 0xFFFFFFFF)


def _is_whole(number: int, vector: object, expected: int) -> bool:
    return isinstance(vector, bytes) and _vector_checksum(number, vector) == expected


def _column(rows: list[tuple[Any, ...]]) -> np.ndarray:
    return np.array([row[0] for row in rows], dtype=np.int64)
