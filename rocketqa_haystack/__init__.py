"""RocketQA and RocketQAv2 for Haystack: retriever, re-ranker, embedders and a FAISS document store."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from haystack.core.serialization import allow_deserialization_module

if TYPE_CHECKING:
    from rocketqa_haystack.components import (
        RocketQAAnswerRanker,
        RocketQADocumentEmbedder,
        RocketQARanker,
        RocketQARetriever,
        RocketQATextEmbedder,
    )
    from rocketqa_haystack.data import Passage
    from rocketqa_haystack.document_stores.faiss import (
        FAISSBM25Retriever,
        FAISSDocumentStore,
        FAISSEmbeddingRetriever,
    )
    from rocketqa_haystack.encoders import CrossEncoder, DualEncoder

__version__ = "0.1.0"

__all__ = [
    "CrossEncoder",
    "DualEncoder",
    "FAISSBM25Retriever",
    "FAISSDocumentStore",
    "FAISSEmbeddingRetriever",
    "Passage",
    "RocketQAAnswerRanker",
    "RocketQADocumentEmbedder",
    "RocketQARanker",
    "RocketQARetriever",
    "RocketQATextEmbedder",
]

_HOMES = {
    "CrossEncoder": "rocketqa_haystack.encoders.cross_encoder",
    "DualEncoder": "rocketqa_haystack.encoders.dual_encoder",
    "FAISSBM25Retriever": "rocketqa_haystack.document_stores.faiss.bm25_retriever",
    "FAISSDocumentStore": "rocketqa_haystack.document_stores.faiss.document_store",
    "FAISSEmbeddingRetriever": "rocketqa_haystack.document_stores.faiss.retriever",
    "Passage": "rocketqa_haystack.data.passage",
    "RocketQAAnswerRanker": "rocketqa_haystack.components.answer_ranker",
    "RocketQADocumentEmbedder": "rocketqa_haystack.components.document_embedder",
    "RocketQARanker": "rocketqa_haystack.components.ranker",
    "RocketQARetriever": "rocketqa_haystack.components.retriever",
    "RocketQATextEmbedder": "rocketqa_haystack.components.text_embedder",
}

# Haystack refuses to load classes of modules that are not on its allowlist. These hold the classes that stand in a
# pipeline's YAML, and nothing else.
for _name, _home in _HOMES.items():
    if _name not in ("CrossEncoder", "DualEncoder", "Passage"):
        allow_deserialization_module(_home)


def __getattr__(name: str) -> Any:
    # Imported at first use: torch and sentence-transformers take seconds, which `rocketqa --help` should not.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
