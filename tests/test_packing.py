"""Batches without padding: the results are those of the same model with padding."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import WIDTH, folder_of
from sentence_transformers import CrossEncoder as SentenceTransformersCrossEncoder
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModel, AutoModelForSequenceClassification

from rocketqa_haystack import CrossEncoder, DualEncoder
from rocketqa_haystack.encoders.bert import MODEL_TYPES
from rocketqa_haystack.encoders.first_token import reads_first_token
from rocketqa_haystack.encoders.packing import packs

TEXTS = ["mama dada " * count for count in (1, 7, 2, 7, 12, 1, 3)] + ["", "kaka"]
PAIRS = [("tata", text) for text in TEXTS]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("architecture", sorted(MODEL_TYPES))
def test_vectors_are_those_with_padding(architecture: str, pooling: str, language_model: Path, tmp_path: Path) -> None:
    base = folder_of(architecture, language_model, tmp_path, AutoModel)
    peer = SentenceTransformer(
        modules=[Transformer(str(base), max_seq_length=64), Pooling(WIDTH, pooling)], device="cpu"
    )
    peer.save_pretrained(str(tmp_path / "model"))
    ours = DualEncoder.from_pretrained(tmp_path / "model", device="cpu", dtype="float32")
    assert packs(ours.model)
    assert reads_first_token(ours.model) == (pooling == "cls")
    np.testing.assert_allclose(ours.encode_passages(TEXTS), peer.encode_document(TEXTS), atol=1e-5)
    # Outside of our engine the model gives what it always gave, for every token.
    expected = peer.encode(TEXTS, output_value="token_embeddings")
    for found, wanted in zip(ours.model.encode(TEXTS, output_value="token_embeddings"), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("architecture", sorted(MODEL_TYPES))
def test_scores_are_those_with_padding(architecture: str, language_model: Path, tmp_path: Path) -> None:
    base = folder_of(architecture, language_model, tmp_path, AutoModelForSequenceClassification, num_labels=1)
    peer = SentenceTransformersCrossEncoder(str(base), device="cpu")
    ours = CrossEncoder.from_pretrained(base, device="cpu", dtype="float32")
    assert packs(ours.model)
    assert reads_first_token(ours.model)
    np.testing.assert_allclose(ours.score(PAIRS), peer.predict(PAIRS), atol=1e-5)


def test_a_models_layers_give_the_same_in_bfloat16(ranker_folder: Path) -> None:
    """Within the precision of bfloat16, whose mantissa has 8 bits."""
    exact = CrossEncoder.from_pretrained(ranker_folder, device="cpu", dtype="float32").logits(PAIRS)
    found = CrossEncoder.from_pretrained(ranker_folder, device="cpu", dtype="bfloat16").logits(PAIRS)
    np.testing.assert_allclose(found, exact, atol=0.05)
    assert not np.array_equal(found, exact)


def test_models_that_give_every_layer_are_left_as_they_are(language_model: Path, tmp_path: Path) -> None:
    base = folder_of("bert", language_model, tmp_path, AutoModel, output_hidden_states=True)
    peer = SentenceTransformer(modules=[Transformer(str(base), max_seq_length=64), Pooling(WIDTH)], device="cpu")
    peer.save_pretrained(str(tmp_path / "model"))
    ours = DualEncoder.from_pretrained(tmp_path / "model", device="cpu", dtype="float32")
    assert not packs(ours.model)
    np.testing.assert_allclose(ours.encode_passages(TEXTS), peer.encode_document(TEXTS), atol=1e-5)


def test_a_copied_model_computes_with_its_own_weights(encoder_folder: Path) -> None:
    encoder = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="float32")
    before = encoder.encode_passages(TEXTS)
    other = DualEncoder(copy.deepcopy(encoder.model), encoder.settings)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(0.5)
    assert np.abs(other.encode_passages(TEXTS) - before).max() > 0.01
    np.testing.assert_array_equal(encoder.encode_passages(TEXTS), before)
