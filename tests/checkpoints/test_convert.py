"""Converted checkpoints of every kind against the reference in numpy."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_form import VOCABULARY, WORDS, encode_variable, pack, prefixes, write_checkpoint
from reference import Tokenizer, cls_state, v1_logits, v2_logit
from sentence_transformers import CrossEncoder as SentenceTransformersCrossEncoder
from sentence_transformers import SentenceTransformer
from token_ids import pair_tokens, passage_tokens, query_tokens

from rocketqa_haystack.checkpoints.convert import convert
from rocketqa_haystack.checkpoints.errors import CheckpointError
from rocketqa_haystack.data import Passage
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder

CHINESE = {"hidden_act": "relu", "max_position_embeddings": 513, "sent_type_vocab_size": 0, "type_vocab_size": 2}
SHORT_VOCABULARY = {"vocab_size": len(VOCABULARY) + 36}

#: Changes of the model configuration and of config.json for each kind of dual encoder and of cross-encoder.
DUAL_ENCODERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two towers": ({}, {}),
    "one tower": ({}, {"share_parameter": 1}),
    "one tower, flags as booleans": ({}, {"share_parameter": True, "for_cn": 0}),
    "one tower, Chinese": ({**CHINESE, **SHORT_VOCABULARY}, {"share_parameter": 1, "for_cn": True}),
    "two towers, Chinese": ({**CHINESE, **SHORT_VOCABULARY}, {"for_cn": True, "p_max_seq_len": 64}),
    "two towers, task ids": ({"use_task_id": True, "task_type_vocab_size": 3}, {}),
    "even length": ({}, {"p_max_seq_len": 33}),
    "shortest lengths": ({}, {"q_max_seq_len": 4, "p_max_seq_len": 4}),
}
CROSS_ENCODERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "v1": ({}, {}),
    "v1, joint_training 0": ({}, {"joint_training": 0}),
    "v1, Chinese": ({**CHINESE, **SHORT_VOCABULARY}, {"for_cn": True}),
    "v1, task ids": ({"use_task_id": 1}, {}),
    "v1, shortest length": ({}, {"max_seq_len": 4}),
    "v2": ({}, {"joint_training": 1}),
    "v2, Chinese": ({**CHINESE, **SHORT_VOCABULARY}, {"joint_training": 1, "for_cn": True, "max_seq_len": 384}),
    "v2, task ids": ({"use_task_id": True}, {"joint_training": True, "max_seq_len": 33}),
}

generator = random.Random(0)


def words(number: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(number))


#: Queries, titles and texts: every combination of lengths around the limits, and what is odd.
TEXTS = [
    *(
        (words(q), words(t), words(p))
        for q in (0, 1, 14, 15, 30)
        for t in (0, 1, 14, 15, 16, 40)
        for p in (0, 14, 15, 40)
    ),
    ("[SEP] [CLS]", "titel [UNK]", "[MASK] ##e sonne[PAD]"),
    ("\u039f\u0394\u039f\u03a3 \u03a3", "\u03a3\u0391\u03a3\u0301", "\u0391\u03a3' \u0391\u03a3'\u0391"),
    ("sonne mond", "stern fluss", "berg wald"),
    ("\u5929 \u5730\u4eba", "\u5c71 sonne", "mond \u5929"),
    ("\u200b", " ", "\t"),
    ("  sonne\u3000mond ", "\ufffd\u0007", "wald\nfeld"),
]
PASSAGES = [Passage(text, title) for _, title, text in TEXTS]
PAIRS = [(query, passage) for (query, _, _), passage in zip(TEXTS, PASSAGES, strict=True)]


@pytest.fixture(params=DUAL_ENCODERS)
def dual_encoder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A converted dual encoder, and what its files say."""
    return _converted(tmp_path, "dual_encoder", *DUAL_ENCODERS[request.param])


@pytest.fixture(params=CROSS_ENCODERS)
def cross_encoder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A converted cross-encoder, and what its files say."""
    return _converted(tmp_path, "cross_encoder", *CROSS_ENCODERS[request.param])


def _converted(folder: Path, kind: str, conf: dict[str, Any], config: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    variables = write_checkpoint(folder / "source", kind, conf=conf, config=config)
    convert(folder / "source", folder / "model")
    read = {name: json.loads((folder / "source" / f"{name}.json").read_text()) for name in ("config", "model_conf")}
    tokenizer = Tokenizer(VOCABULARY, for_cn=bool(read["config"]["for_cn"]))
    return folder / "model", {"variables": variables, "tokenizer": tokenizer, **read}


def test_a_dual_encoder_gives_the_references_tokens_and_vectors(dual_encoder: tuple[Path, dict[str, Any]]) -> None:
    folder, official = dual_encoder
    config, tokenizer = official["config"], official["tokenizer"]
    encoder = DualEncoder.from_pretrained(folder, device="cpu", dtype="float32")
    queries = [query for query, _, _ in TEXTS]
    expected_queries = [tokenizer.query(query, config["q_max_seq_len"]) for query in queries]
    expected_passages = [tokenizer.passage(p.title, p.text, config["p_max_seq_len"]) for p in PASSAGES]
    assert query_tokens(encoder, queries) == expected_queries
    assert passage_tokens(encoder, PASSAGES) == expected_passages

    towers = prefixes(config)
    for vectors, tokens, prefix in (
        (encoder.encode_queries(queries), expected_queries, towers[0]),
        (encoder.encode_passages(PASSAGES), expected_passages, towers[-1]),
    ):
        states = [cls_state(official["variables"], prefix, official["model_conf"], row) for row in tokens]
        np.testing.assert_allclose(vectors, states, rtol=0, atol=1e-5)


def test_a_cross_encoder_gives_the_references_tokens_and_scores(cross_encoder: tuple[Path, dict[str, Any]]) -> None:
    folder, official = cross_encoder
    config, variables = official["config"], official["variables"]
    encoder = CrossEncoder.from_pretrained(folder, device="cpu", dtype="float32")
    expected = [official["tokenizer"].pair(q, p.title, p.text, config["max_seq_len"]) for q, p in PAIRS]
    assert pair_tokens(encoder, PAIRS) == expected

    states = [cls_state(variables, prefixes(config)[0], official["model_conf"], tokens) for tokens in expected]
    if config.get("joint_training"):
        scores = logits = np.asarray([v2_logit(variables, state) for state in states])
    else:
        both = np.asarray([v1_logits(variables, state) for state in states])
        logits = both[:, 1] - both[:, 0]
        scores = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(encoder.score(PAIRS), scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(encoder.logits(PAIRS), logits, rtol=0, atol=2e-5)


#: Texts that sentence-transformers treats as the toolkit does: too short to cut, with something in each segment.
PLAIN = [
    ("sonne mond", "stern", "berg wald"),
    ("[SEP] fluss", "[CLS]", "\u039f\u0394\u039f\u03a3"),
    ("wind", "", "feld"),
]


@pytest.mark.parametrize("dual_encoder", sorted(DUAL_ENCODERS.keys() - {"shortest lengths"}), indirect=True)
def test_sentence_transformers_gives_a_dual_encoders_vectors(dual_encoder: tuple[Path, dict[str, Any]]) -> None:
    encoder = DualEncoder.from_pretrained(dual_encoder[0], device="cpu", dtype="float32")
    peer = SentenceTransformer(str(dual_encoder[0]), device="cpu")
    queries, passages = [q for q, _, _ in PLAIN], [Passage(text, title) for _, title, text in PLAIN]
    np.testing.assert_allclose(peer.encode_query(queries), encoder.encode_queries(queries), atol=1e-5)
    vectors = peer.encode_document([(passage.title, passage.text) for passage in passages])
    np.testing.assert_allclose(vectors, encoder.encode_passages(passages), atol=1e-5)
    assert peer.similarity_fn_name == "dot"


@pytest.mark.parametrize("cross_encoder", sorted(CROSS_ENCODERS.keys() - {"v1, shortest length"}), indirect=True)
def test_sentence_transformers_gives_a_cross_encoders_scores(cross_encoder: tuple[Path, dict[str, Any]]) -> None:
    encoder = CrossEncoder.from_pretrained(cross_encoder[0], device="cpu", dtype="float32")
    peer = SentenceTransformersCrossEncoder(str(cross_encoder[0]), device="cpu")
    pairs = [(query, Passage(text, title)) for query, title, text in PLAIN]
    two_classes = peer.num_labels == 2
    scores = peer.predict([encoder.pair_text(pair) for pair in pairs], apply_softmax=two_classes)
    np.testing.assert_allclose(scores[:, 1] if two_classes else scores, encoder.score(pairs), atol=1e-5)


def test_results_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    folder, _ = _converted(tmp_path, "cross_encoder", {}, {"joint_training": 1})
    encoder = CrossEncoder.from_pretrained(folder, device="cpu", dtype="float32")
    together = encoder.score(PAIRS)
    np.testing.assert_allclose([encoder.score([pair])[0] for pair in PAIRS], together, rtol=0, atol=1e-5)


def test_a_new_head_on_a_dual_encoder_tells_pairs_apart(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", "dual_encoder", config={"share_parameter": 1})
    convert(tmp_path / "source", tmp_path / "model")
    encoder = CrossEncoder.for_training(tmp_path / "model", device="cpu")
    assert np.ptp(encoder.logits(PAIRS)) > 1e-3


def test_halves_of_surrogate_pairs_are_passed_over(tmp_path: Path) -> None:
    folder, _ = _converted(tmp_path, "dual_encoder", {}, {"share_parameter": 1})
    encoder = DualEncoder.from_pretrained(folder, device="cpu", dtype="float32")
    broken, whole = encoder.encode_queries(["sonne \ud800 mond", "sonne mond"])
    np.testing.assert_allclose(broken, whole, atol=1e-6)
    broken, whole = encoder.encode_passages([Passage("a\udfffb", "\ud800"), "ab"])
    np.testing.assert_allclose(broken, whole, atol=1e-6)


def test_every_kind_computes_in_bfloat16(tmp_path: Path) -> None:
    for joint in (0, 1):
        folder, _ = _converted(tmp_path / str(joint), "cross_encoder", {}, {"joint_training": joint})
        exact = CrossEncoder.from_pretrained(folder, device="cpu", dtype="float32").score(PAIRS)
        fast = CrossEncoder.from_pretrained(folder, device="cpu", dtype="bfloat16").score(PAIRS)
        np.testing.assert_allclose(fast, exact, atol=0.15)


def test_the_state_of_an_optimizer_is_left_aside(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "plain", "dual_encoder")
    write_checkpoint(tmp_path / "trained", "dual_encoder", optimizer_state=True)
    for name in ("plain", "trained"):
        convert(tmp_path / name, tmp_path / f"{name}-model")
    plain, trained = (sorted((tmp_path / f"{name}-model").rglob("*.safetensors")) for name in ("plain", "trained"))
    assert len(plain) == 2
    assert [path.read_bytes() for path in plain] == [path.read_bytes() for path in trained]


def test_an_archive_is_converted_like_its_folder(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", "cross_encoder")
    convert(tmp_path / "source", tmp_path / "from-folder")
    convert(pack(tmp_path / "source", tmp_path / "source.tar.gz"), tmp_path / "from-archive")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("from-folder", "from-archive")]
    assert weights[0] == weights[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "from-archive",
        "from-folder",
        "source",
        "source.tar.gz",
    ]


def test_half_and_double_precision_become_single(tmp_path: Path) -> None:
    variables = write_checkpoint(tmp_path / "source", "cross_encoder")
    for number, (name, values) in enumerate(variables.items()):
        precision = np.float64 if number % 2 else np.float16
        (tmp_path / "source" / "params" / name).write_bytes(encode_variable(values.astype(precision)))
    convert(tmp_path / "source", tmp_path / "model")
    encoder = CrossEncoder.from_pretrained(tmp_path / "model", device="cpu", dtype="float32")
    assert np.isfinite(encoder.score(PAIRS[:3])).all()


def test_a_folder_with_something_in_it_is_not_written_over(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", "cross_encoder")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    with pytest.raises(FileExistsError, match="not an empty folder"):
        convert(tmp_path / "source", tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("output", "message"),
    [("link", "is a link"), ("dangling", "is a link"), (".", "without a name"), ("..", "without")],
)
def test_a_place_that_no_folder_can_be_moved_to_is_refused_before_the_work(
    output: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "empty" / "here")
    for name, target in (("link", "empty"), ("dangling", "nothing")):
        (tmp_path / name).symlink_to(tmp_path / target)
    with pytest.raises(FileExistsError, match=message):
        convert(tmp_path / "nothing", tmp_path / output if message == "is a link" else output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "empty", "link"]


#: What is done to a whole checkpoint, and what the error must say.
DEFECTS: dict[str, tuple[Any, str]] = {
    "a missing variable": (
        lambda f: (f / "params" / "encoder_layer_1_ffn_fc_0.b_0").unlink(),
        "no variable 'encoder_layer_1_ffn_fc_0.b_0'",
    ),
    "a missing head": (lambda f: (f / "params" / "_cls_out_b").unlink(), "no variable '_cls_out_b'"),
    "a truncated variable": (lambda f: _cut(f / "params" / "word_embedding", -4), "is truncated"),
    "an oversized variable": (lambda f: _append(f / "params" / "word_embedding", b"\0" * 4), "is too long"),
    "a variable of no bytes": (lambda f: _cut(f / "params" / "pos_embedding", 0), "ends within its header"),
    "a variable that is a folder": (lambda f: _folder(f / "params" / "pos_embedding"), "is not a file|cannot be read"),
    "a wrong shape": (lambda f: _variable(f / "params" / "_cls_out_b", np.zeros(3, np.float32)), r"shape \[3\], not"),
    "whole numbers": (lambda f: _variable(f / "params" / "_cls_out_b", np.zeros(2, np.int64)), "holds int64 values"),
    "not a number": (lambda f: _variable(f / "params" / "_cls_out_b", np.full(2, np.nan, np.float32)), "not finite"),
    "too large for float32": (lambda f: _variable(f / "params" / "_cls_out_b", np.full(2, 1e300)), "not finite"),
    "an unknown data type": (lambda f: _patch(f / "params" / "_cls_out_b", 21, 0x63), "unknown data type 99"),
    "a link out of the folder": (lambda f: _link(f / "params" / "_cls_out_b"), "link that leads out"),
    "a linked folder": (lambda f: _link(f / "params"), "leads out of the checkpoint's folder"),
    "no config.json": (lambda f: (f / "config.json").unlink(), "config.json is not there"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object"),
    "deep nesting": (lambda f: (f / "config.json").write_text("[" * 200_000), "not valid JSON"),
    "bytes that are no text": (lambda f: (f / "config.json").write_bytes(b"\xff"), "not valid JSON"),
    "no vocabulary": (lambda f: (f / "vocab.txt").unlink(), "model_vocab_path names 'vocab.txt', which is not there"),
    "a vocabulary that is no text": (lambda f: (f / "vocab.txt").write_bytes(b"\xff\xfe"), "not UTF-8"),
    "a longer vocabulary": (lambda f: _append(f / "vocab.txt", b"one\nmore\n"), "the embedding has"),
    "a vocabulary without [SEP]": (
        lambda f: (f / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n"),
        r"it has no \[SEP\]",
    ),
    "an id of thousands of digits": (
        lambda f: _append(f / "vocab.txt", b"foo\t" + b"1" * 5000),
        "vocab.txt.* is no id",
    ),
    "a vocabulary that is a pipe": (lambda f: _pipe(f / "vocab.txt"), "vocab.txt is not a file"),
    "an id that is none": (lambda f: (f / "vocab.txt").write_text("[PAD]\tx\n"), "is no id"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_broken_checkpoint_is_refused_in_one_sentence_and_nothing_is_left(defect: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", "cross_encoder")
    change, message = DEFECTS[defect]
    change(tmp_path / "source")
    (tmp_path / "output").mkdir()
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "source", tmp_path / "output" / "model")
    assert list((tmp_path / "output").iterdir()) == []


REQUIRED = ["model_type", "max_seq_len", "model_conf_path", "model_vocab_path", "model_checkpoint_path"]
REQUIRED_OF_CONF = [
    "attention_probs_dropout_prob",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
]


@pytest.mark.parametrize(
    ("file", "key"), [*(("config", key) for key in REQUIRED), *(("model_conf", key) for key in REQUIRED_OF_CONF)]
)
def test_a_missing_key_is_named(file: str, key: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", "cross_encoder")
    path = tmp_path / "source" / f"{file}.json"
    values = json.loads(path.read_text())
    del values[key]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=f"{file}.json: the key '{key}' is missing"):
        convert(tmp_path / "source", tmp_path / "model")


@pytest.mark.parametrize("kind", ["dual_encoder", "cross_encoder"])
def test_flags_that_are_missing_are_off(kind: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", kind, conf={"use_task_id": None})
    convert(tmp_path / "source", tmp_path / "whole")
    path = tmp_path / "source" / "config.json"
    flags = {"for_cn", "share_parameter", "joint_training"}
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key not in flags}))
    convert(tmp_path / "source", tmp_path / "model")
    assert _bytes_of(tmp_path / "whole") == _bytes_of(tmp_path / "model")


@pytest.mark.parametrize("value", [".", "./"])
def test_variables_may_lie_beside_the_configuration(value: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", "cross_encoder", config={"model_checkpoint_path": value})
    for variable in (tmp_path / "source" / "params").iterdir():
        variable.rename(tmp_path / "source" / variable.name)
    convert(tmp_path / "source", tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["dual_encoder", "cross_encoder"])
def test_the_last_step_of_the_official_training_is_taken(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "source"
    start = {
        "model_checkpoint_path": "start/params",
        "model_conf_path": "start/model_conf.json",
        "model_vocab_path": "start/vocab.txt",
    }
    write_checkpoint(source, kind, seed=1, config=start, optimizer_state=True)
    (source / "params").rename(source / "step_100")
    write_checkpoint(tmp_path / "plain", kind, seed=1)
    write_checkpoint(tmp_path / "earlier", kind, seed=2)
    (tmp_path / "earlier" / "params").rename(source / "step_20")
    (source / "step_300").touch()
    (source / "step_last").mkdir()
    with caplog.at_level("INFO", logger="rocketqa_haystack"):
        convert(source, tmp_path / "model")
    assert "model_checkpoint_path names 'start/params', which is not there; 'step_100' is taken" in caplog.text
    convert(tmp_path / "plain", tmp_path / "plain-model")
    assert _bytes_of(tmp_path / "model") == _bytes_of(tmp_path / "plain-model")
    outside = tmp_path / "earlier" / "outside"
    outside.mkdir()
    (source / "step_400").symlink_to(outside)
    with pytest.raises(CheckpointError, match="leads out of the checkpoint's folder"):
        convert(source, tmp_path / "refused")


WRONG_VALUES: list[tuple[str, str, Any]] = [
    ("config", "model_type", "reader"),
    ("config", "model_type", ["dual_encoder"]),
    ("config", "max_seq_len", 65),
    ("config", "max_seq_len", 3),
    ("config", "max_seq_len", "32"),
    ("config", "max_seq_len", True),
    ("config", "for_cn", "false"),
    ("config", "joint_training", 2),
    ("config", "model_conf_path", "../elsewhere.json"),
    ("config", "model_conf_path", "/etc/hostname"),
    ("config", "model_conf_path", "nothing.json"),
    ("config", "model_conf_path", "params"),
    ("config", "model_conf_path", "a\0b"),
    ("config", "model_conf_path", 5),
    ("config", "model_vocab_path", "params/../../elsewhere.json"),
    ("config", "model_vocab_path", "params"),
    ("config", "model_conf_path", "."),
    ("config", "model_vocab_path", "."),
    ("config", "model_checkpoint_path", "params/step_1"),
    ("config", "model_checkpoint_path", ""),
    ("config", "model_checkpoint_path", ".."),
    ("config", "model_checkpoint_path", "vocab.txt"),
    ("model_conf", "hidden_size", 17),
    ("model_conf", "hidden_size", 0),
    ("model_conf", "hidden_size", 10**30),
    ("model_conf", "hidden_size", 1.5),
    ("model_conf", "num_attention_heads", 3),
    ("model_conf", "num_hidden_layers", 10**9),
    ("model_conf", "hidden_act", "swiglu"),
    ("model_conf", "hidden_dropout_prob", 1.5),
    ("model_conf", "sent_type_vocab_size", 1),
    ("model_conf", "sent_type_vocab_size", "4"),
    ("model_conf", "use_task_id", "yes"),
]


@pytest.mark.parametrize(("file", "key", "value"), WRONG_VALUES)
def test_a_value_that_makes_no_sense_is_refused(file: str, key: str, value: Any, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", "cross_encoder")
    (tmp_path / "elsewhere.json").write_text("{}")
    path = tmp_path / "source" / f"{file}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError):
        convert(tmp_path / "source", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere.json", "source"]


@pytest.mark.parametrize("key", ["model_conf_path", "model_vocab_path", "model_checkpoint_path"])
@pytest.mark.parametrize("way", ["relative", "absolute", "link"])
def test_whole_files_outside_the_folder_are_not_read(way: str, key: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_checkpoint(source, "cross_encoder")
    config = json.loads((source / "config.json").read_text())
    (source / config[key]).rename(tmp_path / "outside")
    paths = {"relative": "../outside", "absolute": str(tmp_path / "outside"), "link": "link"}
    (source / "link").symlink_to(tmp_path / "outside")
    (source / "config.json").write_text(json.dumps({**config, key: paths[way]}))
    with pytest.raises(CheckpointError, match="leads out of the checkpoint's folder"):
        convert(source, tmp_path / "model")


def _bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


def _append(path: Path, more: bytes) -> None:
    path.write_bytes(path.read_bytes() + more)


def _patch(path: Path, position: int, value: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] = value
    path.write_bytes(data)


def _variable(path: Path, values: Any) -> None:
    path.write_bytes(encode_variable(values))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    outside = path.parents[1].with_name("outside") if path.is_file() else path.parent.with_name("outside")
    path.rename(outside)
    path.symlink_to(outside)
