"""`rocketqa train-reader`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rocketqa_haystack.cli.train import check_start, report
from rocketqa_haystack.data import AnsweredCollection, load_answered_collection, load_squad
from rocketqa_haystack.encoders import DualEncoder
from trainers import ReaderTrainer, TrainingSettings, mine_distractors
from trainers.gathering import made_once
from trainers.loop import start_accelerator


def train_reader(
    settings: TrainingSettings,
    *,
    model: str,
    data: Path,
    output: Path,
    retriever: str | None = None,
    dev: Path | None = None,
    candidates: int = 50,
    negatives: int = 3,
    max_length: int | None = None,
    stride: int | None = None,
    selection_weight: float = 1.0,
) -> None:
    """Train an extractive reader to find the answer in the right one of the passages that a retriever finds.

    The model folder is one that Haystack's TransformersExtractiveReader loads; `rocketqa pipeline` puts it behind a
    retriever and a re-ranker.

    Args:
        settings: Epochs, batch size (in questions), learning rate and the like.
        model: What to start from: a question-answering model, or any encoder, which gets an answer head.
        data: A file in SQuAD's form, 1.1 or 2.0, or a BEIR folder whose queries.jsonl has "answers" (its splits train
            and, to evaluate on, dev).
        output: The model folder to write.
        retriever: The dual encoder whose top passages are the distractors: those without an answer string.
        dev: For a file in SQuAD's form: another one to evaluate on, by exact match.
        candidates: Passages that the retriever returns for each question.
        negatives: Distractors of each question in an epoch.
        max_length: Tokens of a window of passage with the question; 384 by default, or what the model can read.
        stride: Tokens that the windows of a long passage have in common; a third of max_length by default.
        selection_weight: Weight of the passage selection loss beside the span loss.
    """
    if negatives and retriever is None:
        raise ValueError("name a retriever to find distractors with, or ask for none with --negatives 0")
    if data.is_dir() and dev is not None:
        raise ValueError(f"{data} is a BEIR folder, whose split dev is evaluated on: --dev is for SQuAD's form")
    train_data = load_answered_collection(data, "train") if data.is_dir() else load_squad(data)
    dev_data: AnsweredCollection | None = None
    if data.is_dir() and (data / "qrels" / "dev.tsv").is_file():
        dev_data = load_answered_collection(data, "dev")
    elif dev is not None:
        dev_data = load_squad(dev)
    parts = [part for part in (train_data, dev_data if settings.evaluations else None) if part is not None]
    distractors: Sequence[dict[str, list[str]] | None] = [None] * len(parts)
    if retriever is not None and negatives:
        check_start(model, output)
        mine = partial(_mine, retriever, parts, candidates, show_progress=settings.show_progress)
        distractors = made_once(start_accelerator(), mine)
    questions = [part.questions(found) for part, found in zip(parts, distractors, strict=True)]
    trainer = ReaderTrainer(
        model,
        questions[0],
        dev=questions[1] if len(questions) > 1 else None,
        settings=settings,
        negatives=negatives,
        max_length=max_length,
        stride=stride,
        selection_weight=selection_weight,
    )
    if trainer.accelerator.is_main_process:
        answered = sum(1 for question in questions[0] if question.positives)
        print(f"{len(questions[0]):,} questions, {answered:,} of them with an answer in a passage", end="")
        left_out = len(train_data.collection.queries) - len(questions[0])
        print(f"; {left_out:,} left out: no answer string in their passage" if left_out else "")
    report(trainer.train(output), output, trainer, "exact match")


def _mine(
    retriever: str, parts: Sequence[AnsweredCollection], k: int, *, show_progress: bool
) -> list[dict[str, list[str]]]:
    encoder = DualEncoder.from_pretrained(retriever)
    return [mine_distractors(encoder, part, k, show_progress=show_progress) for part in parts]
