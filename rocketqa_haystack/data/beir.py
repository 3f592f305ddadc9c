"""Collections in BEIR layout: `corpus.jsonl`, `queries.jsonl`, `qrels/SPLIT.tsv`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocketqa_haystack.data.files import DataError, atomic_write, read_jsonl, read_lines, text_field
from rocketqa_haystack.data.passage import Passage

#: Relevance judgements: query id -> passage id -> grade; a grade above 0 is relevant.
Qrels = dict[str, dict[str, int]]

#: The highest grade, and how far the lowest lies below 0: measures make tables of all grades.
HIGHEST = 1_000


@dataclass(frozen=True)
class Collection:
    """Passages, the questions of one split, and its judgements.

    Attributes:
        corpus: Passages by id, in file order.
        queries: Question texts by id: those that have a judgement in this split.
        qrels: Judgements by query id and passage id.
    """

    corpus: Mapping[str, Passage]
    queries: dict[str, str]
    qrels: Qrels


def load_collection(folder: str | Path, split: str = "test") -> Collection:
    """Reads one split of a BEIR folder.

    Raises:
        DataError: A file is missing or a line is malformed; a judgement names a query or passage that is not there.
    """
    folder = Path(folder)
    corpus = dict(read_corpus(folder / "corpus.jsonl"))
    if not corpus:
        raise DataError(f"{folder / 'corpus.jsonl'}: no passages")
    texts = read_queries(folder / "queries.jsonl")
    qrels_file = folder / "qrels" / f"{split}.tsv"
    if not qrels_file.is_file():
        present = sorted(file.stem for file in qrels_file.parent.glob("*.tsv"))
        raise DataError(f"{qrels_file}: there is no split {split!r} (splits here: {', '.join(present) or 'none'})")
    qrels = read_qrels(qrels_file)
    for query_id, judged in qrels.items():
        if query_id not in texts:
            raise DataError(f"{qrels_file}: query {query_id!r} is not in queries.jsonl")
        if (missing := next((id for id in judged if id not in corpus), None)) is not None:
            raise DataError(f"{qrels_file}: passage {missing!r}, judged for query {query_id!r}, is not in corpus.jsonl")
    return Collection(corpus=corpus, queries={id: texts[id] for id in qrels}, qrels=qrels)


def save_collection(
    folder: str | Path, corpus: Mapping[str, Passage], queries: Mapping[str, str], qrels: Mapping[str, Qrels]
) -> None:
    """Writes a BEIR folder; `qrels` holds the judgements of each split by its name."""
    folder = Path(folder)
    with atomic_write(folder / "corpus.jsonl") as file:
        for id, passage in corpus.items():
            record = {"_id": id, "title": passage.title, "text": passage.text}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    write_queries(folder / "queries.jsonl", queries)
    for split, judgements in qrels.items():
        write_qrels(folder / "qrels" / f"{split}.tsv", judgements)


def write_queries(path: str | Path, queries: Mapping[str, str]) -> None:
    """Writes a `queries.jsonl`, whole or not at all."""
    with atomic_write(path) as file:
        for id, text in queries.items():
            file.write(json.dumps({"_id": id, "text": text}, ensure_ascii=False) + "\n")


def write_qrels(path: str | Path, qrels: Qrels) -> None:
    """Writes judgements in BEIR's form, whole or not at all."""
    with atomic_write(path) as file:
        file.write("query-id\tcorpus-id\tscore\n")
        for query_id, judged in qrels.items():
            file.writelines(f"{query_id}\t{id}\t{grade}\n" for id, grade in judged.items())


def read_corpus(path: str | Path) -> Iterator[tuple[str, Passage]]:
    """Ids and passages of a `corpus.jsonl`, one line at a time: a corpus of any size needs no more memory than its ids.

    Raises:
        DataError: A malformed line, or an id that was there before.
    """
    for id, passage, _ in read_corpus_with_metadata(path):
        yield id, passage


def read_corpus_with_metadata(path: str | Path) -> Iterator[tuple[str, Passage, dict[str, Any]]]:
    """As `read_corpus`, with the `metadata` of each passage; empty where a line has none.

    Raises:
        DataError: As `read_corpus` does, or metadata that is no JSON object.
    """
    seen: set[str] = set()
    for number, record in read_jsonl(path):
        place = f"{path}, line {number}"
        id, passage = corpus_record(place, record)
        if id in seen:
            raise DataError(f"{place}: the id {id!r} was used before")
        seen.add(id)
        yield id, passage, corpus_metadata(place, record)


def corpus_record(place: str, record: dict[str, Any]) -> tuple[str, Passage]:
    """Id and passage of a line of a `corpus.jsonl`.

    Raises:
        DataError: A field is missing or of another type; the message begins with `place`.
    """
    id = text_field(place, record, "_id", "id", "docid")
    text = text_field(place, record, "text", "contents")
    return id, Passage(text=text, title=text_field(place, record, "title", default=""))


def corpus_metadata(place: str, record: dict[str, Any]) -> dict[str, Any]:
    """The `metadata` of a line of a `corpus.jsonl`.

    Raises:
        DataError: It is no JSON object; the message begins with `place`.
    """
    metadata = record.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise DataError(f"{place}: 'metadata' must be a JSON object, not {metadata!r:.80}")
    return metadata


def read_queries(path: str | Path) -> dict[str, str]:
    """Question texts by id, from a `queries.jsonl`."""
    queries: dict[str, str] = {}
    for number, record in read_jsonl(path):
        place = f"{path}, line {number}"
        id = text_field(place, record, "_id", "id", "query_id")
        if id in queries:
            raise DataError(f"{place}: the id {id!r} was used before")
        queries[id] = text_field(place, record, "text", "query")
    return queries


def read_answers(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Answer strings by question id, from the `answers` of a `queries.jsonl`: a list, empty for "there is none".

    Questions without the field are left out.

    Raises:
        DataError: A malformed line, or answers that are not a list of strings.
    """
    answers: dict[str, tuple[str, ...]] = {}
    for number, record in read_jsonl(path):
        if (given := record.get("answers")) is not None:
            place = f"{path}, line {number}"
            if not isinstance(given, list) or not all(isinstance(answer, str) for answer in given):
                raise DataError(f"{place}: 'answers' must be a list of strings, not {given!r:.80}")
            answers[text_field(place, record, "_id", "id", "query_id")] = tuple(given)
    return answers


def _is_grade(text: str) -> bool:
    return text.lstrip("+-").isdecimal()


def read_qrels(path: str | Path) -> Qrels:
    """Judgements in BEIR's form (three columns under a header) or TREC's (`query 0 passage grade`)."""
    qrels: Qrels = {}
    for number, line in read_lines(path):
        fields = line.split("\t") if "\t" in line else line.split()
        if not qrels and fields[0].lower() in ("query-id", "query_id", "qid") and not _is_grade(fields[-1]):
            continue  # the header
        if len(fields) == 4:
            fields = [fields[0], *fields[2:]]
        if len(fields) != 3:
            raise DataError(f"{path}, line {number}: expected 3 columns (query, passage, grade), found {len(fields)}")
        try:
            grade = int(fields[2])
        except ValueError as error:
            raise DataError(f"{path}, line {number}: the grade must be a whole number, not {fields[2]!r}") from error
        if abs(grade) > HIGHEST:
            raise DataError(f"{path}, line {number}: the grade {grade} is beyond {HIGHEST:,}")
        qrels.setdefault(fields[0], {})[fields[1]] = grade
    if not qrels:
        raise DataError(f"{path}: no judgements")
    return qrels
