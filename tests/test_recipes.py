"""Recipes: from a collection to a pipeline, once, whatever interrupts them."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from haystack import Pipeline
from haystack.components.generators.chat import FallbackChatGenerator, MockChatGenerator
from safetensors.torch import load_file

from rocketqa_haystack import CrossEncoder, DualEncoder, FAISSDocumentStore
from rocketqa_haystack.cli.main import main
from rocketqa_haystack.data import (
    DataError,
    Passage,
    load_collection,
    read_corpus,
    read_groups,
    read_qrels,
    read_queries,
    save_collection,
)
from rocketqa_haystack.evaluation import measure, read_run, retrieve
from trainers import run_recipe
from trainers.loop import start_accelerator
from trainers.recipes import RECIPES, RecipeError, make_recipe, plan_recipe, read_recipe
from trainers.recipes.corrections import Judgement, read_corrections, write_judgements
from trainers.recipes.groups import Groups
from trainers.recipes.plan import Sizes, Stage, ordered
from trainers.recipes.questions import known_by_query
from trainers.recipes.rocketqa import rocketqa
from trainers.recipes.rocketqav2 import rocketqav2
from trainers.recipes.run import run_stages

Values = dict[str, Any]


BUILDERS = "haystack.components.builders.prompt_builder"
OPENAI = "haystack.components.generators.chat.OpenAIChatGenerator"


@pytest.fixture(scope="module")
def small(collection_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 of the passages, with 12 questions to train on, 4 for dev and 4 to test."""
    folder, whole = tmp_path_factory.mktemp("small"), load_collection(collection_folder, "train")
    ids = list(whole.queries)[:20]
    splits = {"train": ids[:12], "dev": ids[12:16], "test": ids[16:]}
    qrels = {split: {id: {f"p{id[1:]}": 1} for id in chosen} for split, chosen in splits.items()}
    save_collection(folder, dict(list(whole.corpus.items())[:24]), {id: whole.queries[id] for id in ids}, qrels)
    (folder / "unlabelled.txt").write_text("\n".join(reversed([text + " mama" for text in whole.queries.values()][:6])))
    return folder


@pytest.fixture(scope="module")
def model(encoder_folder: Path) -> Path:
    """The small encoder without dropout, so that what is trained does not depend on the number of processes."""
    folder = encoder_folder.with_name("dual-encoder-without-dropout")
    shutil.copytree(encoder_folder, folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}))
    return folder


def values(recipe: str, small: Path, model: Path, output: Path) -> Values:
    """A recipe of all stages, as short as can be; the thresholds leave something on each side of them."""
    # In float32 everywhere: one process and two differ by rounding alone.
    training = {"epochs": 1, "batch_size": 6, "learning_rate": 1e-3, "evaluations": 1, "mixed_precision": "no"}
    return {
        "recipe": recipe,
        "collection": str(small),
        "output": str(output),
        "retriever": str(model),
        "unlabelled": str(small / "unlabelled.txt"),
        "dtype": "float32",
        "mining": {"k": 8},
        "denoising": {"negative_below": 0.45, "positive_above": 0.45},
        **{step: dict(training) for step in ("step1", "step2", "step3", "step4")},
        "joint": {**training, "list_length": 4},
    }


@pytest.fixture(scope="module")
def v2(small: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Values, Path, Mapping[str, Any]]:
    output = tmp_path_factory.mktemp("v2") / "run"
    recipe = values("rocketqav2", small, model, output)
    return recipe, output, run_recipe(recipe, show_progress=False)


def stages(output: Path) -> dict[str, Values]:
    """The records of all stages, by folder."""
    return {file.parent.name: json.loads(file.read_text()) for file in (output / "stages").glob("*/stage.json")}


def finished(output: Path) -> list[str]:
    lines = [json.loads(line) for line in (output / "journal.jsonl").read_text().splitlines()]
    return [line["key"] for line in lines if line["event"] == "finished"]


def test_a_run_ends_in_models_a_store_and_pipelines_that_answer_as_they_were_measured(
    v2: tuple[Values, Path, Mapping[str, Any]], small: Path
) -> None:
    _, output, measures = v2
    test = load_collection(small, "test")
    with FAISSDocumentStore(path=output / "store") as store:
        assert store.count_documents() == 24
    for name, weighed in (("pipeline.yaml", "weigh-final"), ("pipeline-hybrid.yaml", "weigh-hybrid")):
        with (output / name).open() as file:
            pipeline = Pipeline.load(file)
        (stage,) = (output / "stages").glob(f"{weighed}-*")
        expected = read_run(stage / "test.trec")
        for query_id, question in test.queries.items():
            asked = {name: {"query": question} for name in ("retriever", "bm25", "ranker") if name in pipeline.graph}
            found = pipeline.run(asked)["ranker"]["documents"]
            best = sorted(expected[query_id].items(), key=lambda item: -item[1])[: len(found)]
            assert [document.score for document in found] == pytest.approx([s for _, s in best], abs=1e-3)
        title = {"weigh-final": "final retriever + re-ranker, weighed"}.get(
            weighed, "final retriever and BM25 + re-ranker, weighed"
        )
        assert measures["test"][title]["RR@10"][0] == pytest.approx(measure(expected, test.qrels, ["RR@10"])["RR@10"])
    assert DualEncoder.from_pretrained(output / "retriever", device="cpu").dimension == 32


def test_the_report_needs_nothing_else_and_has_every_system_stage_and_threshold(
    v2: tuple[Values, Path, Mapping[str, Any]],
) -> None:
    _, output, measures = v2
    page = (output / "report.html").read_text()
    assert "<script" not in page
    assert "src=" not in page
    assert "@import" not in page
    assert 'href="http' not in page
    for system, values in measures["test"].items():
        assert system in page
        mean, low, high = values["RR@10"]
        assert low <= mean <= high
        assert f"{mean:.4f}" in page
    for text in ("BM25", "untouched retriever", "negative below 0.45", "judgements.tsv", "Time and memory"):
        assert text in page
    for record in stages(output).values():
        assert record["name"] in page or record["name"] == "deliver"
        assert record["seconds"] >= 0
        assert record["peak_bytes"] > 10_000_000


def test_a_second_start_does_nothing_again(v2: tuple[Values, Path, Mapping[str, Any]]) -> None:
    recipe, output, measures = v2
    before = {path: path.stat().st_mtime_ns for path in output.rglob("stage.json")}
    assert run_recipe(recipe, show_progress=False) == measures
    assert {path: path.stat().st_mtime_ns for path in output.rglob("stage.json")} == before
    assert max(Counter(finished(output)).values()) == 1


def test_what_was_removed_of_a_finished_run_comes_again(
    v2: tuple[Values, Path, Mapping[str, Any]], tmp_path: Path
) -> None:
    recipe, output = {**v2[0], "output": str(tmp_path / "run")}, tmp_path / "run"
    shutil.copytree(v2[1], output)
    before = finished(output)
    for name in ("ranker", "store"):
        shutil.rmtree(output / name)
    (output / "pipeline-hybrid.yaml").unlink()
    (output / "report.html").unlink()
    assert [state.name for state in plan_recipe(recipe) if state.state != "done"] == ["deliver"]
    assert run_recipe(recipe, show_progress=False) == v2[2]
    assert len(finished(output)) == len(before) + 1
    assert (output / "report.html").is_file()
    CrossEncoder.from_pretrained(output / "ranker", device="cpu")
    assert "path: " + str(output / "store") in (output / "pipeline-hybrid.yaml").read_text()
    with FAISSDocumentStore(path=output / "store") as store:
        assert store.count_documents() == 24


def test_a_changed_setting_reruns_what_depends_on_it_and_nothing_else(
    v2: tuple[Values, Path, Mapping[str, Any]], tmp_path: Path
) -> None:
    recipe = v2[0]

    def keys(**changes: Any) -> dict[str, str]:
        last = rocketqav2(make_recipe({**recipe, **changes}))
        return {f"{stage.name} {number}": stage.key for number, stage in enumerate(ordered(last))}

    before = keys()
    assert keys() == before
    assert keys(output=str(tmp_path)) == before
    changed = {name.split()[0] for name, key in keys(joint={**recipe["joint"], "learning_rate": 2e-3}).items()
               if before[name] != key}  # fmt: skip
    assert changed == {
        "joint", "encode-2", "measure-final", "measure-hybrid", "rerank-final", "rerank-hybrid", "weigh-final",
        "weigh-hybrid", "deliver",
    }  # fmt: skip
    changed = {name.split()[0] for name, key in keys(denoising={"negative_below": 0.4, "positive_above": 0.45}).items()
               if before[name] != key}  # fmt: skip
    assert {"denoised", "pseudo-labels", "joint"} <= changed
    assert changed.isdisjoint({"retriever-1", "mine-1", "reranker", "score", "bm25"})
    changed = {name.split()[0] for name, key in keys(lengths={"pair": 40}).items() if before[name] != key}
    assert "reranker" in changed
    assert changed.isdisjoint({"retriever-1", "mine-1", "bm25"})
    # Seeds draw a dev split only where there is none; how often is saved, and what is not used, changes nothing.
    changed = {name.split()[0] for name, key in keys(seed=1).items() if before[name] != key}
    assert changed.isdisjoint({"questions", "asked", "bm25", "measure-untouched"})
    assert keys(step1={**recipe["step1"], "checkpoint_every": 7}) == before
    assert keys(denoising={**recipe["denoising"], "negatives": 9}) == before
    generation = {"generation": {"above": 0.5}}
    made = keys(**generation)
    changed = {name.split()[0] for name, key in keys(generation={"above": 0.6}).items() if made[name] != key}
    assert "round-trip" in changed
    assert not any(name.startswith(("reranker-generated", "score-generated")) for name in changed)
    assert "generate" not in {n.split()[0] for n, key in keys(**generation, seed=1).items() if made[n] != key}


def test_stages_left_out_share_what_is_equal_and_a_persons_judgements_stay(
    v2: tuple[Values, Path, Mapping[str, Any]], tmp_path: Path
) -> None:
    recipe, output = v2[0], tmp_path / "run"
    shutil.copytree(v2[1], output)
    with (output / "judgements.tsv").open("a") as file:
        file.write("q0\tp5\t0\n")
    corrected = (output / "judgements.tsv").read_text()
    for times in range(2):
        measures = run_recipe({**recipe, "output": str(output), "joint": {"epochs": 0}}, show_progress=False)
        assert measures["test"]["final retriever"] == measures["test"]["warm-up: retriever"]
        assert (output / "judgements.tsv").read_text() == corrected
        assert [path.name for path in output.glob("judgements-*")] == ["judgements-2.tsv"], times
        assert f"judgements: {output}/judgements-2.tsv" in (output / "report.html").read_text()
        (stage,) = (output / "stages").glob("deliver-*/stage.json")
        stage.unlink()


def test_models_that_are_tuned_already_need_no_training_and_no_dev(
    small: Path, model: Path, ranker_folder: Path, tmp_path: Path
) -> None:
    collection = tmp_path / "collection"
    shutil.copytree(small, collection)
    (collection / "qrels" / "dev.tsv").unlink()
    lines = (collection / "qrels" / "train.tsv").read_text().splitlines()
    (collection / "qrels" / "train.tsv").write_text("\n".join(lines[:9]) + "\n")
    recipe = values("rocketqa", collection, model, tmp_path / "run")
    recipe |= {step: {"epochs": 0} for step in ("step1", "step2", "step3", "step4")}
    measures = run_recipe({**recipe, "reranker": str(ranker_folder)}, show_progress=False)
    assert set(measures) == {"test"}
    assert measures["test"]["final retriever"] == measures["test"]["untouched retriever"]
    # A weight chosen on what models are measured on would be a leak.
    assert "retriever_weight: 0.0" in (tmp_path / "run" / "pipeline.yaml").read_text()


def test_what_is_asked_in_dev_or_test_is_not_trained_on(small: Path, model: Path, tmp_path: Path) -> None:
    collection, whole = tmp_path / "collection", load_collection(small, "train")
    test = load_collection(small, "test")
    queries = {f"t{n}": f"question {n} of many" for n in range(40)} | {
        f"again{n}": f"Question {n}  of many?" for n in range(40)
    }
    qrels = {id: {f"p{n % 24}": 1} for n, id in enumerate(queries)}
    (asked, text), *_ = test.queries.items()
    queries |= {**test.queries, "copy": text.upper() + "?"}
    train = {**qrels, "copy": {"p1": 1}, asked: {"p2": 1}}
    save_collection(collection, whole.corpus, queries, {"train": train, "test": test.qrels})

    def splits(output: Path, corrections: str = "") -> dict[str, set[str]]:
        recipe = {**values("rocketqav2", collection, model, output), "unlabelled": None}
        if corrections:
            (tmp_path / "corrected.tsv").write_text("query-id\tcorpus-id\tlabel\n" + corrections)
            recipe["judgements"] = str(tmp_path / "corrected.tsv")
        made = make_recipe(recipe)
        data = next(stage for stage in ordered(rocketqav2(made)) if stage.name == "questions")
        run = run_stages(made, data, accelerator=start_accelerator(), show_progress=False)
        assert "2 left out that are asked in dev or test too" in run.outcome(data)["said"]
        return {name: set(ids) for name, ids in data.judged(run).items()}

    before = splits(tmp_path / "run")
    assert len(before["dev"]) == 8
    assert len(before["train"]) == 72
    numbers = {name: {id.lstrip("tagin") for id in ids} for name, ids in before.items()}
    assert numbers["train"].isdisjoint(numbers["dev"]), "a question stands in both"

    gone = sorted(before["train"])[0]
    after = splits(tmp_path / "corrected", "\t".join([gone, next(iter(qrels[gone])), "0"]) + "\n")
    assert after == {"dev": before["dev"], "train": before["train"] - {gone}}
    with pytest.raises(DataError, match="is a test question"):
        splits(tmp_path / "refused", f"{asked}\tp1\t1\n")
    assert splits(tmp_path / "copy", "copy\tp3\t1\n") == before, "a question of test is trained on all the same"


def test_dev_and_test_have_no_question_in_common(small: Path, model: Path, tmp_path: Path) -> None:
    whole, test = load_collection(small, "train"), load_collection(small, "test")
    queries = {**whole.queries, **test.queries, "d1": "all the same", "d2": next(iter(test.queries.values())).upper()}
    qrels = {"train": whole.qrels, "dev": {"d1": {"p1": 1}, "d2": {"p2": 1}}, "test": test.qrels}
    save_collection(tmp_path / "data", whole.corpus, queries, qrels)
    recipe = {**values("rocketqav2", tmp_path / "data", model, tmp_path / "run"), "unlabelled": None}
    _, folder = stage_of(recipe, "questions")
    assert set(read_qrels(folder / "dev.tsv")) == {"d1"}
    assert "1 of dev left out" in json.loads((folder / "stage.json").read_text())["outcome"]["said"]


@pytest.mark.parametrize(
    ("passages", "queries", "message"),
    [
        ({"p 1": Passage("a")}, {}, "the passage id 'p 1' has white space"),
        ({}, {"q 1": "why"}, "the query id 'q 1' has white space"),
        ({}, {"q1": " "}, "query 'q1', which is to be trained on, is empty"),
        ({"p1": Passage(" ")}, {"q1": "why"}, "passage 'p1', judged relevant for 'q1', is empty"),
    ],
)
def test_data_that_would_stop_a_run_in_its_middle_stop_it_at_its_start(
    passages: dict[str, Passage], queries: dict[str, str], message: str, model: Path, tmp_path: Path
) -> None:
    corpus, asked = {"p0": Passage("b"), "p1": Passage("c"), **passages}, {"q0": "what", **queries}
    qrels = {"train": {id: {f"p{id[-1]}": 1} for id in asked}}
    save_collection(tmp_path / "data", corpus, asked, qrels)
    recipe = {**values("rocketqav2", tmp_path / "data", model, tmp_path / "run"), "unlabelled": None}
    with pytest.raises(DataError, match=message):
        stage_of(recipe, "questions")


def test_what_a_person_has_decided_stays_decided_in_the_next_round(
    v2: tuple[Values, Path, Mapping[str, Any]], small: Path, tmp_path: Path
) -> None:
    recipe, output = {**v2[0], "joint": {"epochs": 0}}, tmp_path / "run"
    shutil.copytree(v2[1], output)
    file = output / "judgements.tsv"
    with file.open(encoding="utf-8") as opened:
        first = list(csv.DictReader(opened, dialect="excel-tab"))
    for n, row in enumerate(first[:-1]):  # and one that is not looked at
        row["label"] = str(n % 2)
    with file.open("w", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, first[0], dialect="excel-tab")
        writer.writeheader()
        writer.writerows(first)
    labels = {(row["query-id"], row["corpus-id"]): row["label"] for row in first[:-1]}
    run_recipe({**recipe, "output": str(output), "judgements": str(file)}, show_progress=False)
    with (output / "judgements-2.tsv").open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened, dialect="excel-tab"))
    pairs = [(row["query-id"], row["corpus-id"]) for row in rows]
    assert len(pairs) == len(set(pairs))
    decided = [row for row in rows if row["why"] == "decided by a person before"]
    assert {(row["query-id"], row["corpus-id"]): row["label"] for row in decided} == labels
    assert all(row["text"] for row in decided)
    # Named as it was delivered, a file is not written over: what was made with it would have to be made again.
    before = (output / "judgements-2.tsv").read_bytes()
    named = {**recipe, "output": str(output), "judgements": str(output / "judgements-2.tsv"), "measures": ["R@5"]}
    run_recipe(named, show_progress=False)
    assert (output / "judgements-2.tsv").read_bytes() == before
    assert (output / "judgements-3.tsv").is_file()


def test_questions_that_differ_in_spelling_share_their_positives() -> None:
    queries, judged = {"a": "What is B?", "b": "what is b", "c": "what is c"}, {"a": {"1": 1}, "b": {"2": 1, "3": 0}}
    known = known_by_query(queries, {**judged, "c": {"4": 1}})
    assert known == {"a": ["1", "2"], "b": ["1", "2"], "c": ["4"]}


def test_the_first_step_gets_random_passages_or_those_of_bm25(small: Path, model: Path, tmp_path: Path) -> None:
    recipe, train = values("rocketqa", small, model, tmp_path / "run"), load_collection(small, "train")
    found = []
    for lexical in (False, True):
        step1 = {"epochs": 2, "hard_negatives": 3, "lexical_negatives": lexical}
        _, folder = stage_of({**recipe, "step1": step1}, "labelled")
        groups = list(read_groups(folder / "groups.jsonl"))
        found.append({group.query_id: set(group.negative_ids) for group in groups})
        assert all(found[-1][id].isdisjoint(train.qrels[id]) for id in train.queries)
    assert {len(ids) for ids in found[0].values()} == {6}
    (ranked,) = folder.parent.glob("bm25-negatives-*/train.trec")
    assert found[1] == {id: set(row) - set(train.qrels[id]) for id, row in read_run(ranked).items()}


@pytest.mark.parametrize("name", ["rocketqa", "rocketqav2"])
def test_candidates_of_some_of_the_questions_are_enough_for_the_steps_after_the_first(
    name: str, small: Path, model: Path, tmp_path: Path
) -> None:
    recipe = values(name, small, model, tmp_path / "run")
    recipe["mining"] = {"k": 8, "questions": 5}
    stage, folder = stage_of(recipe, "denoised")
    run = folder.parent
    train = load_collection(small, "train").queries
    (groups,) = (list(read_groups(file)) for file in run.glob("denoised-*/groups.jsonl"))
    chosen = [group.query_id for group in groups]
    assert len(chosen) == 5
    assert set(chosen) < set(train)
    assert chosen != list(train)[:5]
    (scored,), (dev,) = run.glob("score-*/train.trec"), run.glob("score-*/dev.trec")
    assert set(read_run(scored)) == set(chosen)
    assert set(read_run(dev)) == set(load_collection(small, "dev").queries)
    _, labelled = stage_of(recipe, "labelled")
    assert {group.query_id for group in read_groups(labelled / "groups.jsonl")} == set(train)
    sizes = Sizes(passages=24, train=12, dev=4, test=4, unlabelled=6, generated=0)
    counts = {stage.name: stage.count(sizes) for stage in ordered(stage) if isinstance(stage, Groups)}
    assert counts == {"labelled": 12, "undenoised": 5, "denoised": 5}


def test_a_dry_run_shows_states_and_times_and_runs_nothing(
    small: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = values("rocketqa", small, model, tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", str(tmp_path / "recipe.yaml"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"retriever-1", "reranker", "denoised", "pseudo-labels", "retriever-3", "deliver"} <= {
        line.split()[0] for line in lines if " to do " in line
    }
    assert all("~" in line for line in lines if " to do " in line)
    assert "the rest takes about" in lines[-1]
    assert not (tmp_path / "run").exists()
    assert main(["status", str(tmp_path / "run")]) == 2
    assert "is no run folder" in capsys.readouterr().err


def test_the_status_of_a_run_has_its_stages_and_their_outcomes(
    v2: tuple[Values, Path, Mapping[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    output = v2[1]
    assert main(["status", str(output)]) == 0
    text = capsys.readouterr().out
    assert f"{len(stages(output))} of {len(stages(output))} stages done" in text
    assert "12 questions to train on, 4 for dev" in text
    assert text.endswith("not running\n")


@pytest.mark.parametrize(
    "plan", ["[]", '{"a": 1}', "[1]", '[{"name": "x"}]', '[{"name": 1, "folder": 2}]', "[{", "\xff"]
)
def test_the_status_of_a_damaged_run_names_the_file(
    plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plan.json").write_text(plan, encoding="latin-1")
    assert main(["status", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'plan.json'}: not a plan that `rocketqa run` wrote" in error
    assert error.count("\n") == 1


def test_corrected_judgements_change_what_is_trained_on(
    v2: tuple[Values, Path, Mapping[str, Any]], small: Path, model: Path, tmp_path: Path
) -> None:
    recipe, output, _ = v2
    with (output / "judgements.tsv").open(encoding="utf-8") as file:
        rows = list(csv.reader(file, dialect="excel-tab"))
    header, doubts = rows[0], rows[1:]
    assert header[:4] == ["query-id", "corpus-id", "label", "probability"]
    train = load_collection(small, "train")
    assert doubts
    for query_id, id, label, probability, why, query, title, text in doubts:
        assert label == "", "a line that nobody has touched says nothing"
        assert why.startswith("labelled") == (id in train.qrels[query_id])
        assert float(probability) < 0.45 if why.startswith("labelled") else float(probability) > 0.45
        assert (query, title, text) == (train.queries[query_id], train.corpus[id].title, train.corpus[id].text)
    (tmp_path / "corrected.tsv").write_text("query-id\tcorpus-id\tlabel\nq0\tp5\t1\nq1\tp1\t0\nq2\tp9\t\nq3\tp3\t1\n")
    changed = {**recipe, "output": str(tmp_path / "run"), "judgements": str(tmp_path / "corrected.tsv")}
    last = rocketqav2(make_recipe(changed))
    data = next(stage for stage in ordered(last) if stage.name == "questions")
    run_stages(make_recipe(changed), data, accelerator=start_accelerator(), show_progress=False)
    (written,) = (tmp_path / "run" / "stages").glob("questions-*/train.tsv")
    lines = written.read_text().splitlines()
    assert "q0\tp5\t1" in lines
    assert "q0\tp0\t1" in lines
    assert not any(line.startswith("q1\t") for line in lines), "a question without a positive trains nothing"
    assert "q3\tp3\t1" in lines
    assert not any("p9" in line for line in lines if line.startswith("q2"))


def test_judgements_to_look_at_are_a_table_for_spreadsheets_and_keep_their_ids(tmp_path: Path) -> None:
    ids = ["q1", '"q2"', "-3", "'-3", "''=4", "a\tb", "'q", "+", "@x", '"']
    passage = Passage('"Quoted at the start, and no end', "=HYPERLINK(1)")
    lines = [Judgement(id, f"{id}p", 1, 0.01, "-", "-1+1", passage) for id in ids]
    lines.append(Judgement("q", "p", None, 0.99, "-", "q", Passage("x" * 100_000)))
    write_judgements(tmp_path / "judgements.tsv", lines)
    with (tmp_path / "judgements.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    assert len(rows) == len(ids) + 1
    assert not any(value.startswith(("=", "+", "-", "@")) for row in rows for value in row.values())
    assert {row["text"] for row in rows[:-1]} == {passage.text}
    assert len(rows[-1]["text"]) < 32_767, "what a cell holds"
    read = read_corrections(tmp_path / "judgements.tsv", [*ids, "q"], ["p", *(f"{id}p" for id in ids)])
    assert list(read) == [(id, f"{id}p", 1) for id in ids]


def test_corrections_are_read_from_files_without_quotation_too(tmp_path: Path) -> None:
    lines = ["query-id\tcorpus-id\tlabel\twhy", 'q1\tp1\t0\t"never closed', "q2\t-2\t1\twhy", 'q3\tp3\t\t"x" y']
    (tmp_path / "old.tsv").write_text("\n".join(lines))
    read = read_corrections(tmp_path / "old.tsv", ["q1", "q2", "q3"], ["p1", "-2", "p3"])
    assert list(read) == [("q1", "p1", 0), ("q2", "-2", 1)]
    with pytest.raises(DataError, match="line 3: there is no passage '-2'"):
        list(read_corrections(tmp_path / "old.tsv", ["q1", "q2", "q3"], ["p1", "2", "p3"]))


def stage_of(recipe: Values, name: str) -> tuple[Stage, Path]:
    """Runs a recipe as far as the stage of this name: the stage and its folder."""
    made = make_recipe(recipe)
    stage = next(stage for stage in ordered(RECIPES[made.recipe](made)) if stage.name == name)
    run = run_stages(made, stage, accelerator=start_accelerator(), show_progress=False)
    return stage, run.of(stage)


def test_undenoised_negatives_are_candidates_and_nothing_else_where_those_are_enough(
    small: Path, model: Path, tmp_path: Path
) -> None:
    recipe = values("rocketqa", small, model, tmp_path / "run")
    recipe |= {"step1": {"epochs": 0}, "step2": {**recipe["step2"], "negatives": 6}}
    _, folder = stage_of(recipe, "undenoised")
    (mined,), train = folder.parent.glob("mine-1-*/train.trec"), load_collection(small, "train")
    for group in read_groups(folder / "groups.jsonl"):
        candidates = set(read_run(mined)[group.query_id]) - set(train.qrels[group.query_id])
        assert sorted(group.negative_ids) == sorted(candidates)


def test_what_a_person_judged_wrong_is_a_negative_wherever_it_ranks(
    small: Path, model: Path, ranker_folder: Path, tmp_path: Path
) -> None:
    untrained = {"reranker": str(ranker_folder), "step1": {"epochs": 0}, "step2": {"epochs": 0}, "mining": {"k": 3}}
    recipe = {**values("rocketqa", small, model, tmp_path / "run"), **untrained}
    recipe["denoising"] = {"negative_below": 0.0, "positive_above": 1.0, "negatives": 2}
    _, folder = stage_of(recipe, "mine-1")
    candidates = list(read_run(folder / "train.trec")["q0"])
    judged = [
        next(id for id in candidates if id != "p0"),
        next(f"p{n}" for n in range(1, 24) if f"p{n}" not in candidates),
    ]
    (tmp_path / "corrected.tsv").write_text("query-id\tcorpus-id\tlabel\n" + "".join(f"q0\t{id}\t0\n" for id in judged))
    _, folder = stage_of({**recipe, "judgements": str(tmp_path / "corrected.tsv")}, "denoised")
    groups = {group.query_id: group for group in read_groups(folder / "groups.jsonl")}
    assert set(groups["q0"].negative_ids) == set(judged)
    assert {len(group.negative_ids) for group in groups.values()} == {2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step1": {"epoch": 3}}, "unknown key 'step1.epoch'; did you mean 'epochs'?"),
        ({"retreiver": "x"}, "unknown key 'retreiver'; did you mean 'retriever'?"),
        ({"recipe": "rocketqav3"}, "recipe: "),
        ({"retriever": None}, "retriever: "),
        ({"step1": {"epochs": "many"}}, "step1.epochs: "),
        ({"denoising": {"negative_below": 0.9, "positive_above": 0.1}}, "thresholds must satisfy"),
        ({"joint": {"list_length": 1}}, "list_length must be at least 2"),
        ({"joint": {"contrastive_weight": -1}}, "contrastive_weight must be at least 0"),
        ({"joint": {"reranker_learning_rate": 0}}, "reranker_learning_rate must be greater than 0"),
        ({"step1": {"learning_rate": float("inf")}}, "learning_rate must be finite"),
        ({"step2": {"negatives": 0}}, "negatives must be at least 1"),
        ({"mining": {"questions": 0}}, "questions must be at least 1"),
        ({"step3": {"hard_negatives": -2}}, "hard_negatives must be at least 0"),
        ({"lengths": {"query": 0}}, "query must be at least"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"generation": {"passages": 0}}, "passages must be at least 1"),
        ({"splits": {"test": "tets"}}, "splits.test: there is no file"),
        ({"splits": {"dev": "test"}}, "splits: dev and test are the same"),
        ({"step1": {"lexical_negatives": True}}, "lexical_negatives needs hard_negatives"),
        ({"step3": {"lexical_negatives": True}}, "unknown key 'step3.lexical_negatives'"),
        ({"joint": {"patience": 1}}, "patience=1 stops nothing with evaluations=1"),
        ({"mining": {"run": __file__}}, "expected 6 columns of a TREC run"),
        ({"joint": {"loss": {"direction": "backwards"}}}, "joint.loss.direction: "),
        ({"collection": "/nowhere"}, "collection: there is no file /nowhere/corpus.jsonl"),
        ({"unlabelled": "/nowhere.txt"}, "unlabelled: there is no file /nowhere.txt"),
        ({"judgements": "/nowhere.tsv"}, "judgements: there is no file /nowhere.tsv"),
        ({"mining": {"run": "/nowhere.trec"}}, "mining.run: there is no file /nowhere.trec"),
        ({"retriever": "/nowhere"}, "retriever: there is no model folder '/nowhere'"),
        ({"reranker": "/nowhere"}, "reranker: there is no model folder '/nowhere'"),
        ({"splits": {"train": "training"}}, "training.tsv; a recipe without labels needs the key 'generation'"),
        ({"measures": ["MRR?"]}, "measures: unknown measure 'MRR?'"),
        (
            {"step1": {"batch_size": 12, "gradient_accumulation": 5}},
            "step1.batch_size: 12 cannot be divided evenly among 1 processes in 5 parts",
        ),
        ({"step2": {"epochs": 0}}, "step2.epochs: 0 takes the re-ranker as it is"),
        ({"generation": {"generator": {"type": "os.system"}}}, "generation.generator: os.system cannot be made"),
        (
            {"generation": {"generator": {"type": f"{BUILDERS}.PromptBuilder", "init_parameters": {"template": "x"}}}},
            "PromptBuilder is no ChatGenerator",
        ),
        (
            {"generation": {"generator": {"type": OPENAI, "init_parameters": {"api_key": "sk-1"}}}},
            "api_key is a secret, which a file should not hold",
        ),
        (
            {"generation": {"generator": {"type": OPENAI, "init_parameters": {"since": date(2026, 1, 1)}}}},
            "generator has a value that JSON has not",
        ),
        ({"step1": {"gradient_accumulation": 0}}, "step1: gradient_accumulation must be at least 1"),
        ({"step1": {"batch_size": 8, "gradient_accumulation": 16}}, "a batch of 8 has no 16 parts"),
        ({"step1": {"weight_decay": float("inf")}}, "weight_decay must be finite"),
        ({"seed": 2**32}, "seed must be less than 4,294,967,296"),
        ({"reranker": ""}, "the name of a model is empty"),
        ({"measures": ["P"]}, "measures: the measure 'P' cannot be computed"),
        ({"lengths": {"pair": 600}}, "lengths: passage_max_length is 600, but the model reads 64"),
        ({"lengths": {"query": 600}}, "lengths: query_max_length is 600, but the model reads 64"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused_before_anything_runs(
    change: Values, message: str, small: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {**values("rocketqav2", small, model, tmp_path / "run"), **change}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({k: v for k, v in recipe.items() if v is not None}))
    assert main(["run", str(tmp_path / "recipe.yaml")]) == 2
    error = capsys.readouterr().err
    expected = message if change != {"retriever": None} else "'retriever' is missing"
    assert expected in error
    assert "Traceback" not in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "content", "message"),
    [
        ("unlabelled", b"\n  \n", "unlabelled: .* has no questions"),
        ("judgements", b"", "judgements: .* is empty"),
        ("mining.run", gzip.compress(b"q0 Q0 p1 1 1.0 x\n", mtime=0), "mining.run: .*packed by gzip"),
        ("mining.run", b"q0 Q0 far 1 1.0 x\n", "mining.run: .*passage 'far' of query 'q0' is not in the corpus"),
        ("mining.run", b"other Q0 p1 1 1.0 x\n", "mining.run: .* has candidates of no question"),
    ],
)
def test_a_recipes_files_are_looked_at_before_anything_runs(
    key: str, content: bytes, message: str, small: Path, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)
    recipe = values("rocketqa", small, model, tmp_path / "run")
    first, _, second = key.partition(".")
    recipe[first] = {**recipe[first], second: str(tmp_path / "file")} if second else str(tmp_path / "file")
    with pytest.raises(RecipeError, match=message):
        run_recipe(recipe)
    assert not (tmp_path / "run").exists()


def test_judgements_are_looked_at_before_questions_are_generated(small: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "small")
    (tmp_path / "small" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nnobody\tp1\t1\n")
    recipe = {**values("rocketqa", tmp_path / "small", model, tmp_path / "run"), "generation": {}}
    with pytest.raises(DataError, match=r"test.tsv: query 'nobody' is not in queries.jsonl"):
        run_recipe(recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["recipe.yaml", "pipeline.yaml", "pipeline-hybrid.yaml", "report.html", "store"])
def test_a_run_does_not_replace_what_was_there_before_it(name: str, small: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(RecipeError, match=f"{name} is there, but not by a run"):
        run_recipe(values("rocketqa", small, model, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_key_that_stands_twice_and_the_users_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["recipe: rocketqa", "collection: data", "output: ~/run", "retriever: x"]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_recipe(tmp_path / "recipe.yaml").output == tmp_path / "run"
    (tmp_path / "recipe.yaml").write_text("\n".join([*lines, "step1: {epochs: 1, epochs: 2}"]))
    with pytest.raises(RecipeError, match="the key 'epochs' stands twice"):
        read_recipe(tmp_path / "recipe.yaml")


def test_dev_questions_without_a_relevant_passage_decide_nothing(small: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "small")
    dev = tmp_path / "small" / "qrels" / "dev.tsv"
    lines = dev.read_text().splitlines()
    for zeros, left in ((1, 3), (4, 1)):  # of 4; where none is left, one of the 12 others is held out
        dev.write_text("\n".join([lines[0], *(line[:-1] + "0" for line in lines[1 : zeros + 1]), *lines[zeros + 1 :]]))
        _, folder = stage_of(values("rocketqa", tmp_path / "small", model, tmp_path / "run"), "questions")
        qrels = read_qrels(folder / "dev.tsv")
        assert len(qrels) == left
        assert all(1 in judged.values() for judged in qrels.values())
        said = json.loads((folder / "stage.json").read_text())["outcome"]["said"]
        assert f"{zeros} of dev without a relevant passage" in said


def test_vectors_that_were_removed_are_missed(small: Path, model: Path, tmp_path: Path) -> None:
    recipe = {**values("rocketqa", small, model, tmp_path / "run"), "step1": {"epochs": 0}}
    _, folder = stage_of(recipe, "mine-1")
    (encoded,) = folder.parent.glob("encode-*")
    shutil.rmtree(encoded / "vectors")
    with pytest.raises(DataError, match=f"0 vectors for 24 passages; remove {encoded} to encode again"):
        stage_of({**recipe, "mining": {"k": 5}}, "mine-1")
    shutil.rmtree(encoded)
    stage_of({**recipe, "mining": {"k": 5}}, "mine-1")


def test_a_training_killed_at_its_very_end_leaves_nothing_behind(small: Path, model: Path, tmp_path: Path) -> None:
    recipe = values("rocketqa", small, model, tmp_path / "run")
    _, folder = stage_of(recipe, "retriever-1")
    before = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    (folder / "stage.json").unlink()
    (folder / "model.training").mkdir()
    (folder / "model.training" / "run.json").write_text("{}")
    stage_of(recipe, "retriever-1")
    assert not (folder / "model.training").exists()
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("content", ["{}", '{"name": "questions", ', "[]"])
def test_a_damaged_record_is_named(
    content: str, small: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = values("rocketqa", small, model, tmp_path / "run")
    _, folder = stage_of(recipe, "questions")
    (folder / "stage.json").write_text(content)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for command in (["status", str(tmp_path / "run")], ["run", str(tmp_path / "recipe.yaml")]):
        assert main(command) == 2
        assert f"{folder / 'stage.json'} is damaged" in capsys.readouterr().err


def test_a_person_s_judgement_of_a_generated_question_is_of_that_question_only(tmp_path: Path) -> None:
    lines = ["query-id\tcorpus-id\tlabel", "q1\tp1\t1", "generated-0a1b2c3d-p1\tp1\t0"]
    (tmp_path / "judged.tsv").write_text("\n".join(lines))
    assert list(read_corrections(tmp_path / "judged.tsv", ["q1"], ["p1"])) == [("q1", "p1", 1)]
    with pytest.raises(DataError, match="there is no query 'q1'"):
        list(read_corrections(tmp_path / "judged.tsv", [], ["p1"]))


def test_a_generator_that_does_not_answer_is_a_sentence(
    small: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    nowhere = {"api_base_url": "http://127.0.0.1:9/v1", "max_retries": 0}
    recipe = values("rocketqa", small, model, tmp_path / "run")
    recipe["generation"] = {"generator": {"type": OPENAI, "init_parameters": nowhere}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", str(tmp_path / "recipe.yaml")]) == 2
    error = capsys.readouterr().err
    assert "OpenAIChatGenerator does not answer: APIConnectionError" in error
    assert "Traceback" not in error


def test_a_folder_that_no_run_has_made_is_not_replaced(small: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "store").mkdir(parents=True)
    with pytest.raises(RecipeError, match="store is there, but not by a run"):
        run_recipe(values("rocketqav2", small, model, tmp_path / "run"), show_progress=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["store"]


def test_a_corpus_alone_is_enough(model: Path, small: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    shutil.copy(small / "corpus.jsonl", corpus)
    recipe = values("rocketqa", corpus, model, tmp_path / "run")
    recipe |= {"unlabelled": None, "generation": {"rank": 24, "above": 0.0, "dev_share": 0.2}, "step4": {"epochs": 0}}
    recipe["mining"] = {"k": 24}
    measures = run_recipe(recipe, show_progress=False)
    assert set(measures) == {"dev"}
    records = {record["name"]: record for record in stages(tmp_path / "run").values()}
    made, kept = records["generate"]["outcome"]["questions"], records["round-trip"]["outcome"]["questions"]
    assert 24 <= made["kept"] <= 48
    assert kept["kept"] + sum(kept["dropped"].values()) == made["kept"]
    # A re-ranker that cannot rank yet is trained before it is asked, and not on what it is asked about.
    folders = {path.name.rsplit("-", 1)[0]: path for path in (tmp_path / "run" / "stages").iterdir()}
    for learned, asked in ((0, 1), (1, 0)):
        known = {id.rsplit("-", 1)[1] for id in read_qrels(folders[f"questions-generated-{learned}"] / "train.tsv")}
        scored = {id.rsplit("-", 1)[1] for id in read_run(folders[f"score-generated-{asked}"] / "generated.trec")}
        assert known
        assert scored
        assert known.isdisjoint(scored)
    assert (tmp_path / "run" / "pipeline.yaml").is_file()


def test_nothing_that_is_measured_is_generated_or_pseudo_labelled(
    model: Path, ranker_folder: Path, tmp_path: Path
) -> None:
    corpus = {f"p{n}": Passage(f"press {n} mama. wait for lamp {n}.", f"How do I reset {n}?") for n in range(20)}
    queries = {f"{split}{n}": f"how do i  reset {n}" for split, n in [("dev", 0), ("test", 1), ("train", 2)]}
    qrels = {
        split: {id: {f"p{id[-1]}": 1} for id in queries if id.startswith(split)} for split in ("dev", "test", "train")
    }
    save_collection(tmp_path / "data", corpus, queries, qrels)
    lines = ["HOW do I reset 0?", "how do i reset 1", "How do I reset 2?", "mama dada", "Mama dada?", "baba"]
    (tmp_path / "unlabelled.txt").write_text("\n".join(lines))
    recipe = values("rocketqa", tmp_path / "data", model, tmp_path / "run")
    recipe |= {
        "unlabelled": str(tmp_path / "unlabelled.txt"),
        "generation": {"rank": 20, "above": 0.0},
        "reranker": str(ranker_folder),
        "mining": {"k": 20},
        "denoising": {"negative_below": 0.0, "positive_above": 0.0},
        **{step: {"epochs": 0} for step in ("step1", "step2", "step3")},
    }
    _, folder = stage_of(recipe, "round-trip")
    kept = set(read_queries(folder / "queries.jsonl").values())
    assert "How do I reset 3?" in kept
    assert set(read_qrels(folder / "train.tsv")) == set(read_queries(folder / "queries.jsonl")), "there is a dev split"
    assert kept.isdisjoint({"How do I reset 0?", "How do I reset 1?"})
    _, folder = stage_of(recipe, "pseudo-labels")
    assert [group.query for group in read_groups(folder / "groups.jsonl")] == ["mama dada", "baba"]
    outcome = json.loads((folder / "stage.json").read_text())["outcome"]["questions"]
    reasons = ["the same as a question of dev or test", "the same as a labelled question", "the same as a line before"]
    assert outcome == {"kept": 2, "dropped": dict(zip(reasons, (2, 1, 1), strict=True))}


def test_generated_questions_find_their_way_back_by_the_retriever_alone_and_stay_with_their_passage(
    small: Path, model: Path, ranker_folder: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    shutil.copy(small / "corpus.jsonl", corpus)
    recipe = {
        **values("rocketqa", corpus, model, tmp_path / "run"),
        "reranker": str(ranker_folder),
        "unlabelled": None,
        "generation": {"rank": 12, "above": 0.0, "dev_share": 0.3},
        "mining": {"k": 12, "bm25": True},
    }
    _, folder = stage_of(recipe, "round-trip")
    passages = {
        name: [id for judged in read_qrels(folder / f"{name}.tsv").values() for id in judged]
        for name in ("train", "dev")
    }
    assert set(passages["dev"]).isdisjoint(passages["train"])
    assert len(set(passages["dev"])) == int(0.3 * len({*passages["dev"], *passages["train"]}))
    assert len(passages["dev"]) > len(set(passages["dev"])), "passages with two questions"
    (generated,) = folder.parent.glob("generate-*/queries.jsonl")
    encoder = DualEncoder.from_pretrained(model, device="cpu", dtype="float32")
    texts = read_queries(generated)
    found = retrieve(encoder, dict(read_corpus(corpus / "corpus.jsonl")), texts, 12)
    expected = {id for id, row in found.items() if id.split("-", 2)[2] in row}
    assert set(read_queries(folder / "queries.jsonl")) == expected != set(texts)


def test_a_passage_without_an_answer_by_the_generator_is_counted_and_the_others_go_on(
    small: Path, model: Path, tmp_path: Path
) -> None:
    answers = ["", *(f"What is number {n}?" for n in range(1, 24))]
    generator = FallbackChatGenerator([MockChatGenerator(answers)]).to_dict()  # which is changed when it is loaded
    recipe = values("rocketqa", small, model, tmp_path / "run") | {"generation": {"generator": generator}}
    assert all(state.state == "to do" for state in plan_recipe(recipe))
    _, folder = stage_of(recipe, "generate")
    outcome = json.loads((folder / "stage.json").read_text())["outcome"]["questions"]
    assert outcome == {"kept": 23, "dropped": {"no answer by the generator": 1}}


#: Runs a recipe in forks of a process that has imported everything: once to the end, then killed again and again.
KILLER = """
import json, os, random, signal, sys, time
import datasets, filelock, haystack.components.joiners, jinja2, matplotlib.figure, pyarrow, torch
import rocketqa_haystack, trainers
from rocketqa_haystack import FAISSBM25Retriever, RocketQARanker, RocketQARetriever
from trainers import run_recipe
torch.set_num_threads(1)
recipe, whole, killed = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
kills, seed = int(sys.argv[4]), int(sys.argv[5])

def start(output):
    child = os.fork()
    if not child:
        try:
            run_recipe({**recipe, "output": output}, show_progress=False)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child

begin = time.monotonic()
assert os.waitpid(start(whole), 0)[1] == 0
took = time.monotonic() - begin
generator, done = random.Random(seed), 0
while done < kills:
    child = start(killed)
    time.sleep(generator.uniform(0.02, 0.5) * took)
    os.kill(child, signal.SIGKILL)
    done += 1
    if os.waitpid(child, 0)[1] == 0:
        break
assert os.waitpid(start(killed), 0)[1] == 0
print("killed", done)
"""


#: ROCKETQA_KILLS is the number of kills of a longer test, of both recipes.
KILLS = os.environ.get("ROCKETQA_KILLS", "")


@pytest.mark.parametrize("recipe", ["rocketqav2", "rocketqa"] if KILLS else ["rocketqav2"])
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(
    recipe: str, small: Path, model: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = values(recipe, small, model, whole)
    result = subprocess.run(
        [sys.executable, "-c", KILLER, json.dumps(settings), str(whole), str(killed), KILLS or "3", "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stderr
    assert "killed" in result.stdout
    assert_same(whole, killed, exactly=True)


def assert_same(one: Path, two: Path, *, exactly: bool) -> None:
    """Two runs have the same stages, each done once, and the same measures and models at their ends."""
    first, second = stages(one), stages(two)
    assert first.keys() == second.keys()
    for name, record in first.items():
        if not name.startswith("deliver"):
            assert second[name]["outcome"] == record["outcome"], name
    assert max(Counter(finished(two)).values()) == 1
    reports = [
        next(r for n, r in run.items() if n.startswith("deliver"))["outcome"]["report"] for run in (first, second)
    ]
    assert reports[0] == reports[1]
    for model in ("retriever", "ranker"):
        weights = [load_file(run / model / "model.safetensors") for run in (one, two)]
        first_weights, second_weights = (torch.cat([each[name].flatten() for name in weights[0]]) for each in weights)
        # As a whole: where a gradient is hardly more than its rounding, AdamW makes a step of it all the same.
        distance = (first_weights - second_weights).norm() / first_weights.norm()
        assert distance <= (0 if exactly else 1e-5), model


def test_two_processes_give_the_run_of_one(v2: tuple[Values, Path, Mapping[str, Any]], tmp_path: Path) -> None:
    recipe, output, _ = v2
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "output": str(tmp_path / "run")}))
    launch = [
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
        "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0",
    ]  # fmt: skip
    result = subprocess.run(
        [sys.executable, *launch, "-m", "rocketqa_haystack.cli.main", "run", str(tmp_path / "recipe.yaml")],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    assert_same(output, tmp_path / "run", exactly=False)
    assert {record["processes"] for record in stages(tmp_path / "run").values()} == {2}


def test_a_run_folder_is_for_one_run_at_a_time(v2: tuple[Values, Path, Mapping[str, Any]]) -> None:

    recipe, output, _ = v2
    program = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(output / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(RecipeError, match="another process is at work in this run folder"):
            run_recipe(recipe, show_progress=False)
    finally:
        holder.communicate("\n")


@pytest.mark.parametrize("name", ["quick", "rocketqa", "rocketqav2", "in-house-small", "no-labels"])
def test_every_example_is_a_recipe_with_a_header(name: str, small: Path) -> None:
    file = Path(__file__).parents[1] / "examples" / "recipes" / f"{name}.yaml"
    text = file.read_text()
    assert text.startswith(f"# {name}: ")
    assert "rocketqa run" in text or "rocketqa_haystack.cli.main run" in text
    recipe = make_recipe({**yaml.safe_load(text), "collection": str(small)})
    if name in ("quick", "no-labels"):
        make = {"rocketqa": rocketqa, "rocketqav2": rocketqav2}[recipe.recipe]
        assert ordered(make(recipe))[-1].name == "deliver"
