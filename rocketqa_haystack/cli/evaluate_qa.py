"""`rocketqa evaluate-qa`: the answers of a pipeline, what its stages found, and how long they took."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from haystack import ExtractedAnswer, Pipeline
from tqdm.auto import tqdm

from rocketqa_haystack.data import AnsweredCollection, load_answered_collection
from rocketqa_haystack.data.files import file_hash, folder_hash, write_json
from rocketqa_haystack.data.journal import Journal
from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore
from rocketqa_haystack.evaluation import answer_rank, format_table, measure_answers, normalize_answer
from rocketqa_haystack.pipelines import PIPELINE_FILE, document_stores, load_pipeline

#: Passages that a generated answer names, like [2], [1, 3] or [1-3].
CITATION = re.compile(r"\s*\[\d+(?:\s*[,;\u2013-]\s*\d+)*\]")


def evaluate_qa(
    pipeline: Path,
    collection: Path,
    split: str = "test",
    questions: int | None = None,
    ranks: list[int] = [1, 5, 20, 50],  # noqa: B006 (the parser copies it)
    output: Path | None = None,
    answers_file: Path | None = None,
) -> None:
    """Measure a question-answering pipeline: exact match and F1, answer recall, and the time of each stage.

    Exact match (EM) and F1 are SQuAD's, of the pipeline's best answer. "No answer" counts as an answer where the
    split has questions without one; elsewhere the best other answer does. Success@k is the share of questions with
    an answer string in a stage's first k passages, of those that have an answer, as on Natural Questions. Times are
    those of one question after another: p50 is the median, p95 the time that 95 of 100 questions stay under. Where
    a pipeline has branches, Success@k and times of a stage are those of the questions that reached it.

    Args:
        pipeline: A pipeline as `rocketqa pipeline` writes it, or a folder with a pipeline.yaml.
        collection: A BEIR folder whose queries.jsonl has "answers"; an empty list says that there is none.
        split: The split whose questions are asked.
        questions: How many of them, evenly spread; all by default.
        ranks: The k of Success@k; those beyond a stage's passages are left out.
        output: Write the measures as JSON.
        answers_file: Write each question's answer, ranks and times as JSON lines, as they come. Where the file is there
            already, an interrupted evaluation goes on, if the questions, the pipeline, its model folders and its
            document store are what they were.
    """
    if questions is not None and questions < 1:
        raise ValueError(f"questions must be at least 1, but got {questions}")
    if not ranks or min(ranks) < 1:
        raise ValueError(f"ranks must be 1 or more, but got {ranks}")
    data = load_answered_collection(collection, split)
    answered = [id for id in data.collection.queries if id in data.answers]
    asked = _spread(answered, questions)
    if unanswered := len(data.collection.queries) - len(answered):
        print(
            f"{unanswered:,} of {len(data.collection.queries):,} questions are left out: they have no field 'answers'"
        )
    file = pipeline / PIPELINE_FILE if pipeline.is_dir() else pipeline
    loaded = load_pipeline(file)
    if not _question_inputs(loaded, ""):
        raise ValueError(f"{file}: no component has an open input `query`")
    journal = Journal(answers_file, {} if answers_file is None else _key(file, loaded, data))
    if remaining := [id for id in asked if id not in journal.records]:
        for record in _ask(loaded, data, remaining):
            journal.append(record)
    report = _measures([journal.records[id] for id in asked], data, sorted(set(ranks)))
    print(f"{len(asked)} questions ({split}) to {file}")
    if "EM" in report:
        print(f"EM {report['EM']:.4f}, F1 {report['F1']:.4f}")
    rows = {
        stage: {**report["Success"].get(stage, {}), **{f"{name} ms": 1000 * s for name, s in seconds.items()}}
        for stage, seconds in report["seconds"].items()
    }
    print(format_table(rows, "stage"))
    for stage, number in report["reached"].items():
        if number < len(asked):
            print(f"{stage}: reached by {number} of {len(asked)} questions")
    if output is not None:
        write_json(output, {"questions": len(asked), "collection": str(collection), "split": split, **report})
        print(f"written: {output}")


def _spread(ids: list[str], number: int | None) -> list[str]:
    """So many of the ids, from all parts of the list."""
    if number is None or number >= len(ids):
        return ids
    return [ids[i * len(ids) // number] for i in range(number)]


def _key(file: Path, pipeline: Pipeline, data: AnsweredCollection) -> dict[str, Any]:
    """What the answers depend on, as far as it can be told: models on a hub go by their names."""
    models = sorted(set(_model_folders(pipeline.to_dict()["components"])))
    questions = json.dumps([data.collection.queries, data.answers])
    return {
        "pipeline": file_hash(file),
        "questions": hashlib.sha256(questions.encode()).hexdigest(),
        "models": {model: folder_hash(Path(model)) for model in models},
        "stores": [_state(store) for store in document_stores(pipeline)],
    }


def _model_folders(description: Any) -> Iterator[str]:
    """The folders that components name as their `model`."""
    if isinstance(description, Mapping):
        model = description.get("model")
        if isinstance(model, str) and Path(model).is_dir():
            yield model
    for part in description.values() if isinstance(description, Mapping) else description:
        if isinstance(part, Mapping | list):
            yield from _model_folders(part)


def _state(store: Any) -> list[Any]:
    if isinstance(store, FAISSDocumentStore):
        return list(store.state())
    return [type(store).__name__, store.count_documents()]  # which all stores can tell, and no more


def _question_inputs(pipeline: Pipeline, question: str) -> dict[str, Any]:
    return {name: {"query": question} for name, inputs in pipeline.inputs().items() if "query" in inputs}


def _ask(pipeline: Pipeline, data: AnsweredCollection, query_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Each question's record."""
    stages = set(pipeline.graph.nodes)
    queries = data.collection.queries
    pipeline.run(_question_inputs(pipeline, queries[query_ids[0]]))  # loads the models
    with _timed(pipeline) as seconds:
        for query_id in tqdm(query_ids, desc="Asking", unit="question"):
            seconds.clear()
            start = time.perf_counter()
            result = pipeline.run(_question_inputs(pipeline, queries[query_id]), include_outputs_from=stages)
            seconds["total"] = time.perf_counter() - start
            yield {
                "id": query_id,
                **_answers(result),
                "ranks": {
                    stage: [answer_rank(texts, data.answers[query_id]), len(texts)]
                    for stage, texts in _passages(result, seconds).items()
                },
                "seconds": dict(seconds),
            }


@contextmanager
def _timed(pipeline: Pipeline) -> Iterator[dict[str, float]]:
    """The seconds of each component's last run, while in the block."""
    seconds: dict[str, float] = {}

    def timed(name: str, run: Any) -> Any:
        def timed_run(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return run(*arguments, **options)
            finally:
                seconds[name] = time.perf_counter() - start

        return timed_run

    components = {name: pipeline.get_component(name) for name in pipeline.graph.nodes}
    for name, component in components.items():
        component.run = timed(name, component.run)  # type: ignore[method-assign]
    try:
        yield seconds
    finally:
        for component in components.values():
            del component.run


def _passages(result: Mapping[str, Any], stages: Mapping[str, float]) -> dict[str, list[str]]:
    """The texts that each stage found, in the order in which the stages ran."""
    return {
        stage: [document.content or "" for document in result[stage]["documents"]]
        for stage in stages
        if "documents" in result.get(stage, {})
    }


def _answers(result: Mapping[str, Any]) -> dict[str, Any]:
    """The best answer (the empty string for "no answer") and the best that is an answer; nothing without a reader."""
    outputs = [output["answers"] for output in result.values() if "answers" in output]
    if not outputs:
        return {}
    texts = [_answer_text(answer) for answer in outputs[-1]]
    return {"first": next(iter(texts), ""), "answer": next(filter(None, texts), "")}


def _answer_text(answer: Any) -> str:
    text = answer.data or ""
    if isinstance(answer, ExtractedAnswer):
        return text  # a span of a passage, which may well be "arr[0]" or "No answer"
    text = CITATION.sub("", text).strip()
    return "" if normalize_answer(text) == "no answer" else text


def _measures(records: Sequence[dict[str, Any]], data: AnsweredCollection, ranks: Sequence[int]) -> dict[str, Any]:
    report: dict[str, Any] = {}
    answers = {record["id"]: data.answers[record["id"]] for record in records}
    if any("answer" in record for record in records):
        chosen = "answer" if all(data.answers.values()) else "first"
        report = measure_answers({record["id"]: record.get(chosen, "") for record in records}, answers)
    ranked = _by_stage([record for record in records if answers[record["id"]]], "ranks")
    report["Success"] = {
        stage: {
            f"Success@{k}": sum((rank or k + 1) <= k for rank, _ in found) / len(found)
            for k in ranks
            if k <= max(number for _, number in found) or k == ranks[0]
        }
        for stage, found in ranked.items()
    }
    timed = _by_stage(records, "seconds")
    timed["total"] = timed.pop("total")  # the last row
    report["seconds"] = {
        stage: {name: float(np.quantile(seconds, share)) for name, share in (("p50", 0.5), ("p95", 0.95))}
        for stage, seconds in timed.items()
    }
    report["reached"] = {stage: len(seconds) for stage, seconds in timed.items() if stage != "total"}
    return report


def _by_stage(records: Sequence[dict[str, Any]], field: str) -> dict[str, list[Any]]:
    """A field's values of each stage, for the questions that reached it."""
    found: dict[str, list[Any]] = {}
    for record in records:
        for stage, value in record[field].items():
            found.setdefault(stage, []).append(value)
    return found
