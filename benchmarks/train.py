"""Training a retriever: DualEncoderTrainer beside sentence-transformers' trainer.

    python benchmarks/train.py COLLECTION [--rounds 3] [--steps 8]

COLLECTION is a folder in BEIR layout with a train split. Both sides run in this process, on the same (question,
passage) pairs, from the same weights (all-MiniLM-L6-v2): batches of 32, at most 256 tokens, in-batch negatives, dropout
as the model has it. The peer is SentenceTransformerTrainer with MultipleNegativesRankingLoss. A side's time is that of
its whole call of train(). Takes about two minutes a round on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import tempfile

from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sides import compare

from rocketqa_haystack.cli.demo.encoder import small_encoder
from rocketqa_haystack.cli.main import quiet_libraries
from rocketqa_haystack.data import TrainingGroup, groups_from_collection, load_collection
from trainers import DualEncoderTrainer, TrainingSettings

BATCH_SIZE = 32
MAX_LENGTH = 256


def main() -> None:
    """Prints pairs per second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    quiet_libraries()
    every = groups_from_collection(load_collection(arguments.collection, "train"))
    pairs = BATCH_SIZE * arguments.steps
    # Spread over the whole collection, so that its lengths are there.
    groups = every[:: len(every) // pairs][:pairs]
    compare(
        {
            "sentence-transformers, defaults": lambda: train_theirs(groups),
            "sentence-transformers, bf16=True": lambda: train_theirs(groups, bf16=True, use_cpu=True),
            "rocketqa-haystack": lambda: train_ours(groups),
        },
        pairs,
        "pairs",
        arguments.rounds,
    )


def train_theirs(groups: list[TrainingGroup], **options: bool) -> None:
    """One epoch with sentence-transformers."""
    model = SentenceTransformer(str(small_encoder()), device="cpu")
    model.max_seq_length = MAX_LENGTH
    rows = {
        "anchor": [group.query for group in groups],
        "positive": [f"{group.positives[0].title} {group.positives[0].text}" for group in groups],
    }
    with tempfile.TemporaryDirectory() as folder:
        SentenceTransformerTrainer(
            model=model,
            args=SentenceTransformerTrainingArguments(
                output_dir=folder,
                num_train_epochs=1,
                per_device_train_batch_size=BATCH_SIZE,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                **options,
            ),
            train_dataset=Dataset.from_dict(rows),
            loss=MultipleNegativesRankingLoss(model),
        ).train()


def train_ours(groups: list[TrainingGroup]) -> None:
    """One epoch with the project's trainer."""
    DualEncoderTrainer(
        small_encoder(),
        groups,
        settings=TrainingSettings(batch_size=BATCH_SIZE, show_progress=False),
        query_max_length=MAX_LENGTH,
        passage_max_length=MAX_LENGTH,
    ).train()


if __name__ == "__main__":
    main()
