"""`rocketqa train-dual-encoder`, `rocketqa train-cross-encoder` and `rocketqa train-joint`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rocketqa_haystack.data import (
    Collection,
    TrainingGroup,
    TrainingGroups,
    groups_from_collection,
    load_collection,
)
from rocketqa_haystack.encoders import DualEncoder
from rocketqa_haystack.encoders.loading import is_folder, resolve
from rocketqa_haystack.evaluation import Run, retrieve
from trainers import (
    CrossEncoderTrainer,
    DualEncoderTrainer,
    JointLossSettings,
    JointTrainer,
    TrainingResult,
    TrainingSettings,
)
from trainers.gathering import made_once
from trainers.loop import start_accelerator
from trainers.run_folder import check_output


def train_dual_encoder(
    settings: TrainingSettings,
    *,
    model: str,
    data: Path,
    output: Path,
    hard_negatives: int = 0,
    temperature: float | None = None,
    query_max_length: int | None = None,
    passage_max_length: int | None = None,
    title: Literal["pair", "join"] | None = None,
    data_cache: Path | None = None,
    skip_bad_lines: bool = False,
) -> None:
    """Train a retriever on questions and passages that answer them, with in-batch negatives.

    Started with `accelerate launch -m rocketqa_haystack.cli.main train-dual-encoder ...` on several processes, the
    negatives are those of all processes (cross-batch negatives).

    Args:
        settings: Epochs, batch size, learning rate and the like.
        model: What to start from: a model folder, an official RocketQA name (`rocketqa models`) or a Hugging Face id.
        data: A BEIR folder (its splits train and, to evaluate on, dev) or a file of training groups: JSON lines as
            Tevatron has them, the official toolkit's TSV of 6 or 4 columns, or DPR's JSON; gzip files too.
        output: The model folder to write.
        hard_negatives: Negatives of each training group that join the batch.
        temperature: What similarities are divided by: 1 by default for dot products, 0.05 for cosines.
        query_max_length: Longest query in tokens; the model's own by default.
        passage_max_length: Longest passage in tokens; the model's own by default.
        title: Title and text as a segment pair, or joined by a space; the model's own way by default.
        data_cache: A folder to keep the file's training groups in as they were read, so that other processes and later
            runs need not read it again.
        skip_bad_lines: Leave out the file's bad lines, and say how many, instead of refusing it.
    """
    groups, dev = _training_data(data, data_cache, skip_bad_lines)
    trainer = DualEncoderTrainer(
        model,
        groups,
        dev=dev,
        settings=settings,
        hard_negatives=hard_negatives,
        temperature=temperature,
        query_max_length=query_max_length,
        passage_max_length=passage_max_length,
        title=title,
    )
    _announce(groups, trainer)
    report(trainer.train(output), output, trainer)


def train_cross_encoder(
    settings: TrainingSettings,
    *,
    model: str,
    data: Path,
    output: Path,
    retriever: str | None = None,
    candidates: int = 50,
    loss: Literal["pointwise", "listwise"] = "pointwise",
    negatives: int = 4,
    max_length: int | None = None,
    data_cache: Path | None = None,
    skip_bad_lines: bool = False,
) -> None:
    """Train a re-ranker to tell the passages that answer a question from others that a retriever finds for it.

    Args:
        settings: Epochs, batch size (in pairs, or in lists), learning rate and the like.
        model: What to start from: a cross-encoder, or any encoder, which gets a new head.
        data: A BEIR folder (its splits train and, to evaluate on, dev), or a file of training groups with negatives:
            JSON lines as Tevatron has them, the official toolkit's TSV of 4 or 6 columns, or DPR's JSON; gzip files
            too.
        output: The model folder to write.
        retriever: The dual encoder whose top passages are the negatives. A BEIR folder needs one.
        candidates: Passages that the retriever returns for each question.
        loss: Learn pair by pair, so that a score is a probability, or list by list, which learns to rank from less.
        negatives: Negatives sampled for each positive in an epoch.
        max_length: Longest pair of question and passage in tokens; the model's own by default.
        data_cache: A folder to keep the file's training groups in as they were read, so that other processes and later
            runs need not read it again.
        skip_bad_lines: Leave out the file's bad lines, and say how many, instead of refusing it.
    """
    if not data.exists():
        raise ValueError(f"{data}: there is no such file or folder")
    if data.is_dir() != (retriever is not None):
        raise ValueError(
            f"{data} is a BEIR folder: name a retriever to find negatives with"
            if data.is_dir()
            else f"{data} has negatives of its own: a retriever is only for BEIR folders"
        )
    for name, value in (("candidates", candidates), ("negatives", negatives)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, but got {value}")
    check_start(model, output)
    run = None
    groups: Sequence[TrainingGroup]
    if retriever is None:
        groups, dev = _training_data(data, data_cache, skip_bad_lines)
    else:
        _refuse_file_options(data, data_cache, skip_bad_lines)
        collection, dev = load_collection(data, "train"), _dev(data)
        parts = [collection] if dev is None else [collection, dev]
        search = partial(_search, retriever, parts, candidates, show_progress=settings.show_progress)
        found, *runs = made_once(start_accelerator(), search)
        groups, run = groups_from_collection(collection, found), runs[0] if runs else None
    trainer = CrossEncoderTrainer(
        model,
        groups,
        dev=dev,
        dev_candidates=run,
        settings=settings,
        loss=loss,
        negatives=negatives,
        max_length=max_length,
    )
    _announce(groups, trainer)
    report(trainer.train(output), output, trainer)


def train_joint(
    settings: TrainingSettings,
    *,
    retriever: str,
    reranker: str,
    data: Path,
    output: Path,
    denoised: Path | None = None,
    dev: Path | None = None,
    list_length: int = 8,
    loss: Literal["released", "paper"] = "released",
    contrastive_weight: float = 0.0,
    freeze_reranker: bool = False,
    reranker_learning_rate: float | None = None,
    pair_max_length: int | None = None,
    data_cache: Path | None = None,
    skip_bad_lines: bool = False,
) -> None:
    """Train a retriever and a re-ranker together: dynamic listwise distillation, as in RocketQAv2.

    Both see the same lists of a positive and negatives, drawn anew in every epoch. The re-ranker learns from the
    labels, the retriever from the re-ranker. Both should be trained already.

    Args:
        settings: Epochs, batch size (in lists), learning rate and the like.
        retriever: The dual encoder to start from.
        reranker: The cross-encoder to start from, or any encoder, which gets a new head.
        data: A file of training groups with negatives that a retriever ranks high: JSON lines as Tevatron has them, the
            official toolkit's TSV of 4 or 6 columns, or DPR's JSON; gzip files too.
        output: The folder to write, with the model folders `retriever` and `reranker`.
        denoised: Another such file, whose negatives are denoised; lists of both kinds then make up an epoch.
        dev: A BEIR folder whose dev split the retriever is evaluated on.
        list_length: Candidates of a list, the positive among them.
        loss: The distillation's direction and reduction: as in the released code, or as in the paper.
        contrastive_weight: Of a contrastive loss of the retriever over the passages of all lists; 0 leaves it out.
        freeze_reranker: Let the re-ranker teach as it is (static distillation).
        reranker_learning_rate: The re-ranker's; that of the settings by default.
        pair_max_length: Longest pair of the re-ranker in tokens; the model's own by default.
        data_cache: A folder to keep the files' training groups in as they were read, so that other processes and later
            runs need not read them again.
        skip_bad_lines: Leave out the files' bad lines, and say how many, instead of refusing them.
    """
    for file in (data, denoised):
        if file is not None and file.is_dir():
            raise ValueError(f"{file} is a folder: joint training needs a file of training groups with negatives")
    groups, further = (
        () if file is None else TrainingGroups.read(file, cache=data_cache, skip_bad_lines=skip_bad_lines)
        for file in (data, denoised)
    )
    trainer = JointTrainer(
        retriever,
        reranker,
        groups,
        denoised=further,
        dev=None if dev is None else load_collection(dev, "dev"),
        settings=settings,
        list_length=list_length,
        loss=JointLossSettings.preset(loss),
        contrastive_weight=contrastive_weight,
        freeze_reranker=freeze_reranker,
        reranker_learning_rate=reranker_learning_rate,
        pair_max_length=pair_max_length,
    )
    _announce(groups, trainer)
    report(trainer.train(output), output, trainer)


def _search(retriever: str, parts: Sequence[Collection], k: int, *, show_progress: bool) -> list[Run]:
    """The retriever's top k for the questions of collections that share a corpus."""
    encoder = DualEncoder.from_pretrained(retriever)
    vectors = encoder.encode_passages(list(parts[0].corpus.values()), show_progress=show_progress)
    return [
        retrieve(encoder, part.corpus, part.queries, k, vectors=vectors, show_progress=show_progress) for part in parts
    ]


def _training_data(
    data: Path, cache: Path | None, skip_bad_lines: bool
) -> tuple[Sequence[TrainingGroup], Collection | None]:
    if data.is_dir():
        _refuse_file_options(data, cache, skip_bad_lines)
        return groups_from_collection(load_collection(data, "train")), _dev(data)
    return TrainingGroups.read(data, cache=cache, skip_bad_lines=skip_bad_lines), None


def _refuse_file_options(data: Path, cache: Path | None, skip_bad_lines: bool) -> None:
    if cache is not None or skip_bad_lines:
        option = "--skip-bad-lines" if skip_bad_lines else "--data-cache"
        raise ValueError(f"{data} is a BEIR folder: {option} is for files of training groups")


def check_start(model: str, output: Path) -> None:
    """Refuses, before a corpus is encoded and searched, what the trainer would refuse after it."""
    check_output(output)
    is_folder(resolve(model))


def _announce(groups: Sequence[TrainingGroup], trainer: Any) -> None:
    """Says before training starts what the data are and what was left out of them."""
    if not trainer.accelerator.is_main_process:
        return
    if isinstance(groups, TrainingGroups) and groups.skipped.count:
        print(groups.skipped)
    if not trainer.report.findings:  # else the trainer has logged them
        print(trainer.report)


def _dev(folder: Path) -> Collection | None:
    return load_collection(folder, "dev") if (folder / "qrels" / "dev.tsv").is_file() else None


def report(result: TrainingResult, output: Path, trainer: Any, measure: str = "RR@10") -> None:
    """Says at the end what was trained, how it was measured and where it is."""
    if not trainer.accelerator.is_main_process:
        return
    if result.finished_before:
        print(f"finished before, with the same data and settings: {output} stays as it is")
    print(f"{len(result.losses)} steps, last loss {result.losses[-1]:.4f}")
    for step, value in result.evaluations:
        kept = "  <- kept" if step == result.best_step else ""
        print(f"dev {measure} after step {step}: {value:.4f}{kept}")
    if not result.finished_before:
        print(f"written: {output}")
