"""Questions in SQuAD's form: answers as places in a paragraph, or none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rocketqa_haystack.data.answers import AnsweredCollection, Span
from rocketqa_haystack.data.beir import Collection, Qrels
from rocketqa_haystack.data.files import DataError, open_bytes, read_jsonl, text_field
from rocketqa_haystack.data.passage import Passage


def load_squad(path: str | Path) -> AnsweredCollection:
    """Reads a file in the form of SQuAD 1.1 or 2.0, packed by gzip or not.

    Either the official one, a JSON object `{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question",
    "answers": [{"text", "answer_start"}], "is_impossible"}]}]}]}`, or JSON lines as the datasets library has them,
    `{"id", "title", "context", "question", "answers": {"text": [...], "answer_start": [...]}}`. A question without
    answers has none. Its paragraphs are the corpus; equal ones are one passage.

    Raises:
        DataError: The file is of neither form, an id comes twice, or an answer is not where it is said to be.
    """
    ids: dict[Passage, str] = {}
    queries: dict[str, str] = {}
    answers: dict[str, tuple[str, ...]] = {}
    spans: dict[str, tuple[Span, ...]] = {}
    qrels: Qrels = {}
    for place, title, record in _questions(path):
        passage = Passage(text_field(place, record, "context"), title)
        query_id = text_field(place, record, "id")
        place = f"{place}, question {query_id!r}"
        if query_id in queries:
            raise DataError(f"{place}: the id was used before")
        passage_id = ids.setdefault(passage, f"p{len(ids)}")
        queries[query_id] = text_field(place, record, "question")
        qrels[query_id] = {passage_id: 1}
        found = [_span(place, passage.text, *answer) for answer in _answers(place, record)]
        answers[query_id] = tuple(dict.fromkeys(passage.text[slice(*span)] for span in found))
        if found:
            spans[query_id] = tuple(sorted(set(found)))
    if not queries:
        raise DataError(f"{path}: no questions")
    return AnsweredCollection(Collection({id: p for p, id in ids.items()}, queries, qrels), answers, spans)


def _questions(path: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The place, the title and the fields of each question, its paragraph's text among them as `context`."""
    with open_bytes(path) as file:
        try:
            whole = json.load(file)
        except (ValueError, RecursionError):
            whole = None  # JSON lines, or nothing that can be read: their reader says what is wrong
    if not isinstance(whole, dict) or "data" not in whole:
        for number, record in read_jsonl(path):
            place = f"{path}, line {number}"
            yield place, text_field(place, record, "title", default=""), record
        return
    for article in _objects(str(path), whole, "data"):
        title = text_field(str(path), article, "title", default="").replace("_", " ")
        for paragraph in _objects(f"{path}, article {title!r}", article, "paragraphs"):
            for question in _objects(f"{path}, article {title!r}", paragraph, "qas"):
                yield str(path), title, {**question, "context": paragraph.get("context")}


def _objects(place: str, record: dict[str, Any], name: str) -> list[dict[str, Any]]:
    values = record.get(name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{place}: {name!r} must be a list of JSON objects")
    return values


def _answers(place: str, record: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Text and start of each answer."""
    given = record.get("answers") or []
    if record.get("is_impossible"):
        return []
    if isinstance(given, dict):  # the datasets library turns a list of objects into an object of lists
        texts, starts = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise DataError(f"{place}: 'answers' must have as many 'text' as 'answer_start'")
        return list(zip(texts, starts, strict=True))
    return [(one.get("text"), one.get("answer_start")) for one in _objects(place, {"answers": given}, "answers")]


def _span(place: str, text: str, answer: Any, start: Any) -> Span:
    if not isinstance(answer, str) or not answer.strip() or not isinstance(start, int) or start < 0:
        raise DataError(f"{place}: an answer needs a 'text' and an 'answer_start', not {answer!r:.80} and {start!r}")
    if text[start : start + len(answer)] != answer:
        found = text[start : start + len(answer)]
        raise DataError(f"{place}: its answer {answer!r:.80} is not at character {start} but {found!r:.80} is")
    return start, start + len(answer)
