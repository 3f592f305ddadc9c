"""The stages that recipes are made of: questions, vectors, candidates, scores, training groups, trained models."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rocketqa_haystack.data import (
    Collection,
    CorpusFile,
    DataError,
    Passage,
    Qrels,
    TrainingGroup,
    TrainingGroups,
    read_qrels,
    read_queries,
    write_groups,
    write_qrels,
    write_queries,
)
from rocketqa_haystack.data.files import atomic_write, read_jsonl, read_lines
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder
from rocketqa_haystack.evaluation import BM25, RunFile, fuse, iterate_run, read_run, run_lines
from trainers.augmentation import HELD_OUT, Kept, pseudo_label, question_key
from trainers.calibration import fit_temperature, probabilities
from trainers.cross_encoder import CrossEncoderTrainer
from trainers.dual_encoder import DualEncoderTrainer
from trainers.joint import JointTrainer
from trainers.mining import dense_search, encode_corpus, lexical_search, mine, run_search, score_candidates
from trainers.recipes.corrections import read_corrections
from trainers.recipes.plan import File, Node, Sizes, Stage, Work
from trainers.recipes.run import Run
from trainers.recipes.settings import JointTraining, Lengths, RerankerTraining, RetrieverTraining
from trainers.run_folder import LOG, RUN
from trainers.sampling import Thresholds, denoised_negatives, query_seed, random_negatives, undenoised_negatives

#: Share of the training questions that are held out for dev where a collection has none, and the most of them.
DEV_SHARE, DEV_MOST = 0.1, 500


class Model(Protocol):
    """A node that has a model: given, or trained by a stage."""

    @property
    def key(self) -> str:
        """As a node's."""

    def path(self, run: Run) -> str:
        """What the encoders load."""


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

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        outcome: dict[str, Any] = {}
        run.main_only(lambda: outcome.update(self._write(folder, run)))
        return outcome

    def _write(self, folder: Path, run: Run) -> dict[str, Any]:
        queries = read_queries(self.queries.path) if self.queries else {}
        train, dev, test = (checked_qrels(file, queries) for file in (self.train, self.dev, self.test))
        if self.generated is not None:
            made = run.of(self.generated)
            queries |= read_queries(made / "queries.jsonl")
            train |= _read_judged(made / "train.tsv")
            dev = dev or _read_judged(made / "dev.tsv")
        corpus = run_corpus(run, self.corpus)
        for query_id, judged in [*train.items(), *dev.items()]:
            if (missing := next((id for id in judged if id not in corpus), None)) is not None:
                raise DataError(f"passage {missing!r}, judged for query {query_id!r}, is not in {self.corpus.path}")
        # What models are measured on they must not have seen, under another id or in capitals either.
        asked = {question_key(queries[id]) for id in [*dev, *test]}
        apart = {id: judged for id, judged in _answered(train).items() if question_key(queries[id]) not in asked}
        repeated = len(_answered(train)) - len(apart)
        if not dev:
            held = self._held_out({question_key(queries[id]) for id in apart})
            dev = {id: judged for id, judged in apart.items() if question_key(queries[id]) in held}
        train = {id: judged for id, judged in apart.items() if id not in dev}
        corrected = 0
        if self.corrections:
            for query_id, id, grade in read_corrections(self.corrections.path, queries):
                if query_id in test:
                    raise DataError(f"{self.corrections.path}: {query_id!r} is a test question, which must not be used")
                split = dev if query_id in dev else train
                corrected += split.setdefault(query_id, {}).get(id) != grade
                split[query_id][id] = grade
            train = _answered(train)
        also = f", {repeated:,} left out that are asked in dev or test too" if repeated else ""
        if not train:
            raise DataError(f"{run.recipe.collection}: there is no question with a relevant passage to train on{also}")
        write_queries(folder / "queries.jsonl", {id: queries[id] for id in [*train, *dev]})
        write_qrels(folder / "train.tsv", train)
        write_qrels(folder / "dev.tsv", dev)
        said = f"{len(train):,} questions to train on, {len(dev):,} for dev{also}"
        return {"said": said + (f", {corrected:,} judgements corrected" if self.corrections else "")}

    def _held_out(self, questions: set[str]) -> set[str]:
        """Some for dev: the same ones as before when a question comes or goes, but for one."""
        order = sorted(questions, key=lambda text: query_seed(self.seed, text))
        return set(order[: min(DEV_MOST, int(DEV_SHARE * len(order)))])

    def sets(self, run: Run) -> dict[str, dict[str, str]]:
        queries = read_queries(run.of(self) / "queries.jsonl")
        return {name: {id: queries[id] for id in qrels} for name, qrels in self.judged(run).items()}

    def judged(self, run: Run) -> dict[str, Qrels]:
        return {name: _read_judged(run.of(self) / f"{name}.tsv") for name in ("train", "dev")}

    def count(self, sizes: Sizes) -> int:
        return sizes.train + sizes.dev

    def collection(self, run: Run, name: str) -> Collection | None:
        """The corpus with one set of questions; None where there is no question."""
        queries = self.sets(run)[name]
        return Collection(run_corpus(run, self.corpus), queries, self.judged(run)[name]) if queries else None


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
        return {"unlabelled": {f"unlabelled-{number}": line.strip() for number, line in read_lines(self.path)}}

    def judged(self, run: Run) -> dict[str, Qrels]:
        return {}

    def count(self, sizes: Sizes) -> int:
        return sizes.unlabelled


@dataclass(frozen=True, eq=False)
class Encode(Stage):
    """The vectors of all passages."""

    retriever: Model
    corpus: File

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        encode_corpus(
            DualEncoder.from_pretrained(self.retriever.path(run)),
            run_corpus(run, self.corpus),
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
        from rocketqa_haystack.evaluation import measure

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
        searches = [lexical_search(BM25(run_corpus(run, self.corpus)), self.k)]
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
        corpus = run_corpus(run, self.corpus)
        encoder = DualEncoder.from_pretrained(self.retriever.path(run))
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
    with_positives: bool = False

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        encoder = CrossEncoder.from_pretrained(self.reranker.path(run))
        for name, queries in self.questions.sets(run).items():
            candidates = folder / f"{name}.candidates.trec"
            if self.with_positives:
                qrels = self.questions.judged(run).get(name, {})
                run.main_only(lambda file=candidates, name=name, qrels=qrels: self._add(run, name, qrels, file))  # type: ignore[misc]
            score_candidates(
                encoder,
                run_corpus(run, self.corpus),
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
class Calibrate(Stage):
    """The temperature that makes probabilities of the re-ranker's logits, fitted on dev."""

    scores: Score
    data: Data

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        logits = read_run(self.scores.file(run, "dev")) if self.data.judged(run)["dev"] else {}
        temperature = fit_temperature(logits, self.data.judged(run)["dev"])
        return {"said": f"temperature {temperature:.2f}", "temperature": temperature}


@dataclass(frozen=True, eq=False)
class Groups(Stage):
    """Training groups, in a file of JSON lines."""

    def file(self, run: Run) -> Path:
        """The groups."""
        return run.of(self) / "groups.jsonl"


@dataclass(frozen=True, eq=False)
class Labelled(Groups):
    """The labelled questions with their positives, and BM25's negatives where they are asked for."""

    data: Data
    corpus: File
    lexical: Lexical | None

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        run.main_only(lambda: write_groups(self.file(run), self._groups(run)))
        return {}

    def _groups(self, run: Run) -> Iterator[TrainingGroup]:
        found = RunFile(self.lexical.file(run, "train")) if self.lexical else {}
        corpus, judged = run_corpus(run, self.corpus), self.data.judged(run)["train"]
        for query_id, query in self.data.sets(run)["train"].items():
            right = positives(judged[query_id])
            yield group(corpus, query_id, query, right, [id for id in found.get(query_id, {}) if id not in right])


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

    def _groups(self, run: Run) -> Iterator[TrainingGroup]:
        corpus, queries, judged = (
            run_corpus(run, self.corpus),
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

    def _groups(self, run: Run, counts: Counter[str]) -> Iterator[TrainingGroup]:
        corpus, queries, judged = (
            run_corpus(run, self.corpus),
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

    def _groups(self, run: Run, kept: Kept) -> Iterator[TrainingGroup]:
        corpus, queries = run_corpus(run, self.corpus), self.questions.sets(run)["unlabelled"]
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


@dataclass(frozen=True, eq=False)
class TrainRetriever(Stage):
    """A retriever, trained."""

    start: Model
    groups: tuple[Groups, ...]
    data: Data
    training: RetrieverTraining
    lengths: Lengths
    title: str | None
    seed: int

    def path(self, run: Run) -> str:
        return str(run.of(self) / "model")

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        _clear(folder, run)
        if not Path(self.path(run)).is_dir():
            DualEncoderTrainer(
                self.start.path(run),
                joined_groups(folder, self.groups, run),
                dev=self.data.collection(run, "dev"),
                settings=self.training.for_processes(
                    run.accelerator.num_processes, seed=self.seed, show_progress=run.show_progress
                ),
                hard_negatives=self.training.hard_negatives,
                query_max_length=self.lengths.query,
                passage_max_length=self.lengths.passage,
                title=self.title,
            ).train(self.path(run))
        return _trained(folder)

    def work(self, sizes: Sizes) -> Work:
        questions = 3.0 * self.training.examples(_questions(self.groups, sizes))
        evaluations = self.training.evaluations + 1 if self.training.evaluations else 0
        return Work(
            queries=questions + evaluations * sizes.dev,
            passages=questions * (1 + self.training.hard_negatives) + evaluations * sizes.passages,
        )


@dataclass(frozen=True, eq=False)
class TrainReranker(Stage):
    """A re-ranker, trained."""

    start: Model
    groups: tuple[Groups, ...]
    data: Data
    candidates: Mine
    training: RerankerTraining
    lengths: Lengths
    seed: int

    def path(self, run: Run) -> str:
        return str(run.of(self) / "model")

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        _clear(folder, run)
        if not Path(self.path(run)).is_dir():
            dev = self.data.collection(run, "dev")
            CrossEncoderTrainer(
                self.start.path(run),
                joined_groups(folder, self.groups, run),
                dev=dev,
                dev_candidates=read_run(self.candidates.file(run, "dev")) if dev is not None else None,
                settings=self.training.for_processes(
                    run.accelerator.num_processes, seed=self.seed, show_progress=run.show_progress
                ),
                negatives=self.training.negatives,
                max_length=self.lengths.pair,
            ).train(self.path(run))
        return _trained(folder)

    def work(self, sizes: Sizes) -> Work:
        pairs = 3.0 * self.training.examples(_questions(self.groups, sizes) * (1 + self.training.negatives))
        evaluations = self.training.evaluations + 1 if self.training.evaluations else 0
        return Work(pairs=pairs + evaluations * sizes.dev * self.candidates.k)


@dataclass(frozen=True, eq=False)
class TrainJoint(Stage):
    """Retriever and re-ranker, trained together."""

    retriever: Model
    reranker: Model
    groups: tuple[Groups, ...]
    denoised: tuple[Groups, ...]
    data: Data
    training: JointTraining
    lengths: Lengths
    title: str | None
    seed: int

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        _clear(folder, run)
        if not (folder / "model").is_dir():
            JointTrainer(
                self.retriever.path(run),
                self.reranker.path(run),
                joined_groups(folder, self.groups, run),
                denoised=joined_groups(folder, self.denoised, run) if self.denoised else (),
                dev=self.data.collection(run, "dev"),
                settings=self.training.for_processes(
                    run.accelerator.num_processes, seed=self.seed, show_progress=run.show_progress
                ),
                list_length=self.training.list_length,
                reranker_learning_rate=self.training.reranker_learning_rate,
                loss=self.training.loss,
                contrastive_weight=self.training.contrastive_weight,
                freeze_reranker=self.training.static,
                query_max_length=self.lengths.query,
                passage_max_length=self.lengths.passage,
                pair_max_length=self.lengths.pair,
                title=self.title,
            ).train(folder / "model")
        return _trained(folder)

    def work(self, sizes: Sizes) -> Work:
        lists = 3.0 * self.training.examples(_questions((*self.groups, *self.denoised), sizes))
        evaluations = self.training.evaluations + 1 if self.training.evaluations else 0
        texts = lists * self.training.list_length
        return Work(queries=lists, passages=texts + evaluations * sizes.passages, pairs=texts)


@dataclass(frozen=True, eq=False)
class Side(Node):
    """One of the two models of joint training: `retriever` or `reranker`."""

    joint: TrainJoint
    name: str

    @property
    def key(self) -> str:
        return f"{self.joint.key} {self.name}"

    def path(self, run: Run) -> str:
        return str(run.of(self.joint) / "model" / self.name)


def joined_groups(folder: Path, stages: Sequence[Groups], run: Run) -> TrainingGroups:
    """The groups of some stages as one sequence on disk."""
    name = "-".join(stage.key[:12] for stage in stages)
    whole = folder / f"groups-{name}.jsonl"

    def write() -> None:
        if not whole.is_file():
            with atomic_write(whole) as file:
                for stage in stages:
                    with stage.file(run).open(encoding="utf-8") as part:
                        shutil.copyfileobj(part, file)

    run.main_only(write)
    return TrainingGroups.read(whole, cache=folder / "groups")


def run_corpus(run: Run, corpus: File) -> CorpusFile:
    """The run's corpus, opened once."""
    if corpus.path not in run.corpora:
        run.corpora[corpus.path] = CorpusFile(corpus.path)
    return run.corpora[corpus.path]


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


def positives(judged: Mapping[str, int]) -> list[str]:
    """The passages that are judged relevant."""
    return [id for id, grade in judged.items() if grade > 0]


def known_by_query(queries: Mapping[str, str], judged: Qrels) -> dict[str, list[str]]:
    """The known positives of each question, those of other questions with the same text among them."""
    by_text: dict[str, dict[str, None]] = {}
    for query_id, text in queries.items():
        by_text.setdefault(text, {}).update(dict.fromkeys(positives(judged[query_id])))
    return {query_id: list(by_text[text]) for query_id, text in queries.items()}


def temperature(run: Run, calibration: Calibrate | None) -> float:
    """What logits are divided by."""
    return float(run.outcome(calibration)["temperature"]) if calibration else 1.0


def _questions(groups: Iterable[Groups], sizes: Sizes) -> int:
    return sum(sizes.unlabelled if isinstance(stage, PseudoLabelled) else sizes.train for stage in groups)


def _clear(folder: Path, run: Run) -> None:
    """Removes an unfinished training by another number of processes, which trainers do not continue."""
    unfinished = folder / "model.training"

    def clear() -> None:
        file = unfinished / RUN
        if (
            file.is_file()
            and json.loads(file.read_text(encoding="utf-8"))["processes"] != run.accelerator.num_processes
        ):
            shutil.rmtree(unfinished)

    run.main_only(clear)


def _trained(folder: Path) -> dict[str, Any]:
    """What the log of a training says of its outcome."""
    lines = [line for _, line in read_jsonl(folder / "model" / LOG)]
    measured = [(value, name, line["step"]) for line in lines for name, value in line.get("dev", {}).items()]
    said = f"{lines[-1]['step']:,} steps"
    if measured:
        value, name, step = max(measured, key=lambda one: one[0])
        said += f", dev {name} {measured[0][0]:.4f} before, {value:.4f} after step {step:,}, which is kept"
    return {"said": said}


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


def _answered(qrels: Qrels) -> Qrels:
    """The questions with a relevant passage."""
    return {id: judged for id, judged in qrels.items() if any(grade > 0 for grade in judged.values())}


def _read_judged(path: Path) -> Qrels:
    """Judgements of a file that may have none under its header."""
    return read_qrels(path) if sum(1 for _ in read_lines(path)) > 1 else {}
