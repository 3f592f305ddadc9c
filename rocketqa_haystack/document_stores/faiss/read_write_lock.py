"""A lock that many readers hold at once or one writer alone."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Condition, Lock
from types import TracebackType
from weakref import WeakSet


class ReadWriteLock:
    """
    Not reentrant. A waiting writer goes before new readers, so that readers without a pause cannot keep it out. In a
    forked process nobody holds it: the threads that did have stayed behind.
    """

    def __init__(self) -> None:
        self._start()
        _ALL.add(self)

    def _start(self) -> None:
        self._mutex = Lock()
        self._changed = Condition(self._mutex)
        self._readers = 0
        self._writers_waiting = 0
        self._is_writing = False
        self._reading = _Reading(self)

    def reading(self) -> AbstractContextManager[None]:
        """
        Hold the lock beside other readers.
        """
        return self._reading

    @contextmanager
    def writing(self) -> Iterator[None]:
        """
        Hold the lock alone.
        """
        with self._changed:
            self._writers_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._is_writing and not self._readers)
                self._is_writing = True
            finally:
                self._writers_waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()


class _Reading(AbstractContextManager[None]):
    """One for all readers, and no generator: every search comes through here."""

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        with lock._mutex:
            while lock._is_writing or lock._writers_waiting:
                lock._changed.wait()
            lock._readers += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lock = self._lock
        with lock._mutex:
            lock._readers -= 1
            if lock._writers_waiting and not lock._readers:
                lock._changed.notify_all()


_ALL: WeakSet[ReadWriteLock] = WeakSet()


def _start_all() -> None:
    for lock in list(_ALL):
        lock._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all)
