"""`rocketqa search`: questions to the passages of a document store."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def search(
    store: Path,
    question: str,
    model: str,
    ranker: str | None = None,
    top_k: int = 5,
    candidates: int = 50,
    retriever_weight: float = 0.0,
    dtype: str = "auto",
    device: str | None = None,
) -> None:
    """Search a document store and print the passages found.

    Args:
        store: The folder that `rocketqa index` wrote.
        question: The question, in quotes.
        model: The dual encoder that the passages were indexed with.
        ranker: A cross-encoder that re-orders the candidates; without it the order is the retriever's.
        top_k: Passages to print.
        candidates: Passages that the retriever hands to the ranker.
        retriever_weight: Weight of the retriever's score, added to the ranker's logit; 0 goes by the ranker alone.
        dtype: Precision: auto (bfloat16 where it is computed natively), float32, bfloat16 or float16.
        device: Such as cpu or cuda:0; the best there is by default.
    """
    from haystack.utils import ComponentDevice

    from rocketqa_haystack import DualEncoder, FAISSDocumentStore, RocketQARanker

    if not (store / "documents.sqlite").is_file():
        raise ValueError(f"{store} is no document store; `rocketqa index` makes one")
    encoder = DualEncoder.from_pretrained(model, dtype=dtype, device=device)
    vector = encoder.encode_queries([question])[0]
    with FAISSDocumentStore(path=store, similarity=encoder.store_similarity) as document_store:
        documents = document_store.embedding_retrieval(vector, top_k=candidates if ranker else top_k)
    if ranker is not None:
        reranker = RocketQARanker(
            model=ranker,
            top_k=top_k,
            dtype=dtype,
            device=ComponentDevice.from_str(device) if device is not None else None,
            retriever_weight=retriever_weight,
        )
        documents = reranker.run(question, documents)["documents"]
    print_passages(documents)


def print_passages(documents: Sequence[Any]) -> None:
    """Prints ranked Haystack Documents: rank, score, title and the beginning of the text."""
    if not documents:
        print("  nothing found")
    for rank, document in enumerate(documents, start=1):
        title = str(document.meta.get("title") or document.id)
        print(f"{rank:>3}. {document.score:.4f}  {textwrap.shorten(title, 100)}")
        print(textwrap.indent(textwrap.fill(textwrap.shorten(document.content or "", 300), 100), " " * 13))
