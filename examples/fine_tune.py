# %% [markdown]
"""
# Fine-tune on an in-house corpus

Shows: what a team with a corpus and a few dozen questions does: measure what is there, train the retriever, mine hard
candidates with it, train the re-ranker on them, measure again, and keep both for a pipeline.

Takes: about a minute and a half on 2 CPU cores with the small handbook.

Expect: a table with RR@10 of BM25, the encoder as it came, the tuned retriever, and the re-ranker on top, on questions
that no training saw. A handbook of 24 passages is easy, and sixteen questions are few: look at the way, not at the
numbers; `make demo` and your own corpus have meaningful ones.

From the repository's root:

    python examples/fine_tune.py
    python examples/fine_tune.py --collection my-corpus --output my-models --epochs 3
"""

# %%
import argparse
import sys
from pathlib import Path

from rocketqa_haystack import CrossEncoder, DualEncoder
from rocketqa_haystack.data import check_groups, groups_from_collection, load_collection
from rocketqa_haystack.encoders.packaged import small_encoder
from rocketqa_haystack.evaluation import BM25, format_table, measure, rerank, retrieve
from trainers import CrossEncoderTrainer, DualEncoderTrainer, TrainingSettings, mine_groups

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--collection", type=Path, default=Path("examples/handbook"), help="a folder in BEIR layout")
parser.add_argument("--model", type=Path, default=None, help="what to start from; all-MiniLM-L6-v2 by default")
parser.add_argument("--output", type=Path, default=Path("build/examples/tuned"))
parser.add_argument("--epochs", type=int, default=6, help="of each of the two trainings")
arguments = parser.parse_args([] if "ipykernel" in sys.modules else None)  # a notebook has no command line
model = arguments.model or small_encoder()

# %% [markdown]
"""
## The corpus

A folder in BEIR layout: `corpus.jsonl` with the passages, `queries.jsonl` with the questions, and in `qrels/` which
passage answers which question, split into train, dev and test.
"""

# %%
train, dev, test = (load_collection(arguments.collection, split) for split in ("train", "dev", "test"))
groups = groups_from_collection(train)
sizes = f"{len(train.queries)} train, {len(dev.queries)} dev, {len(test.queries)} test"
print(f"{len(train.corpus)} passages; questions: {sizes}")
print(check_groups(groups))

# %% [markdown]
"""
## The retriever

Every other passage of the batch is a negative (in-batch negatives). The best weights on the dev questions are kept.
"""

# %%
retriever_folder, ranker_folder = arguments.output / "retriever", arguments.output / "ranker"
settings = TrainingSettings(epochs=arguments.epochs, batch_size=16, learning_rate=3e-5)
DualEncoderTrainer(model, groups, dev=dev, settings=settings).train(retriever_folder)

# %% [markdown]
"""
## The re-ranker

It is trained on what the tuned retriever finds: passages that are near the question and do not answer it.
"""

# %%
retriever = DualEncoder.from_pretrained(retriever_folder)
mined = mine_groups(retriever, train, k=10)
settings = TrainingSettings(epochs=arguments.epochs, batch_size=32, learning_rate=1e-4)
CrossEncoderTrainer(model, mined, settings=settings, negatives=7).train(ranker_folder)

# %% [markdown]
"""
## Before and after

The last row is the re-ranker's logit plus 20 times the retriever's cosine: one trained on few questions gains from the
retriever's opinion.
"""

# %%
runs = {
    "BM25": BM25(test.corpus).search(test.queries, 10),
    "as it came": retrieve(DualEncoder.from_pretrained(model), test.corpus, test.queries, 10),
    "tuned retriever": retrieve(retriever, test.corpus, test.queries, 10),
}
ranker = CrossEncoder.from_pretrained(ranker_folder)
runs["tuned, re-ranked"] = rerank(ranker, test.corpus, test.queries, runs["tuned retriever"], 10, retriever_weight=20)
print(format_table({name: measure(run, test.qrels, ["RR@10", "R@5"]) for name, run in runs.items()}))
print(f"\nWritten: {retriever_folder} and {ranker_folder}. Next: rocketqa index {arguments.collection} my-store ...")
