"""Mining: the same candidates as a search in memory, whatever interrupts it and however many processes share it."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from rocketqa_haystack import CrossEncoder, DualEncoder, Passage
from rocketqa_haystack.data import Collection, CorpusFile, DataError, save_collection
from rocketqa_haystack.evaluation import (
    BM25,
    RunFile,
    bootstrap,
    bootstrap_gain,
    fuse,
    measure,
    measure_queries,
    read_run,
    retrieve,
    write_run,
)
from trainers import mining
from trainers.mining import dense_search, encode_corpus, lexical_search, mine, run_search, score_candidates
from trainers.parts import make_parts


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several files of vectors and several parts of a run, of the small collection."""
    monkeypatch.setattr(mining, "PASSAGES", 20)
    monkeypatch.setattr(mining, "QUERIES", 16)


@pytest.fixture(scope="module")
def encoder(encoder_folder: Path) -> DualEncoder:
    return DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def mined(encoder: DualEncoder, collection: Collection, accelerator: Accelerator, tmp_path: Path) -> Path:
    encode_corpus(encoder, collection.corpus, tmp_path / "vectors", accelerator=accelerator)
    search = dense_search(encoder, tmp_path / "vectors", list(collection.corpus), 7)
    mine([search], collection.queries, tmp_path / "run.trec", accelerator=accelerator)
    return tmp_path / "run.trec"


def test_a_run_mined_from_files_of_vectors_is_the_one_of_a_search_in_memory(
    mined: Path, encoder: DualEncoder, collection: Collection
) -> None:
    assert len(list(mined.with_name("vectors").glob("*.npy"))) == 3
    expected = retrieve(encoder, collection.corpus, collection.queries, 7)
    found = read_run(mined)
    assert list(found) == list(expected)
    for query_id, row in expected.items():
        assert list(found[query_id]) == list(row)
        np.testing.assert_allclose(list(found[query_id].values()), list(row.values()), rtol=1e-5)
    assert not list(mined.parent.glob("*.parts"))


def test_vectors_are_made_in_bfloat16_too(
    encoder_folder: Path, collection: Collection, accelerator: Accelerator, tmp_path: Path
) -> None:
    half = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="bfloat16")
    encode_corpus(half, collection.corpus, tmp_path / "vectors", accelerator=accelerator)
    encode_corpus(half, collection.corpus, tmp_path / "vectors", accelerator=accelerator)
    whole = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="float32")
    with pytest.raises(DataError, match="or of the model in another precision"):
        encode_corpus(whole, collection.corpus, tmp_path / "vectors", accelerator=accelerator)


def test_what_is_there_is_not_made_again_and_what_is_missing_is(accelerator: Accelerator, tmp_path: Path) -> None:
    made: list[int] = []

    def make(number: int, path: Path) -> None:
        made.append(number)
        path.write_text(str(number))
        if number == 2 and len(made) == 3:
            raise KeyboardInterrupt

    arguments = {"suffix": ".txt", "accelerator": accelerator, "description": ""}
    with pytest.raises(KeyboardInterrupt):
        make_parts(tmp_path, 4, make, **arguments)  # type: ignore[arg-type]
    parts = make_parts(tmp_path, 4, make, **arguments)  # type: ignore[arg-type]
    assert made == [0, 1, 2, 2, 3]
    assert [part.read_text() for part in parts] == ["0", "1", "2", "3"]
    assert not list(tmp_path.glob("*.unfinished"))


def test_vectors_of_another_corpus_or_model_are_not_mixed_in(
    mined: Path, encoder: DualEncoder, encoder_folder: Path, collection: Collection, accelerator: Accelerator
) -> None:
    folder, corpus = mined.with_name("vectors"), dict(collection.corpus)
    (folder / "000001.npy").unlink()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    other = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="float32")
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    shorter = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="float32")
    shorter.change_settings(passage_max_length=5)
    for model, passages in [
        (encoder, dict(list(corpus.items())[:5])),
        (encoder, {**corpus, "p3": Passage("another")}),
        (encoder, dict(reversed(corpus.items()))),
        (other, corpus),
        (shorter, corpus),
    ]:
        with pytest.raises(DataError, match="vectors has vectors of another corpus or model"):
            encode_corpus(model, passages, folder, accelerator=accelerator)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    encode_corpus(encoder, corpus, folder, accelerator=accelerator)
    assert (folder / "000001.npy").is_file()
    (folder / "vectors.json").unlink()
    with pytest.raises(DataError, match="vectors has vectors of another corpus or model"):
        encode_corpus(encoder, corpus, folder, accelerator=accelerator)


def test_candidates_of_several_sources_are_fused_and_other_runs_are_checked(
    mined: Path, encoder: DualEncoder, collection: Collection, accelerator: Accelerator, tmp_path: Path
) -> None:
    other = {"q3": {"p1": 2.0, "p2": 1.0, "p3": 0.5}}
    write_run(tmp_path / "other.trec", other)
    bm25 = BM25(collection.corpus)
    dense = dense_search(encoder, mined.with_name("vectors"), list(collection.corpus), 7)
    searches = [dense, lexical_search(bm25, 5), run_search(tmp_path / "other.trec", collection.corpus, 2)]
    mine(searches, collection.queries, tmp_path / "fused.trec", accelerator=accelerator)
    rows, lexical = read_run(mined), bm25.search(collection.queries, 5)
    found = read_run(tmp_path / "fused.trec")
    for query_id in collection.queries:
        last = {"p1": 2.0, "p2": 1.0} if query_id == "q3" else {}
        expected = fuse([rows[query_id], lexical[query_id], last])
        assert found[query_id] == pytest.approx(expected, rel=1e-6)
    write_run(tmp_path / "unknown.trec", {"q3": {"elsewhere": 1.0}})
    with pytest.raises(DataError, match=r"passage 'elsewhere', found for query 'q3', is not in the corpus"):
        run_search(tmp_path / "unknown.trec", collection.corpus, 2)(collection.queries)


def test_scored_candidates_have_the_re_rankers_logits(
    mined: Path, ranker_folder: Path, collection: Collection, accelerator: Accelerator, tmp_path: Path
) -> None:
    ranker = CrossEncoder.from_pretrained(ranker_folder, device="cpu", dtype="float32")
    output = tmp_path / "scores.trec"
    score_candidates(ranker, collection.corpus, collection.queries, mined, output, accelerator=accelerator)
    found, candidates = read_run(output), read_run(mined)
    assert {query_id: set(row) for query_id, row in found.items()} == {q: set(row) for q, row in candidates.items()}
    ids = list(candidates["q5"])
    expected = ranker.logits([(collection.queries["q5"], collection.corpus[id]) for id in ids])
    np.testing.assert_allclose([found["q5"][id] for id in ids], expected, atol=1e-5)


WORKER = """
import sys
from pathlib import Path
from accelerate import Accelerator
from rocketqa_haystack import CrossEncoder, DualEncoder, Passage
from rocketqa_haystack.data import CorpusFile, load_collection
from trainers import mining
mining.PASSAGES, mining.QUERIES = 20, 16
model, ranker, data, output = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
accelerator = Accelerator(cpu=True)
encoder, corpus = DualEncoder.from_pretrained(model, device="cpu"), CorpusFile(data / "corpus.jsonl")
queries = load_collection(data, "train").queries
mining.encode_corpus(encoder, corpus, output / "vectors", accelerator=accelerator)
search = mining.dense_search(encoder, output / "vectors", list(corpus), 7)
mining.mine([search], queries, output / "run.trec", accelerator=accelerator)
scores = CrossEncoder.from_pretrained(ranker, device="cpu")
mining.score_candidates(scores, corpus, queries, output / "run.trec", output / "scores.trec", accelerator=accelerator)
"""

LAUNCH = ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", "--multi_gpu"]


def test_two_processes_mine_and_score_what_one_does(
    encoder_folder: Path, ranker_folder: Path, collection_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    for processes in (1, 2):
        launch = ["-m", "accelerate.commands.launch", *LAUNCH, f"--num_processes={processes}"] if processes > 1 else []
        output = tmp_path / str(processes)
        arguments = [str(path) for path in (encoder_folder, ranker_folder, collection_folder, output)]
        result = subprocess.run(
            [sys.executable, *launch, str(tmp_path / "worker.py"), *arguments],
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
    for name in ("run.trec", "scores.trec", "vectors/000001.npy"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_corpus_on_disk_is_the_one_in_memory(collection: Collection, collection_folder: Path) -> None:
    corpus = CorpusFile(collection_folder / "corpus.jsonl")
    assert list(corpus) == list(collection.corpus)
    assert [corpus[id] for id in reversed(list(corpus))] == list(reversed(collection.corpus.values()))
    assert dict(corpus) == dict(collection.corpus)
    assert "p3" in corpus
    assert "elsewhere" not in corpus
    with pytest.raises(KeyError):
        corpus["elsewhere"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"_id": "a", "text": "b"}\n{"_id": "a", "text": "b"}\n', "line 2: the id 'a' was used before"),
        (b'{"_id": "a"}\n', "line 1: 'text' is missing"),
        (b"\x1f\x8b\x08", "packed by gzip"),
        (b"\n\n", "no passages"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=reason):
        CorpusFile(tmp_path / "corpus.jsonl")


def test_a_run_on_disk_is_the_one_in_memory(mined: Path) -> None:
    run, expected = RunFile(mined), read_run(mined)
    assert list(run) == list(expected)
    assert {query_id: run[query_id] for query_id in reversed(list(run))} == expected
    (mined.parent / "apart.trec").write_text("q Q0 a 1 2.0 x\nr Q0 a 1 2.0 x\nq Q0 b 2 1.0 x\n")
    with pytest.raises(DataError, match=r"line 3: the lines of query 'q' do not stand together"):
        RunFile(mined.parent / "apart.trec")


LINE = b"q Q0 a 1 2.0 x\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LINE + b"q Q0 a 1 high x\n", "line 2: the score must be a finite number, not 'high'"),
        (LINE + b"q Q0 a 1 nan x\n", "line 2: the score must be a finite number, not 'nan'"),
        (b"q Q0 a 1 -inf x\n", "line 1: the score must be a finite number, not '-inf'"),
        (b'{"q": {"a": 3.0}}\n', "line 1: expected 6 columns of a TREC run, found 3"),
        (b"\n" + LINE + b"q a 2.0\n", "line 3: expected 6 columns of a TREC run, found 3"),
        (b"q Q0 \xff 1 2.0 x\n", "line 1: not UTF-8 text"),
        (gzip.compress(LINE, mtime=0), "packed by gzip"),
    ],
)
def test_candidates_are_not_taken_from_a_file_that_is_no_run(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"run.trec.*{reason}"):
        run_search(path, {"a"}, 5)
    if "gzip" not in reason:
        with pytest.raises(DataError, match=f"run.trec.*{reason}"):
            read_run(path)


def test_a_run_on_disk_may_have_blank_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_bytes(
        b"\xef\xbb\xbf" + LINE + b"\n" + LINE.replace(b"a", b"b") + b"\n" + LINE.replace(b"q", b"r")
    )
    assert dict(RunFile(tmp_path / "run.trec")) == {"q": {"a": 2.0, "b": 2.0}, "r": {"a": 2.0}}


def test_fusion_adds_reciprocal_ranks() -> None:
    fused = fuse([{"a": 9.0, "b": 8.0}, {"b": 0.2, "c": 0.1}])
    assert fused == pytest.approx({"a": 0.5, "b": (61 / 62 + 1) / 2, "c": 61 / 62 / 2})
    assert list(fused) == ["b", "a", "c"]


def test_intervals_hold_the_mean_and_shrink_with_the_number_of_queries(collection: Collection, mined: Path) -> None:
    values = measure_queries(read_run(mined), collection.qrels, ["RR@10", "R@5"])
    for name, by_query in values.items():
        assert by_query.keys() == collection.qrels.keys()
        interval = bootstrap(by_query)
        assert interval.mean == pytest.approx(measure(read_run(mined), collection.qrels, [name])[name])
        assert interval.low <= interval.mean <= interval.high
    few, many = ({str(n): float(n % 2) for n in range(size)} for size in (20, 2000))
    assert bootstrap(many).high - bootstrap(many).low < (bootstrap(few).high - bootstrap(few).low) / 5
    low = 0.5 - 1.96 * 0.5 / 2000**0.5
    assert bootstrap(many).low == pytest.approx(low, abs=0.003)
    assert bootstrap_gain(many, many) == (0.0, 0.0, 0.0)
    assert measure_queries({}, collection.qrels, ["RR@10"])["RR@10"] == dict.fromkeys(collection.qrels, 0.0)
    with pytest.raises(ValueError, match="different queries"):
        bootstrap_gain(few, many)


def test_ids_with_white_space_are_refused(encoder: DualEncoder, accelerator: Accelerator, tmp_path: Path) -> None:
    save_collection(tmp_path, {"a b": Passage("x")}, {}, {})
    encode_corpus(encoder, CorpusFile(tmp_path / "corpus.jsonl"), tmp_path / "vectors", accelerator=accelerator)
    search = dense_search(encoder, tmp_path / "vectors", ["a b"], 1)
    with pytest.raises(DataError, match="cannot hold ids with white space"):
        mine([search], {"q": "mama"}, tmp_path / "run.trec", accelerator=accelerator)
    assert not (tmp_path / "run.trec").exists()
