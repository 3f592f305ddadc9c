"""Our tokens and numbers against the official toolkit's own, for checkpoints that it was run on.

Each folder of the set has a checkpoint, inputs, and the tokens and numbers that the toolkit gave for them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import Document
from haystack.utils import ComponentDevice
from parity_set import FOLDER
from reference import Tokens
from sentence_transformers import CrossEncoder as SentenceTransformersCrossEncoder
from sentence_transformers import SentenceTransformer
from token_ids import pair_tokens, passage_tokens, query_tokens

from rocketqa_haystack import CrossEncoder, DualEncoder, Passage
from rocketqa_haystack.checkpoints.convert import convert
from rocketqa_haystack.components import RocketQADocumentEmbedder, RocketQARanker, RocketQATextEmbedder

CPU = ComponentDevice.from_str("cpu")


@dataclass
class Case:
    """A checkpoint of the set, converted, and what the toolkit made of its inputs."""

    folder: Path
    inputs: list[dict[str, Any]]
    tokens: list[dict[str, Any]]
    expected: dict[str, np.ndarray]

    def official_tokens(self, key: str) -> list[Tokens]:
        for row in self.tokens:
            assert row[key]["position_ids"] == list(range(len(row[key]["ids"])))
        return [(row[key]["ids"], row[key]["type_ids"]) for row in self.tokens]

    def check(self, key: str, values: Any, rows: Any = slice(None)) -> None:
        """Compares with the toolkit's values at both of its batch sizes."""
        tolerance = {"rtol": 1e-5, "atol": 5e-5} if key.startswith("dot_") else {"rtol": 0, "atol": 1e-5}
        for batch_size in (1, 16):
            official = self.expected[f"{key.removeprefix('dot_')}_bs{batch_size}"]
            np.testing.assert_allclose(np.asarray(values), official[rows], **tolerance)


def _cases(kind: str) -> list[str]:
    found = []
    for config in sorted(FOLDER.glob("*/*/config.json")):
        if config.parent.name == config.parents[1].name and json.loads(config.read_text())["model_type"] == kind:
            found.append(config.parent.name)
    return found


def _case(name: str, folder: Path, source: Path) -> Case:
    convert(source, folder / name)
    rows = [
        [json.loads(line) for line in (FOLDER / name / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()]
        for file in ("inputs", "tokens")
    ]
    return Case(folder / name, *rows, dict(np.load(FOLDER / name / "expected.npz")))


@pytest.fixture(scope="module", params=_cases("dual_encoder"))
def dual(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A dual encoder of the set."""
    return _case(request.param, tmp_path_factory.mktemp("dual"), FOLDER / request.param / request.param)


@pytest.fixture(scope="module", params=_cases("cross_encoder"))
def cross(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A cross-encoder of the set, converted from its archive."""
    return _case(request.param, tmp_path_factory.mktemp("cross"), FOLDER / request.param / f"{request.param}.tar.gz")


def test_tokens_and_vectors_equal_the_toolkits(dual: Case) -> None:
    encoder = DualEncoder.from_pretrained(dual.folder, device="cpu", dtype="float32")
    queries = [row["query"] for row in dual.inputs]
    plain = [Passage(row["para"]) for row in dual.inputs]
    titled = [Passage(row["para"], row["title"]) for row in dual.inputs]
    assert query_tokens(encoder, queries) == dual.official_tokens("query")
    assert passage_tokens(encoder, plain) == dual.official_tokens("para")
    assert passage_tokens(encoder, titled) == dual.official_tokens("title_para")

    vectors = encoder.encode_queries(queries)
    dual.check("q_emb", vectors)
    for key, passages in (("p", plain), ("tp", titled)):
        encoded = encoder.encode_passages(passages)
        dual.check(f"{key}_emb", encoded)
        dual.check(f"dot_score_{key}", (vectors * encoded).sum(axis=1))
        one_by_one = np.concatenate([encoder.encode_passages([passage]) for passage in passages])
        dual.check(f"{key}_emb", one_by_one)


def test_embedders_give_the_toolkits_vectors(dual: Case) -> None:
    options: dict[str, Any] = {"model": str(dual.folder), "dtype": "float32", "device": CPU}
    embedder = RocketQADocumentEmbedder(**options, progress_bar=False)
    documents = [Document(id=str(row["id"]), content=row["para"], meta={"title": row["title"]}) for row in dual.inputs]
    dual.check("tp_emb", [document.embedding for document in embedder.run(documents)["documents"]])
    text_embedder = RocketQATextEmbedder(**options)
    dual.check("q_emb", [text_embedder.run(row["query"])["embedding"] for row in dual.inputs])


def test_sentence_transformers_gives_the_toolkits_vectors(dual: Case) -> None:
    model = SentenceTransformer(str(dual.folder), device="cpu")
    dual.check("q_emb", model.encode_query([row["query"] for row in dual.inputs]))
    texts = [(row["title"], row["para"]) for row in dual.inputs]
    # What the layout cannot hold: where title and text are both too long, and odd of number, which of them loses one.
    official = dual.official_tokens("title_para")
    ids = [row.tolist() for row in _plain_ids(model, texts)]
    rows = [number for number, (row, _) in enumerate(official) if ids[number][: len(row)] == row]
    assert len(rows) >= len(texts) - 6
    dual.check("tp_emb", model.encode_document([texts[number] for number in rows]), rows)


def _plain_ids(model: SentenceTransformer, texts: list[tuple[str, str]]) -> Any:
    return model.preprocess(texts, task="document")["input_ids"]


def test_tokens_and_scores_equal_the_toolkits(cross: Case) -> None:
    encoder = CrossEncoder.from_pretrained(cross.folder, device="cpu", dtype="float32")
    for key, tokens, titled in (("p", "query_para", False), ("tp", "query_title_para", True)):
        pairs = _pairs(cross, titled)
        assert pair_tokens(encoder, pairs) == cross.official_tokens(tokens)
        cross.check(f"score_{key}", encoder.score(pairs))
        cross.check(f"score_{key}", [encoder.score([pair])[0] for pair in pairs])


def test_the_ranker_gives_the_toolkits_scores(cross: Case) -> None:
    joint = cross.expected["logits_p_bs1"].shape[1] == 1
    ranker = RocketQARanker(model=str(cross.folder), dtype="float32", device=CPU, scale_score=not joint)
    scores = []
    for row in cross.inputs:
        document = Document(content=row["para"], meta={"title": row["title"]})
        scores.append(ranker.run(row["query"], [document])["documents"][0].score)
    cross.check("score_tp", scores)


def test_sentence_transformers_gives_the_toolkits_logits(cross: Case) -> None:
    encoder = CrossEncoder.from_pretrained(cross.folder, device="cpu", dtype="float32")
    model = SentenceTransformersCrossEncoder(str(cross.folder), device="cpu")
    texts = [encoder.pair_text(pair) for pair in _pairs(cross, titled=True)]
    ids = [row.tolist() for row in model.preprocess(texts)["input_ids"]]
    lengths = [int(mask.sum()) for mask in model.preprocess(texts)["attention_mask"]]
    official = cross.official_tokens("query_title_para")
    rows = [n for n, (row, _) in enumerate(official) if ids[n][: lengths[n]] == row]
    assert len(rows) >= len(texts) - 8
    logits = model.predict([texts[number] for number in rows])
    cross.check("logits_tp", logits.reshape(len(rows), -1), rows)


def _pairs(case: Case, titled: bool) -> list[tuple[str, Passage]]:
    return [(row["query"], Passage(row["para"], row["title"] if titled else "")) for row in case.inputs]
