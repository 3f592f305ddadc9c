"""The stages that make questions from passages and keep those that find their way back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rocketqa_haystack.data import DataError, Qrels, read_queries, write_qrels, write_queries
from rocketqa_haystack.data.files import read_jsonl
from rocketqa_haystack.evaluation import Run as Rankings
from rocketqa_haystack.evaluation import iterate_run
from rocketqa_haystack.generators import load_generator
from trainers.augmentation import (
    GeneratedQuestion,
    Kept,
    QuestionMaker,
    WordFrequencies,
    different_questions,
    llm_questions,
    round_trip,
    salient_questions,
)
from trainers.calibration import probabilities
from trainers.parts import join_parts, make_parts
from trainers.recipes.candidates import Mine, Runs, Score
from trainers.recipes.corrections import GENERATED
from trainers.recipes.plan import File, Node, Sizes, Stage
from trainers.recipes.questions import check_ids, checked_qrels
from trainers.recipes.run import Run
from trainers.sampling import question_key

#: Passages for which questions are made at a time: what a killed run has to ask a language model again.
PASSAGES = 16


class Generated(Node):
    """Questions that were made from passages, as a set of questions with judgements."""

    def questions(self, run: Run) -> list[GeneratedQuestion]:
        """Those that are not empty and that one passage only gave."""
        raise NotImplementedError

    def sets(self, run: Run) -> dict[str, dict[str, str]]:
        return {"generated": {question.id: question.text for question in self.questions(run)}}

    def judged(self, run: Run) -> dict[str, Qrels]:
        return {"generated": {question.id: {question.passage_id: 1} for question in self.questions(run)}}


@dataclass(frozen=True, eq=False)
class Generate(Generated, Stage):
    """Questions made from passages, each with its passage."""

    corpus: File
    generator: Mapping[str, Any] | None
    per_passage: int
    passages: int | None
    seed: int

    version: ClassVar[int] = 2

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        corpus = run.corpus(self.corpus)
        ids = list(corpus)
        check_ids(self.corpus, "passage", ids)
        if self.passages is not None:
            chosen = np.random.default_rng(self.seed).permutation(len(ids))[: self.passages]
            ids = [ids[place] for place in sorted(chosen.tolist())]
        if not (folder / "questions.jsonl").is_file():
            maker = self._maker(run)

            def make(number: int, path: Path) -> None:
                chunk = ids[number * PASSAGES : (number + 1) * PASSAGES]
                made = maker([corpus[id] for id in chunk])
                with path.open("w", encoding="utf-8") as file:
                    for id, one in zip(chunk, made, strict=True):
                        line = {"passage": id, "questions": one.questions, "dropped": dict(one.dropped)}
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")

            parts = make_parts(
                folder / "parts",
                -(-len(ids) // PASSAGES),
                make,
                suffix=".jsonl",
                accelerator=run.accelerator,
                description="Making questions",
                show_progress=run.show_progress,
            )
            join_parts(parts, folder / "questions.jsonl", run.accelerator)
        questions, kept = self._different(run)
        if not questions:
            raise DataError(f"no questions could be made from the passages ({kept})")
        run.main_only(lambda: write_queries(folder / "queries.jsonl", {q.id: q.text for q in questions}))
        return {"said": str(kept), "questions": kept.as_dict()}

    def _maker(self, run: Run) -> QuestionMaker:
        if self.generator is None:
            return salient_questions(WordFrequencies.of(run.corpus(self.corpus).values()), self.per_passage)
        return llm_questions(load_generator(self.generator), self.per_passage)

    def _different(self, run: Run) -> tuple[list[GeneratedQuestion], Kept]:
        made: list[GeneratedQuestion] = []
        dropped: Counter[str] = Counter()
        for _, line in read_jsonl(run.of(self) / "questions.jsonl"):
            id = line["passage"]
            made += [GeneratedQuestion(_id_of(text, id), text, id) for text in line["questions"]]
            dropped.update(line["dropped"])
        questions, kept = different_questions(made)
        kept.dropped.update(dropped)
        return questions, kept

    def questions(self, run: Run) -> list[GeneratedQuestion]:
        return self._different(run)[0]

    def count(self, sizes: Sizes) -> int:
        return sizes.generated


def _id_of(question: str, passage_id: str) -> str:
    """An id that another question does not get: a person's judgements of this one go by it, in later runs too."""
    return f"{GENERATED}{blake2b(question.encode(), digest_size=4).hexdigest()}-{passage_id}"


@dataclass(frozen=True, eq=False)
class Half(Generated):
    """The generated questions of every other passage: those of the first, or those of the second."""

    generated: Generate
    number: int

    @property
    def key(self) -> str:
        return f"{self.generated.key} half {self.number}"

    def questions(self, run: Run) -> list[GeneratedQuestion]:
        questions = self.generated.questions(run)
        passages = set(list(dict.fromkeys(question.passage_id for question in questions))[self.number :: 2])
        return [question for question in questions if question.passage_id in passages]

    def count(self, sizes: Sizes) -> int:
        return sizes.generated // 2


@dataclass(frozen=True, eq=False)
class RoundTrip(Stage):
    """The generated questions whose passage the retriever finds again and the re-ranker affirms.

    Attributes:
        mined: The retriever's candidates of all questions, in any number of parts.
        scores: The re-ranker's of them, in as many; without any, only the retriever is asked.
        queries: The collection's own.
        held_out: The judgements of those that models are measured on.
        dev_share: Share of the passages whose questions are for dev.
    """

    generated: Generate | Half
    mined: tuple[Mine, ...]
    scores: tuple[Score, ...]
    queries: File | None
    held_out: tuple[File, ...]
    rank: int
    above: float
    dev_share: float
    seed: int

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        ranked, logits = _together(run, self.mined), _together(run, self.scores)
        found = {id: probabilities(row) for id, row in logits.items()} if self.scores else None
        queries = read_queries(self.queries.path) if self.queries else {}
        measured = {question_key(queries[id]) for file in self.held_out for id in checked_qrels(file, queries)}
        questions, kept = round_trip(
            self.generated.questions(run), ranked, found, rank=self.rank, above=self.above, held_out=measured
        )
        if not questions:
            raise DataError(
                f"no generated question survived the round trip ({kept}); more passages, a larger rank or a re-ranker "
                "that can rank already may help"
            )
        # A passage's questions stay together: one for dev would be learned from another one of its passage.
        passages = list(dict.fromkeys(question.passage_id for question in questions))
        held = np.random.default_rng(self.seed).permutation(len(passages))[: int(self.dev_share * len(passages))]
        dev = {passages[int(place)] for place in held}

        def write() -> None:
            write_queries(folder / "queries.jsonl", {q.id: q.text for q in questions})
            for name in ("dev", "train"):
                chosen = [q for q in questions if (q.passage_id in dev) == (name == "dev")]
                write_qrels(folder / f"{name}.tsv", {q.id: {q.passage_id: 1} for q in chosen})

        run.main_only(write)
        return {"said": str(kept), "questions": kept.as_dict()}


def _together(run: Run, parts: Iterable[Runs]) -> Rankings:
    return {id: row for part in parts for id, row in iterate_run(part.file(run, "generated"))}
