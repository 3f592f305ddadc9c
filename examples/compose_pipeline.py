# %% [markdown]
"""
# Compose a pipeline

Shows: the two pipelines of question answering, one that indexes documents and one that is asked, how the second
becomes a folder that `rocketqa serve` takes, and how a filter narrows a search.

Takes: about ten seconds on 2 CPU cores, without a model hub.

Expect: for each question the three passages of a small handbook that are nearest to it, the right one mostly first;
the same out of the YAML file; then a search in the passages on one topic.

From the repository's root:

    python examples/compose_pipeline.py
    python examples/compose_pipeline.py --ranker build/demo/ranker      # re-ranked, by a model that `make demo` trains
    rocketqa serve build/examples/handbook                              # the page to ask on
"""

# %%
import argparse
import sys
from pathlib import Path

from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.document_stores.types import DuplicatePolicy

from rocketqa_haystack import FAISSDocumentStore, RocketQADocumentEmbedder, RocketQARanker, RocketQARetriever
from rocketqa_haystack.data import read_corpus
from rocketqa_haystack.encoders.packaged import small_encoder

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--corpus", type=Path, default=Path("examples/handbook/corpus.jsonl"))
parser.add_argument("--retriever", type=Path, default=None, help="a dual encoder; all-MiniLM-L6-v2 by default")
parser.add_argument("--ranker", type=Path, default=None, help="a cross-encoder, if there is one")
parser.add_argument("--output", type=Path, default=Path("build/examples/handbook"))
arguments = parser.parse_args([] if "ipykernel" in sys.modules else None)  # a notebook has no command line


def place(model: Path) -> Path:
    """A folder by its full path, so that the pipeline can be loaded from anywhere; a name on a hub as it is."""
    return model.resolve() if model.exists() else model


retriever_model = place(arguments.retriever or small_encoder())
ranker_model = arguments.ranker and place(arguments.ranker)

# %% [markdown]
"""
## Indexing

Documents go through the embedder into the store: a folder with an SQLite database and a FAISS index. What stands in
`meta` can be filtered on; `title` is read by the models as well.
"""

# %%
documents = [
    Document(id=id, content=passage.text, meta={"title": passage.title, "topic": id.split("-")[0]})
    for id, passage in read_corpus(arguments.corpus)
]
store = FAISSDocumentStore(path=arguments.output.resolve() / "store", similarity="cosine")
indexing = Pipeline()
indexing.add_component("embedder", RocketQADocumentEmbedder(model=retriever_model))
indexing.add_component("writer", DocumentWriter(store, policy=DuplicatePolicy.OVERWRITE))
indexing.connect("embedder", "writer")
written = indexing.run({"embedder": {"documents": documents}})["writer"]["documents_written"]
print(f"{written} passages indexed")

# %% [markdown]
"""
## Asking

A retriever finds candidates; a re-ranker, where there is one, reads each of them together with the question.
"""

# %%
asking = Pipeline()
asking.add_component(
    "retriever", RocketQARetriever(model=retriever_model, document_store=store, top_k=20 if ranker_model else 3)
)
if ranker_model:
    asking.add_component("ranker", RocketQARanker(model=ranker_model, top_k=3))
    asking.connect("retriever.documents", "ranker.documents")
last = "ranker" if ranker_model else "retriever"


def ask(pipeline: Pipeline, question: str) -> list[Document]:
    """The passages that a pipeline finds."""
    inputs = {name: {"query": question} for name, sockets in pipeline.inputs().items() if "query" in sockets}
    found: list[Document] = pipeline.run(inputs)[last]["documents"]
    return found


QUESTIONS = [
    "how many days off do I have?",
    "my computer asks for a password that I forgot",
    "where do we go when it burns?",
]
for question in QUESTIONS:
    print(f"\n{question}")
    for document in ask(asking, question):
        print(f"  {document.score:.3f}  {document.meta['title']}: {document.content}")

# %% [markdown]
"""
## Keeping it

A pipeline is a YAML file. `import rocketqa_haystack` allows exactly this project's classes to be loaded from one.
"""

# %%
(arguments.output / "pipeline.yaml").write_text(asking.dumps(), encoding="utf-8")
loaded = Pipeline.loads((arguments.output / "pipeline.yaml").read_text(encoding="utf-8"))
assert [d.id for d in ask(loaded, QUESTIONS[0])] == [d.id for d in ask(asking, QUESTIONS[0])]
print(f"\nThe same from {arguments.output / 'pipeline.yaml'}; ask it on a page: rocketqa serve {arguments.output}")

# %% [markdown]
"""
## Filters

They are applied before the search, so that as many passages are found as there are.
"""

# %%
only_travel = {"field": "meta.topic", "operator": "==", "value": "travel"}
found = loaded.get_component("retriever").run(query=QUESTIONS[0], filters=only_travel)["documents"]
print(f"\nOn travel alone: {', '.join(document.meta['title'] for document in found)}")
