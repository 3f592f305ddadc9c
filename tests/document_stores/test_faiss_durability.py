"""Nothing acknowledged is lost, and a bad snapshot of the index costs time only; also a writer to be killed."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from haystack import Document
from haystack.document_stores.errors import DocumentStoreError
from haystack.document_stores.types import DuplicatePolicy

from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore
from rocketqa_haystack.document_stores.faiss import database as database_module

DIMENSION = 6

Operation = tuple[str, list[str], np.ndarray]  # what to do, ids, vectors


def operations(seed: int) -> Iterator[Operation]:
    """The same endless operations for the same seed."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    while True:
        ids = [str(rng.randrange(100)) for _ in range(rng.randrange(1, 20))]
        yield (
            rng.choice(["write", "write", "write", "delete", "save"]),
            list(dict.fromkeys(ids)),
            numbers.standard_normal((len(set(ids)), DIMENSION), dtype=np.float32),
        )


def apply_to_store(store: FAISSDocumentStore, operation: Operation) -> None:
    kind, ids, vectors = operation
    if kind == "write":
        store.write_vectors([Document(id=id_) for id_ in ids], vectors, policy=DuplicatePolicy.OVERWRITE)
    elif kind == "delete":
        store.delete_documents(ids)
    else:
        store.save_index()


def applied(content: dict[str, list[float]], operation: Operation) -> dict[str, list[float]]:
    kind, ids, vectors = operation
    content = dict(content)
    if kind != "save":
        for id_ in ids:
            content.pop(id_, None)
    if kind == "write":
        content.update(zip(ids, vectors.tolist(), strict=True))
    return content


def write_for_ever(path: str, seed: int) -> None:
    store = FAISSDocumentStore(path=path)
    for operation in operations(seed):
        apply_to_store(store, operation)
        print("done", flush=True)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """This file as a process of its own, which imports what this process does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, env=environment)


def content_of(store: FAISSDocumentStore) -> dict[str, list[float]]:
    return {document.id: document.embedding or [] for document in store.filter_documents(return_embedding=True)}


def assert_search_equals_brute_force(store: FAISSDocumentStore, content: dict[str, list[float]]) -> None:
    query = np.random.default_rng(len(content)).standard_normal(DIMENSION, dtype=np.float32)
    scores = {id_: float(np.dot(np.asarray(vector, dtype=np.float64), query)) for id_, vector in content.items()}
    expected = sorted(scores, key=lambda id_: -scores[id_])
    assert [document.id for document in store.embedding_retrieval(query, top_k=1000)] == expected


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The folder of a closed store of 60 documents with vectors, of which 10 were overwritten and 5 deleted."""
    folder = tmp_path / "store"
    vectors = np.random.default_rng(0).standard_normal((70, DIMENSION), dtype=np.float32)
    with FAISSDocumentStore(path=folder) as store:
        store.write_vectors([Document(id=str(n)) for n in range(60)], vectors[:60])
        store.embedding_retrieval(vectors[0])
        store.write_vectors([Document(id=str(n)) for n in range(10)], vectors[60:], policy=DuplicatePolicy.OVERWRITE)
        store.delete_documents([str(n) for n in range(20, 25)])
    return folder


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    moments, content = random.Random(0), dict[str, list[float]]()
    for seed in range(4):
        with start("write", str(tmp_path), str(seed)) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(moments.uniform(0, 0.3))
            writer.kill()
            acknowledged = 1 + writer.stdout.read().count(b"done\n")
        todo = operations(seed)
        for _ in range(acknowledged):
            content = applied(content, next(todo))
        with FAISSDocumentStore(path=tmp_path) as store:
            found = content_of(store)
            # The operation that was under way is there as a whole or not at all; the order counts too.
            assert list(found.items()) in [list(content.items()), list(applied(content, next(todo)).items())]
            assert_search_equals_brute_force(store, found)
        content = found


def truncate(folder: Path) -> None:
    index = folder / "index.faiss"
    index.write_bytes(index.read_bytes()[:-100])


def flip_a_bit(folder: Path) -> None:
    index = folder / "index.faiss"
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 1
    index.write_bytes(content)


def replace_by_that_of_another_store(folder: Path) -> None:
    other = folder.parent / "other"
    with FAISSDocumentStore(path=other) as store:
        # As many transactions, documents and dimensions as in ours.
        store.write_vectors([Document(id=f"x{n}") for n in range(54)], np.ones((54, DIMENSION)))
        store.write_vectors([Document(id="y")], np.ones((1, DIMENSION)))
        store.delete_documents(["absent"])
    for name in ("index.faiss", "index.json"):
        shutil.copy(other / name, folder / name)


def claim_the_future(folder: Path) -> None:
    tag = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**tag, "generation": 1000}))


SPOILERS: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "bit flipped": flip_a_bit,
    "index deleted": lambda folder: (folder / "index.faiss").unlink(),
    "another store's": replace_by_that_of_another_store,
    "from the future": claim_the_future,
    "tag is no JSON": lambda folder: (folder / "index.json").write_text("{"),
    "tag is foreign JSON": lambda folder: (folder / "index.json").write_text('{"a": 1}'),
    "tag is a list": lambda folder: (folder / "index.json").write_text("[]"),
}


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_a_bad_snapshot_is_noticed_and_built_anew_with_one_log_line(
    spoil: Callable[[Path], object], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(path)
    with FAISSDocumentStore(path=path) as store:
        assert_search_equals_brute_force(store, content_of(store))
        assert_search_equals_brute_force(store, content_of(store))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text
    caplog.clear()
    with FAISSDocumentStore(path=path) as store:
        assert_search_equals_brute_force(store, content_of(store))
    assert not caplog.records


def test_an_index_without_a_snapshot_is_built(path: Path) -> None:
    for name in ("index.faiss", "index.json"):
        (path / name).unlink()
    with FAISSDocumentStore(path=path) as store:
        assert_search_equals_brute_force(store, content_of(store))


def test_a_snapshot_is_used_and_what_came_after_it_replayed(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    writer = FAISSDocumentStore(path=path)
    writer.write_documents([Document(id="new", embedding=[1.0] * DIMENSION)])
    writer.delete_documents(["50", "51"])
    # No close: as if the writer had been killed.
    with FAISSDocumentStore(path=path) as store:
        read: list[int] = []
        vectors_after = database_module.Database.vectors_after

        def counted(self: database_module.Database, number: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for numbers, vectors in vectors_after(self, number):
                read.extend(numbers)
                yield numbers, vectors

        monkeypatch.setattr(database_module.Database, "vectors_after", counted)
        assert_search_equals_brute_force(store, content_of(store))
    assert len(read) == 1
    assert not caplog.records
    writer.close()


def test_opened_with_another_similarity_the_index_is_built_for_it(path: Path) -> None:
    with FAISSDocumentStore(path=path, similarity="cosine") as store:
        scores = [document.score or 0 for document in store.embedding_retrieval([1.0] * DIMENSION, top_k=100)]
        assert max(map(abs, scores)) <= 1
    with FAISSDocumentStore(path=path) as store:
        assert_search_equals_brute_force(store, content_of(store))


def test_an_interrupted_snapshot_leaves_nothing_that_matters(path: Path) -> None:
    (path / "index.faiss.new").write_bytes(b"half an index")
    with FAISSDocumentStore(path=path) as store:
        store.delete_documents(["30"])
        store.save_index()
        assert_search_equals_brute_force(store, content_of(store))
    assert not (path / "index.faiss.new").exists()


def test_a_snapshot_that_cannot_be_written_is_an_error_and_costs_no_document(path: Path) -> None:
    (path / "index.faiss.new").mkdir()
    store = FAISSDocumentStore(path=path)
    store.delete_documents(["30"])
    with pytest.raises(DocumentStoreError, match="cannot be saved"):
        store.close()
    (path / "index.faiss.new").rmdir()
    with FAISSDocumentStore(path=path) as store:
        assert "30" not in content_of(store)
        assert_search_equals_brute_force(store, content_of(store))


def test_removals_are_forgotten_once_they_outnumber_the_documents_and_lagging_indexes_start_anew(path: Path) -> None:
    with FAISSDocumentStore(path=path) as lagging, FAISSDocumentStore(path=path) as store:
        assert_search_equals_brute_force(lagging, content_of(store))
        store.delete_documents([str(n) for n in range(50)])
        store.save_index()
        with sqlite3.connect(path / "documents.sqlite") as connection:
            assert connection.execute("SELECT count(*) FROM removed").fetchone() == (0,)
        connection.close()
        assert_search_equals_brute_force(lagging, content_of(store))


def test_commits_of_another_process_are_seen_at_the_next_search(path: Path) -> None:
    with FAISSDocumentStore(path=path) as store:
        content = content_of(store)
        assert_search_equals_brute_force(store, content)
        with start("change", str(path)) as other:
            assert other.wait() == 0
        changed = content_of(store)
        assert list(changed) == [*(id_ for id_ in content if id_ not in ("0", "40")), "0", "new"]
        assert_search_equals_brute_force(store, changed)


def change(path: str) -> None:
    with FAISSDocumentStore(path=path) as store:
        store.delete_documents(["40"])
        changed = [Document(id="0", embedding=[5.0] * DIMENSION), Document(id="new", embedding=[-5.0] * DIMENSION)]
        store.write_documents(changed, policy=DuplicatePolicy.OVERWRITE)


def test_a_folder_can_be_opened_for_the_first_time_by_many_at_once(tmp_path: Path) -> None:
    stores = [FAISSDocumentStore(path=tmp_path) for _ in range(8)]
    writers = [
        Thread(target=store.write_documents, args=([Document(id=str(number))],)) for number, store in enumerate(stores)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {store.count_documents() for store in stores} == {8}
    for store in stores:
        store.close()


def test_a_second_writer_waits_and_then_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "LOCK_TIMEOUT", 0.1)
    blocker = sqlite3.connect(path / "documents.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    store = FAISSDocumentStore(path=path)
    before = content_of(store)
    with pytest.raises(DocumentStoreError, match=r"documents\.sqlite cannot be used: database is locked"):
        store.write_documents([Document(id="new")])
    blocker.execute("ROLLBACK")
    blocker.close()
    assert content_of(store) == before
    store.close()


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write_for_ever(sys.argv[2], int(sys.argv[3]))
    else:
        change(sys.argv[2])
