"""The Haystack component that searches a FAISSDocumentStore."""

from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.document_stores.types import FilterPolicy, apply_filter_policy

from rocketqa_haystack.document_stores.faiss.document_store import FAISSDocumentStore
from rocketqa_haystack.top_k import check_top_k


@component
class FAISSEmbeddingRetriever:
    """
    Retrieves the documents of a FAISSDocumentStore whose embeddings are most similar to the query's.

    The documents must have been written with embeddings, and the query embedded by the same model. Filtered searches
    are exact, others as exact as the store's type of index, which is so unless another one was asked for.

    ### Usage example
    ```python
    from haystack import Document
    from rocketqa_haystack import FAISSDocumentStore, FAISSEmbeddingRetriever

    store = FAISSDocumentStore()
    store.write_documents(
        [
            Document(content="The pool opens at seven.", embedding=[0.9, 0.1], meta={"floor": 0}),
            Document(content="Breakfast is served until ten.", embedding=[0.2, 0.8], meta={"floor": 1}),
        ]
    )
    retriever = FAISSEmbeddingRetriever(document_store=store, top_k=1)

    print(retriever.run(query_embedding=[1.0, 0.0])["documents"][0].content)
    # The pool opens at seven.
    ```
    """

    def __init__(
        self,
        *,
        document_store: FAISSDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool | None = None,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
        search_parameters: dict[str, Any] | None = None,
    ) -> None:
        """
        Create the FAISSEmbeddingRetriever component.

        :param document_store: The store to search.
        :param filters: Narrow the search down to the documents that match.
        :param top_k: How many documents to return at most; greater than 0.
        :param scale_score: Whether to bring the scores between 0 and 1, see `FAISSDocumentStore.embedding_retrieval`.
        :param return_embedding: Whether documents come with their embeddings; None for what the store was made with.
        :param filter_policy: Whether filters given at run time replace these (`REPLACE`) or are combined with them
            (`MERGE`).
        :param search_parameters: How thoroughly an approximate index is searched, in place of what the store was made
            with, see `FAISSDocumentStore`.
        :raises TypeError: If `document_store` is no FAISSDocumentStore.
        :raises ValueError: If `top_k` is not greater than 0.
        """
        if not isinstance(document_store, FAISSDocumentStore):
            raise TypeError(f"document_store must be a FAISSDocumentStore, but got {type(document_store).__name__}")
        check_top_k(top_k)
        self.document_store = document_store
        self.filters = filters
        self.top_k = top_k
        self.scale_score = scale_score
        self.return_embedding = return_embedding
        self.filter_policy = FilterPolicy.from_str(filter_policy) if isinstance(filter_policy, str) else filter_policy
        self.search_parameters = search_parameters

    def to_dict(self) -> dict[str, Any]:
        """
        Serializes the component to a dictionary.

        :returns: The dictionary.
        """
        return default_to_dict(
            self,
            document_store=self.document_store,
            filters=self.filters,
            top_k=self.top_k,
            scale_score=self.scale_score,
            return_embedding=self.return_embedding,
            filter_policy=self.filter_policy.value,
            search_parameters=self.search_parameters,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "FAISSEmbeddingRetriever":
        """
        Deserializes the component from a dictionary.

        :param data: The dictionary of `to_dict`.
        :returns: The component.
        """
        parameters = dict(data.get("init_parameters", {}))
        if "filter_policy" in parameters:
            parameters["filter_policy"] = FilterPolicy.from_str(parameters["filter_policy"])
        return default_from_dict(cls, {**data, "init_parameters": parameters})

    @component.output_types(documents=list[Document])
    def run(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        scale_score: bool | None = None,
        return_embedding: bool | None = None,
        search_parameters: dict[str, Any] | None = None,
    ) -> dict[str, list[Document]]:
        """
        Retrieve documents.

        What is not given here is as it was given to the component.

        :param query_embedding: The query's embedding, of as many dimensions as the documents'.
        :param filters: Filters, combined with the component's by its `filter_policy`.
        :param top_k: How many documents to return at most; greater than 0.
        :param scale_score: Whether to bring the scores between 0 and 1.
        :param return_embedding: Whether documents come with their embeddings.
        :param search_parameters: How thoroughly an approximate index is searched.
        :returns: `documents`, best first, with their scores.
        :raises ValueError: If `top_k` is not greater than 0, or the query's embedding has another dimension than the
            documents' or holds NaN.
        :raises DocumentStoreError: If there are documents, but none with an embedding.
        """
        search = self._search(query_embedding, filters, top_k, scale_score, return_embedding, search_parameters)
        return {"documents": self.document_store.embedding_retrieval(**search)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        scale_score: bool | None = None,
        return_embedding: bool | None = None,
        search_parameters: dict[str, Any] | None = None,
    ) -> dict[str, list[Document]]:
        """
        Retrieve documents without blocking the event loop.

        What is not given here is as it was given to the component.

        :param query_embedding: The query's embedding, of as many dimensions as the documents'.
        :param filters: Filters, combined with the component's by its `filter_policy`.
        :param top_k: How many documents to return at most; greater than 0.
        :param scale_score: Whether to bring the scores between 0 and 1.
        :param return_embedding: Whether documents come with their embeddings.
        :param search_parameters: How thoroughly an approximate index is searched.
        :returns: `documents`, best first, with their scores.
        :raises ValueError: If `top_k` is not greater than 0, or the query's embedding has another dimension than the
            documents' or holds NaN.
        :raises DocumentStoreError: If there are documents, but none with an embedding.
        """
        search = self._search(query_embedding, filters, top_k, scale_score, return_embedding, search_parameters)
        return {"documents": await self.document_store.embedding_retrieval_async(**search)}

    def _search(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None,
        top_k: int | None,
        scale_score: bool | None,
        return_embedding: bool | None,
        search_parameters: dict[str, Any] | None,
    ) -> dict[str, Any]:
        return {
            "query_embedding": query_embedding,
            "filters": apply_filter_policy(self.filter_policy, self.filters, filters),
            "top_k": self.top_k if top_k is None else top_k,
            "scale_score": self.scale_score if scale_score is None else scale_score,
            "return_embedding": self.return_embedding if return_embedding is None else return_embedding,
            "search_parameters": self.search_parameters if search_parameters is None else search_parameters,
        }
