"""Small pipeline folders of each kind, and services on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from haystack import Document, Pipeline
from haystack.utils import ComponentDevice
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader
from services import HOSTILE, Service, WriteFolder, running

from rocketqa_haystack import FAISSDocumentStore, RocketQADocumentEmbedder, RocketQARanker, RocketQARetriever
from rocketqa_haystack.data import Collection

CPU = ComponentDevice.from_str("cpu")


@pytest.fixture(scope="session")
def documents(collection: Collection) -> list[Document]:
    """The collection's passages with metadata to filter on, and a hostile one."""
    made = [
        Document(
            id=id,
            content=p.text,
            meta={"title": p.title, "kind": "odd" if i % 2 else "even", "year": 2000 + i, "open": i % 3 == 0},
        )
        for i, (id, p) in enumerate(collection.corpus.items())
    ]
    return [*made, HOSTILE]


@pytest.fixture(scope="session")
def write_folder(
    documents: list[Document],
    encoder_folder: Path,
    ranker_folder: Path,
    reader_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> WriteFolder:
    """Writes a folder with pipeline.yaml: retrieval, with `ranker` and `reader` if wanted."""
    embedded = RocketQADocumentEmbedder(model=encoder_folder, device=CPU).run(documents)["documents"]

    def write(*, ranker: bool = False, reader: bool = False, empty: bool = False) -> Path:
        folder = tmp_path_factory.mktemp("pipeline")
        store = FAISSDocumentStore(path=folder / "store")
        with store:
            store.write_documents([] if empty else embedded)
        pipeline = Pipeline()
        pipeline.add_component(
            "retriever", RocketQARetriever(model=encoder_folder, device=CPU, document_store=store, top_k=5)
        )
        last = "retriever"
        if ranker:
            pipeline.add_component("ranker", RocketQARanker(model=ranker_folder, device=CPU, top_k=3))
            pipeline.connect(last, "ranker")
            last = "ranker"
        if reader:
            component = TransformersExtractiveReader(
                model=str(reader_folder), device=CPU, token=None, top_k=3, max_seq_length=60, stride=10
            )
            pipeline.add_component("reader", component)
            pipeline.connect(f"{last}.documents", "reader.documents")
        (folder / "pipeline.yaml").write_text(pipeline.dumps(), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="session")
def extractive(write_folder: WriteFolder) -> Iterator[Service]:
    """Retrieval, re-ranking, reading."""
    with running(write_folder(ranker=True, reader=True)) as service:
        yield service


@pytest.fixture(scope="session")
def retrieval(write_folder: WriteFolder) -> Iterator[Service]:
    """Retrieval alone."""
    with running(write_folder()) as service:
        yield service
