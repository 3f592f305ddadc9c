"""Every example runs, on models of no size; the notebooks are their scripts."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
from haystack import Pipeline

from rocketqa_haystack import CrossEncoder, DualEncoder
from rocketqa_haystack.data import load_collection

EXAMPLES = Path(__file__).parents[1] / "examples"
HANDBOOK = EXAMPLES / "handbook"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs an example as `python examples/NAME.py ARGUMENTS` does; gives what it printed."""
    monkeypatch.chdir(EXAMPLES.parent)

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_compose_pipeline(  # type: ignore[no-untyped-def]
    run, encoder_folder: Path, ranker_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    relative = Path(os.path.relpath(tmp_path / "made"))
    for options in ((), ("--ranker", os.path.relpath(ranker_folder))):  # the second time over the first one's store
        printed = run(
            "compose_pipeline", "--retriever", os.path.relpath(encoder_folder), "--output", relative, *options
        )
        assert "24 passages indexed" in printed
        assert "On travel alone: " in printed
        assert set(printed.rpartition("alone: ")[2].strip().split(", ")) == {"Booking a journey", "Daily allowance"}
    monkeypatch.chdir(tmp_path)
    pipeline = Pipeline.loads((tmp_path / "made" / "pipeline.yaml").read_text())
    found = pipeline.run({"retriever": {"query": "journey"}, "ranker": {"query": "journey"}})["ranker"]["documents"]
    assert len(found) == 3, "the file finds its models and its store from every folder"


def test_hybrid_retrieval(run, encoder_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    printed = run("hybrid_retrieval", "--retriever", encoder_folder, "--output", tmp_path / "made", "--epochs", 1)
    assert all(name in printed for name in ("BM25", "retriever", "joined", "joined, re-ranked", "RR@10"))
    CrossEncoder.from_pretrained(tmp_path / "made" / "ranker")
    again = run("hybrid_retrieval", "--retriever", encoder_folder, "--ranker", tmp_path / "made" / "ranker")
    assert again.splitlines()[-4:] == printed.splitlines()[-4:]


def test_fine_tune(run, encoder_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    printed = run("fine_tune", "--model", encoder_folder, "--output", tmp_path / "made", "--epochs", 1)
    assert "24 passages; questions: 48 train, 8 dev, 16 test" in printed
    assert all(name in printed for name in ("BM25", "as it came", "tuned retriever", "tuned, re-ranked"))
    DualEncoder.from_pretrained(tmp_path / "made" / "retriever")
    CrossEncoder.from_pretrained(tmp_path / "made" / "ranker")


def test_read_answers(run, encoder_folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for _ in range(2):  # the second time with the first one's reader
        printed = run("read_answers", "--model", encoder_folder, "--output", tmp_path / "reader", "--epochs", 1)
        assert "of 16 questions" in printed
        texts = [passage.text for passage in load_collection(HANDBOOK).corpus.values()]
        answers = [line.rpartition("  (")[0].strip() for line in printed.splitlines() if line.startswith("    ")]
        assert len(answers) == 16
        assert all(any(answer in text for text in texts) for answer in answers)


def test_sampling_rule(run, encoder_folder: Path) -> None:  # type: ignore[no-untyped-def]
    printed = run("sampling_rule", "--model", encoder_folder, "--epochs", 1)
    assert all(name in printed for name in ("none", "best", "between", "RR@10"))
    lines = (EXAMPLES / "sampling_rule.py").read_text().partition("\n\n\n")[2].splitlines()
    assert sum(bool(line.strip()) for line in lines[: lines.index('if __name__ == "__main__":')]) <= 30


def test_the_handbook_holds_its_answers() -> None:
    passages = load_collection(HANDBOOK).corpus
    judged = {
        query_id: passages[id]
        for split in ("train", "dev", "test")
        for query_id, grades in load_collection(HANDBOOK, split).qrels.items()
        for id in grades
    }
    records = [json.loads(line) for line in (HANDBOOK / "queries.jsonl").read_text().splitlines()]
    assert len(records) == len(judged) == 72
    for record in records:
        assert all(answer in judged[record["_id"]].text for answer in record["answers"])


@pytest.mark.parametrize("name", ["compose_pipeline", "hybrid_retrieval", "fine_tune"])
def test_notebooks_are_their_scripts(name: str) -> None:
    make = runpy.run_path(str(EXAMPLES / "make_notebooks.py"))
    assert name in make["SCRIPTS"]
    expected = make["notebook"](EXAMPLES / f"{name}.py")
    found = (EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8")
    assert found == expected, "python examples/make_notebooks.py brings the notebooks up to date"
