"""Stages that train models on training groups."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocketqa_haystack.data import TrainingGroups
from rocketqa_haystack.data.files import atomic_write, read_jsonl
from rocketqa_haystack.evaluation import read_run
from trainers.cross_encoder import CrossEncoderTrainer
from trainers.dual_encoder import DualEncoderTrainer
from trainers.joint import JointTrainer
from trainers.recipes.candidates import Mine
from trainers.recipes.groups import Groups
from trainers.recipes.plan import Model, Node, Sizes, Stage, Work
from trainers.recipes.questions import Data
from trainers.recipes.run import Run
from trainers.recipes.settings import JointTraining, Lengths, RerankerTraining, RetrieverTraining
from trainers.run_folder import LOG, RUN


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
        questions = 3.0 * self.training.examples(_count(self.groups, sizes))
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
        pairs = 3.0 * self.training.examples(_count(self.groups, sizes) * (1 + self.training.negatives))
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
        lists = 3.0 * self.training.examples(_count((*self.groups, *self.denoised), sizes))
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


def _count(groups: Iterable[Groups], sizes: Sizes) -> int:
    return sum(stage.count(sizes) for stage in groups)


def _clear(folder: Path, run: Run) -> None:
    """Removes an unfinished training by another number of processes, which trainers do not continue.

    And what was left of one that was killed when its model was there already, and nothing else to do but this.
    """
    unfinished, doomed = folder / "model.training", folder / ".other-processes"

    def clear() -> None:
        shutil.rmtree(doomed, ignore_errors=True)
        if (folder / "model").is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        file = unfinished / RUN
        if (
            file.is_file()
            and json.loads(file.read_text(encoding="utf-8"))["processes"] != run.accelerator.num_processes
        ):
            unfinished.rename(doomed)  # at once: half of it would be no run's
            shutil.rmtree(doomed)

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
