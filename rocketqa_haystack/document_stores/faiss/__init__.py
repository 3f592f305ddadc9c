from rocketqa_haystack.document_stores.faiss.document_store import FAISSDocumentStore
from rocketqa_haystack.document_stores.faiss.retriever import FAISSEmbeddingRetriever

__all__ = ["FAISSDocumentStore", "FAISSEmbeddingRetriever"]
