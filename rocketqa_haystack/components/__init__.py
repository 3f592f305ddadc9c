"""Haystack components: thin, serialisable, no tensor code."""

from rocketqa_haystack.components.answer_ranker import RocketQAAnswerRanker
from rocketqa_haystack.components.document_embedder import RocketQADocumentEmbedder
from rocketqa_haystack.components.ranker import RocketQARanker
from rocketqa_haystack.components.retriever import RocketQARetriever
from rocketqa_haystack.components.text_embedder import RocketQATextEmbedder

__all__ = [
    "RocketQAAnswerRanker",
    "RocketQADocumentEmbedder",
    "RocketQARanker",
    "RocketQARetriever",
    "RocketQATextEmbedder",
]
