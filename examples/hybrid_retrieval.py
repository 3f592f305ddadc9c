# %% [markdown]
"""
# Hybrid retrieval

Shows: BM25 and a RocketQA retriever side by side, joined by reciprocal rank fusion, and a re-ranker on what both found.
BM25 finds the exact word (a form's number, a name), the retriever finds the meaning.

Takes: about a minute on 2 CPU cores, most of it for a small re-ranker, which is trained where none is given.

Expect: a table with RR@10 of BM25, the retriever, both joined, and both joined and re-ranked, on the test questions of
a small handbook. With sixteen questions differences of a few hundredths are chance.

From the repository's root:

    python examples/hybrid_retrieval.py
    python examples/hybrid_retrieval.py --ranker build/demo/ranker
"""

# %%
import argparse
import sys
from pathlib import Path

from haystack import Document, Pipeline
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from rocketqa_haystack import DualEncoder, FAISSDocumentStore, RocketQARanker, RocketQARetriever
from rocketqa_haystack.data import load_collection
from rocketqa_haystack.encoders.packaged import small_encoder
from rocketqa_haystack.evaluation import Run, format_table, measure
from trainers import CrossEncoderTrainer, TrainingSettings, mine_groups

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--collection", type=Path, default=Path("examples/handbook"), help="a folder in BEIR layout")
parser.add_argument("--retriever", type=Path, default=None, help="a dual encoder; all-MiniLM-L6-v2 by default")
parser.add_argument("--ranker", type=Path, default=None, help="a cross-encoder; trained here by default")
parser.add_argument("--output", type=Path, default=Path("build/examples/hybrid"))
parser.add_argument("--epochs", type=int, default=6, help="of the re-ranker's training")
arguments = parser.parse_args([] if "ipykernel" in sys.modules else None)  # a notebook has no command line
retriever_model = arguments.retriever or small_encoder()
collection = load_collection(arguments.collection, "test")
encoder = DualEncoder.from_pretrained(retriever_model)
vectors = encoder.encode_passages(list(collection.corpus.values()))

# %% [markdown]
"""
## A re-ranker, where none is given

It learns to tell a question's passage from those that the retriever takes for it.
"""

# %%
ranker_model = arguments.ranker or arguments.output / "ranker"
if arguments.ranker is None:  # one that was trained so before is not trained again
    groups = mine_groups(encoder, load_collection(arguments.collection, "train"), k=10, vectors=vectors)
    settings = TrainingSettings(epochs=arguments.epochs, learning_rate=1e-4)
    CrossEncoderTrainer(retriever_model, groups, settings=settings, negatives=7).train(ranker_model)

# %% [markdown]
"""
## Two stores, two retrievers, one list

Reciprocal rank fusion looks at ranks and not at scores, which BM25 and a dual encoder have on different scales.
"""

# %%
documents = [Document(id=id, content=p.text, meta={"title": p.title}) for id, p in collection.corpus.items()]
dense_store = FAISSDocumentStore(similarity=encoder.store_similarity)
dense_store.write_vectors(documents, vectors)
lexical_store = InMemoryDocumentStore()
lexical_store.write_documents(documents)

pipeline = Pipeline()
pipeline.add_component("bm25", InMemoryBM25Retriever(lexical_store, top_k=20))
pipeline.add_component("retriever", RocketQARetriever(model=retriever_model, document_store=dense_store, top_k=20))
pipeline.add_component("joiner", DocumentJoiner(join_mode="reciprocal_rank_fusion", top_k=20))
pipeline.add_component("ranker", RocketQARanker(model=ranker_model, top_k=10))
pipeline.connect("bm25", "joiner")
pipeline.connect("retriever", "joiner")
pipeline.connect("joiner.documents", "ranker.documents")

# %% [markdown]
"""
## What each stage is worth
"""

# %%
STAGES = {"bm25": "BM25", "retriever": "retriever", "joiner": "joined", "ranker": "joined, re-ranked"}
runs: dict[str, Run] = {name: {} for name in STAGES.values()}
for query_id, question in collection.queries.items():
    inputs = {name: {"query": question} for name in ("bm25", "retriever", "ranker")}
    outputs = pipeline.run(inputs, include_outputs_from=set(STAGES))
    for stage, name in STAGES.items():
        runs[name][query_id] = {document.id: document.score for document in outputs[stage]["documents"]}
print(format_table({name: measure(run, collection.qrels, ["RR@10", "R@5"]) for name, run in runs.items()}))
