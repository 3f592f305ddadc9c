"""The end of a run: model folders, the indexed store, pipelines, judgements to look at, and the report."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np

from rocketqa_haystack.data.files import atomic_folder, atomic_write, write_json
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder
from rocketqa_haystack.evaluation import Run as Rankings
from rocketqa_haystack.evaluation import iterate_run, measure, read_run, write_run
from trainers.calibration import probabilities
from trainers.mining import PASSAGES, read_vectors
from trainers.recipes.candidates import Calibrate, Encode, Runs, Score
from trainers.recipes.corrections import LABELLED, Judgement, decisions, find_doubts, write_judgements
from trainers.recipes.groups import temperature
from trainers.recipes.plan import File, Model, Stage
from trainers.recipes.questions import Asked, Data, known_by_query
from trainers.recipes.report import REPORT, write_report
from trainers.recipes.run import DONE, PLAN, RECIPE, Run, read_json
from trainers.recipes.settings import RecipeError
from trainers.sampling import Thresholds

#: Weights of the retriever that are tried on dev, in units of the spread of logits over that of its scores.
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)

#: Passages that a pipeline returns.
TOP_K = 10

#: Doubtful judgements that the report shows; the TSV has all.
SHOWN = 30

DELIVERED, UNFINISHED = "delivered.json", "unfinished"
FOLDERS = RETRIEVER, RANKER, STORE = "retriever", "ranker", "store"
DENSE, HYBRID = "pipeline.yaml", "pipeline-hybrid.yaml"


@dataclass(frozen=True, eq=False)
class Weigh(Runs):
    """A re-ranker's logits plus the candidates' own scores times a weight: chosen on dev, without dev 0."""

    candidates: Runs
    logits: Runs
    measure: str

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        outcome: dict[str, Any] = {}
        run.main_only(lambda: outcome.update(self._weigh(run)))
        return outcome

    def _weigh(self, run: Run) -> dict[str, Any]:
        sets = {
            name: (read_run(self.candidates.file(run, name)), read_run(self.logits.file(run, name)))
            for name in self.questions.sets(run)
        }
        weight = 0.0
        if "dev" in sets:
            scores, logits = sets["dev"]
            judged = self.questions.judged(run)["dev"]
            unit = _spread(logits) / (_spread(scores) or 1.0)
            tried = {w: measure(_weighed(scores, logits, w * unit), judged, [self.measure]) for w in WEIGHTS}
            weight = float(f"{max(tried, key=lambda w: tried[w][self.measure]) * unit:.3g}")
        for name, (scores, logits) in sets.items():
            write_run(self.file(run, name), _weighed(scores, logits, weight))
        outcome = self.outcome(run, run.recipe.measures)
        return {**outcome, "said": f"weight {weight:g}, {outcome.get('said', '')}", "weight": weight}


def _weighed(scores: Rankings, logits: Rankings, weight: float) -> Rankings:
    return {q: {id: logit + weight * scores[q][id] for id, logit in row.items()} for q, row in logits.items()}


def _spread(run: Rankings) -> float:
    """The standard deviation of a question's scores, on average."""
    return float(np.mean([float(np.std(list(row.values()))) for row in run.values() if row] or [0.0]))


@dataclass(frozen=True, eq=False)
class Deliver(Stage):
    """What a team takes away from a run."""

    systems: tuple[tuple[str, Runs], ...]
    retriever: Model
    reranker: Model
    encoded: Encode
    corpus: File
    data: Data
    asked: Asked
    dense: Weigh
    hybrid: Weigh
    scores: Score
    calibration: Calibrate | None
    thresholds: Thresholds
    k: int
    measures: tuple[str, ...]

    def stands(self, run: Run) -> bool:
        names = (*FOLDERS, DENSE, HYBRID, REPORT, run.outcome(self)["doubts"]["file"])
        return all((run.folder / name).exists() for name in names)

    def run(self, folder: Path, run: Run) -> dict[str, Any]:
        outcome: dict[str, Any] = {}
        run.main_only(lambda: outcome.update(self._deliver(folder, run)))
        return outcome

    def _deliver(self, folder: Path, run: Run) -> dict[str, Any]:
        for other in folder.parent.glob("deliver-*"):  # of other settings, whose place this takes
            (other / DONE).unlink(missing_ok=True)
        retriever, reranker = self.retriever.path(run), self.reranker.path(run)
        self._put(run, RETRIEVER, self.retriever.key, lambda path: DualEncoder.from_pretrained(
            retriever, dtype="float32", device="cpu").save_pretrained(path))  # fmt: skip
        self._put(run, RANKER, self.reranker.key, lambda path: CrossEncoder.from_pretrained(
            reranker, dtype="float32", device="cpu").save_pretrained(path))  # fmt: skip
        self._put(run, STORE, self.encoded.key, lambda path: self._index(run, path))
        for name, weigh in ((DENSE, self.dense), (HYBRID, self.hybrid)):
            with atomic_write(run.folder / name) as file:
                file.write(self._pipeline(run, float(run.outcome(weigh)["weight"]), name == HYBRID))
        doubts, shown = self._doubts(run)
        report = write_report(self, run, doubts, shown)
        return {"said": f"{run.folder / REPORT}", "doubts": doubts, "report": report}

    def _put(self, run: Run, name: str, key: str, write: Callable[[Path], None]) -> None:
        """Writes a folder at the top of the run unless it is there already, in place of what an earlier run left."""
        file, output, delivered = run.folder / DELIVERED, run.folder / name, _delivered(run.folder)
        if delivered.get(name) == key and output.is_dir():
            return
        for unfinished in run.folder.glob(f".{name}.*"):
            shutil.rmtree(unfinished)
        write_json(file, {**delivered, name: UNFINISHED})  # before: what is half removed must not look whole
        if name in delivered:  # nothing but what a run has written is ever removed
            shutil.rmtree(output, ignore_errors=True)
        with atomic_folder(output) as folder:
            write(folder)
        write_json(file, {**delivered, name: key})

    def _index(self, run: Run, folder: Path) -> None:
        from haystack import Document
        from tqdm.auto import tqdm

        from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore

        corpus = run.corpus(self.corpus)
        with FAISSDocumentStore(path=folder, similarity=self._similarity(run)) as store:
            items, hidden = iter(corpus.items()), not run.show_progress
            for vectors in tqdm(
                read_vectors(run.of(self.encoded) / "vectors", len(corpus)),
                desc="Indexing",
                unit="part",
                total=-(-len(corpus) // PASSAGES),
                disable=hidden,
            ):
                chunk = islice(items, len(vectors))
                documents = [
                    Document(id=id, content=p.text, meta={**corpus.metadata(id), "title": p.title}) for id, p in chunk
                ]
                store.write_vectors(documents, vectors)

    def _similarity(self, run: Run) -> Any:
        return DualEncoder.from_pretrained(self.retriever.path(run), device="cpu").store_similarity

    def _pipeline(self, run: Run, weight: float, hybrid: bool) -> str:
        from haystack import Pipeline
        from haystack.components.joiners import DocumentJoiner

        from rocketqa_haystack import FAISSBM25Retriever, FAISSDocumentStore, RocketQARanker, RocketQARetriever

        home = run.folder.resolve()
        store = FAISSDocumentStore(path=home / STORE, similarity=self._similarity(run))
        pipeline = Pipeline()
        dtype = run.recipe.dtype  # that of the measures
        retriever = RocketQARetriever(model=home / RETRIEVER, document_store=store, top_k=self.k, dtype=dtype)
        pipeline.add_component("retriever", retriever)
        ranker = RocketQARanker(
            model=home / RANKER, top_k=TOP_K, scale_score=False, retriever_weight=weight, dtype=dtype
        )
        pipeline.add_component("ranker", ranker)
        if hybrid:
            pipeline.add_component("bm25", FAISSBM25Retriever(document_store=store, top_k=self.k))
            pipeline.add_component("joiner", DocumentJoiner(join_mode="reciprocal_rank_fusion"))
            pipeline.connect("retriever.documents", "joiner.documents")
            pipeline.connect("bm25.documents", "joiner.documents")
            pipeline.connect("joiner.documents", "ranker.documents")
        else:
            pipeline.connect("retriever.documents", "ranker.documents")
        return pipeline.dumps()

    def training_probabilities(self, run: Run) -> Iterator[tuple[str, dict[str, float]]]:
        """The denoising re-ranker's probabilities of the training questions' candidates and labelled positives."""
        heat = temperature(run, self.calibration)
        for query_id, logits in iterate_run(self.scores.file(run, "train")):
            yield query_id, probabilities(logits, heat)

    def _doubts(self, run: Run) -> tuple[dict[str, Any], list[Judgement]]:
        """Writes the judgements to look at: which file has how many of them, and those that the report shows."""
        queries, judged = self.data.sets(run)["train"], self.data.judged(run)["train"]
        corpus, (asked, decided) = run.corpus(self.corpus), self.data.decided(run)
        doubts = find_doubts(
            dict(self.training_probabilities(run)),
            queries,
            known_by_query(queries, judged),
            corpus,
            below=self.thresholds.negative_below,
            above=self.thresholds.positive_above,
            judged=judged,
            decided=decided,
        )
        # A file that a person has changed is that person's, and may be what this run was made with.
        delivered = _delivered(run.folder)
        paths = (run.folder / f"judgements{which}.tsv" for which in chain([""], map("-{}".format, count(2))))
        own = run.recipe.judgements.resolve() if run.recipe.judgements else None
        path = next(
            path
            for path in paths
            if not path.exists() or (delivered.get(path.name) in (UNFINISHED, File(path).key) and path.resolve() != own)
        )
        write_json(run.folder / DELIVERED, {**delivered, path.name: UNFINISHED})
        write_judgements(path, [*doubts, *decisions(decided, asked, corpus)])
        write_json(run.folder / DELIVERED, {**delivered, path.name: File(path).key})
        labelled = sum(doubt.why == LABELLED for doubt in doubts)
        summary = {"file": path.name, "labelled": labelled, "unlabelled": len(doubts) - labelled}
        return summary, doubts[:SHOWN]


def check_room(folder: Path) -> None:
    """Refuses a run folder where a run would have to replace what is not a run's.

    Raises:
        RecipeError: Which folder it is.
    """
    files = () if (folder / PLAN).is_file() else (RECIPE, DENSE, HYBRID, REPORT)  # of a run, they are its own
    for name in (*FOLDERS, *files):
        if (folder / name).exists() and name not in _delivered(folder):
            raise RecipeError(
                f"output: {folder / name} is there, but not by a run: choose another folder, or remove it"
            )


def _delivered(folder: Path) -> dict[str, str]:
    """What stands at the top of a run's folder: keys of folders, hashes of files."""
    file = folder / DELIVERED
    return read_json(file) if file.is_file() else {}
