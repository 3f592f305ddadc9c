"""Stages that make training groups of questions and their candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocketqa_haystack.data import Passage, TrainingGroup, write_groups
from rocketqa_haystack.evaluation import RunFile, iterate_run
from trainers.augmentation import HELD_OUT, Kept, pseudo_label
from trainers.calibration import probabilities
from trainers.recipes.candidates import Calibrate, Lexical, Mine, Score
from trainers.recipes.plan import File, Sizes, Stage
from trainers.recipes.questions import Asked, Data, Unlabelled, known_by_query, positives
from trainers.recipes.run import Run
from trainers.sampling import (
    Thresholds,
    denoised_negatives,
    query_seed,
    question_key,
    random_negatives,
    undenoised_negatives,
)


@dataclass(frozen=True, eq=False)
class Groups(Stage):
    """Training groups, in a file of JSON lines."""

    def file(self, run: Run) -> Path:
        """The groups."""
        return run.of(self) / "groups.jsonl"

    def count(self, sizes: Sizes) -> int:
        """How many there are, as far as it is known before."""
        return sizes.train


@dataclass(frozen=True, eq=False)
class Labelled(Groups):
    """The labelled questions with their positives, and BM25's or random negatives where they are asked for.

    Attributes:
        lexical: BM25's candidates, all of which are negatives.
        random: Random negatives of each question.
    """

    data: Data
    corpus: File
    lexical: Lexical | None
    random: int
    seed: int

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        run.main_only(lambda: write_groups(self.file(run), self._groups(run)))
        return {}

    def _groups(self, run: Run) -> Iterator[TrainingGroup]:
        found = RunFile(self.lexical.file(run, "train")) if self.lexical else {}
        corpus, queries, judged = run.corpus(self.corpus), self.data.sets(run)["train"], self.data.judged(run)["train"]
        ids, known = list(corpus), known_by_query(queries, judged)
        for query_id, query in queries.items():
            negatives = [id for id in found.get(query_id, {}) if id not in known[query_id]]
            negatives += random_negatives(ids, known[query_id], self.random, query_seed(self.seed, query_id))
            yield group(corpus, query_id, query, positives(judged[query_id]), negatives)


@dataclass(frozen=True, eq=False)
class Undenoised(Groups):
    """The labelled questions with all candidates that are not judged relevant, and random ones where those are few."""

    data: Data
    corpus: File
    mined: Mine
    at_least: int
    seed: int

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        run.main_only(lambda: write_groups(self.file(run), self._groups(run)))
        return {}

    def count(self, sizes: Sizes) -> int:
        return self.mined.questions.count(sizes) - sizes.dev

    def _groups(self, run: Run) -> Iterator[TrainingGroup]:
        corpus, queries, judged = (
            run.corpus(self.corpus),
            self.data.sets(run)["train"],
            self.data.judged(run)["train"],
        )
        ids, known = list(corpus), known_by_query(queries, judged)
        for query_id, scores in iterate_run(self.mined.file(run, "train")):
            ranked, seed = list(scores), query_seed(self.seed, query_id)
            negatives = undenoised_negatives(ranked, known[query_id], len(ranked), len(ranked), seed)
            excluded = {*ranked, *known[query_id]}
            negatives += random_negatives(ids, excluded, self.at_least - len(negatives), seed)
            yield group(corpus, query_id, queries[query_id], positives(judged[query_id]), negatives)


@dataclass(frozen=True, eq=False)
class Denoised(Groups):
    """The labelled questions with negatives that a person or the re-ranker is sure of, and random ones where few are.

    Attributes:
        at_least: Negatives of a group.
        all: Whether a group has all that are sure, or `at_least` of them.
    """

    data: Data
    corpus: File
    mined: Mine
    scores: Score
    calibration: Calibrate | None
    negative_below: float
    at_least: int
    all: bool
    seed: int

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        counts: Counter[str] = Counter()
        run.main_only(lambda: write_groups(self.file(run), self._groups(run, counts)))
        total = max(1, sum(counts.values()))
        return {"said": f"{counts['random'] / total:.0%} of the negatives are random", "negatives": dict(counts)}

    def count(self, sizes: Sizes) -> int:
        return self.mined.questions.count(sizes) - sizes.dev

    def _groups(self, run: Run, counts: Counter[str]) -> Iterator[TrainingGroup]:
        corpus, queries, judged = (
            run.corpus(self.corpus),
            self.data.sets(run)["train"],
            self.data.judged(run)["train"],
        )
        ids, known = list(corpus), known_by_query(queries, judged)
        logits, heat = RunFile(self.scores.file(run, "train")), temperature(run, self.calibration)
        for query_id, scores in iterate_run(self.mined.file(run, "train")):
            wrong = [id for id, grade in judged[query_id].items() if grade <= 0]
            sure, seed = probabilities(logits[query_id], heat), query_seed(self.seed, query_id)
            thresholds = Thresholds(self.negative_below, 1.0)
            negatives = _denoised(self, thresholds, list(scores), sure, known[query_id], ids, seed, wrong)
            counts.update("judged" if id in wrong else "denoised" if id in scores else "random" for id in negatives)
            yield group(corpus, query_id, queries[query_id], positives(judged[query_id]), negatives)


@dataclass(frozen=True, eq=False)
class PseudoLabelled(Groups):
    """Unlabelled questions with the positives and negatives that the re-ranker is sure of."""

    questions: Unlabelled
    data: Data
    asked: Asked
    corpus: File
    mined: Mine
    scores: Score
    calibration: Calibrate | None
    thresholds: Thresholds
    at_least: int
    all: bool
    seed: int

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        kept = Kept()
        run.main_only(lambda: write_groups(self.file(run), self._groups(run, kept)))
        return {"said": str(kept), "questions": kept.as_dict()}

    def count(self, sizes: Sizes) -> int:
        return sizes.unlabelled

    def _groups(self, run: Run, kept: Kept) -> Iterator[TrainingGroup]:
        corpus, queries = run.corpus(self.corpus), self.questions.sets(run)["unlabelled"]
        trained, seen = {question_key(text) for text in self.data.sets(run)["train"].values()}, set[str]()
        measured = {question_key(text) for texts in self.asked.sets(run).values() for text in texts.values()}
        ids, logits = list(corpus), RunFile(self.scores.file(run, "unlabelled"))
        heat = temperature(run, self.calibration)
        for query_id, scores in iterate_run(self.mined.file(run, "unlabelled")):
            ranked, sure = list(scores), probabilities(logits[query_id], heat)
            labels = pseudo_label(ranked, sure, len(ranked), thresholds=self.thresholds)
            key = question_key(queries[query_id])
            repeated = key in seen
            seen.add(key)
            if key in measured:
                kept.dropped[HELD_OUT] += 1
            elif key in trained:
                kept.dropped["the same as a labelled question"] += 1
            elif repeated:
                kept.dropped["the same as a line before"] += 1
            elif labels is None:
                kept.dropped[f"no candidate above {self.thresholds.positive_above:g}"] += 1
            else:
                kept.kept += 1
                known = [id for id in ranked if sure[id] > self.thresholds.positive_above]
                seed = query_seed(self.seed, query_id)
                negatives = _denoised(self, self.thresholds, ranked, sure, known, ids, seed)
                yield group(corpus, query_id, queries[query_id], [labels.positive], negatives)


def _denoised(
    stage: Denoised | PseudoLabelled,
    thresholds: Thresholds,
    ranked: Sequence[str],
    sure: Mapping[str, float],
    known: Sequence[str],
    ids: Sequence[str],
    seed: int,
    judged: Sequence[str] = (),
) -> list[str]:
    settings: dict[str, Any] = {"thresholds": thresholds, "seed": seed, "judged": judged}
    count = stage.at_least
    if stage.all:
        most = len(ranked) + len(judged)
        count = max(count, len(denoised_negatives(ranked, sure, known, most, len(ranked), **settings)))
    return denoised_negatives(ranked, sure, known, count, len(ranked), beyond=ids, **settings)


def group(
    corpus: Mapping[str, Passage], query_id: str, query: str, right: Sequence[str], wrong: Sequence[str]
) -> TrainingGroup:
    """A training group of ids."""
    return TrainingGroup(
        query_id,
        query,
        tuple(right),
        tuple(corpus[id] for id in right),
        tuple(wrong),
        tuple(corpus[id] for id in wrong),
    )


def temperature(run: Run, calibration: Calibrate | None) -> float:
    """What logits are divided by."""
    return float(run.outcome(calibration)["temperature"]) if calibration else 1.0
