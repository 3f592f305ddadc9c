"""What other processes do to a store in these tests, and how they start quickly: forked from one that imported all."""

import multiprocessing
import random
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from haystack import Document
from haystack.document_stores.types import DuplicatePolicy

from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore

DIMENSION = 6

Operation = tuple[str, list[str], np.ndarray]  # what to do, ids, vectors
Content = dict[str, list[float]]  # vectors by id, in the order of writing


def start(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """A running process that calls `target(connection, *arguments)`, and the other end of the connection."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "haystack", "faiss", "rocketqa_haystack.document_stores.faiss"])
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return process, ours


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


def applied(content: Content, operation: Operation) -> Content:
    kind, ids, vectors = operation
    content = dict(content)
    if kind != "save":
        for id_ in ids:
            content.pop(id_, None)
    if kind == "write":
        content.update(zip(ids, vectors.tolist(), strict=True))
    return content


def content_of(store: FAISSDocumentStore) -> Content:
    return {document.id: document.embedding or [] for document in store.filter_documents(return_embedding=True)}


def brute_force(content: Content, query: np.ndarray) -> list[str]:
    """The ids of all documents, the best first."""
    scores = {id_: float(np.dot(np.asarray(vector, dtype=np.float64), query)) for id_, vector in content.items()}
    return sorted(scores, key=lambda id_: -scores[id_])


def assert_search_equals_brute_force(store: FAISSDocumentStore, content: Content) -> None:
    query = np.random.default_rng(len(content)).standard_normal(DIMENSION, dtype=np.float32)
    assert [document.id for document in store.embedding_retrieval(query, top_k=1000)] == brute_force(content, query)


def write_for_ever(connection: Connection, path: Path, seed: int) -> None:
    """Tells of every operation before and after it."""
    store = FAISSDocumentStore(path=path)
    for operation in operations(seed):
        connection.send(operation[0])
        apply_to_store(store, operation)
        connection.send("done")


def write_until_told(connection: Connection, path: Path, seed: int, enough: int) -> None:
    """Tells when it has done more operations than `enough`, and at the end how many."""
    done = 0
    with FAISSDocumentStore(path=path) as store:
        for operation in operations(seed):
            if connection.poll():
                break
            apply_to_store(store, operation)
            done += 1
            if done == enough + 1:
                connection.send("enough")
    connection.send(done)


def search_until_told(connection: Connection, path: Path, query: np.ndarray) -> None:
    """Tells at the end what it found, in order, each change once, and in how many searches."""
    found: list[list[str]] = []
    searches = 0
    with FAISSDocumentStore(path=path) as store:
        while not connection.poll():
            ids = [document.id for document in store.embedding_retrieval(query, top_k=1000)]
            searches += 1
            if not found or ids != found[-1]:
                found.append(ids)
    connection.send((found, searches))


def change(connection: Connection, path: Path) -> None:
    """One change of each kind."""
    with FAISSDocumentStore(path=path) as store:
        store.delete_documents(["40"])
        changed = [Document(id="0", embedding=[5.0] * DIMENSION), Document(id="new", embedding=[-5.0] * DIMENSION)]
        store.write_documents(changed, policy=DuplicatePolicy.OVERWRITE)
    connection.send("done")
