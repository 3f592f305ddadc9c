"""The command: from a collection to answers, and one clear sentence for a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from killed_training import count_encodings, finish, start

from rocketqa_haystack import DualEncoder, FAISSDocumentStore
from rocketqa_haystack.cli import index as index_command
from rocketqa_haystack.cli.main import main
from rocketqa_haystack.cli.parser import COMMANDS
from rocketqa_haystack.data import Collection, Passage, load_collection, save_collection
from rocketqa_haystack.evaluation import measure, read_run


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_index_then_search_finds_the_passage(
    collection_folder: Path,
    encoder_folder: Path,
    ranker_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("index", collection_folder, tmp_path / "store", "--model", encoder_folder) == 0
    assert f"48 passages written; 48 in {tmp_path / 'store'}" in capsys.readouterr().out
    passage = load_collection(collection_folder).corpus["p7"]
    # With random weights a passage is nearest to itself.
    question = f"{passage.title} {passage.text}"
    assert run("search", tmp_path / "store", question, "--model", encoder_folder, "--top-k", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("  1. ")
    assert lines[0].endswith(passage.title)
    arguments = ["--model", encoder_folder, "--ranker", ranker_folder, "--top-k", 1, "--candidates", 5]
    assert run("search", tmp_path / "store", question, *arguments) == 0
    assert len([line for line in capsys.readouterr().out.splitlines() if line[:3].strip().isdigit()]) == 1


def test_indexing_again_leaves_what_is_there_and_treats_changed_passages_as_asked(
    collection: Collection,
    collection_folder: Path,
    encoder_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["index", collection_folder / "corpus.jsonl", tmp_path / "store", "--model", encoder_folder]
    assert run(*arguments) == 0
    for duplicates in ("fail", "skip", "overwrite"):
        assert run(*arguments, "--duplicates", duplicates) == 0
        assert capsys.readouterr().out.endswith("0 passages written, 48 there already; 48 in " + f"{arguments[2]}\n")
    changed = {**collection.corpus, "p7": Passage("something else"), "new": Passage("one more")}
    save_collection(tmp_path, changed, {}, {})
    arguments[1] = tmp_path
    assert run(*arguments) == 2
    assert "rocketqa index: error: ID 'p7' already exists." in capsys.readouterr().err
    assert run(*arguments, "--duplicates", "skip") == 0
    assert "1 passages written, 48 there already; 49 in" in capsys.readouterr().out
    assert run(*arguments, "--duplicates", "overwrite") == 0
    assert "1 passages written, 48 there already; 49 in" in capsys.readouterr().out
    with FAISSDocumentStore(path=tmp_path / "store") as store:
        assert store.get_documents_by_id(["p7"])[0].content == "something else"


def test_indexing_that_was_stopped_continues_where_it_was(
    collection: Collection,
    collection_folder: Path,
    encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(index_command, "WRITE_SIZE", 10)
    encode_passages = DualEncoder.encode_passages
    encoded: list[int] = []

    def stopped_at_the_third(self: DualEncoder, passages: list[Passage]) -> Any:
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(len(passages))
        return encode_passages(self, passages)

    arguments = ["index", collection_folder, tmp_path / "store", "--model", encoder_folder]
    monkeypatch.setattr(DualEncoder, "encode_passages", stopped_at_the_third)
    assert run(*arguments) == 130
    with FAISSDocumentStore(path=tmp_path / "store") as store:
        assert store.count_documents() == 20
    encoded[:] = [0, 0, 0]
    assert run(*arguments) == 0
    assert encoded[3:] == [1, 10, 10, 8]  # the first for a look at the model
    assert "28 passages written, 20 there already; 48 in" in capsys.readouterr().out
    with FAISSDocumentStore(path=tmp_path / "store") as store:
        documents = store.filter_documents(return_embedding=True)
    assert [document.id for document in documents] == list(collection.corpus)
    vectors = DualEncoder.from_pretrained(encoder_folder).encode_passages(list(collection.corpus.values()))
    np.testing.assert_allclose([document.embedding for document in documents], vectors, atol=1e-3)


def test_vectors_of_two_models_do_not_come_into_one_store(
    collection_folder: Path, encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    assert run("index", collection_folder, store, "--model", encoder_folder) == 0
    encoder = DualEncoder.from_pretrained(encoder_folder)
    with torch.no_grad():
        for parameter in encoder.model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    encoder.save_pretrained(tmp_path / "other")
    others = tmp_path / "others.jsonl"
    others.write_text('{"_id": "no other has it", "title": "", "text": "bebi keka"}\n')
    for corpus in (collection_folder, others):
        assert run("index", corpus, store, "--model", tmp_path / "other", "--duplicates", "overwrite") == 2
        assert "was indexed with another model" in capsys.readouterr().err
    with FAISSDocumentStore(path=store) as kept:
        assert kept.get_documents_by_id(["no other has it"]) == []


def test_metadata_of_a_corpus_is_what_filters_go_by(encoder_folder: Path, tmp_path: Path) -> None:
    def index(*metadata: Any, more: tuple[str, ...] = ()) -> int:
        lines = [{"_id": f"p{n}", "title": "T", "text": "baba", "metadata": one} for n, one in enumerate(metadata)]
        (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return run("index", tmp_path, tmp_path / "store", "--model", encoder_folder, *more)

    def found() -> dict[str, dict[str, Any]]:
        with FAISSDocumentStore(path=tmp_path / "store") as store:
            year = {"field": "meta.year", "operator": ">", "value": 2000}
            return {document.id: document.meta for document in store.filter_documents(year)}

    assert index({"year": 2001, "tags": ["x"]}, {"year": 1999}, None, {}) == 0
    assert found() == {"p0": {"year": 2001, "tags": ["x"], "title": "T"}}
    assert index({"year": 2001, "tags": ["x"]}, {"year": 2002}, None, {}) == 2  # changed
    assert index({"year": 2001, "tags": ["x"]}, {"year": 2002}, None, {}, more=("--duplicates", "overwrite")) == 0
    assert set(found()) == {"p0", "p1"}
    assert index({"year": 2001}, "1999") == 2  # no object


def test_the_type_of_index_is_chosen_once_and_remembered(
    collection_folder: Path, encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["index", collection_folder, tmp_path / "store", "--model", encoder_folder]
    for options in (["--index", "HNSW32"], []):
        assert run(*arguments, *options) == 0
        assert json.loads((tmp_path / "store" / "index.json").read_text())["factory"] == "HNSW32"
    assert run(*arguments, "--index", "SQfp16") == 0
    assert json.loads((tmp_path / "store" / "index.json").read_text())["factory"] == "SQfp16"
    arguments[2] = tmp_path / "other"
    assert run(*arguments, "--index", "Flatt") == 2
    assert "FAISS cannot make an index 'Flatt'" in capsys.readouterr().err


def test_evaluate_prints_a_table_and_writes_runs_that_measure_the_same(
    collection_folder: Path,
    encoder_folder: Path,
    ranker_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--model", encoder_folder, "--ranker", ranker_folder, "--run-file", tmp_path / "runs" / "test.trec"]
    assert run("evaluate", collection_folder, *arguments) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == ["system", "RR@10", "R@10", "R@50", "nDCG@10", "seconds"]
    qrels = load_collection(collection_folder).qrels
    for line, name in zip(table[3:6], ("bm25", "retriever", "retriever-re-ranker"), strict=True):
        ranking = read_run(tmp_path / "runs" / f"test.{name}.trec")
        assert f"{measure(ranking, qrels, ['RR@10'])['RR@10']:.4f}" in line
    assert table[3].startswith("bm25 ")


def test_the_trainers_write_models_that_evaluate_takes(
    collection_folder: Path, encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--epochs", 2, "--batch-size", 8, "--learning-rate", 1e-3, "--show-progress", "false"]
    data = ["--data", collection_folder]
    retriever, ranker = tmp_path / "retriever", tmp_path / "ranker"
    arguments = ["--model", encoder_folder, "--output", retriever, "--title", "pair", "--passage-max-length", 32]
    assert run("train-dual-encoder", *data, *arguments, *short) == 0
    assert "dev RR@10 after step 8: " in capsys.readouterr().out
    assert DualEncoder.from_pretrained(retriever).settings.passage_max_length == 32
    arguments = ["--model", encoder_folder, "--retriever", retriever, "--output", ranker, "--candidates", 6]
    assert run("train-cross-encoder", *data, *arguments, "--negatives", 2, *short) == 0
    capsys.readouterr()
    options = ["--ranker", ranker, "--bm25", "false", "--measures", "RR@10", "R@5"]
    assert run("evaluate", collection_folder, "--model", retriever, *options) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[1].split() == ["system", "RR@10", "R@5", "seconds"]
    assert "retriever + re-ranker" in table


def test_of_several_processes_one_searches_for_negatives(
    collection_folder: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    options = ["--model", encoder_folder, "--retriever", encoder_folder, "--data", collection_folder]
    options += ["--output", tmp_path / "out", "--candidates", 6, "--negatives", 2, "--show-progress", "false"]
    arguments = ["train-cross-encoder", *map(str, options)]
    finish(start(count_encodings, arguments, tmp_path / "counted", processes=2))
    assert (tmp_path / "counted").read_text() == "encoded\n"
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_printed_configuration_is_a_configuration(
    collection_folder: Path, encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", encoder_folder, "--data", collection_folder, "--output", tmp_path / "out", "--epochs", 1]
    with pytest.raises(SystemExit) as ended:
        run("train-dual-encoder", *arguments, "--hard-negatives", 0, "--print_config")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["epochs"] == 1
    (tmp_path / "config.yaml").write_text(printed)
    assert run("train-dual-encoder", "--config", tmp_path / "config.yaml", "--show-progress", "false") == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "/nowhere", "--model", "ENCODER"], "/nowhere/corpus.jsonl: cannot be read"),
        (["evaluate", "COLLECTION", "--model", "/nowhere"], "there is no model folder '/nowhere'"),
        (["evaluate", "COLLECTION", "--model", "RANKER"], "holds a cross-encoder, not a dual encoder"),
        (["evaluate", "COLLECTION", "--model", "ENCODER", "--split", "x"], "there is no split 'x'"),
        (["evaluate", "COLLECTION", "--model", "ENCODER", "--measures", "MRR?"], "unknown measure 'MRR?'"),
        (["evaluate", "COLLECTION", "--model", "ENCODER", "--candidates", "0"], "candidates must be at least 1"),
        (["evaluate", "COLLECTION", "--model", "ENCODER", "--device", "gpu"], "there is no device 'gpu'"),
        (["evaluate"], "required: collection, --model; `rocketqa evaluate --help` tells more"),
        (["evaluate", "COLLECTION", "--model", "x", "--candidates", "few"], "--candidates: expected int, but got few"),
        (["evaluate-qa", "p", "COLLECTION", "--ranks", "1", "x"], "--ranks element 2: expected int, but got x"),
        (["pipeline", "OUT", "--kind", "x"], "expected one of 'extractive', 'rag', 'retrieval', but got x"),
        (["evaluate", "COLLECTION", "--model", "ENCODER", "--colour", "red"], "colour"),
        (["search", "COLLECTION", "?", "--model", "ENCODER"], "is no document store"),
        (["search", "STORE", "?", "--model", "ENCODER", "--top-k", "0"], "top_k"),
        (["index", "BAD", "STORE", "--model", "ENCODER"], "corpus.jsonl, line 1: not valid JSON"),
        (
            ["train-dual-encoder", "--model", "ENCODER", "--data", "COLLECTION", "--output", "OUT", "--epochs", "0"],
            "epochs must be at least 1, but got 0",
        ),
        (
            ["train-dual-encoder", "--model", "ENCODER", "--data", "COLLECTION", "--output", "ENCODER"],
            "is there already",
        ),
        (["train-dual-encoder", "--config", "/nowhere.yaml"], "nowhere.yaml"),
        (
            [
                "train-dual-encoder",
                "--model",
                "ENCODER",
                "--data",
                "COLLECTION",
                "--output",
                "OUT",
                "--passage-max-length=100",
            ],
            "passage_max_length is 100, but the model reads 64 tokens at most",
        ),
        (["train-cross-encoder", "--model", "ENCODER", "--data", "COLLECTION", "--output", "OUT"], "name a retriever"),
        (
            [
                "train-cross-encoder",
                "--model",
                "ENCODER",
                "--retriever",
                "ENCODER",
                "--data",
                "no-folder",
                "--output",
                "OUT",
            ],
            "no-folder: there is no such file or folder",
        ),
        (["train-dual-encoder", "--config", "UTF16"], "is no UTF-8 text"),
        (["train-dual-encoder", "--config", "NULL"], "epochs must have a value"),
        (["train-dual-encoder", "--config", "QUOTED"], "skip_bad_lines must be true or false, but got 'false'"),
        (
            [
                *["train-cross-encoder", "--model", "ENCODER", "--retriever", "/nowhere", "--data", "COLLECTION"],
                *["--output", "RANKER"],
            ],
            "is there already and is not an empty folder",  # before the retriever is even looked at
        ),
        (
            [
                *["train-cross-encoder", "--model", "/none", "--retriever", "/nowhere", "--data", "COLLECTION"],
                *["--output", "OUT"],
            ],
            "there is no model folder '/none'",
        ),
        (
            [
                *["train-reader", "--model", "/none", "--retriever", "/nowhere", "--data", "ANSWERED"],
                *["--output", "OUT"],
            ],
            "there is no model folder '/none'",
        ),
        (["index", "EMPTY", "STORE", "--model", "ENCODER"], "no passages"),
        (["evaluate", "COLLECTION", "--model", "ENCODER", "--run-file", "."], "empty name"),
        (["nonsense"], "nonsense"),
        ([], "subcommand"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    message: str,
    collection_folder: Path,
    encoder_folder: Path,
    ranker_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "corpus.jsonl").write_text("{\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "corpus.jsonl").touch()
    (tmp_path / "utf16.yaml").write_text("epochs: 2\n", encoding="utf-16")
    given = {"model": str(encoder_folder), "data": str(collection_folder), "output": str(tmp_path / "out")}
    (tmp_path / "null.yaml").write_text(yaml.safe_dump({**given, "epochs": None}))
    (tmp_path / "quoted.yaml").write_text(yaml.safe_dump({**given, "skip_bad_lines": "false"}))
    paragraph = {
        "context": "baba",
        "qas": [{"id": "q", "question": "?", "answers": [{"text": "baba", "answer_start": 0}]}],
    }
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"title": "", "paragraphs": [paragraph]}]}))
    places = {
        "COLLECTION": collection_folder,
        "ENCODER": encoder_folder,
        "RANKER": ranker_folder,
        "BAD": tmp_path / "bad",
        "EMPTY": tmp_path / "empty",
        "UTF16": tmp_path / "utf16.yaml",
        "NULL": tmp_path / "null.yaml",
        "QUOTED": tmp_path / "quoted.yaml",
        "ANSWERED": tmp_path / "squad.json",
        "STORE": tmp_path / "store",
        "OUT": tmp_path / "out",
    }
    if "STORE" in arguments and arguments[0] == "search":
        assert run("index", collection_folder, places["STORE"], "--model", encoder_folder) == 0
        capsys.readouterr()
    assert run(*(places.get(argument, argument) for argument in arguments)) == 2
    error = capsys.readouterr().err
    sentences = [line for line in error.splitlines() if "error: " in line]
    assert len(sentences) == 1
    assert message in sentences[0]
    assert "Traceback" not in error


def test_help_names_every_command_and_each_has_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--help")
    assert ended.value.code == 0
    overview = capsys.readouterr().out
    for name in COMMANDS:
        assert name in overview
        with pytest.raises(SystemExit) as ended:
            run(name, "--help")
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert "help" in text
        assert "--" in text


def test_the_overview_does_not_wait_for_the_models_libraries() -> None:
    program = (
        "import sys; sys.argv = ['rocketqa', '--help']\nfrom rocketqa_haystack.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nassert 'sentence_transformers' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_a_run_of_the_command_as_a_process_exits_with_2_and_no_traceback() -> None:
    command = [sys.executable, "-m", "rocketqa_haystack.cli.main", "search", "/nowhere", "?", "--model", "x"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "rocketqa search: error: /nowhere is no document store; `rocketqa index` makes one\n"


def test_groups_train_without_a_collection(
    collection_folder: Path, encoder_folder: Path, ranker_folder: Path, tmp_path: Path
) -> None:
    corpus = load_collection(collection_folder).corpus
    with (tmp_path / "groups.jsonl").open("w") as file:
        for number in range(4):
            positive, negative = corpus[f"p{number}"], corpus[f"p{number + 1}"]
            record = {
                "query_id": str(number),
                "query": positive.title,
                "positive_passages": [{"docid": "p", "title": positive.title, "text": positive.text}],
                "negative_passages": [{"docid": "n", "title": negative.title, "text": negative.text}],
            }
            file.write(json.dumps(record) + "\n")
    data = ["--data", tmp_path / "groups.jsonl", "--show-progress", "false"]
    assert run("train-cross-encoder", "--model", ranker_folder, "--output", tmp_path / "out", *data) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    both = ["--retriever", encoder_folder, "--reranker", ranker_folder, "--output", tmp_path / "joint"]
    options = [
        "--denoised",
        tmp_path / "groups.jsonl",
        "--dev",
        collection_folder,
        "--list-length",
        2,
        "--loss",
        "paper",
    ]
    assert run("train-joint", *both, *data, *options) == 0
    for name in ("retriever", "reranker"):
        assert (tmp_path / "joint" / name / "README.md").is_file()
