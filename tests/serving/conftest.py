"""Small pipeline folders of each kind, and services on them in threads of this process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from haystack import Document, Pipeline
from haystack.utils import ComponentDevice
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader

from rocketqa_haystack import FAISSDocumentStore, RocketQADocumentEmbedder, RocketQARanker, RocketQARetriever
from rocketqa_haystack.data import Collection
from rocketqa_haystack.data.feedback import FeedbackFile
from rocketqa_haystack.serving.app import ServiceSettings, make_app
from rocketqa_haystack.serving.asking import AskingPipeline
from rocketqa_haystack.serving.batching import BatchSettings
from rocketqa_haystack.serving.metrics import Metrics

CPU = ComponentDevice.from_str("cpu")

#: What documents may hold, and a page must not run or be confused by.
HOSTILE = Document(
    id="hostile",
    content="😀😀 bada <img src=x onerror=\"document.title='run'\"> <script>document.title='run'</script> beki mara",
    meta={"title": "<b>bada</b> & </li><script>document.title='run'</script>", "kind": "<i>odd</i>", "year": 1999},
)


@pytest.fixture(scope="session")
def documents(collection: Collection) -> list[Document]:
    """The collection's passages with metadata to filter on, and a hostile one."""
    made = [
        Document(
            id=id, content=p.text, meta={"title": p.title, "kind": "even" if i % 2 == 0 else "odd", "year": 2000 + i}
        )
        for i, (id, p) in enumerate(collection.corpus.items())
    ]
    return [*made, HOSTILE]


WriteFolder = Callable[..., Path]


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


@dataclass
class Service:
    """A running service."""

    port: int
    asking: AskingPipeline
    feedback: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(
        self, path: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, content (parsed where it is JSON) and headers of a response."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method or ("GET" if body is None else "POST"), path, raw, sent)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        told = dict(response.getheaders())
        is_json = told.get("content-type", "").startswith("application/json")
        return response.status, json.loads(content) if is_json else content.decode(), told

    def ask(self, question: str, **more: Any) -> Any:
        """The reply to a question that must be answered."""
        status, content, _ = self.call("/ask/run", {"question": question, **more})
        assert status == 200, content
        return content["result"]


@contextmanager
def running(folder: Path, *, batches: BatchSettings | None = None, **settings: Any) -> Iterator[Service]:
    """A service on a folder, in a thread."""
    metrics = Metrics()
    batches = batches or BatchSettings(observe=metrics.batch)
    asking = AskingPipeline(folder, batches)
    feedback = folder / "feedback.jsonl"
    app = make_app(asking, FeedbackFile(feedback), metrics, ServiceSettings(**settings))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Service(server.servers[0].sockets[0].getsockname()[1], asking, feedback)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


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
