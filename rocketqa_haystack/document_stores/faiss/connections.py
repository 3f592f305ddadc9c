"""A database for several threads, and across forks."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from weakref import WeakSet

from haystack.document_stores.errors import DocumentStoreError

from rocketqa_haystack.document_stores.faiss.database import LOCK_TIMEOUT, Database
from rocketqa_haystack.document_stores.faiss.write_ahead_log import is_damaged


class Connections:
    """
    A database for any number of threads: each transaction has a connection of its own while it lasts.

    A database in memory has one connection, which transactions take in turn. One in a file is closed while a process
    forks, as SQLite's connections must not be taken along: parent and child open their own at their next transaction.

    :param file: As for `Database`.
    :param factory: As for `Database`.
    :raises DocumentStoreError: As `Database` does.
    """

    def __init__(self, file: Path | None, factory: str) -> None:
        self._arguments = (file, factory)
        if file is not None and is_damaged(file):
            raise DocumentStoreError(
                f"{file}-wal is damaged: it holds what was written last, and SQLite would leave it out. Restore "
                f"{file.name} from a backup."
            )
        self._idle = [Database(file, factory)]
        self._turn = Lock() if file is None else None
        self._writer = Lock()
        self._is_closed = False
        self._process, self._used = os.getpid(), set[Database]()
        if file is not None:
            _OPEN.add(self)

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[Database]:
        """
        Lend a connection inside a transaction, see `Database.transaction`.
        """
        database = self.take()
        try:
            # Threads queue up here, because SQLite would make them look again and again.
            if write and not self._writer.acquire(timeout=LOCK_TIMEOUT):
                raise database.busy()
            try:
                with database.transaction(write=write):
                    yield database
            finally:
                if write:
                    self._writer.release()
        finally:
            self.give_back(database)

    def take(self) -> Database:
        """
        Take a connection, for one thread until it is given back.
        """
        if self._turn is not None:
            self._turn.acquire()
        try:
            if self._process != os.getpid():
                self._go_on_after_fork()
            try:
                database = self._idle.pop()
            except IndexError:
                database = Database(*self._arguments)
            self._used.add(database)
            return database
        except BaseException:
            if self._turn is not None:
                self._turn.release()
            raise

    def give_back(self, database: Database) -> None:
        """
        Give back what was taken.
        """
        self._used.discard(database)
        self._idle.append(database)
        if self._is_closed:
            self.close()
        if self._turn is not None:
            self._turn.release()

    def close(self) -> None:
        """
        Close all connections, those in use when their transactions end.
        """
        self._is_closed = True
        self.close_idle()

    def close_idle(self) -> None:
        """
        Close the connections that no transaction uses.
        """
        while self._idle:
            self._idle.pop().close()

    def _go_on_after_fork(self) -> None:
        if self._used and self._arguments[0] is not None:
            raise DocumentStoreError(
                f"{self._arguments[0]} was in use by another thread when this process was forked; start processes with "
                "the method 'spawn' or 'forkserver', or close the store before."
            )
        self._process, self._writer = os.getpid(), Lock()


_OPEN: WeakSet[Connections] = WeakSet()


def _close_idle() -> None:
    for connections in list(_OPEN):
        connections.close_idle()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_close_idle)
