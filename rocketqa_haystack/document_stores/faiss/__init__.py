from rocketqa_haystack.document_stores.faiss.bm25_retriever import FAISSBM25Retriever
from rocketqa_haystack.document_stores.faiss.document_store import FAISSDocumentStore
from rocketqa_haystack.document_stores.faiss.retriever import FAISSEmbeddingRetriever

__all__ = ["FAISSBM25Retriever", "FAISSDocumentStore", "FAISSEmbeddingRetriever"]
