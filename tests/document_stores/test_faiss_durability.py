"""Nothing acknowledged is lost, and a bad snapshot of the index costs time only."""

import json
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread
from typing import Any

import faiss
import numpy as np
import pytest
from haystack import Document
from haystack.document_stores.errors import DocumentStoreError
from haystack.document_stores.types import DuplicatePolicy
from processes import (
    DIMENSION,
    Content,
    applied,
    assert_search_equals_brute_force,
    change,
    content_of,
    operations,
    start,
    write_for_ever,
)

from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore
from rocketqa_haystack.document_stores.faiss import database as database_module
from rocketqa_haystack.document_stores.faiss import index as index_module
from rocketqa_haystack.document_stores.faiss import snapshot as snapshot_module
from rocketqa_haystack.document_stores.faiss.index import VectorIndex

KILLS = 200


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
    moments, content, killed_during = random.Random(0), Content(), []
    for seed in range(KILLS):
        writer, connection = start(write_for_ever, tmp_path, seed)
        connection.recv()
        time.sleep(moments.uniform(0, 0.05))
        writer.kill()
        writer.join()
        told = [*messages(connection)]
        acknowledged = told.count("done")
        killed_during.append(told[-1] if told else "first")
        todo = operations(seed)
        for _ in range(acknowledged):
            content = applied(content, next(todo))
        with FAISSDocumentStore(path=tmp_path) as store:
            found = content_of(store)
            # The operation that was under way is there as a whole or not at all; the order counts too.
            assert list(found.items()) in [list(content.items()), list(applied(content, next(todo)).items())]
            assert_search_equals_brute_force(store, found)
        content = found
    assert {"write", "save"} <= set(killed_during)


def messages(connection: Connection) -> Iterator[str]:
    try:
        while True:
            yield connection.recv()
    except (EOFError, OSError):
        return


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
    "both deleted": lambda folder: [(folder / name).unlink() for name in ("index.faiss", "index.json")],
    "half put in place": lambda folder: (folder / "index.faiss").write_bytes(b""),
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


def test_a_snapshot_half_put_in_place_is_found(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (path / "index.faiss").rename(path / "index.faiss.new")
    with FAISSDocumentStore(path=path) as store:
        assert_search_equals_brute_force(store, content_of(store))
    assert not caplog.records


@pytest.mark.parametrize("is_renamed", [True, False], ids=["renamed", "replaced"])
def test_a_snapshot_is_not_taken_for_one_that_was_there_before_it(
    is_renamed: bool, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between the check of a file and FAISS's own opening of it a writer may put another one in its place."""
    index, new, read_index = path / "index.faiss", path / "index.faiss.new", faiss.read_index
    if is_renamed:
        index.rename(new)

    def put_in_place_then_read(*arguments: Any) -> Any:
        monkeypatch.setattr(faiss, "read_index", read_index)
        if not is_renamed:  # of as many vectors, all others
            other = read_index(str(index))
            other.index.reset()
            other.index.add(np.ones((other.ntotal, DIMENSION), dtype=np.float32))
            faiss.write_index(other, str(new))
        new.replace(index)
        return read_index(*arguments)

    monkeypatch.setattr(faiss, "read_index", put_in_place_then_read)
    with FAISSDocumentStore(path=path) as store:
        assert_search_equals_brute_force(store, content_of(store))
    assert len(caplog.records) == int(not is_renamed)


def test_a_snapshot_newer_than_a_database_from_a_backup_is_not_taken_for_one_of_it(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(path / "documents.sqlite", tmp_path / "backup")
    with FAISSDocumentStore(path=path) as store:
        store.write_documents([Document(id="lost", embedding=[9.0] * DIMENSION)])
    shutil.copy(tmp_path / "backup", path / "documents.sqlite")
    with FAISSDocumentStore(path=path) as store:
        store.write_documents([Document(id="other", embedding=[-9.0] * DIMENSION)])  # as many writes as before
        assert_search_equals_brute_force(store, content_of(store))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("left", [b"", None], ids=["emptied", "deleted"])
def test_a_database_that_is_gone_is_not_taken_for_a_new_one(left: bytes | None, path: Path) -> None:
    file = path / "documents.sqlite"
    file.unlink()
    if left is not None:
        file.write_bytes(left)
    with pytest.raises(DocumentStoreError, match=r"documents\.sqlite is missing or empty, but index\.faiss"):
        FAISSDocumentStore(path=path).count_documents()


def test_a_changed_byte_in_a_document_or_vector_is_an_error_that_names_the_file(path: Path) -> None:
    file = path / "documents.sqlite"
    with FAISSDocumentStore(path=path) as store:
        vector = np.arange(DIMENSION, dtype="<f4") + 1000
        store.write_vectors([Document(id="marked", content="needle in the haystack")], vector[np.newaxis])
    whole = file.read_bytes()
    for part in (b"needle", vector.tobytes()):
        place = whole.index(part)
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with FAISSDocumentStore(path=path) as store:
            with pytest.raises(DocumentStoreError, match=r"documents\.sqlite is damaged: .*'marked'"):
                store.filter_documents(return_embedding=True)
        (path / "index.json").unlink(missing_ok=True)
        store = FAISSDocumentStore(path=path)
        with pytest.raises(DocumentStoreError, match=r"documents\.sqlite is damaged"):
            store.embedding_retrieval(vector)


def test_a_changed_byte_in_the_log_of_a_killed_writer_is_an_error_that_names_it(path: Path, tmp_path: Path) -> None:
    killed, before = tmp_path / "killed", tmp_path / "before"
    with FAISSDocumentStore(path=path) as store:
        for number in range(20):
            store.write_documents([Document(id=f"late {number}", embedding=[1.0] * DIMENSION)])
            if number == 9:
                shutil.copytree(path, before)
        content = content_of(store)
        shutil.copytree(path, killed)  # as kill -9 leaves it
    log, index = killed / "documents.sqlite-wal", killed / "documents.sqlite-shm"
    whole, generator = log.read_bytes(), random.Random(0)

    def damaged(place: int) -> bytes:
        return whole[:place] + bytes([whole[place] ^ 1 << generator.randrange(8)]) + whole[place + 1 :]

    places = [0, 17, len(whole) - 1, *(generator.randrange(32, len(whole)) for _ in range(30))]
    for content_of_log in [*map(damaged, places), whole[:-1], whole[:40]]:
        log.write_bytes(content_of_log)
        with pytest.raises(DocumentStoreError, match=r"documents\.sqlite-wal is damaged"):
            FAISSDocumentStore(path=killed).count_documents()
        assert log.read_bytes() == content_of_log  # left as it was found
    # What a writer wrote that was killed before it had committed is not missed: the index does not know of it.
    index.write_bytes((before / index.name).read_bytes())
    committed = (before / log.name).stat().st_size
    for number, content_of_log in enumerate([whole, damaged(committed + 5000), whole[:-7], whole[: committed + 30]]):
        log.write_bytes(content_of_log)
        with FAISSDocumentStore(path=shutil.copytree(killed, tmp_path / str(number))) as store:
            found = content_of(store)
            assert {f"late {n}" for n in range(10)} <= found.keys() <= content.keys()
            store.verify()
    # Without the index nothing is known.
    index.unlink()
    log.write_bytes(whole)
    with FAISSDocumentStore(path=killed) as store:
        assert content_of(store) == content


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


@pytest.mark.parametrize("factory", ["Flat", "SQfp16", "HNSW32", "IVF1,Flat", "IVF1,PQ3x4"])
def test_a_large_snapshot_stays_in_its_file_until_there_is_something_to_change(
    path: Path, factory: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def is_mapped() -> bool:
        return str(path / "index.faiss") in Path("/proc/self/maps").read_text()

    monkeypatch.setattr(snapshot_module, "_LARGE", 0)
    monkeypatch.setattr(index_module, "ENOUGH_POINTS", 1)
    query = np.ones(DIMENSION, dtype=np.float32)
    with FAISSDocumentStore(path=path) as store:
        store.write_vectors(
            [Document(id=f"more {n}") for n in range(400)],
            np.random.default_rng(1).standard_normal((400, DIMENSION), dtype=np.float32),
        )
        store.rebuild(factory)
        found = store.embedding_retrieval(query)
    with FAISSDocumentStore(path=path) as store, FAISSDocumentStore(path=path) as writer:
        assert store.embedding_retrieval(query) == writer.embedding_retrieval(query) == found
        assert is_mapped()
        best = found[0].id
        writer.delete_documents([best])
        writer.write_vectors([Document(id="new")], query[None] * 100)
        expected = ["new", *(document.id for document in found[1:])]
        for each in (writer, store):
            assert [document.id for document in each.embedding_retrieval(query)] == expected
        assert not is_mapped()
    with FAISSDocumentStore(path=path) as store:
        assert [document.id for document in store.embedding_retrieval(query)] == expected
        assert is_mapped()
    assert not caplog.records


def test_a_mapped_index_goes_on_whatever_becomes_of_its_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(snapshot_module, "_LARGE", 0)
    # As a process leaves it that was killed between its two renames.
    (path / "index.faiss").rename(path / "index.faiss.new")
    with FAISSDocumentStore(path=path) as store:
        assert_search_equals_brute_force(store, content_of(store))
        with FAISSDocumentStore(path=path) as other:
            other.rebuild("SQfp16")
            other.rebuild("Flat")
        assert_search_equals_brute_force(store, content_of(store))
        for name in ("index.faiss", "index.json"):
            (path / name).unlink()
        with FAISSDocumentStore(path=path) as other:
            other.delete_documents(["30"])
        assert_search_equals_brute_force(store, content_of(store))
    assert len(caplog.records) == 1  # of the last `other`


def test_after_a_rebuild_that_forgets_removals_the_snapshot_is_of_use(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FAISSDocumentStore(path=path) as store:
        store.delete_documents([str(n) for n in range(50)])
        store.rebuild()
    with FAISSDocumentStore(path=path) as store:
        assert_search_equals_brute_force(store, content_of(store))
    assert not caplog.records


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
        _, other = start(change, path)
        assert other.recv() == "done"
        changed = content_of(store)
        assert list(changed) == [*(id_ for id_ in content if id_ not in ("0", "40")), "0", "new"]
        assert_search_equals_brute_force(store, changed)


def test_a_database_copied_without_its_log_is_not_taken_for_a_new_one(path: Path, tmp_path: Path) -> None:
    with FAISSDocumentStore(path=tmp_path / "open") as store:
        store.write_vectors([Document(id="a")], np.ones((1, DIMENSION), dtype=np.float32))
        store.save_index()
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("documents.sqlite", "index.faiss", "index.json"):
            shutil.copy(tmp_path / "open" / name, copy)
    with pytest.raises(DocumentStoreError, match=r"documents\.sqlite is missing or empty, but index\.faiss"):
        FAISSDocumentStore(path=copy).count_documents()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE documents SET meta = replace(meta, 'floor', 'gloor') WHERE id = '7'",
        "UPDATE state SET documents = 52",
        "UPDATE state SET vectors = 3",
        "UPDATE documents SET blob = 0",
        "UPDATE vectors SET vector = 'text'",
        "UPDATE vectors SET vector = substr(vector, 1, 8)",
        "DELETE FROM vectors WHERE number = (SELECT max(number) FROM vectors)",
    ],
)
def test_damage_is_noticed_when_a_folder_is_opened(damage: str, path: Path) -> None:
    with FAISSDocumentStore(path=path) as store:
        store.write_documents([Document(id="7", meta={"floor": 3})], policy=DuplicatePolicy.OVERWRITE)
    with sqlite3.connect(path / "documents.sqlite") as connection:
        connection.execute("DROP TRIGGER discount_vector")
        connection.execute(damage)
    with pytest.raises(DocumentStoreError, match=r"documents\.sqlite is damaged"):
        FAISSDocumentStore(path=path).count_documents()


def test_a_changed_byte_in_the_index_of_ids_is_noticed(path: Path) -> None:
    file = path / "documents.sqlite"
    with FAISSDocumentStore(path=path) as store:
        store.write_documents([Document(id="needle")])
    whole = file.read_bytes()
    places = [found.start() for found in re.finditer(b"needle", whole)]
    assert len(places) == 2, "the document, and the index of ids"
    for place in places:
        file.write_bytes(whole[:place] + b"b" + whole[place + 1 :])
        with pytest.raises(DocumentStoreError, match=r"documents\.sqlite is damaged"):
            FAISSDocumentStore(path=path).get_documents_by_id(["needle"])


def test_numbers_go_on_where_they_were_when_their_counter_is_damaged(path: Path) -> None:
    with sqlite3.connect(path / "documents.sqlite") as connection:
        connection.execute("UPDATE sqlite_sequence SET seq = 4")
    with FAISSDocumentStore(path=path) as store:
        assert store.write_documents([Document(id="new")], policy=DuplicatePolicy.SKIP) == 1
        assert store.filter_documents()[-1].id == "new"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_store_goes_on_in_a_forked_process(path: Path) -> None:
    store = FAISSDocumentStore(path=path)
    count = store.count_documents()
    closed, parent = os.pipe()
    child = os.fork()
    if not child:
        os.read(closed, 1)  # the parent, which would take the write-ahead log away, has closed its store
        written = store.write_documents([Document(id="child")])
        os._exit(written - 1)  # without closing: what is acknowledged is there
    store.write_documents([Document(id="parent")])
    store.close()
    os.write(parent, b"1")
    assert os.waitpid(child, 0)[1] == 0
    with FAISSDocumentStore(path=path) as reopened:
        assert reopened.count_documents() == count + 2


def test_a_process_forked_during_a_search_searches_and_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FAISSDocumentStore(path=path) as store:
        query, searching, forked = [1.0] * DIMENSION, Event(), Event()
        for _ in range(2):  # the first finds that the index is in step
            store.embedding_retrieval(query)
        search = VectorIndex.search_alone

        def slow(self: VectorIndex, *arguments: Any) -> Any:
            searching.set()
            assert forked.wait(60)
            return search(self, *arguments)

        monkeypatch.setattr(VectorIndex, "search_alone", slow)
        thread = Thread(target=store.embedding_retrieval, args=(query,))
        thread.start()
        assert searching.wait(60)
        child = os.fork()
        if not child:
            signal.alarm(30)
            VectorIndex.search_alone = search  # type: ignore[method-assign]
            store.write_documents([Document(id="child", embedding=[100.0] * DIMENSION)])
            os._exit(store.embedding_retrieval(query)[0].id != "child")
        forked.set()
        thread.join()
        assert os.waitpid(child, 0)[1] == 0


def test_a_long_log_does_not_make_writers_wait_for_readers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "CHECKPOINT", 0)
    with FAISSDocumentStore(path=path) as store:
        store.count_documents()
        reader = sqlite3.connect(path / "documents.sqlite")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM state").fetchall()
        start_time = time.monotonic()
        for number in range(3):
            store.write_documents([Document(id=f"beside a reader {number}")])
        assert time.monotonic() - start_time < 5
        reader.close()


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


def fill(store: FAISSDocumentStore) -> int:
    """Writes until the disk is full and returns how many documents were acknowledged."""
    for number in range(100_000):
        try:
            store.write_documents([Document(id=f"filler {number}", content="x" * 20_000, embedding=[1.0] * DIMENSION)])
        except DocumentStoreError as error:
            if "documents.sqlite" not in str(error):
                raise
            return number
    raise AssertionError("the disk never was full")


def assert_usable_and_unchanged(store: FAISSDocumentStore, content: Content) -> None:
    assert content_of(store) == content
    query = np.ones(DIMENSION, dtype=np.float32)
    assert {document.id for document in store.embedding_retrieval(query, top_k=10_000)} == set(content)
    with pytest.raises(DocumentStoreError):
        store.write_documents([Document(id="one more", content="x" * 2_000_000)])
    assert content_of(store) == content


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root; the test with a limit on the size of files stands in for it")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_leaves_the_store_usable_and_unchanged(small_disk: Path) -> None:
    folder = small_disk / "store"
    ballast = small_disk / "ballast"
    with FAISSDocumentStore(path=folder) as store:
        store.write_documents([Document(id=str(n), embedding=[float(n)] * DIMENSION) for n in range(20)])
    ballast.write_bytes(b"x" * 500_000)
    store = FAISSDocumentStore(path=folder)
    count = 20 + fill(store)
    content = content_of(store)
    assert len(content) == count
    assert_usable_and_unchanged(store, content)
    occupy(small_disk / "rest")
    assert_usable_and_unchanged(store, content)
    with pytest.raises(DocumentStoreError, match="cannot be saved"):
        store.close()
    for file in (ballast, small_disk / "rest"):
        file.unlink()
    with FAISSDocumentStore(path=folder) as store:
        assert content_of(store) == content
        store.write_documents([Document(id="after", embedding=[0.5] * DIMENSION)])
        assert_search_equals_brute_force_with_ties(store, content_of(store))


def occupy(file: Path) -> None:
    with file.open("wb", buffering=0) as rest, suppress(OSError):
        while True:
            rest.write(b"x" * 512)


def test_a_store_that_a_full_disk_keeps_from_being_opened_says_so(small_disk: Path) -> None:
    folder = small_disk / "store"
    with FAISSDocumentStore(path=folder) as store:
        store.write_documents([Document(id="a")])
    occupy(small_disk / "ballast")
    with pytest.raises(DocumentStoreError, match=r"documents\.sqlite cannot be used: .*no space left on its disk"):
        FAISSDocumentStore(path=folder).count_documents()
    (small_disk / "ballast").unlink()
    assert FAISSDocumentStore(path=folder).count_documents() == 1


def assert_search_equals_brute_force_with_ties(store: FAISSDocumentStore, content: Content) -> None:
    query = np.ones(DIMENSION, dtype=np.float32)
    found = [document.score for document in store.embedding_retrieval(query, top_k=10_000)]
    assert found == sorted((sum(vector) for vector in content.values()), reverse=True)


def write_with_limited_files(connection: Connection, path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    store = FAISSDocumentStore(path=path)
    before = len(content_of(store))
    count = before + fill(store)
    content = content_of(store)
    assert len(content) == count
    assert_usable_and_unchanged(store, content)
    connection.send(list(content))


def test_a_file_that_cannot_grow_leaves_the_store_usable_and_unchanged(path: Path) -> None:
    writer, connection = start(write_with_limited_files, path)
    ids = connection.recv()
    writer.join()
    with FAISSDocumentStore(path=path) as store:
        assert list(content_of(store)) == ids
        store.write_documents([Document(id="after", embedding=[0.5] * DIMENSION)])
        assert len(store.embedding_retrieval([1.0] * DIMENSION, top_k=10_000)) == len(ids) + 1
