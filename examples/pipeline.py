"""Compose an indexing and a query pipeline, the ones of the README, over a handful of documents.

    make demo                                       # once: trains the two models that this example uses
    python examples/pipeline.py build/demo

Takes seconds. Expect the document on resetting the remote first, above the one on its battery.
"""

from __future__ import annotations

import sys
from pathlib import Path

from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter

from rocketqa_haystack import FAISSDocumentStore, RocketQADocumentEmbedder, RocketQARanker, RocketQARetriever

DOCUMENTS = [
    Document(content="Hold the power key for ten seconds.", meta={"title": "Resetting the remote"}),
    Document(content="The battery lasts two days.", meta={"title": "Power"}),
]


def main(models: Path) -> None:
    """Indexes the documents and asks a question."""
    store = FAISSDocumentStore()
    indexing = Pipeline()
    indexing.add_component("embedder", RocketQADocumentEmbedder(model=models / "retriever"))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder", "writer")
    indexing.run({"embedder": {"documents": DOCUMENTS}})

    asking = Pipeline()
    asking.add_component("retriever", RocketQARetriever(model=models / "retriever", document_store=store, top_k=50))
    asking.add_component("ranker", RocketQARanker(model=models / "ranker", top_k=3, retriever_weight=20))
    asking.connect("retriever", "ranker")
    question = "my remote does not respond"
    result = asking.run({"retriever": {"query": question}, "ranker": {"query": question}})
    for document in result["ranker"]["documents"]:
        print(f"{document.score:.4f}  {document.meta['title']}: {document.content}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo"))
