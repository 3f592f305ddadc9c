"""A folder's pipeline as a function from a question to answers, the passages behind them, and each stage's time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import networkx
from haystack import Document
from haystack.core.errors import PipelineRuntimeError
from haystack.dataclasses import ChatMessage
from haystack.errors import FilterError

from rocketqa_haystack.components import RocketQARanker, RocketQARetriever, RocketQATextEmbedder
from rocketqa_haystack.components.passages import TITLE_FIELDS, to_passages
from rocketqa_haystack.pipelines import PIPELINE_FILE, document_stores, load_pipeline
from rocketqa_haystack.serving.batching import (
    BatchedCrossEncoder,
    BatchedDualEncoder,
    BatchSettings,
)

#: Inputs that take the question. A `text` is one only where it must be given: prompt builders and others have them too.
QUESTION_INPUTS = ("query", "question", "text")

#: Outputs that a person is shown.
SHOWN_OUTPUTS = ("documents", "answers", "replies")

#: Levels of filters within filters, which stores go through by recursion, and comparisons in all of them, each of which
#: may be made with every document.
MOST_LEVELS, MOST_COMPARISONS = 50, 100

#: Documents of a store whose metadata is listed for the filters, values listed of each field, seconds they are kept.
MOST_DOCUMENTS = 200_000
MOST_VALUES = 100
FIELDS_AGE = 60.0

#: And as many times the seconds that listing them took: pages that people open must not keep the service busy.
FIELDS_SHARE = 20

#: What stores call the types of numbers.
NUMBERS = {"long": "int", "integer": "int", "real": "float", "double": "float", "double precision": "float"}

_SECONDS: ContextVar[dict[str, float] | None] = ContextVar("seconds", default=None)


class QuestionError(ValueError):
    """A question that this pipeline cannot be asked; the message is for whoever asked it."""


@dataclass(frozen=True)
class ShownPassage:
    """A passage behind the answers.

    Attributes:
        id: The Document's id.
        title: The title, from the metadata.
        text: The content.
        meta: The other metadata.
        scores: The score that each stage gave it, by the stage's name, in the order of the stages.
    """

    id: str
    title: str
    text: str
    meta: dict[str, Any]
    scores: dict[str, float]


@dataclass(frozen=True)
class ShownAnswer:
    """An answer in words.

    Attributes:
        text: The answer; None says that the passages hold none.
        score: The reader's confidence; None for a generated answer.
        passage_id: The passage that an extracted answer stands in.
        start: Its first character (code point) in that passage's text.
        end: The character after its last.
    """

    text: str | None
    score: float | None = None
    passage_id: str | None = None
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Reply:
    """What a question gets.

    Attributes:
        answers: Answers in words, best first; none where the pipeline only finds passages.
        passages: Passages, best first.
        seconds: The time that each stage took, in the order of the stages, and `total`.
    """

    answers: list[ShownAnswer] = field(default_factory=list)
    passages: list[ShownPassage] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The reply as JSON has it."""
        return _plain(asdict(self))  # type: ignore[no-any-return]


class AskingPipeline:
    """The pipeline of a folder, to be asked from many threads at once.

    Any pipeline serves that takes a question and gives documents, answers or replies: retrieval, re-ranking, extractive
    and generative question answering. Its inputs are found by their names. The encoders of our own components batch
    what the threads ask of them; others that hold a model are run one thread at a time, as their tokenizers need.

    Args:
        folder: A folder with a `pipeline.yaml`.
        batches: How requests are batched.

    Attributes:
        documents: How many documents the stores hold, if they can tell.

    Raises:
        ValueError: There is no such file, it is no pipeline, it cannot be asked a question, or a model is missing.
        DocumentStoreError: A document store cannot be read.
    """

    def __init__(self, folder: str | Path, batches: BatchSettings | None = None) -> None:
        self.file = Path(folder) / PIPELINE_FILE
        if not self.file.is_file():
            raise ValueError(f"there is no {self.file}; `rocketqa demo` and `rocketqa pipeline` write such folders")
        self.pipeline = load_pipeline(self.file)
        inputs = self.pipeline.inputs()
        self._question = {
            name: socket
            for name, sockets in inputs.items()
            if (socket := next((s for s in QUESTION_INPUTS if s in sockets and _takes_question(s, sockets[s])), None))
        }
        if not self._question:
            raise ValueError(f"{self.file} has no input for a question: none named {', '.join(QUESTION_INPUTS)}")
        for name, sockets in inputs.items():
            for socket, description in sockets.items():
                if description["is_mandatory"] and self._question.get(name) != socket:
                    raise ValueError(f"{self.file}: the input {name}.{socket} must be given; a question cannot fill it")
        outputs = self.pipeline.outputs(include_components_with_connected_outputs=True)
        order = [name for name in networkx.topological_sort(networkx.DiGraph(self.pipeline.graph)) if name in outputs]
        self.stages = [name for name in order if any(output in outputs[name] for output in SHOWN_OUTPUTS)]
        if not self.stages:
            raise ValueError(f"{self.file} gives no {', '.join(SHOWN_OUTPUTS)}: there is nothing to show")
        self._filtered = [name for name, sockets in inputs.items() if "filters" in sockets]
        self._limited = next((name for name in reversed(self.stages) if "top_k" in inputs.get(name, ())), None)
        self._fields: tuple[float, list[dict[str, Any]]] | None = None
        self._fields_lock = Lock()
        self._batched: list[BatchedDualEncoder | BatchedCrossEncoder] = []
        self.documents = self._count_documents()
        self.pipeline.warm_up()
        for name, instance in self.pipeline.walk():
            self._prepare(name, instance, batches or BatchSettings())

    def ask(self, question: str, filters: dict[str, Any] | None = None, top_k: int | None = None) -> Reply:
        """Runs the pipeline.

        Args:
            question: The question.
            filters: Haystack filters on the documents.
            top_k: Answers, or passages where there are no answers, at most; the pipeline's own number by default.

        Raises:
            QuestionError: The pipeline takes no filters, these make no sense or are too deep, or it takes no top_k.
            PipelineRuntimeError: A component failed.
        """
        data: dict[str, dict[str, Any]] = {name: {socket: question} for name, socket in self._question.items()}
        if filters:
            if not self._filtered:
                raise QuestionError("this pipeline takes no filters")
            levels, comparisons = _extent(filters)
            if levels > MOST_LEVELS:
                raise QuestionError(f"the filters have more than {MOST_LEVELS} levels")
            if comparisons > MOST_COMPARISONS:
                raise QuestionError(f"the filters have more than {MOST_COMPARISONS} comparisons")
            for name in self._filtered:
                data.setdefault(name, {})["filters"] = filters
        if top_k is not None:
            if self._limited is None:
                raise QuestionError("this pipeline takes no top_k")
            data.setdefault(self._limited, {})["top_k"] = top_k
        seconds: dict[str, float] = {}
        token = _SECONDS.set(seconds)
        start = time.perf_counter()
        try:
            outputs = self.pipeline.run(data, include_outputs_from=set(self.stages))
        except PipelineRuntimeError as error:
            if isinstance(error.__cause__, FilterError):
                raise QuestionError(f"the filters make no sense: {error.__cause__}") from error
            raise
        finally:
            _SECONDS.reset(token)
        seconds["total"] = time.perf_counter() - start
        return _reply({name: outputs[name] for name in self.stages if name in outputs}, seconds)

    def fields(self) -> list[dict[str, Any]]:
        """The metadata fields that filters can name: `{"name", "type", "values"}` each, with up to 100 values.

        None are listed for stores that cannot list them, or with too many documents to go through.
        """
        with self._fields_lock:
            start = time.monotonic()
            if self._fields is None or start > self._fields[0]:
                found = self._list_fields()
                end = time.monotonic()
                self._fields = end + max(FIELDS_AGE, FIELDS_SHARE * (end - start)), found
            return self._fields[1]

    @property
    def takes_filters(self) -> bool:
        """Whether questions can come with filters."""
        return bool(self._filtered)

    def close(self) -> None:
        """Ends the batching threads and closes the document stores."""
        for encoder in self._batched:
            encoder.close()
        for store in document_stores(self.pipeline):
            if hasattr(store, "close"):
                store.close()

    def _prepare(self, name: str, instance: Any, batches: BatchSettings) -> None:
        if isinstance(instance, RocketQARetriever | RocketQATextEmbedder) and instance._encoder is not None:
            instance._encoder = encoder = BatchedDualEncoder(instance._encoder, batches)
            self._batched.append(encoder)
        elif isinstance(instance, RocketQARanker) and instance._encoder is not None:
            instance._encoder = ranker = BatchedCrossEncoder(instance._encoder, batches)
            self._batched.append(ranker)
        instance.run = _timed(name, instance.run, Lock() if _holds_a_model(instance) else None)

    def _count_documents(self) -> int:
        # A store that cannot be read is told now, not to whoever asks first.
        return sum(
            store.count_documents() for store in document_stores(self.pipeline) if hasattr(store, "count_documents")
        )

    def _list_fields(self) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for store in document_stores(self.pipeline) if self._filtered else ():
            if not hasattr(store, "get_metadata_fields_info") or store.count_documents() > MOST_DOCUMENTS:
                continue
            for name, info in store.get_metadata_fields_info().items():
                values, _ = store.get_metadata_field_unique_values(name, size=MOST_VALUES)
                if "." in name or any(isinstance(value, dict | list) for value in values):
                    continue  # a dot means a place within, and a value to choose is one value
                kind = NUMBERS.get(info["type"], info["type"])
                found.setdefault(name, {"name": name, "type": kind, "values": _plain(values)})
        return sorted(found.values(), key=lambda description: description["name"])


def _takes_question(socket: str, description: Mapping[str, Any]) -> bool:
    return bool(description["is_mandatory"]) if socket == "text" else description["type"] in (str, Any, str | None)


def _extent(filters: Any) -> tuple[int, int]:
    """How deep filters stand within filters, and how many stand in no other's place."""
    level, depth, comparisons = [filters], 0, 0
    while level:
        groups = [member["conditions"] for member in level if isinstance(member, dict) and "conditions" in member]
        comparisons += len(level) - len(groups)
        level = [member for members in groups if isinstance(members, list) for member in members]
        depth += 1
    return depth, comparisons


def _holds_a_model(instance: Any) -> bool:
    module = type(instance).__module__
    kinds = (".readers.", ".rankers.", ".embedders.")
    return not module.startswith("rocketqa_haystack.") and any(kind in f"{module}." for kind in kinds)


def _timed(name: str, run: Callable[..., Any], lock: Lock | None) -> Callable[..., Any]:
    """A component's `run` that notes its time; with a lock, one thread at a time, the waiting counted."""

    def timed(**inputs: Any) -> Any:
        start = time.perf_counter()
        try:
            with lock or nullcontext():
                return run(**inputs)
        except Exception:
            raise
        except BaseException as error:
            # A tokenizer's panic, or exit() in a stage: it ends the question and not the service.
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        finally:
            if (seconds := _SECONDS.get()) is not None:
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    return timed


def _reply(outputs: Mapping[str, Mapping[str, Any]], seconds: dict[str, float]) -> Reply:
    scores: dict[str, dict[str, float]] = {}
    documents: list[Document] = []
    answers: list[Any] = []
    for stage, output in outputs.items():
        if isinstance(found := output.get("documents"), list):
            documents = found
            for document in found:
                if document.score is not None:
                    scores.setdefault(document.id, {})[stage] = document.score
        answers = output.get("answers") or output.get("replies") or answers
    shown = {document.id: document for document in documents}
    for answer in answers:
        if (document := getattr(answer, "document", None)) is not None:
            shown.setdefault(document.id, document)
    passages = [_passage(document, scores.get(document.id, {})) for document in shown.values()]
    return Reply(answers=[_answer(answer) for answer in answers], passages=passages, seconds=seconds)


def _passage(document: Document, scores: dict[str, float]) -> ShownPassage:
    (passage,) = to_passages([document], TITLE_FIELDS, " ")
    meta = {name: value for name, value in document.meta.items() if name not in TITLE_FIELDS}
    return ShownPassage(id=document.id, title=passage.title, text=passage.text, meta=meta, scores=scores)


def _answer(answer: Any) -> ShownAnswer:
    if isinstance(answer, str):
        return ShownAnswer(answer)
    if isinstance(answer, ChatMessage):
        return ShownAnswer(answer.text or "")
    document, span = getattr(answer, "document", None), getattr(answer, "document_offset", None)
    return ShownAnswer(
        text=answer.data,
        score=getattr(answer, "score", None),
        passage_id=document.id if document is not None else None,
        start=span.start if span is not None else None,
        end=span.end if span is not None else None,
    )


def _plain(value: Any) -> Any:
    """A value as JSON has it; what JSON has no form for becomes text, numbers that are none become null."""
    if isinstance(value, dict):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(member) for member in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
