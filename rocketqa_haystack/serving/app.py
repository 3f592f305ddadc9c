"""The service: routes for questions, feedback, health and metrics, and the page to ask on.

The pipeline's route is hayhooks': its wrapper, its request and response models. hayhooks' own server is not started: it
has routes that deploy code sent to them, and takes requests from every web page.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from threading import Lock
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from hayhooks import BasePipelineWrapper
from hayhooks.server.logger import log as hayhooks_log
from hayhooks.server.utils.deploy_utils import commit_prepared_pipeline
from hayhooks.server.utils.models import PreparedPipeline
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

from rocketqa_haystack import __version__
from rocketqa_haystack.data import Passage
from rocketqa_haystack.data.feedback import FeedbackFile
from rocketqa_haystack.serving.asking import AskingPipeline, QuestionError, Reply
from rocketqa_haystack.serving.guard import Guard, error_response
from rocketqa_haystack.serving.metrics import MeasuredRequests, Metrics

logger = logging.getLogger(__name__)

#: hayhooks' name of the pipeline: questions go to /ask/run.
PIPELINE_NAME = "ask"

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.svg": ("page.svg", "image/svg+xml"),
}

#: What needs no token: the page, which asks for it, and the probe.
PUBLIC = frozenset({*PAGE, "/health"})
PATHS = PUBLIC | {f"/{PIPELINE_NAME}/run", "/feedback", "/fields", "/metrics"}

#: Questions whose passages are kept for feedback on them, and characters of all their passages, at most.
KEPT_REPLIES, KEPT_CHARACTERS = 1_000, 50_000_000


@dataclass(frozen=True)
class ServiceSettings:
    """What the service allows.

    Attributes:
        token: What callers must send as `Authorization: Bearer ...`; None lets everyone ask.
        hosts: Host names that requests may be for; None allows all.
        max_question: Longest question in characters.
        max_body: Largest request body in bytes.
        max_waiting: Questions that are worked on or wait at most; more are told to come back.
        timeout: Seconds after which a question is given up.
        threads: Questions that go through the pipeline at once.
    """

    token: str | None = None
    hosts: frozenset[str] | None = None
    max_question: int = 1_000
    max_body: int = 65_536
    max_waiting: int = 256
    timeout: float = 60.0
    threads: int = 64

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch("[!-~]+", self.token):
            raise ValueError("the token must be made of ASCII characters without white space, and not empty")
        for name in ("max_question", "max_body", "max_waiting", "timeout", "threads"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, but got {getattr(self, name)}")


class Feedback(BaseModel):
    """A vote on a passage that was shown for a question."""

    reply_id: str
    passage_id: str
    vote: Literal["up", "down"]


class _Asking(BasePipelineWrapper):  # type: ignore[misc]
    """The pipeline as hayhooks serves it."""

    def __init__(self, asking: AskingPipeline, metrics: Metrics, settings: ServiceSettings) -> None:
        super().__init__()
        self.pipeline = asking.pipeline
        self._is_run_api_async_implemented = True
        self._asking = asking
        self._metrics = metrics
        self._settings = settings
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="asking")
        self._waiting = 0
        self._replies: OrderedDict[str, tuple[str, dict[str, Passage]]] = OrderedDict()
        self._kept_characters = 0

    def setup(self) -> None:
        """The pipeline is set up when it comes here."""

    async def run_api_async(
        self, question: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, Any]:
        """
        Ask a question.

        :param question: The question.
        :param filters: Haystack filters on the metadata of the documents.
        :param top_k: Answers, or passages where the pipeline gives no answers, at most.
        :returns: The reply: its id, `answers`, `passages` with their `scores` by stage, and `seconds` by stage.
        """
        settings = self._settings
        if not question.strip():
            raise HTTPException(422, "the question is empty")
        for name, text in (("question", question), ("filter", json.dumps(filters, ensure_ascii=False))):
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise HTTPException(422, f"the {name} is no Unicode text: it has half a surrogate pair")
        if len(question) > settings.max_question:
            raise HTTPException(422, f"the question is longer than {settings.max_question:,} characters")
        if top_k is not None and not 1 <= top_k <= 1_000:
            raise HTTPException(422, "top_k must be between 1 and 1,000")
        if self._waiting >= settings.max_waiting:
            raise HTTPException(503, "too many questions at once; try again in a moment", {"Retry-After": "1"})
        self._waiting += 1
        self._metrics.in_flight.set(self._waiting)
        job = self._threads.submit(self._asking.ask, question, filters or None, top_k)
        work = asyncio.wrap_future(job)
        work.add_done_callback(self._done)
        try:
            reply = await asyncio.wait_for(asyncio.shield(work), settings.timeout)
        except asyncio.TimeoutError:
            job.cancel()  # which it can be as long as it waits for a thread
            raise HTTPException(504, f"no answer within {settings.timeout:g} seconds") from None
        except QuestionError as error:
            raise HTTPException(422, str(error)) from None
        except Exception as error:
            reference = secrets.token_hex(4)
            logger.exception("question failed, reference %s", reference)
            stage = getattr(error, "component_name", None)
            where = f"at the stage {stage!r}" if stage else "in the pipeline"
            message = f"the question failed {where}; the service's log says why, reference {reference}"
            raise HTTPException(500, message) from None
        self._metrics.stages(reply.seconds)
        return {"id": self._keep(question, reply), "question": question, **reply.to_dict()}

    def shown(self, reply_id: str, passage_id: str) -> tuple[str, Passage]:
        """The question of a reply, and one of the passages that it showed.

        Raises:
            KeyError: There was no such reply lately, or it did not show the passage.
        """
        question, passages = self._replies[reply_id]
        return question, passages[passage_id]

    def close(self) -> None:
        """Waits for the questions that are being worked on, then closes the pipeline."""
        self._threads.shutdown()
        self._asking.close()

    def _keep(self, question: str, reply: Reply) -> str:
        # The service itself says what was shown: a caller can vote, but not write passages into the training data.
        reply_id = secrets.token_urlsafe(12)
        passages = {p.id: Passage(p.text, p.title) for p in reply.passages}
        self._replies[reply_id] = question, passages
        self._kept_characters += _characters(passages)
        while len(self._replies) > 1 and (len(self._replies) > KEPT_REPLIES or self._kept_characters > KEPT_CHARACTERS):
            _, (_, oldest) = self._replies.popitem(last=False)
            self._kept_characters -= _characters(oldest)
        return reply_id

    def _done(self, work: asyncio.Future[Reply]) -> None:
        self._waiting -= 1
        self._metrics.in_flight.set(self._waiting)
        if not work.cancelled():
            work.exception()  # it was told to the caller, or came after the time was up


def _characters(passages: Mapping[str, Passage]) -> int:
    return sum(len(passage.title) + len(passage.text) for passage in passages.values())


def make_app(
    asking: AskingPipeline, feedback: FeedbackFile, metrics: Metrics, settings: ServiceSettings | None = None
) -> FastAPI:
    """The ASGI application of a pipeline, which it closes when it shuts down.

    Args:
        asking: The pipeline.
        feedback: Where votes go.
        metrics: Shared with the pipeline's batches.
        settings: What is allowed.
    """
    settings = settings or ServiceSettings()
    hayhooks_log.disable("hayhooks")  # it logs every question
    wrapper = _Asking(asking, metrics, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(wrapper.close)

    app = FastAPI(title="rocketqa-haystack", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.wrapper = wrapper
    prepared = PreparedPipeline(PIPELINE_NAME, wrapper)
    with _REGISTRY_LOCK:
        commit_prepared_pipeline(prepared, app=app, overwrite=True, cleanup_files_on_overwrite=False)
    _add_page(app, protected=settings.token is not None)

    @app.post("/feedback")
    async def give_feedback(vote: Feedback) -> dict[str, Any]:
        """Record whether a passage answers the question that it was shown for."""
        try:
            question, passage = wrapper.shown(vote.reply_id, vote.passage_id)
        except KeyError:
            raise HTTPException(404, "there was no such reply with such a passage lately; ask again") from None
        try:
            await asyncio.to_thread(feedback.append, question, vote.passage_id, passage, vote.vote)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        except OSError:
            logger.exception("feedback could not be written")
            raise HTTPException(500, "the feedback could not be written; the service's log says why") from None
        metrics.votes.labels(vote.vote).inc()
        return {"recorded": vote.vote}

    @app.get("/fields")
    async def fields() -> dict[str, Any]:
        """The metadata fields that filters can name, with their values."""
        return {"filters": asking.takes_filters, "fields": await asyncio.to_thread(asking.fields)}

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether questions are taken."""
        return {"status": "ok", "version": __version__}

    @app.get("/metrics")
    async def tell_metrics() -> Response:
        """Counters and timings for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    _add_error_handlers(app)
    app.add_middleware(Guard, token=settings.token, public=PUBLIC, max_body=settings.max_body, hosts=settings.hosts)
    app.add_middleware(MeasuredRequests, metrics=metrics, paths=PATHS)
    return app


_REGISTRY_LOCK = Lock()


def _add_page(app: FastAPI, *, protected: bool) -> None:
    folder = files("rocketqa_haystack.serving") / "page"

    def add(path: str, content: str, media_type: str) -> None:
        async def page() -> Response:
            return Response(content, media_type=media_type)

        app.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)

    for path, (name, media_type) in PAGE.items():
        content = (folder / name).read_text(encoding="utf-8")
        add(path, content.replace('data-protected=""', 'data-protected="yes"') if protected else content, media_type)


def _add_error_handlers(app: FastAPI) -> None:
    """Every error is JSON of one form, and none has a stack trace."""

    @app.exception_handler(StarletteHTTPException)
    async def known(request: Request, error: StarletteHTTPException) -> Response:
        return error_response(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return error_response(422, f"the body is no JSON: {first['ctx']['error']}, character {first['loc'][-1]}")
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        return error_response(422, f"{place}: {first['msg']}" if place else "the body must be a JSON object")

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        return error_response(500, "something went wrong; the service's log says what")
