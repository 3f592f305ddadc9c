"""Stages that find candidates for questions: vectors, rankings, and a re-ranker's scores of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocketqa_haystack.data import Qrels
from rocketqa_haystack.data.files import atomic_write
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder
from rocketqa_haystack.evaluation import BM25, RunFile, fuse, iterate_run, measure, read_run, run_lines
from trainers.calibration import fit_temperature
from trainers.mining import dense_search, encode_corpus, lexical_search, mine, run_search, score_candidates
from trainers.recipes.plan import File, Model, Sizes, Stage, Work
from trainers.recipes.questions import Asked, Data, Questions, positives
from trainers.recipes.run import Run


@dataclass(frozen=True, eq=False)
class Encode(Stage):
    """The vectors of all passages."""

    retriever: Model
    corpus: File
    dtype: str

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        encode_corpus(
            DualEncoder.from_pretrained(self.retriever.path(run), dtype=self.dtype),
            run.corpus(self.corpus),
            folder / "vectors",
            accelerator=run.accelerator,
            show_progress=run.show_progress,
        )
        return {}

    def work(self, sizes: Sizes) -> Work:
        return Work(passages=sizes.passages)


@dataclass(frozen=True, eq=False)
class Runs(Stage):
    """Rankings of questions: a TREC run for each set."""

    questions: Questions

    def file(self, run: Run, name: str) -> Path:
        """The run of a set."""
        return run.of(self) / f"{name}.trec"

    def outcome(self, run: Run, measures: Sequence[str]) -> dict[str, Any]:
        """The first measure on each set that has judgements, for people to see while they wait."""
        if not isinstance(self.questions, Asked):
            return {}
        found = {
            name: measure(read_run(self.file(run, name)), qrels, measures)
            for name, qrels in self.questions.judged(run).items()
        }
        said = ", ".join(f"{name} {measures[0]} {values[measures[0]]:.4f}" for name, values in found.items())
        return {"said": said, "measures": found}


@dataclass(frozen=True, eq=False)
class Lexical(Runs):
    """BM25's top k."""

    corpus: File
    k: int

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        searches = [lexical_search(BM25(run.corpus(self.corpus)), self.k)]
        for name, queries in self.questions.sets(run).items():
            mine(searches, queries, self.file(run, name), accelerator=run.accelerator, show_progress=run.show_progress)
        return self.outcome(run, run.recipe.measures)


@dataclass(frozen=True, eq=False)
class Mine(Runs):
    """The retriever's top k, and those of BM25 and of another run where they are asked for."""

    retriever: Model
    encoded: Encode
    corpus: File
    k: int
    bm25: bool = False
    other: File | None = None

    @property
    def most(self) -> int:
        """The most candidates that a question can have."""
        return self.k * (1 + self.bm25 + (self.other is not None))

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        corpus = run.corpus(self.corpus)
        encoder = DualEncoder.from_pretrained(self.retriever.path(run), dtype=self.encoded.dtype)
        searches = [dense_search(encoder, run.of(self.encoded) / "vectors", list(corpus), self.k)]
        if self.bm25:
            searches.append(lexical_search(BM25(corpus), self.k))
        if self.other:
            searches.append(run_search(self.other.path, corpus, self.k))
        for name, queries in self.questions.sets(run).items():
            mine(searches, queries, self.file(run, name), accelerator=run.accelerator, show_progress=run.show_progress)
        return self.outcome(run, run.recipe.measures)

    def work(self, sizes: Sizes) -> Work:
        return Work(queries=self.questions.count(sizes))


@dataclass(frozen=True, eq=False)
class Fuse(Runs):
    """Two rankings joined by reciprocal rank fusion."""

    first: Runs
    second: Runs

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        run.main_only(lambda: self._write(run))
        return self.outcome(run, run.recipe.measures)

    def _write(self, run: Run) -> None:
        for name, queries in self.questions.sets(run).items():
            first, second = RunFile(self.first.file(run, name)), RunFile(self.second.file(run, name))
            rows = ((id, fuse([first.get(id, {}), second.get(id, {})])) for id in queries)
            with atomic_write(self.file(run, name)) as file:
                file.writelines(run_lines(file.name, rows))


@dataclass(frozen=True, eq=False)
class Score(Runs):
    """The re-ranker's logits of candidates and of labelled positives that are none of them."""

    reranker: Model
    candidates: Runs
    corpus: File
    k: int
    dtype: str
    with_positives: bool = False

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        encoder = CrossEncoder.from_pretrained(self.reranker.path(run), dtype=self.dtype)
        for name, queries in self.questions.sets(run).items():
            candidates = folder / f"{name}.candidates.trec"
            if self.with_positives:
                qrels = self.questions.judged(run).get(name, {})
                run.main_only(lambda file=candidates, name=name, qrels=qrels: self._add(run, name, qrels, file))  # type: ignore[misc]
            score_candidates(
                encoder,
                run.corpus(self.corpus),
                queries,
                candidates if self.with_positives else self.candidates.file(run, name),
                self.file(run, name),
                accelerator=run.accelerator,
                show_progress=run.show_progress,
            )
        return self.outcome(run, run.recipe.measures)

    def _add(self, run: Run, name: str, qrels: Qrels, output: Path) -> None:
        def rows() -> Iterator[tuple[str, dict[str, float]]]:
            for query_id, scores in iterate_run(self.candidates.file(run, name)):
                last = min(scores.values(), default=0.0)
                yield query_id, {**dict.fromkeys(positives(qrels.get(query_id, {})), last), **scores}

        with atomic_write(output) as file:
            file.writelines(run_lines(output, rows()))

    def work(self, sizes: Sizes) -> Work:
        return Work(pairs=self.questions.count(sizes) * self.k)


@dataclass(frozen=True, eq=False)
class Restrict(Runs):
    """The logits of some candidates, of which all are among those that a re-ranker has scored."""

    candidates: Runs
    scores: Score

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        run.main_only(lambda: self._write(run))
        return self.outcome(run, run.recipe.measures)

    def _write(self, run: Run) -> None:
        for name in self.questions.sets(run):
            logits = RunFile(self.scores.file(run, name))
            rows = (
                (query_id, {id: logits[query_id][id] for id in scores})
                for query_id, scores in iterate_run(self.candidates.file(run, name))
            )
            with atomic_write(self.file(run, name)) as file:
                file.writelines(run_lines(file.name, rows))


@dataclass(frozen=True, eq=False)
class Calibrate(Stage):
    """The temperature that makes probabilities of the re-ranker's logits, fitted on dev."""

    scores: Score
    data: Data

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        logits = read_run(self.scores.file(run, "dev")) if self.data.judged(run)["dev"] else {}
        temperature = fit_temperature(logits, self.data.judged(run)["dev"])
        return {"said": f"temperature {temperature:.2f}", "temperature": temperature}
