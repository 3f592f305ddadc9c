"""Compose the same pipelines over a document store of Haystack's: PostgreSQL with pgvector, or Qdrant.

From the repository's root:

    make demo                                       # once: trains the retriever that this example uses
    pip install "rocketqa-haystack[stores]"
    python examples/other_stores.py qdrant          # Qdrant's local mode, in memory
    PG_CONN_STR=postgresql://user:password@host:5432/database python examples/other_stores.py pgvector

Takes seconds. Expect the document on resetting the remote first. For pgvector, the database must have the extension
(Debian: apt-get install postgresql postgresql-15-pgvector); its table `rocketqa_example` is made anew.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter

from rocketqa_haystack import DualEncoder, RocketQADocumentEmbedder, RocketQARetriever

DOCUMENTS = [
    Document(content="Hold the power key for ten seconds.", meta={"title": "Resetting the remote"}),
    Document(content="The battery lasts two days.", meta={"title": "Power"}),
]


def qdrant(dimension: int) -> tuple[Any, Any]:
    """A store in Qdrant and the retriever that searches it."""
    from haystack_integrations.components.retrievers.qdrant import QdrantEmbeddingRetriever
    from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

    store = QdrantDocumentStore(location=":memory:", embedding_dim=dimension, similarity="cosine")
    return store, QdrantEmbeddingRetriever(document_store=store)


def pgvector(dimension: int) -> tuple[Any, Any]:
    """A store in PostgreSQL, at the address in PG_CONN_STR, and the retriever that searches it."""
    from haystack_integrations.components.retrievers.pgvector import PgvectorEmbeddingRetriever
    from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

    store = PgvectorDocumentStore(
        table_name="rocketqa_example",
        embedding_dimension=dimension,
        vector_function="cosine_similarity",
        recreate_table=True,
    )
    return store, PgvectorEmbeddingRetriever(document_store=store)


def main(kind: str, model: Path) -> None:
    """Indexes the documents and asks a question."""
    store, retriever = {"qdrant": qdrant, "pgvector": pgvector}[kind](DualEncoder.from_pretrained(model).dimension)
    indexing = Pipeline()
    indexing.add_component("embedder", RocketQADocumentEmbedder(model=model))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder", "writer")
    indexing.run({"embedder": {"documents": DOCUMENTS}})

    asking = Pipeline()
    asking.add_component("retriever", RocketQARetriever(model=model, retriever=retriever, top_k=10))
    result = asking.run({"retriever": {"query": "my remote does not respond"}})
    for document in result["retriever"]["documents"]:
        print(f"{document.score:.4f}  {document.meta['title']}: {document.content}")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in ("qdrant", "pgvector"):
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "build/demo/retriever"))
