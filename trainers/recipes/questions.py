"""Stages that have questions: the labelled ones, those that systems are measured on, unlabelled ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rocketqa_haystack.data import (
    Collection,
    DataError,
    Passage,
    Qrels,
    read_qrels,
    read_queries,
    write_qrels,
    write_queries,
)
from rocketqa_haystack.data.files import read_lines
from trainers.recipes.corrections import read_corrections
from trainers.recipes.plan import File, Sizes, Stage
from trainers.recipes.run import Run
from trainers.sampling import query_seed, question_key

#: Share of the training questions that are held out for dev where a collection has none, and the most of them.
DEV_SHARE, DEV_MOST = 0.1, 500


class Questions(Protocol):
    """A node that has questions, in one or several sets by name."""

    @property
    def key(self) -> str:
        """As a node's."""

    def sets(self, run: Run) -> dict[str, dict[str, str]]:
        """Questions by id, of each set."""

    def judged(self, run: Run) -> dict[str, Qrels]:
        """The judgements of each set; none of questions without."""

    def count(self, sizes: Sizes) -> int:
        """Of all sets, as far as it is known before."""


@dataclass(frozen=True, eq=False)
class Data(Stage):
    """Questions with judgements, train apart from dev and test, after a person's corrections."""

    corpus: File
    queries: File | None
    train: File | None
    dev: File | None
    test: File | None
    corrections: File | None
    generated: Stage | None
    seed: int

    version: ClassVar[int] = 3

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        outcome: dict[str, Any] = {}
        run.main_only(lambda: outcome.update(self._write(folder, run)))
        return outcome

    def _write(self, folder: Path, run: Run) -> dict[str, Any]:
        queries = read_queries(self.queries.path) if self.queries else {}
        train, dev, test = (checked_qrels(file, queries) for file in (self.train, self.dev, self.test))
        labelled = {*train}
        if self.generated is not None:
            made = run.of(self.generated)
            queries |= read_queries(made / "queries.jsonl")
            train |= _read_judged(made / "train.tsv")
            dev = dev or _read_judged(made / "dev.tsv")
        corpus = run.corpus(self.corpus)
        decided, corrected = self._correct(queries, corpus, train, dev, test)
        self._check(queries, corpus, train, {**train, **dev, **test})
        unanswered = len(dev) - len(_answered(dev))
        dev = _answered(dev)  # on which nothing else could be measured
        # What is measured on must not have decided anything, under another id or in capitals either.
        tested = {question_key(queries[id]) for id in test}
        shared, dev = len(dev), {id: judged for id, judged in dev.items() if question_key(queries[id]) not in tested}
        shared -= len(dev)
        asked = tested | {question_key(queries[id]) for id in dev}
        apart = {id: judged for id, judged in _answered(train).items() if question_key(queries[id]) not in asked}
        repeated = len(_answered(train)) - len(apart)
        if not dev:  # of labelled questions: a generated one would leave others of its passage in train
            held = self._held_out({question_key(queries[id]) for id in apart if id in labelled})
            dev = {id: judged for id, judged in apart.items() if question_key(queries[id]) in held}
        train = {id: judged for id, judged in apart.items() if id not in dev}
        also = f", {repeated:,} left out that are asked in dev or test too" if repeated else ""
        if not train:
            raise DataError(f"{run.recipe.collection}: there is no question with a relevant passage to train on{also}")
        write_queries(folder / "queries.jsonl", {id: queries[id] for id in dict.fromkeys([*train, *dev, *decided])})
        write_qrels(folder / "train.tsv", train)
        write_qrels(folder / "dev.tsv", dev)
        write_qrels(folder / "decided.tsv", decided)
        said = f"{len(train):,} questions to train on, {len(dev):,} for dev{also}"
        said += f", {shared:,} of dev left out that are asked in test too" if shared else ""
        said += f", {unanswered:,} of dev without a relevant passage" if unanswered else ""
        return {"said": said + (f", {corrected:,} judgements corrected" if self.corrections else "")}

    def _correct(
        self, queries: Mapping[str, str], corpus: Mapping[str, Passage], train: Qrels, dev: Qrels, test: Qrels
    ) -> tuple[Qrels, int]:
        """Puts a person's decisions into train and dev: all of them, and how many say something new."""
        decided: Qrels = {}
        corrected = 0
        if self.corrections is None:
            return decided, corrected
        for query_id, id, grade in read_corrections(self.corrections.path, queries, corpus):
            if query_id in test:
                raise DataError(f"{self.corrections.path}: {query_id!r} is a test question, which must not be used")
            judged = (dev if query_id in dev else train).setdefault(query_id, {})
            corrected += judged.get(id) != grade
            judged[id] = decided.setdefault(query_id, {})[id] = grade
        return decided, corrected

    def _check(self, queries: Mapping[str, str], corpus: Mapping[str, Passage], train: Qrels, qrels: Qrels) -> None:
        """Refuses what a later stage would stop at, when much has been done."""
        if len(corpus) < 2:
            raise DataError(f"{self.corpus.path}: one passage is no corpus to search in")
        check_ids(self.corpus, "passage", corpus)
        check_ids(self.queries, "query", qrels)
        for query_id, judged in qrels.items():
            if (missing := next((id for id in judged if id not in corpus), None)) is not None:
                raise DataError(f"passage {missing!r}, judged for query {query_id!r}, is not in {self.corpus.path}")
        for query_id, judged in train.items():
            if not queries[query_id].strip():
                raise DataError(f"query {query_id!r}, which is to be trained on, is empty")
            if (empty := next((id for id in positives(judged) if corpus[id].is_empty()), None)) is not None:
                raise DataError(f"{self.corpus.path}: passage {empty!r}, judged relevant for {query_id!r}, is empty")

    def _held_out(self, questions: set[str]) -> set[str]:
        """Some for dev: the same ones as before when a question comes or goes, but for one."""
        order = sorted(questions, key=lambda text: query_seed(self.seed, text))
        return set(order[: min(DEV_MOST, int(DEV_SHARE * len(order)))])

    def sets(self, run: Run) -> dict[str, dict[str, str]]:
        queries = read_queries(run.of(self) / "queries.jsonl")
        return {name: {id: queries[id] for id in qrels} for name, qrels in self.judged(run).items()}

    def judged(self, run: Run) -> dict[str, Qrels]:
        return {name: _read_judged(run.of(self) / f"{name}.tsv") for name in ("train", "dev")}

    def decided(self, run: Run) -> tuple[dict[str, str], Qrels]:
        """What a person has decided, in this or an earlier round, and the texts of its questions."""
        decided, queries = _read_judged(run.of(self) / "decided.tsv"), read_queries(run.of(self) / "queries.jsonl")
        return {id: queries[id] for id in decided}, decided

    def count(self, sizes: Sizes) -> int:
        return sizes.train + sizes.dev

    def collection(self, run: Run, name: str) -> Collection | None:
        """The corpus with one set of questions; None where there is no question."""
        queries = self.sets(run)[name]
        return Collection(run.corpus(self.corpus), queries, self.judged(run)[name]) if queries else None


@dataclass(frozen=True, eq=False)
class Sample(Stage):
    """Some of the questions to train on, at random, and those for dev."""

    data: Data
    most: int
    seed: int

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        return {"said": f"{len(self.judged(run)['train']):,} questions to train on"}

    def sets(self, run: Run) -> dict[str, dict[str, str]]:
        judged, sets = self.judged(run), self.data.sets(run)
        return {name: {id: sets[name][id] for id in qrels} for name, qrels in judged.items()}

    def judged(self, run: Run) -> dict[str, Qrels]:
        judged = self.data.judged(run)
        order = sorted(judged["train"], key=lambda id: query_seed(self.seed, id))
        chosen = {*order[: self.most]}
        return {**judged, "train": {id: qrels for id, qrels in judged["train"].items() if id in chosen}}

    def count(self, sizes: Sizes) -> int:
        return min(self.most, sizes.train) + sizes.dev


@dataclass(frozen=True, eq=False)
class Asked(Stage):
    """The questions that systems are measured on: dev and, where the collection has one, test."""

    data: Data
    queries: File | None
    test: File | None

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        return {"said": ", ".join(f"{len(queries):,} {name}" for name, queries in self.sets(run).items())}

    def sets(self, run: Run) -> dict[str, dict[str, str]]:
        sets = {"dev": self.data.sets(run)["dev"]}
        if self.queries and self.test:
            queries = read_queries(self.queries.path)
            sets["test"] = {id: queries[id] for id in self.judged(run)["test"]}
        return {name: queries for name, queries in sets.items() if queries}

    def judged(self, run: Run) -> dict[str, Qrels]:
        judged = {"dev": self.data.judged(run)["dev"]}
        if self.queries and self.test:
            judged["test"] = checked_qrels(self.test, read_queries(self.queries.path))
        return {name: qrels for name, qrels in judged.items() if qrels}

    def count(self, sizes: Sizes) -> int:
        return sizes.dev + sizes.test


@dataclass(frozen=True, eq=False)
class Unlabelled(File):
    """Questions without judgements, one on each line of a file; their ids are `unlabelled-` and the line's number."""

    def sets(self, run: Run) -> dict[str, dict[str, str]]:
        lines = ((number, line.strip()) for number, line in read_lines(self.path))
        return {"unlabelled": {f"unlabelled-{number}": line for number, line in lines if line}}

    def judged(self, run: Run) -> dict[str, Qrels]:
        return {}

    def count(self, sizes: Sizes) -> int:
        return sizes.unlabelled


def checked_qrels(file: File | None, queries: Mapping[str, str]) -> Qrels:
    """The judgements of a file, none where there is no file.

    Raises:
        DataError: A query is not among `queries`.
    """
    if file is None:
        return {}
    qrels = read_qrels(file.path)
    if (missing := next((id for id in qrels if id not in queries), None)) is not None:
        raise DataError(f"{file.path}: query {missing!r} is not in queries.jsonl")
    return qrels


def check_ids(file: File | None, kind: str, ids: Iterable[str]) -> None:
    """Refuses ids that rankings cannot be written with.

    Raises:
        DataError: With the file and the id.
    """
    if file and (unusable := next((id for id in ids if len(id.split()) != 1), None)) is not None:
        raise DataError(f"{file.path}: the {kind} id {unusable!r} has white space, which a TREC run cannot hold")


def positives(judged: Mapping[str, int]) -> list[str]:
    """The passages that are judged relevant."""
    return [id for id, grade in judged.items() if grade > 0]


def known_by_query(queries: Mapping[str, str], judged: Qrels) -> dict[str, list[str]]:
    """The known positives of each question, those of others that ask the same (by `question_key`) among them."""
    keys = {query_id: question_key(text) for query_id, text in queries.items()}
    known: dict[str, dict[str, None]] = {}
    for query_id, key in keys.items():
        known.setdefault(key, {}).update(dict.fromkeys(positives(judged[query_id])))
    return {query_id: list(known[key]) for query_id, key in keys.items()}


def _answered(qrels: Qrels) -> Qrels:
    """The questions with a relevant passage."""
    return {id: judged for id, judged in qrels.items() if any(grade > 0 for grade in judged.values())}


def _read_judged(path: Path) -> Qrels:
    """Judgements of a file that may have none under its header."""
    return read_qrels(path) if sum(1 for _ in read_lines(path)) > 1 else {}
