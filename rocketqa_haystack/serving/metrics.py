"""What the service tells Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("rocketqa_requests", "Requests answered.", ["path", "status"], registry=own)
        self.request_seconds = Histogram(
            "rocketqa_request_seconds", "Time to answer a request.", ["path"], buckets=_SECONDS, registry=own
        )
        self.in_flight = Gauge("rocketqa_questions_in_flight", "Questions being answered.", registry=own)
        self.stage_seconds = Histogram(
            "rocketqa_stage_seconds", "Time of a pipeline's stage.", ["stage"], buckets=_SECONDS, registry=own
        )
        self.batch_requests = Histogram(
            "rocketqa_batch_requests", "Requests computed together.", ["encoder"], buckets=_REQUESTS, registry=own
        )
        self.votes = Counter("rocketqa_votes", "Feedback given.", ["vote"], registry=own)

    def batch(self, encoder: str, requests: int) -> None:
        """Notes a batch of an encoder."""
        self.batch_requests.labels(encoder).observe(requests)

    def stages(self, seconds: dict[str, float]) -> None:
        """Notes a question's time per stage."""
        for stage, value in seconds.items():
            self.stage_seconds.labels(stage).observe(value)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)


class MeasuredRequests:
    """ASGI middleware that counts and times requests. Paths that are no route are counted together."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        start, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.request_seconds.labels(path).observe(time.perf_counter() - start)
