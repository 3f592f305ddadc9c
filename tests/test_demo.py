"""The demo's collection, and the way from it to a pipeline, shortened."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections import Counter
from pathlib import Path

import pytest
from haystack import Pipeline

from rocketqa_haystack import DualEncoder
from rocketqa_haystack.cli.demo import run as demo_run
from rocketqa_haystack.cli.demo.questions import CORPUS_PROGRAM, QUESTIONS, demo_collections
from rocketqa_haystack.data import Collection
from rocketqa_haystack.encoders.packaged import small_encoder


@pytest.fixture(scope="module")
def collections() -> dict[str, Collection]:
    return demo_collections()


@pytest.fixture(scope="module")
def questions() -> list[dict[str, object]]:
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


def test_there_are_600_different_questions_in_three_splits(
    collections: dict[str, Collection], questions: list[dict[str, object]]
) -> None:
    assert Counter(question["split"] for question in questions) == {"train": 400, "dev": 50, "test": 150}
    assert len({str(question["question"]).lower() for question in questions}) == 600
    # In every supported Python each question keeps an answer.
    sizes = {split: len(collection.queries) for split, collection in collections.items()}
    assert sizes == {"train": 400, "dev": 50, "test": 150}


def test_no_target_is_in_two_splits(questions: list[dict[str, object]]) -> None:
    targets: dict[str, set[str]] = {}
    for question in questions:
        targets.setdefault(str(question["split"]), set()).update(question["answers"])  # type: ignore[call-overload]
    assert not targets["train"] & targets["test"]
    assert not targets["train"] & targets["dev"]
    assert not targets["dev"] & targets["test"]


def test_questions_do_not_name_their_targets(questions: list[dict[str, object]]) -> None:
    for question in questions:
        for name in question["answers"]:  # type: ignore[attr-defined]
            assert "." not in name or name not in str(question["question"])


def test_the_corpus_is_pythons_documentation(collections: dict[str, Collection]) -> None:
    corpus = collections["train"].corpus
    assert 3_500 < len(corpus) < 5_000
    assert corpus["shutil.disk_usage"].title == "shutil.disk_usage(path)"
    assert "total" in corpus["shutil.disk_usage"].text
    for name in ("json", "json.loads", "builtins.str.split", "collections.Counter", "os.path.join"):
        assert name in corpus
    assert not any(" at 0x" in passage.title for passage in corpus.values())
    assert all(collection.corpus is corpus for collection in collections.values())


def test_the_corpus_is_the_same_each_time_and_wherever_python_is(tmp_path: Path) -> None:
    venv.create(tmp_path / "elsewhere", with_pip=False)
    outputs = {
        subprocess.run([python, "-I", "-S", CORPUS_PROGRAM], check=True, capture_output=True).stdout
        for python in (sys.executable, tmp_path / "elsewhere" / "bin" / "python")
    }
    assert len(outputs) == 1


def test_the_small_encoder_is_there_without_a_model_hub() -> None:
    encoder = DualEncoder.from_pretrained(small_encoder())
    assert encoder.dimension == 384
    vectors = encoder.encode_passages(["How full is the disk?", "disk usage statistics", "a poem about spring"])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def few(collection: Collection, passages: set[str], queries: int) -> Collection:
    kept = dict(list(collection.queries.items())[:queries])
    return Collection(
        {name: collection.corpus[name] for name in collection.corpus if name in passages},
        kept,
        {query_id: collection.qrels[query_id] for query_id in kept},
    )


@pytest.fixture(scope="module")
def built(collections: dict[str, Collection], encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's own steps on a tenth of its collection, from the tiny encoder."""
    counts = {"train": 24, "dev": 6, "test": 12}
    names = {
        name
        for split, count in counts.items()
        for judged in list(collections[split].qrels.values())[:count]
        for name in judged
    } | set(list(collections["train"].corpus)[:60])
    folder = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:  # the tiny encoder has 64 positions
        patch.setattr(demo_run, "PASSAGE_LENGTH", 48)
        patch.setattr(demo_run, "PAIR_LENGTH", 48)
        demo_run.build(folder, small_collections(collections, names, counts), encoder_folder, seed=0)
    return folder


def small_collections(
    collections: dict[str, Collection], names: set[str], counts: dict[str, int]
) -> dict[str, Collection]:
    return {split: few(collections[split], names, count) for split, count in counts.items()}


def test_the_demo_writes_models_a_store_and_a_pipeline_that_answers(
    built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(path.name for path in built.iterdir()) == ["pipeline.yaml", "ranker", "retriever", "store"]
    pipeline = Pipeline.loads((built / "pipeline.yaml").read_text())
    demo_run.answer(pipeline, "how full is my disk?")
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == "how full is my disk?"
    assert [line[:4] for line in printed if line[:3].strip().isdigit()] == ["  1.", "  2.", "  3."]


def test_a_demo_that_is_there_is_not_made_again_and_ask_opens_a_prompt(
    built: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (built / "pipeline.yaml").stat().st_mtime_ns
    typed = iter(["what is this?", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    demo_run.demo(output=built, ask=True)
    printed = capsys.readouterr().out
    assert (built / "pipeline.yaml").stat().st_mtime_ns == before
    for question in (*demo_run.SAMPLE_QUESTIONS, "what is this?"):
        assert f"\n{question}\n" in printed


def test_the_demo_does_not_write_into_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="holds other things than a demo"):
        demo_run.demo(output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "mine.txt").rename(tmp_path / "store")  # a name that a demo's folder has too
    with pytest.raises(FileExistsError, match="holds other things than a demo"):
        demo_run.demo(output=tmp_path)
    assert (tmp_path / "store").read_text() == "keep"
