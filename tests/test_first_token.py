"""Last layers that compute first tokens alone: the results and the gradients are those of whole layers."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from random_models import WIDTH, folder_of
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForSequenceClassification

from rocketqa_haystack import CrossEncoder, DualEncoder, Passage
from rocketqa_haystack.data import TrainingGroup
from rocketqa_haystack.encoders.attention import NAME
from rocketqa_haystack.encoders.bert import MODEL_TYPES
from rocketqa_haystack.encoders.first_token import reading_first_token, reads_first_token
from trainers import CrossEncoderTrainer, TrainingSettings
from trainers.forward import forward_in_batches

TEXTS = ["mama dada " * count for count in (1, 7, 2, 12, 7)] + ["", "kaka"]
PAIRS = [("tata", text) for text in TEXTS]


def re_ranker(architecture: str, language_model: Path, tmp_path: Path) -> nn.Module:
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    auto = AutoModelForSequenceClassification
    base = folder_of(architecture, language_model, tmp_path, auto, num_labels=1, **dropout)
    return CrossEncoder.from_pretrained(base, device="cpu", dtype="float32").model.double()


def retriever(pooling: str, language_model: Path, tmp_path: Path) -> nn.Module:
    base = folder_of("bert", language_model, tmp_path, AutoModel)
    modules = [Transformer(str(base), max_seq_length=64), Pooling(WIDTH, pooling)]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "model"))
    return DualEncoder.from_pretrained(tmp_path / "model", device="cpu", dtype="float32").model.double()


def outputs_and_gradients(model: nn.Module, features: dict[str, Tensor], output: str) -> list[Tensor]:
    model.zero_grad()
    outputs = model(dict(features))[output]
    (outputs * torch.arange(1, outputs.numel() + 1).view(outputs.shape)).sum().backward()
    return [outputs.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("attention", [NAME, "sdpa", "eager"])
@pytest.mark.parametrize("architecture", sorted(MODEL_TYPES))
def test_a_re_rankers_scores_and_gradients_stay(
    architecture: str, attention: str, language_model: Path, tmp_path: Path
) -> None:
    model = re_ranker(architecture, language_model, tmp_path)
    model.train()[0].auto_model.set_attn_implementation(attention)
    states: list[Tensor] = []
    last = model[0].auto_model.base_model.encoder.layer[-1]
    last.register_forward_hook(lambda _module, _inputs, output: states.append(output))
    for texts in (PAIRS, PAIRS[1:2]):  # with padding, and without
        features = model.preprocess(texts)
        whole = outputs_and_gradients(model, features, "scores")
        with reading_first_token(model):
            short = outputs_and_gradients(model, features, "scores")
        assert (states[-1][:, 1:] == 0).all() == (attention != "eager")  # whose masks may be of another form
        for found, expected in zip(short, whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("pooling", "padding", "read"), [("cls", "right", True), ("cls", "left", False), ("mean", "right", False)]
)
def test_a_retriever_leaves_out_no_token_that_its_pooling_reads(
    pooling: str, padding: str, read: bool, language_model: Path, tmp_path: Path
) -> None:
    model = retriever(pooling, language_model, tmp_path)
    model.tokenizer.padding_side = padding
    assert reads_first_token(model) == read
    features = model.preprocess(TEXTS)
    whole, states = outputs_and_gradients(model, features, "sentence_embedding"), model(features)["token_embeddings"]
    with reading_first_token(model):
        short = outputs_and_gradients(model, features, "sentence_embedding")
        left = model(features)["token_embeddings"]
    for found, expected in zip(short, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert (left[:, 1:] == 0).all() == read
    torch.testing.assert_close(model(features)["token_embeddings"], states, rtol=0, atol=0)


def test_a_copied_re_ranker_computes_with_its_own_weights(language_model: Path, tmp_path: Path) -> None:
    model = re_ranker("bert", language_model, tmp_path)
    features = model.preprocess(PAIRS)
    expected = model(dict(features))["scores"]
    with torch.no_grad(), reading_first_token(model):
        copied = deepcopy(model)
        for parameter in model.parameters():
            parameter.zero_()
        torch.testing.assert_close(copied(dict(features))["scores"], expected, rtol=1e-9, atol=1e-9)


def test_a_trained_re_rankers_last_layer_computes_no_other_token(language_model: Path, tmp_path: Path) -> None:
    """Of twelve parts of a layer's matrix products two are left, keys and values: 26 of 36 parts of three layers."""
    model = re_ranker("bert", language_model, tmp_path)
    text = [("tata", "mama dada " * 100)]
    with FlopCounterMode(display=False) as whole:
        model(model.preprocess(text))["scores"].sum().backward()
    with FlopCounterMode(display=False) as short:
        forward_in_batches(model, text, "scores").sum().backward()
    assert short.get_total_flops() < 0.8 * whole.get_total_flops()


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_layers_that_run_again_leave_out_the_same_tokens(lora_rank: int, language_model: Path, tmp_path: Path) -> None:
    base = folder_of("bert", language_model, tmp_path, AutoModelForSequenceClassification, num_labels=1)
    groups = [
        TrainingGroup(
            str(n), "tata", (f"p{n}",), (Passage("", "mama " * (n + 1)),), (f"n{n}",), (Passage("", "dada " * 2 * n),)
        )
        for n in range(6)
    ]
    weights = []
    for checkpointing in (False, True):
        settings = TrainingSettings(
            batch_size=4, learning_rate=1e-3, lora_rank=lora_rank, gradient_checkpointing=checkpointing
        )
        trainer = CrossEncoderTrainer(base, groups, negatives=1, settings=settings)
        trainer.train(None)
        weights.append([parameter.detach() for parameter in trainer.encoder.model.parameters()])
    for kept, made_again in zip(*weights, strict=True):
        torch.testing.assert_close(made_again, kept, rtol=0, atol=1e-6)
