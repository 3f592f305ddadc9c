"""Small models and a small collection, made once for the whole run; nothing is downloaded."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are small, and tests run side by side

import random
from pathlib import Path

import pytest
import torch
from made_up_answers import made_up
from made_up_words import WORDS
from parity_set import FOLDER as PARITY_SET
from sentence_transformers import CrossEncoder as SentenceTransformersCrossEncoder
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
)

from rocketqa_haystack.data import Collection, Passage, save_collection
from trainers import ReaderTrainer, TrainingSettings

collect_ignore = [] if PARITY_SET.is_dir() else ["test_official_training.py"]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with random weights and a vocabulary of made-up words."""
    folder = tmp_path_factory.mktemp("models") / "language-model"
    folder.mkdir()
    vocabulary = [
        *SPECIAL,
        *"abcdefghijklmnopqrstuvwxyz0123456789.,:?!-",
        *(f"##{c}" for c in "abcdefgimrtkdos"),
        *WORDS,
    ]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,  # wider than usual, so that different texts have clearly different vectors
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder_folder(language_model: Path) -> Path:
    """A dual encoder in sentence-transformers' layout: [CLS] state, dot product."""
    folder = language_model.with_name("dual-encoder")
    modules = [Transformer(str(language_model), max_seq_length=64), Pooling(32, "cls")]
    SentenceTransformer(modules=modules, device="cpu", similarity_fn_name="dot").save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def ranker_folder(language_model: Path) -> Path:
    """A cross-encoder with one output."""
    return _cross_encoder(language_model, 1)


@pytest.fixture(scope="session")
def two_way_ranker_folder(language_model: Path) -> Path:
    """A cross-encoder with two outputs."""
    return _cross_encoder(language_model, 2)


def _cross_encoder(language_model: Path, labels: int) -> Path:
    folder = language_model.with_name(f"cross-encoder-{labels}")
    torch.manual_seed(labels)
    base = language_model.with_name(f"classifier-{labels}")
    BertForSequenceClassification.from_pretrained(language_model, num_labels=labels).save_pretrained(base)
    BertTokenizerFast.from_pretrained(language_model).save_pretrained(base)
    SentenceTransformersCrossEncoder(str(base), device="cpu").save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def collection() -> Collection:
    """Passages of made-up words; a question has two words of the passage that answers it."""
    generator = random.Random(0)
    corpus, queries, qrels = {}, {}, {}
    for number in range(48):
        words = generator.sample(WORDS, 10)
        corpus[f"p{number}"] = Passage(text=" ".join(words[2:]), title=" ".join(words[:2]))
        queries[f"q{number}"] = " ".join(generator.sample(words, 2))
        qrels[f"q{number}"] = {f"p{number}": 1}
    return Collection(corpus, queries, qrels)


@pytest.fixture(scope="session")
def collection_folder(collection: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in BEIR layout, with the splits train, dev and test."""
    folder = tmp_path_factory.mktemp("collection")
    ids = list(collection.queries)
    splits = {"train": ids[:32], "dev": ids[32:40], "test": ids[40:]}
    qrels = {split: {id: collection.qrels[id] for id in members} for split, members in splits.items()}
    save_collection(folder, collection.corpus, collection.queries, qrels)
    return folder


@pytest.fixture(scope="session")
def reader_folder(language_model: Path) -> Path:
    """A reader trained to find the number in a passage, in windows of 40 tokens."""
    folder = language_model.with_name("reader")
    settings = TrainingSettings(epochs=8, batch_size=16, learning_rate=1e-2, show_progress=False, mixed_precision="no")
    ReaderTrainer(language_model, made_up(64, seed=0), settings=settings, negatives=2, max_length=40).train(folder)
    return folder
