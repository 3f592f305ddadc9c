"""Services in threads of this process, and what they are asked."""

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

import uvicorn
from haystack import Document

from rocketqa_haystack.data.feedback import FeedbackFile
from rocketqa_haystack.serving.app import ServiceSettings, make_app
from rocketqa_haystack.serving.asking import AskingPipeline
from rocketqa_haystack.serving.batching import BatchSettings
from rocketqa_haystack.serving.metrics import Metrics

WriteFolder = Callable[..., Path]

#: What documents may hold, and a page must not run or be confused by.
HOSTILE = Document(
    id="hostile",
    content="😀😀 bada <img src=x onerror=\"document.title='run'\"> <script>document.title='run'</script> beki mara",
    meta={"title": "<b>bada</b> & </li><script>document.title='run'</script>", "kind": "<i>odd</i>", "year": 1999}
    | {"tags": ["x", "y"], "place": {"x": 1}, "a.b": "dot"},
)


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
        return response.status, json.loads(content) if is_json and content else content.decode(), told

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
