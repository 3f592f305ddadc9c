"""DualEncoder and CrossEncoder: equal to sentence-transformers, whatever the batch, and clear about bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import folder_of
from sentence_transformers import CrossEncoder as SentenceTransformersCrossEncoder
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
from transformers import AutoModel, BertModel, BertTokenizerFast

from rocketqa_haystack import CrossEncoder, DualEncoder, Passage
from rocketqa_haystack.data import Collection
from rocketqa_haystack.encoders import EncoderSettings, ModelError, attention
from rocketqa_haystack.encoders.batching import TokenizedTexts
from rocketqa_haystack.encoders.search import exact_search

TEXTS = ["", "baba", "dada kaka mama", "bebe didi keke " * 30, "[SEP] not [CLS] special", "ünïcode 漢字 \n\t tabs"]


def float32(folder: Path) -> DualEncoder:
    return DualEncoder.from_pretrained(folder, device="cpu", dtype="float32")


def with_settings(folder: Path, target: Path, **values: object) -> Path:
    shutil.copytree(folder, target)
    (target / "rocketqa.json").write_text(json.dumps(values))
    return target


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", ("mean", "cls"), "lasttoken"])
@pytest.mark.parametrize("normalized", [False, True])
def test_vectors_equal_those_of_sentence_transformers(
    language_model: Path, tmp_path: Path, pooling: str, normalized: bool
) -> None:
    modules = [Transformer(str(language_model), max_seq_length=40), Pooling(32, pooling), *([Normalize()] * normalized)]
    peer = SentenceTransformer(modules=modules, device="cpu")
    peer.save_pretrained(str(tmp_path / "model"))
    encoder = float32(tmp_path / "model")
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), peer.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), peer.encode_document(TEXTS), atol=1e-5)
    assert encoder.encode_queries(TEXTS).dtype == np.float32


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_prompts_of_the_model_are_put_in_front(pooling: str, language_model: Path, tmp_path: Path) -> None:
    for include in (True, False):
        modules = [Transformer(str(language_model)), Pooling(32, pooling, include_prompt=include)]
        prompts = {"query": "mama: ", "document": "tata kaka: "}
        peer = SentenceTransformer(modules=modules, device="cpu", prompts=prompts)
        peer.save_pretrained(str(tmp_path / str(include)))
        encoder = float32(tmp_path / str(include))
        np.testing.assert_allclose(encoder.encode_queries(TEXTS), peer.encode_query(TEXTS), atol=1e-5)
        np.testing.assert_allclose(encoder.encode_passages(TEXTS), peer.encode_document(TEXTS), atol=1e-5)
        assert np.abs(encoder.encode_queries(TEXTS) - encoder.encode_passages(TEXTS)).max() > 1e-3
        assert np.abs(encoder.encode_queries(TEXTS)).max(axis=1).min() > 1e-3


def test_two_towers_encode_queries_and_passages_differently(language_model: Path, tmp_path: Path) -> None:
    towers = []
    for seed in (1, 2):
        transformer = Transformer(str(language_model))
        torch.manual_seed(seed)
        for parameter in transformer.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
        towers.append([transformer, Pooling(32, "cls")])
    peer = SentenceTransformer(modules=[Router.for_query_document(*towers)], device="cpu", similarity_fn_name="dot")
    peer.save_pretrained(str(tmp_path / "towers"))
    encoder = float32(tmp_path / "towers")
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), peer.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), peer.encode_document(TEXTS), atol=1e-5)
    assert encoder.similarity == "dot"
    encoder.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(float32(tmp_path / "saved").encode_queries(TEXTS), encoder.encode_queries(TEXTS))


def test_a_model_without_a_tokenizer_matrix_works_too(language_model: Path, tmp_path: Path) -> None:
    tokenizer = BertTokenizerFast.from_pretrained(language_model)
    static = StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=16)
    peer = SentenceTransformer(modules=[static], device="cpu")
    peer.save_pretrained(str(tmp_path / "static"))
    encoder = float32(tmp_path / "static")
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), peer.encode_document(TEXTS), atol=1e-5)


def test_vectors_that_the_model_truncates_are_truncated(language_model: Path, tmp_path: Path) -> None:
    modules = [Transformer(str(language_model)), Pooling(32, "mean")]
    peer = SentenceTransformer(modules=modules, device="cpu", truncate_dim=8)
    peer.save_pretrained(str(tmp_path / "model"))
    encoder = DualEncoder(SentenceTransformer(str(tmp_path / "model"), device="cpu", truncate_dim=8))
    assert encoder.encode_passages(TEXTS).shape == (len(TEXTS), 8)
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), peer.encode_document(TEXTS), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_padding_may_be_on_the_left(pooling: str, language_model: Path, tmp_path: Path) -> None:
    transformer = Transformer(str(language_model))
    transformer.tokenizer.padding_side = "left"
    peer = SentenceTransformer(modules=[transformer, Pooling(32, pooling)], device="cpu")
    peer.save_pretrained(str(tmp_path))
    alone = np.stack([peer.encode_query(text) for text in TEXTS])  # BERT's positions would count the padding, too
    np.testing.assert_allclose(float32(tmp_path).encode_queries(TEXTS), alone, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_two_towers_may_have_tokenizers_of_their_own(pooling: str, language_model: Path) -> None:
    right, left = Transformer(str(language_model)), Transformer(str(language_model))
    left.tokenizer.padding_side = "left"
    routes = [[right, Pooling(32, pooling)], [left, Pooling(32, pooling)]]
    peer = SentenceTransformer(modules=[Router.for_query_document(*routes)], device="cpu")
    encoder = DualEncoder(peer)
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), peer.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), peer.encode_document(TEXTS), atol=1e-5)


def test_no_text_is_longer_than_the_positions_that_a_model_has_for_tokens(language_model: Path, tmp_path: Path) -> None:
    folder = folder_of("roberta", language_model, tmp_path, AutoModel, max_position_embeddings=34)
    encoder = DualEncoder(SentenceTransformer(modules=[Transformer(str(folder)), Pooling(32, "mean")], device="cpu"))
    encoder.change_settings(passage_max_length=33)  # the first position is that of padding
    encoder.encode_passages(["mama dada " * 40])
    with pytest.raises(ModelError, match="passage_max_length is 34, but the model reads 33 tokens at most"):
        encoder.change_settings(passage_max_length=34)


def test_titles_are_joined_by_a_space_without_a_settings_file(encoder_folder: Path) -> None:
    encoder = float32(encoder_folder)
    joined = encoder.encode_passages(["mama dada kaka"])
    np.testing.assert_allclose(encoder.encode_passages([Passage("dada kaka", title="mama")]), joined, atol=1e-6)


def test_titles_are_a_segment_of_their_own_with_a_settings_file(encoder_folder: Path, tmp_path: Path) -> None:
    encoder = float32(with_settings(encoder_folder, tmp_path / "pairs"))
    peer = SentenceTransformer(str(encoder_folder), device="cpu")
    passages = [
        Passage("dada kaka", title="mama"),
        Passage("tata", title=""),
        Passage("didi " * 80, title="kiki " * 70),
    ]
    expected = peer.encode_document([(p.title, p.text) for p in passages])
    np.testing.assert_allclose(encoder.encode_passages(passages), expected, atol=1e-5)
    assert np.abs(encoder.encode_passages(passages[:1]) - encoder.encode_passages(["mama dada kaka"])).max() > 1e-3


def test_lengths_of_the_settings_file_cut_queries_and_passages(encoder_folder: Path, tmp_path: Path) -> None:
    folder = with_settings(encoder_folder, tmp_path / "short", query_max_length=4, passage_max_length=7, title="join")
    encoder, long = float32(folder), " ".join(["mama", "dada", "kaka", "tata", "didi", "kiki", "baba"])
    np.testing.assert_allclose(encoder.encode_queries([long]), encoder.encode_queries(["mama dada"]), atol=1e-6)
    expected = encoder.encode_passages(["mama dada kaka tata didi"])
    np.testing.assert_allclose(encoder.encode_passages([long]), expected, atol=1e-6)


def test_settings_survive_saving_and_loading(encoder_folder: Path, tmp_path: Path) -> None:
    settings_written = EncoderSettings(query_max_length=8, passage_max_length=16, title="pair")
    encoder = DualEncoder(float32(encoder_folder).model, settings_written)
    encoder.save_pretrained(tmp_path / "saved")
    assert float32(tmp_path / "saved").settings == settings_written
    assert float32(encoder_folder).settings == EncoderSettings(title="join")


def test_sentence_transformers_cuts_texts_of_a_saved_folder_where_we_do(encoder_folder: Path, tmp_path: Path) -> None:
    encoder = DualEncoder(float32(encoder_folder).model, EncoderSettings(query_max_length=5, passage_max_length=9))
    encoder.save_pretrained(tmp_path / "saved")
    peer, passages = SentenceTransformer(str(tmp_path / "saved"), device="cpu"), [Passage("mama " * 20, "dada " * 9)]
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), peer.encode_query(TEXTS), atol=1e-5)
    expected = peer.encode_document([(p.title, p.text) for p in passages])
    np.testing.assert_allclose(encoder.encode_passages(passages), expected, atol=1e-5)
    assert np.abs(encoder.encode_queries(TEXTS) - float32(encoder_folder).encode_queries(TEXTS)).max() > 1e-3


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 50), min_size=1, max_size=30), data=st.data())
def test_a_vector_does_not_depend_on_the_other_texts(
    encoder_folder: Path, lengths: list[int], data: st.DataObject
) -> None:
    encoder = _ENCODERS.setdefault("one", float32(encoder_folder))
    texts = [
        " ".join(data.draw(st.lists(st.sampled_from(["baba", "dodo", "x", "?"]), min_size=n, max_size=n)))
        for n in lengths
    ]
    together = encoder.encode_passages(texts)
    alone = np.concatenate([encoder.encode_passages([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


_ENCODERS: dict[str, DualEncoder] = {}


@given(lengths=st.lists(st.integers(1, 600), max_size=200), budget=st.integers(1, 5_000))
def test_batches_hold_every_text_once_and_keep_to_the_token_budget(lengths: list[int], budget: int) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    tokens = TokenizedTexts(sizes, {}, {}, pad_left=False, extra={})
    batches = list(tokens.batches(budget))
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * sizes[batch].max() <= budget


def test_an_iterator_of_passages_is_encoded_in_constant_memory(encoder_folder: Path) -> None:
    encoder = float32(encoder_folder)

    def passages(count: int) -> Iterator[str]:
        return (f"mama {'kaka ' * (i % 7)}" for i in range(count))

    def peak(count: int) -> int:
        tracemalloc.start()
        total = sum(len(chunk) for chunk in encoder.stream_passages(passages(count)))
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert total == count
        return highest

    peak(100)
    assert peak(5 * 4_096) < 1.2 * peak(2 * 4_096)


def test_iterators_and_lists_give_the_same_vectors(encoder_folder: Path) -> None:
    encoder = float32(encoder_folder)
    texts = [f"mama {i}" for i in range(5_000)]
    np.testing.assert_array_equal(encoder.encode_passages(iter(texts)), encoder.encode_passages(texts))


def test_no_texts_give_no_vectors(encoder_folder: Path) -> None:
    assert float32(encoder_folder).encode_queries([]).shape == (0, 32)


def test_bfloat16_is_near_float32(encoder_folder: Path) -> None:
    exact = float32(encoder_folder).encode_passages(TEXTS)
    near = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="bfloat16").encode_passages(TEXTS)
    cosines = (exact * near).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(near, axis=1)
    assert cosines.min() > 0.999
    assert np.abs(exact - near).max() > 0


@pytest.mark.parametrize("bad", [[1], [None], [b"bytes"], ["fine", {"text": "x"}]])
def test_what_is_no_text_is_refused(encoder_folder: Path, bad: list[object]) -> None:
    encoder = float32(encoder_folder)
    with pytest.raises(TypeError, match="must be a string"):
        encoder.encode_queries(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a Passage or a string"):
        encoder.encode_passages(bad)  # type: ignore[arg-type]


def test_a_single_string_is_not_taken_for_a_list(encoder_folder: Path) -> None:
    with pytest.raises(TypeError, match="expected a list of texts"):
        float32(encoder_folder).encode_queries("baba")


PAIRS = [("mama", Passage("dada", title="kaka")), ("x " * 90, "y " * 90), ("", ""), ("baba dodo", "dodo baba")]


def test_scores_equal_those_of_sentence_transformers(ranker_folder: Path) -> None:
    peer = SentenceTransformersCrossEncoder(str(ranker_folder), device="cpu")
    encoder = CrossEncoder.from_pretrained(ranker_folder, device="cpu", dtype="float32")
    texts = [encoder.pair_text(pair) for pair in PAIRS]
    np.testing.assert_allclose(encoder.score(PAIRS), peer.predict(texts), atol=1e-5)
    logits = peer.predict(texts, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(encoder.logits(PAIRS), logits, atol=1e-5)
    assert encoder.score([]).shape == (0,)


def test_two_outputs_give_the_probability_of_the_second(two_way_ranker_folder: Path) -> None:
    peer = SentenceTransformersCrossEncoder(str(two_way_ranker_folder), device="cpu")
    encoder = CrossEncoder.from_pretrained(two_way_ranker_folder, device="cpu", dtype="float32")
    probabilities = peer.predict([encoder.pair_text(pair) for pair in PAIRS], apply_softmax=True)[:, 1]
    np.testing.assert_allclose(encoder.score(PAIRS), probabilities, atol=1e-5)


def test_a_cross_encoder_keeps_its_length(ranker_folder: Path, tmp_path: Path) -> None:
    encoder = CrossEncoder.from_pretrained(ranker_folder, device="cpu", dtype="float32")
    encoder.settings = EncoderSettings(passage_max_length=12, title="join")
    encoder.save_pretrained(tmp_path / "short")
    short = CrossEncoder.from_pretrained(tmp_path / "short", device="cpu", dtype="float32")
    long_pair, cut_pair = ("mama", "dada " * 40), ("mama", "dada " * 8)
    np.testing.assert_allclose(short.logits([long_pair]), short.logits([cut_pair]), atol=1e-6)
    peer = SentenceTransformersCrossEncoder(str(tmp_path / "short"), device="cpu")
    np.testing.assert_allclose(short.score([long_pair]), peer.predict([long_pair]), atol=1e-5)


@pytest.mark.parametrize("bad", [["mama"], [("mama",)], [("mama", 1)], [(None, "x")]])
def test_what_is_no_pair_is_refused(ranker_folder: Path, bad: list[object]) -> None:
    encoder = CrossEncoder.from_pretrained(ranker_folder, device="cpu")
    with pytest.raises(TypeError, match="must be"):
        encoder.score(bad)  # type: ignore[arg-type]


def test_a_folder_that_is_no_model_is_refused_by_name(
    tmp_path: Path, encoder_folder: Path, ranker_folder: Path
) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match="is no model folder: it has neither"):
        DualEncoder.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a file"):
        DualEncoder.from_pretrained(tmp_path / "notes.txt")
    with pytest.raises(ModelError, match="there is no model folder '/nowhere/model'"):
        DualEncoder.from_pretrained("/nowhere/model")
    with pytest.raises(ModelError, match="holds a cross-encoder, not a dual encoder"):
        DualEncoder.from_pretrained(ranker_folder)
    with pytest.raises(ModelError, match="holds a dual encoder, not a cross-encoder"):
        CrossEncoder.from_pretrained(encoder_folder)
    with pytest.raises(ModelError, match="'nobody/nothing' is no folder here"):
        DualEncoder.from_pretrained("nobody/nothing", local_files_only=True)


def test_a_language_model_is_no_cross_encoder(language_model: Path) -> None:
    with pytest.raises(ModelError, match="holds a language model, not a cross-encoder"):
        CrossEncoder.from_pretrained(language_model)


def test_weights_that_only_pickle_can_read_are_refused(encoder_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder_folder, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle"):
        DualEncoder.from_pretrained(tmp_path / "pickled")


def test_a_broken_settings_file_is_named(encoder_folder: Path, tmp_path: Path) -> None:
    folder = with_settings(encoder_folder, tmp_path / "broken", query_max_length="long")
    with pytest.raises(ModelError, match=r"rocketqa\.json: query_max_length must be a whole number"):
        DualEncoder.from_pretrained(folder)
    (folder / "rocketqa.json").write_text("{")
    with pytest.raises(ModelError, match=r"rocketqa\.json"):
        DualEncoder.from_pretrained(folder)


def test_an_unknown_device_is_named(encoder_folder: Path) -> None:
    with pytest.raises(ModelError, match="there is no device 'gpu'; examples: cpu"):
        DualEncoder.from_pretrained(encoder_folder, device="gpu")


@pytest.mark.parametrize("padding", ["end", "front", "none"])
@pytest.mark.parametrize("gradient", [False, True])
def test_attention_for_cpus_is_the_attention_of_transformers(
    language_model: Path, padding: str, gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "CHUNK_SCORES", 2 * 4 * 11 * 11)  # two texts at a time
    peer = BertModel.from_pretrained(language_model, attn_implementation="eager").eval()
    ours = BertModel.from_pretrained(language_model, attn_implementation=attention.NAME).eval()
    ids = torch.randint(5, 300, (7, 11), generator=torch.Generator().manual_seed(0))
    real = torch.arange(11) < torch.tensor([[11], [3], [1], [8], [8], [2], [5]])
    mask = {"end": real, "front": real.flip(1), "none": None}[padding]
    with torch.set_grad_enabled(gradient):
        expected, found = (m(input_ids=ids, attention_mask=mask).last_hidden_state for m in (peer, ours))
    compared = slice(None) if mask is None else mask
    torch.testing.assert_close(found[compared], expected[compared], atol=1e-5, rtol=0)
    assert found.isfinite().all()


LOADER = """
import sys
import numpy as np
from sentence_transformers import SentenceTransformer
np.save(sys.argv[2], SentenceTransformer(sys.argv[1], device="cpu").encode_document(["mama dada"]))
assert "rocketqa_haystack" not in sys.modules
"""


def test_a_saved_folder_needs_nothing_of_ours(encoder_folder: Path, tmp_path: Path) -> None:
    encoder = float32(encoder_folder)
    encoder.save_pretrained(tmp_path / "saved")
    command = [sys.executable, "-c", LOADER, str(tmp_path / "saved"), str(tmp_path / "vectors.npy")]
    subprocess.run(command, check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), encoder.encode_passages(["mama dada"]), atol=1e-5)


def test_an_unknown_dtype_is_refused(encoder_folder: Path) -> None:
    with pytest.raises(ValueError, match="dtype must be one of auto, float32"):
        DualEncoder.from_pretrained(encoder_folder, dtype="int3")


@pytest.mark.parametrize("similarity", ["dot", "cosine", "euclidean"])
def test_exact_search_finds_the_nearest_by_every_similarity(similarity: str, collection: Collection) -> None:
    generator = np.random.default_rng(0)
    queries = generator.normal(size=(7, 5)).astype(np.float32)
    passages = generator.normal(size=(40, 5)).astype(np.float32)
    if similarity == "dot":
        expected = queries @ passages.T
    elif similarity == "cosine":
        norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(passages, axis=1)
        expected = queries @ passages.T / norms
    else:
        expected = -np.linalg.norm(queries[:, None] - passages[None], axis=2)
    scores, positions = exact_search(queries, passages, 6, similarity=similarity)
    np.testing.assert_array_equal(positions, np.argsort(-expected, axis=1)[:, :6])
    np.testing.assert_allclose(scores, np.sort(-expected, axis=1)[:, :6] * -1, atol=1e-5)
    assert exact_search(queries, passages[:3], 6)[1].shape == (7, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(exact_search(queries, passages, 6, similarity=similarity)[0], scores)
