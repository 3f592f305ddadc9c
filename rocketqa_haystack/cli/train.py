"""`rocketqa train-dual-encoder` and `rocketqa train-cross-encoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rocketqa_haystack.data import Collection, TrainingGroup, groups_from_collection, load_collection, read_groups
from trainers import CrossEncoderTrainer, DualEncoderTrainer, TrainingResult, TrainingSettings, mine_groups


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
) -> None:
    """Train a retriever on questions and passages that answer them, with in-batch negatives.

    Started with `accelerate launch -m rocketqa_haystack.cli.main train-dual-encoder ...` on several processes, the
    negatives are those of all processes (cross-batch negatives).

    Args:
        settings: Epochs, batch size, learning rate and the like.
        model: What to start from: a model folder, an official RocketQA name (`rocketqa models`) or a Hugging Face id.
        data: A BEIR folder (its splits train and, to evaluate on, dev) or a JSON-lines file of training groups.
        output: The model folder to write.
        hard_negatives: Negatives of each training group that join the batch.
        temperature: What similarities are divided by: 1 by default for dot products, 0.05 for cosines.
        query_max_length: Longest query in tokens; the model's own by default.
        passage_max_length: Longest passage in tokens; the model's own by default.
        title: Title and text as a segment pair, or joined by a space; the model's own way by default.
    """
    groups, dev = _training_data(data)
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
    _report(trainer.train(output), output, trainer)


def train_cross_encoder(
    settings: TrainingSettings,
    *,
    model: str,
    data: Path,
    output: Path,
    retriever: str | None = None,
    candidates: int = 50,
    negatives: int = 4,
    max_length: int | None = None,
) -> None:
    """Train a re-ranker to tell the passages that answer a question from others that a retriever finds for it.

    Args:
        settings: Epochs, batch size (in pairs), learning rate and the like.
        model: What to start from: a cross-encoder, or any encoder, which gets a new head.
        data: A BEIR folder (its splits train and, to evaluate on, dev), or a JSON-lines file of training groups with
            negatives.
        output: The model folder to write.
        retriever: The dual encoder whose top passages are the negatives. A BEIR folder needs one.
        candidates: Passages that the retriever returns for each question.
        negatives: Negatives sampled for each positive in an epoch.
        max_length: Longest pair of question and passage in tokens; the model's own by default.
    """
    from rocketqa_haystack.encoders import DualEncoder
    from rocketqa_haystack.evaluation import retrieve

    if data.is_dir() != (retriever is not None):
        raise ValueError(
            f"{data} is a BEIR folder: name a retriever to find negatives with"
            if data.is_dir()
            else f"{data} has negatives of its own: a retriever is only for BEIR folders"
        )
    run = None
    if retriever is None:
        groups, dev = _training_data(data)
    else:
        collection, dev = load_collection(data, "train"), _dev(data)
        encoder = DualEncoder.from_pretrained(retriever)
        progress = settings.show_progress
        vectors = encoder.encode_passages(list(collection.corpus.values()), show_progress=progress)
        groups = mine_groups(encoder, collection, candidates, vectors=vectors, show_progress=progress)
        run = retrieve(encoder, dev.corpus, dev.queries, candidates, vectors=vectors) if dev is not None else None
    trainer = CrossEncoderTrainer(
        model, groups, dev=dev, dev_candidates=run, settings=settings, negatives=negatives, max_length=max_length
    )
    _report(trainer.train(output), output, trainer)


def _training_data(data: Path) -> tuple[list[TrainingGroup], Collection | None]:
    if data.is_dir():
        return groups_from_collection(load_collection(data, "train")), _dev(data)
    return read_groups(data), None


def _dev(folder: Path) -> Collection | None:
    return load_collection(folder, "dev") if (folder / "qrels" / "dev.tsv").is_file() else None


def _report(result: TrainingResult, output: Path, trainer: Any) -> None:
    if not trainer.accelerator.is_main_process:
        return
    print(f"{len(result.losses)} steps, last loss {result.losses[-1]:.4f}")
    for step, value in result.evaluations:
        kept = "  <- kept" if step == result.best_step else ""
        print(f"dev RR@10 after step {step}: {value:.4f}{kept}")
    print(f"written: {output}")
