"""Training beside the official toolkit's: its files, its weights and texts, its losses, logits and gradients.

Collected only where the toolkit's outputs are (see conftest.py): their README says how they were made.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from parity_set import FOLDER
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizerFast

from rocketqa_haystack.data import Passage, TrainingGroup, read_groups
from trainers.losses import contrastive_loss, joint_loss, pointwise_loss

REFERENCE = FOLDER / "train_reference"
#: Largest difference to the official gradient, as a share of the gradient's norm; the official ones are float32.
TOLERANCE = 1e-5
HEADS = ("pooled_fc.w_0", "pooled_fc.b_0", "_cls_out_w", "_cls_out_b")


def variable(file: Path) -> Tensor:
    """A weight of an official checkpoint: header, shape as protobuf, float32 values."""
    raw = file.read_bytes()
    (size,) = struct.unpack_from("<i", raw, 16)
    description, dimensions, at = raw[20 : 20 + size], [], 2
    assert description[:2] == b"\x08\x05", "float32"
    while at < size:
        value = shift = 0
        at += 1
        while True:
            byte = description[at]
            value |= (byte & 127) << shift
            shift, at = shift + 7, at + 1
            if byte < 128:
                break
        dimensions.append(value)
    values = np.frombuffer(raw, "<f4", offset=20 + size).reshape(dimensions)
    return torch.from_numpy(values.copy()).double()


def official_names(prefix: str, layers: int) -> dict[str, str]:
    """Official variable by transformers' parameter name."""
    names = {
        "embeddings.word_embeddings.weight": "word_embedding",
        "embeddings.position_embeddings.weight": "pos_embedding",
        "embeddings.token_type_embeddings.weight": "sent_embedding",
        "embeddings.LayerNorm.weight": "pre_encoder_layer_norm_scale",
        "embeddings.LayerNorm.bias": "pre_encoder_layer_norm_bias",
    }
    parts = {
        "attention.self.query": "multi_head_att_query_fc",
        "attention.self.key": "multi_head_att_key_fc",
        "attention.self.value": "multi_head_att_value_fc",
        "attention.output.dense": "multi_head_att_output_fc",
        "intermediate.dense": "ffn_fc_0",
        "output.dense": "ffn_fc_1",
    }
    norms = {"attention.output.LayerNorm": "post_att_layer_norm", "output.LayerNorm": "post_ffn_layer_norm"}
    for i in range(layers):
        ours, theirs = f"encoder.layer.{i}", f"encoder_layer_{i}"
        for part, name in parts.items():
            names |= {f"{ours}.{part}.weight": f"{theirs}_{name}.w_0", f"{ours}.{part}.bias": f"{theirs}_{name}.b_0"}
        for part, name in norms.items():
            names |= {f"{ours}.{part}.weight": f"{theirs}_{name}_scale", f"{ours}.{part}.bias": f"{theirs}_{name}_bias"}
    return {ours: prefix + theirs for ours, theirs in names.items()}


class Tower:
    """An official encoder in float64, without dropout."""

    def __init__(self, model: str, prefix: str) -> None:
        folder = FOLDER / model / model
        (weights,) = (path for path in folder.iterdir() if path.is_dir())
        config = BertConfig(
            vocab_size=30522,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            type_vocab_size=4,
            layer_norm_eps=1e-5,
            attn_implementation="eager",
        )
        self.tokenizer = BertTokenizerFast(vocab=str(folder / "en_vocab.txt"))
        self.bert = BertModel(config, add_pooling_layer=False).double().eval()
        self.names = official_names(prefix, 3)
        linear = [name for name, module in self.bert.named_modules() if isinstance(module, torch.nn.Linear)]
        self.transposed = {f"{name}.weight" for name in linear}
        read = {name: variable(weights / official) for name, official in self.names.items()}
        self.bert.load_state_dict({name: self.layout(name, value) for name, value in read.items()})
        self.heads = {
            prefix + name: variable(weights / (prefix + name)).requires_grad_()
            for name in HEADS
            if (weights / (prefix + name)).is_file()
        }

    def layout(self, name: str, value: Tensor) -> Tensor:
        """Official weights of linear layers are [in, out], torch's are [out, in]."""
        return value.T if name in self.transposed else value

    def pieces(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def states(self, pairs: list[tuple[list[int], list[int] | None]]) -> Tensor:
        """The [CLS] states of `[CLS] first [SEP]` and, where there is a second, `second [SEP]`."""
        rows = []
        for first, second in pairs:
            ids = torch.tensor([[101, *first, 102, *([] if second is None else [*second, 102])]])
            types = (torch.arange(ids.shape[1]) >= len(first) + 2).long()[None]
            rows.append(self.bert(input_ids=ids, token_type_ids=types).last_hidden_state[0, 0])
        return torch.stack(rows)

    def queries(self, texts: list[str]) -> Tensor:
        return self.states([(self.pieces(text), None) for text in texts])

    def passages(self, passages: list[Passage]) -> Tensor:
        return self.states([(self.pieces(p.title), self.pieces(p.text)) for p in passages])

    def pairs(self, pairs: list[tuple[str, Passage]]) -> Tensor:
        return self.states([(self.pieces(q), self.pieces(p.title) + self.pieces(p.text)) for q, p in pairs])

    def logits(self, pairs: list[tuple[str, Passage]]) -> Tensor:
        """The cross-encoder's outputs, shape [pairs, outputs]."""
        state, heads = self.pairs(pairs), {name.removeprefix("qtp_"): value for name, value in self.heads.items()}
        if "pooled_fc.w_0" in heads:
            state = torch.tanh(state @ heads["pooled_fc.w_0"] + heads["pooled_fc.b_0"])
        return state @ heads["_cls_out_w"] + heads["_cls_out_b"]

    def gradients(self) -> dict[str, Tensor]:
        """Gradients by official name, in the official layout."""
        found = {name: value.grad for name, value in self.heads.items() if value.grad is not None}
        for name, parameter in self.bert.named_parameters():
            assert parameter.grad is not None
            found[self.names[name]] = self.layout(name, parameter.grad)
        return found


def expected(name: str) -> dict[str, NDArray[Any]]:
    with np.load(REFERENCE / f"{name}_expected.npz") as file:
        return dict(file)


def assert_gradients_agree(ours: dict[str, Tensor], theirs: dict[str, NDArray[Any]]) -> None:
    official = {name.removeprefix("grad/"): value for name, value in theirs.items() if name.startswith("grad/")}
    norms = {name.removeprefix("gradnorm/"): value for name, value in theirs.items() if name.startswith("gradnorm/")}
    assert official
    assert norms
    whole = float(np.sqrt(sum(float(norm.item()) ** 2 for norm in norms.values())))
    for name, gradient in official.items():
        difference = float((ours[name] - torch.from_numpy(gradient)).norm())
        assert difference < TOLERANCE * max(float(ours[name].norm()), 1e-2 * whole), name
    for name, norm in norms.items():
        assert float(ours[name].norm()) == pytest.approx(norm.item(), rel=1e-4, abs=1e-6 * whole), name


def positives(groups: list[TrainingGroup]) -> list[Passage]:
    return [group.positives[0] for group in groups]


def test_the_contrastive_loss_is_the_official_one() -> None:
    groups, theirs = read_groups(REFERENCE / "dual.train.tsv"), expected("de")
    query_tower, passage_tower = Tower("v1_marco_de", "query_"), Tower("v1_marco_de", "titlepara_")
    queries = query_tower.queries([group.query for group in groups])
    passages = passage_tower.passages(positives(groups) + [group.negatives[0] for group in groups])
    scores = queries @ passages.T
    loss = contrastive_loss(scores, torch.arange(len(groups)))
    np.testing.assert_allclose(scores.detach(), theirs["logits"], rtol=1e-5, atol=5e-5)
    assert loss.item() == pytest.approx(theirs["loss"].item(), rel=1e-5)
    loss.backward()
    assert_gradients_agree(query_tower.gradients() | passage_tower.gradients(), theirs)


def labelled_pairs() -> tuple[list[tuple[str, Passage]], Tensor]:
    """The rows of the official file one by one: it has queries without a positive, which make no training group."""
    rows = [line.split("\t") for line in (REFERENCE / "cross.train.tsv").read_text().splitlines()]
    pairs = [(query, Passage(text, title)) for query, title, text, _ in rows]
    return pairs, torch.tensor([int(label) for *_, label in rows])


def test_the_pointwise_loss_is_the_official_one_before_its_adversarial_step() -> None:
    (pairs, labels), theirs, tower = labelled_pairs(), expected("ce"), Tower("v1_marco_ce", "")
    logits = tower.logits(pairs)
    np.testing.assert_allclose(logits.detach(), theirs["clean_logits"], atol=1e-5)
    assert pointwise_loss(logits, labels).item() == pytest.approx(theirs["clean_loss"].item(), rel=1e-5)


def test_the_official_gradient_of_word_embeddings_is_twice_the_true_one() -> None:
    (pairs, labels), theirs, tower = labelled_pairs(), expected("ce"), Tower("v1_marco_ce", "")
    words = tower.bert.embeddings.word_embeddings.weight
    (gradient,) = torch.autograd.grad(pointwise_loss(tower.logits(pairs), labels), words)
    with torch.no_grad():  # the official adversarial step
        words += 0.01 * gradient / (gradient.square().sum() + 1e-8).sqrt()
    logits = tower.logits(pairs)
    loss = pointwise_loss(logits, labels)
    np.testing.assert_allclose(logits.detach(), theirs["logits"], atol=1e-5)
    assert loss.item() == pytest.approx(theirs["loss"].item(), rel=1e-5)
    loss.backward()
    ours = tower.gradients()
    for name in ("grad/word_embedding", "gradnorm/word_embedding"):
        theirs[name] = theirs[name] / 2
    assert_gradients_agree(ours, theirs)


def test_the_joint_loss_is_the_official_one() -> None:
    groups, theirs = read_groups(REFERENCE / "joint.train.tsv"), expected("joint")
    query_tower, passage_tower = Tower("v1_marco_de", "query_"), Tower("v1_marco_de", "titlepara_")
    ranker = Tower("v2_marco_ce", "qtp_")
    lists = [[*group.positives, *group.negatives] for group in groups]
    queries = query_tower.queries([group.query for group in groups])
    vectors = passage_tower.passages([p for members in lists for p in members]).reshape(len(lists), 4, -1)
    scores = (queries[:, None] * vectors).sum(2)
    pairs = [(group.query, p) for group, members in zip(groups, lists, strict=True) for p in members]
    logits = ranker.logits(pairs).reshape(len(lists), 4)
    np.testing.assert_allclose(logits.detach(), theirs["ce_logits"], atol=1e-5)
    np.testing.assert_allclose(scores.detach().log_softmax(1), theirs["dual_log_probs"], rtol=1e-5, atol=5e-5)
    loss = joint_loss(scores, logits)
    assert loss.cross_entropy.item() == pytest.approx(theirs["ce_loss"].mean(), rel=1e-5)
    assert loss.kl.item() == pytest.approx(theirs["kl_loss"].item(), rel=1e-4)
    assert loss.total.item() == pytest.approx(theirs["loss"].item(), rel=1e-5)
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert_gradients_agree(query_tower.gradients() | passage_tower.gradients() | ranker.gradients(), theirs)


def test_the_toolkits_example_files_are_read() -> None:
    examples = FOLDER.parent / "data" / "rocketqa_examples"
    triples = read_groups(examples / "dual.train.tsv")
    assert [(len(group.positives), len(group.negatives)) for group in triples] == [(1, 1)] * 100
    # 20 positives and 80 negatives; a query's positives share its negatives.
    pairs = read_groups(examples / "cross.train.tsv")
    assert len(pairs) == 20
    assert len({(group.query, id) for group in pairs for id in group.negative_ids}) == 80
    assert all(len(group.positives) == 1 for group in pairs)
