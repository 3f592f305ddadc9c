"""Micro-batching: what several threads ask of one encoder within a few milliseconds is computed together."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rocketqa_haystack.encoders import CrossEncoder, DualEncoder
from rocketqa_haystack.encoders.cross_encoder import Pair

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Pairs that a re-ranker scores together, whatever the number of questions: enough to keep a CPU busy, little enough
#: that no question waits long for the others.
PAIRS = 128


@dataclass(frozen=True)
class BatchSettings:
    """How requests are batched.

    Attributes:
        size: Questions that are encoded together at most; 1 computes each question's share alone.
        wait: Seconds that the first question of a batch waits for others.
        observe: Told the kind of encoder and the number of requests of every batch.
    """

    size: int = 32
    wait: float = 0.005
    observe: Callable[[str, int], None] = lambda kind, requests: None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"the size of a batch must be at least 1, but got {self.size}")
        if not 0 <= self.wait <= 1:
            raise ValueError(f"a batch waits between 0 and 1 seconds, but got {self.wait}")


class _Entry(Generic[Item, Result]):
    def __init__(self, item: Item, weight: int) -> None:
        self.item = item
        self.weight = weight
        self.submitted = time.monotonic()
        self.future: Future[Result] = Future()


class MicroBatcher(Generic[Item, Result]):
    """Hands the items of many threads to one function in batches, on a thread of its own.

    An item waits at most `wait` seconds for others; while a batch is being computed, the next one gathers. If a batch
    fails, its items are computed one by one, so that only those that are to blame fail.

    Args:
        compute: From items to as many results, in their order.
        size: The largest batch, by the sum of its items' weights.
        wait: Seconds.
        weight: What an item counts for.
        observe: Told the number of items of every batch.
    """

    def __init__(
        self,
        compute: Callable[[list[Item]], Sequence[Result]],
        *,
        size: int,
        wait: float,
        weight: Callable[[Item], int] = lambda item: 1,
        observe: Callable[[int], None] = lambda items: None,
    ) -> None:
        self._compute = compute
        self._size = size
        self._wait = wait
        self._weight = weight
        self._observe = observe
        self._entries: deque[_Entry[Item, Result]] = deque()
        self._waiting = 0  # the weight of all entries
        self._closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._work, name="micro-batches", daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Future[Result]:
        """Queues an item; the future has its result, or the error that it alone raises.

        Raises:
            RuntimeError: The batcher is closed.
        """
        entry: _Entry[Item, Result] = _Entry(item, self._weight(item))
        with self._changed:
            if self._closed:
                raise RuntimeError("the service is shutting down")
            self._entries.append(entry)
            self._waiting += entry.weight
            self._changed.notify()
        return entry.future

    def close(self) -> None:
        """Computes what is queued, and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            self._observe(len(batch))
            self._run(batch)

    def _next_batch(self) -> list[_Entry[Item, Result]]:
        """The next entries, as soon as they fill a batch or the first has waited long enough; none after the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._closed)
            if self._entries:
                left = self._entries[0].submitted + self._wait - time.monotonic()
                self._changed.wait_for(lambda: self._closed or self._waiting >= self._size, timeout=max(0.0, left))
            batch: list[_Entry[Item, Result]] = []
            weight = 0
            while self._entries and (not batch or weight + self._entries[0].weight <= self._size):
                batch.append(self._entries.popleft())
                weight += batch[-1].weight
            self._waiting -= weight
            return batch

    def _run(self, batch: list[_Entry[Item, Result]]) -> None:
        try:
            results = self._compute([entry.item for entry in batch])
        except BaseException as error:  # a tokenizer's panic is no Exception, and must not end the thread
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for entry in batch:
                self._run([entry])
            return
        for entry, result in zip(batch, results, strict=True):
            entry.future.set_result(result)


class BatchedDualEncoder(DualEncoder):
    """A dual encoder whose queries are encoded together with those of other threads."""

    def __init__(self, encoder: DualEncoder, settings: BatchSettings) -> None:
        super().__init__(encoder.model, encoder.settings)
        self._batcher: MicroBatcher[str, NDArray[np.float32]] = MicroBatcher(
            lambda queries: list(encoder.encode_queries(queries)),
            size=settings.size,
            wait=settings.wait if settings.size > 1 else 0,
            observe=lambda requests: settings.observe("dual encoder", requests),
        )

    def encode_queries(self, queries: Iterable[str], *, show_progress: bool = False) -> NDArray[np.float32]:
        """As `DualEncoder.encode_queries`, without a progress bar."""
        futures = [self._batcher.submit(query) for query in queries]
        vectors = [future.result() for future in futures]
        return np.stack(vectors) if vectors else np.empty((0, self.dimension), dtype=np.float32)

    def close(self) -> None:
        """Ends the batching thread."""
        self._batcher.close()


class BatchedCrossEncoder(CrossEncoder):
    """A cross-encoder whose pairs are scored together with those of other threads."""

    def __init__(self, encoder: CrossEncoder, settings: BatchSettings) -> None:
        super().__init__(encoder.model, encoder.settings)
        self._batcher: MicroBatcher[list[Pair], NDArray[np.float32]] = MicroBatcher(
            lambda lists: _scored_together(encoder, lists),
            size=PAIRS if settings.size > 1 else 1,
            wait=settings.wait if settings.size > 1 else 0,
            weight=len,
            observe=lambda requests: settings.observe("cross-encoder", requests),
        )

    def logits(self, pairs: Iterable[Pair], *, show_progress: bool = False) -> NDArray[np.float32]:
        """As `CrossEncoder.logits`, without a progress bar."""
        return self._batcher.submit(list(pairs)).result()

    def close(self) -> None:
        """Ends the batching thread."""
        self._batcher.close()


def _scored_together(encoder: CrossEncoder, lists: list[list[Pair]]) -> list[NDArray[np.float32]]:
    logits = encoder.logits([pair for pairs in lists for pair in pairs])
    return np.split(logits, np.cumsum([len(pairs) for pairs in lists])[:-1])
