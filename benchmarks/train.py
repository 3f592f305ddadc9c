"""Training a retriever, a re-ranker and both together, beside sentence-transformers' trainers.

    python benchmarks/train.py COLLECTION [--rounds 3] [--steps 8] [--only retriever|re-ranker]

COLLECTION is a folder in BEIR layout with a train split. All sides run in this process, from the same weights
(all-MiniLM-L6-v2), on the same texts of at most 256 tokens, with dropout as the model has it. A side's time is that of
its whole call of train(). Takes about two minutes a round for each table on 2 CPU cores.

- Retriever: (question, passage) pairs in batches of 32 with in-batch negatives. The peer is SentenceTransformerTrainer
  with MultipleNegativesRankingLoss.
- Re-ranker: 32 pairs a batch, three random negatives for each positive. The peer is sentence-transformers'
  CrossEncoderTrainer with BinaryCrossEntropyLoss. JointTrainer takes the same pairs as lists of four, 8 lists a batch,
  and trains a retriever on them too, which the peer does not.

Where the device computes bfloat16 natively, our sides do, and the peers run with bf16=True as well; elsewhere all
compute in float32.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainingArguments,
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers import CrossEncoderTrainer as TheirCrossEncoderTrainer
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sides import Side, compare

from rocketqa_haystack.cli.main import quiet_libraries
from rocketqa_haystack.data import Collection, Passage, TrainingGroup, groups_from_collection, load_collection
from rocketqa_haystack.encoders.packaged import small_encoder
from rocketqa_haystack.encoders.precision import computes_bfloat16
from trainers import CrossEncoderTrainer, DualEncoderTrainer, JointTrainer, TrainingSettings
from trainers.loop import start_accelerator

BATCH_SIZE = 32
MAX_LENGTH = 256
NEGATIVES = 3
LISTS = BATCH_SIZE // (1 + NEGATIVES)


def main() -> None:
    """Prints pairs per second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--only", choices=["retriever", "re-ranker"])
    arguments = parser.parse_args()
    quiet_libraries()
    collection = load_collection(arguments.collection, "train")
    pairs = BATCH_SIZE * arguments.steps
    if arguments.only != "re-ranker":
        groups = groups_of(collection, pairs)
        sides = peers(lambda **options: train_their_retriever(groups, **options))
        sides["DualEncoderTrainer"] = lambda: train_retriever(groups)
        compare(sides, pairs, "pairs", arguments.rounds)
    if arguments.only != "retriever":
        lists = with_negatives(groups_of(collection, LISTS * arguments.steps), collection)
        sides = peers(lambda **options: train_their_re_ranker(lists, **options))
        sides["CrossEncoderTrainer"] = lambda: train_re_ranker(lists)
        sides["JointTrainer"] = lambda: train_both(lists)
        compare(sides, pairs, "pairs", arguments.rounds, own=2)


def peers(train: Callable[..., None]) -> dict[str, Side]:
    """The peer's default, and with our precision where that is another."""
    sides: dict[str, Side] = {"sentence-transformers, defaults": train}
    device = start_accelerator().device
    if computes_bfloat16(device):
        sides["sentence-transformers, bf16=True"] = lambda: train(bf16=True, use_cpu=device.type == "cpu")
    return sides


def groups_of(collection: Collection, count: int) -> list[TrainingGroup]:
    """Groups spread over the whole collection, so that its lengths are there."""
    every = groups_from_collection(collection)
    return every[:: len(every) // count][:count]


def with_negatives(groups: Sequence[TrainingGroup], collection: Collection) -> list[TrainingGroup]:
    """The groups with random passages as negatives."""
    generator, everything, found = random.Random(0), list(collection.corpus), []
    for group in groups:
        others = [id for id in generator.sample(everything, NEGATIVES + 1) if id not in group.positive_ids]
        ids = tuple(others[:NEGATIVES])
        found.append(replace(group, negative_ids=ids, negatives=tuple(collection.corpus[id] for id in ids)))
    return found


def text_of(passage: Passage) -> str:
    """What sentence-transformers gets for a passage."""
    return f"{passage.title} {passage.text}"


def their_arguments(folder: str, options: dict[str, bool]) -> dict[str, Any]:
    """What both of sentence-transformers' trainers are told."""
    return {
        "output_dir": folder,
        "num_train_epochs": 1,
        "per_device_train_batch_size": BATCH_SIZE,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **options,
    }


def train_their_retriever(groups: Sequence[TrainingGroup], **options: bool) -> None:
    """One epoch with sentence-transformers."""
    model = SentenceTransformer(str(small_encoder()), device="cpu")
    model.max_seq_length = MAX_LENGTH
    rows = {
        "anchor": [group.query for group in groups],
        "positive": [text_of(group.positives[0]) for group in groups],
    }
    with tempfile.TemporaryDirectory() as folder:
        SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(**their_arguments(folder, options)),
            train_dataset=Dataset.from_dict(rows),
            loss=MultipleNegativesRankingLoss(model),
        ).train()


def train_their_re_ranker(groups: Sequence[TrainingGroup], **options: bool) -> None:
    """One epoch with sentence-transformers."""
    model = CrossEncoder(str(small_encoder()), num_labels=1, device="cpu", max_length=MAX_LENGTH)
    rows = [
        {"query": group.query, "passage": text_of(passage), "label": label}
        for group in groups
        for passage, label in [(group.positives[0], 1.0), *((passage, 0.0) for passage in group.negatives)]
    ]
    with tempfile.TemporaryDirectory() as folder:
        TheirCrossEncoderTrainer(
            model=model,
            args=CrossEncoderTrainingArguments(**their_arguments(folder, options)),
            train_dataset=Dataset.from_list(rows),
            loss=BinaryCrossEntropyLoss(model),
        ).train()


def our_settings(batch_size: int) -> TrainingSettings:
    """What all of our trainers are told."""
    return TrainingSettings(batch_size=batch_size, show_progress=False)


def train_retriever(groups: Sequence[TrainingGroup]) -> None:
    """One epoch with DualEncoderTrainer."""
    DualEncoderTrainer(
        small_encoder(),
        groups,
        settings=our_settings(BATCH_SIZE),
        query_max_length=MAX_LENGTH,
        passage_max_length=MAX_LENGTH,
    ).train()


def train_re_ranker(groups: Sequence[TrainingGroup]) -> None:
    """One epoch with CrossEncoderTrainer."""
    CrossEncoderTrainer(
        small_encoder(), groups, settings=our_settings(BATCH_SIZE), negatives=NEGATIVES, max_length=MAX_LENGTH
    ).train()


def train_both(groups: Sequence[TrainingGroup]) -> None:
    """One epoch with JointTrainer."""
    JointTrainer(
        small_encoder(),
        small_encoder(),
        groups,
        settings=our_settings(LISTS),
        list_length=1 + NEGATIVES,
        query_max_length=MAX_LENGTH,
        passage_max_length=MAX_LENGTH,
        pair_max_length=MAX_LENGTH,
    ).train()


if __name__ == "__main__":
    main()
