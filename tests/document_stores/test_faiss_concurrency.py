"""Readers beside a writer, in threads and in processes, find committed states and nothing else."""

import asyncio
import sqlite3
import time
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from haystack import Document
from haystack.document_stores.errors import DocumentStoreError
from processes import (
    DIMENSION,
    Content,
    applied,
    brute_force,
    content_of,
    operations,
    search_until_told,
    start,
    write_until_told,
)

from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore, connections, database
from rocketqa_haystack.document_stores.faiss.index import VectorIndex

SECONDS = 30

#: Writes to wait for, and how long after the first seconds: each is synced, which slow disks do a few times a second.
ENOUGH, PATIENCE = 300, 240

QUERY = np.random.default_rng(0).standard_normal(DIMENSION, dtype=np.float32)


def test_eight_readers_beside_a_writer_find_committed_states_in_order(tmp_path: Path) -> None:
    FAISSDocumentStore(path=tmp_path).count_documents()
    writer, writing = start(write_until_told, tmp_path, 0, ENOUGH)
    readers = [start(search_until_told, tmp_path, QUERY) for _ in range(4)]
    found: list[list[list[str]]] = []
    stop = Event()
    with FAISSDocumentStore(path=tmp_path) as store:

        def search() -> None:
            mine: list[list[str]] = []
            while not stop.is_set():
                ids = [document.id for document in store.embedding_retrieval(QUERY, top_k=1000)]
                if not mine or ids != mine[-1]:
                    mine.append(ids)
            found.append(mine)

        threads = [Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(SECONDS)
        enough = writing.poll(PATIENCE)
        stop.set()
        for thread in threads:
            thread.join()
    for _, reading in readers:
        reading.send("stop")
        mine, searches = reading.recv()
        assert searches > SECONDS
        found.append(mine)
    writing.send("stop")
    assert enough, f"fewer than {ENOUGH} writes in {SECONDS + PATIENCE} seconds"
    assert writing.recv() == "enough"
    done = writing.recv()
    for process in (writer, *(reader for reader, _ in readers)):
        process.join()
    assert done > ENOUGH
    assert len(found) == 8
    assert all(len(mine) > SECONDS for mine in found)

    states, content = [[]], Content()
    for operation in islice(operations(0), done):
        content = applied(content, operation)
        states.append(brute_force(content, QUERY))
    for mine in found:
        place = 0
        for ids in mine:  # each is a state, and none is older than the one before
            place = states.index(ids, place)
    with FAISSDocumentStore(path=tmp_path) as store:
        assert content_of(store) == content


def test_threads_of_one_store_search_side_by_side(tmp_path: Path) -> None:
    with FAISSDocumentStore(path=tmp_path) as store:
        store.write_documents([Document(id="a", embedding=[1.0], meta={"n": 1}), Document(id="b", embedding=[2.0])])
        store.embedding_retrieval([1.0])
        with store._in_step(store._open()):  # a search under way
            other = Thread(target=store.embedding_retrieval, args=([1.0],))
            other.start()
            other.join(5)
            assert not other.is_alive()


def test_what_is_written_while_faiss_searches_is_found_or_the_state_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FAISSDocumentStore(path=tmp_path) as store, FAISSDocumentStore(path=tmp_path) as other:
        store.write_documents([Document(id="a", embedding=[1.0]), Document(id="b", embedding=[2.0])])
        for _ in range(2):
            store.embedding_retrieval([1.0])
        search = VectorIndex.search_alone

        def searched_then_written(self: VectorIndex, *arguments: Any) -> Any:
            found = search(self, *arguments)
            other.write_documents([Document(id="c", embedding=[3.0])])
            return found

        monkeypatch.setattr(VectorIndex, "search_alone", searched_then_written)
        assert [document.id for document in store.embedding_retrieval([1.0])] == ["c", "b", "a"]


def test_a_store_in_memory_closed_during_a_search_is_empty_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FAISSDocumentStore()
    store.write_documents([Document(id="a", embedding=[1.0])])
    for _ in range(2):  # the first finds that the index is in step
        store.embedding_retrieval([1.0])
    search = VectorIndex.search_alone

    def searched_then_closed(self: VectorIndex, *arguments: Any) -> Any:
        found = search(self, *arguments)
        store.close()
        return found

    monkeypatch.setattr(VectorIndex, "search_alone", searched_then_closed)
    assert store.embedding_retrieval([1.0]) == []


@pytest.mark.parametrize("in_thread", [True, False], ids=["thread", "process"])
def test_a_second_writer_waits_and_then_says_so(
    in_thread: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (connections, database):
        monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.2)
    with FAISSDocumentStore(path=tmp_path) as store:
        store.write_documents([Document(id="old")])
        if in_thread:
            with store._transaction(write=True):
                with pytest.raises(DocumentStoreError, match=r"documents\.sqlite .* locked.* more than 0.2 seconds"):
                    store.write_documents([Document(id="new")])
                assert store.count_documents() == 1  # readers do not wait
        else:
            blocker = sqlite3.connect(tmp_path / "documents.sqlite", isolation_level=None)
            blocker.execute("BEGIN IMMEDIATE")
            with FAISSDocumentStore(path=tmp_path) as second:
                with pytest.raises(DocumentStoreError, match=r"documents\.sqlite .* locked.* more than 0.2 seconds"):
                    second.write_documents([Document(id="new")])
                assert second.count_documents() == 1
                blocker.execute("ROLLBACK")
            blocker.close()
        store.write_documents([Document(id="new")])
        assert store.count_documents() == 2


@pytest.mark.asyncio
async def test_the_event_loop_goes_on_while_a_search_waits(tmp_path: Path) -> None:
    with FAISSDocumentStore(path=tmp_path) as store:
        store.write_documents([Document(id="a", embedding=[1.0])])
        with store._open().lock.writing():
            search = asyncio.create_task(store.embedding_retrieval_async([1.0]))
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert not search.done()
        assert [document.id for document in await search] == ["a"]
