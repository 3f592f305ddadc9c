"""The Haystack component that searches a FAISSDocumentStore by words."""

import asyncio
from dataclasses import replace
from threading import Lock
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.document_stores.types import FilterPolicy, apply_filter_policy

from rocketqa_haystack.data import Passage
from rocketqa_haystack.document_stores.faiss.document_store import FAISSDocumentStore
from rocketqa_haystack.evaluation.lexical import BM25
from rocketqa_haystack.top_k import check_top_k


@component
class FAISSBM25Retriever:
    """
    Retrieves the documents of a FAISSDocumentStore that share words with the query, by BM25 with English stemming.

    It is the lexical half of hybrid retrieval. The words of all documents, title and content, are indexed in memory at
    warm-up, which takes about ten seconds for 100,000 passages; documents written later are found after `refresh`.

    ### Usage example
    ```python
    from haystack import Document
    from rocketqa_haystack import FAISSBM25Retriever, FAISSDocumentStore

    store = FAISSDocumentStore()
    store.write_documents([Document(content="The pool opens at seven."), Document(content="Breakfast ends at ten.")])
    retriever = FAISSBM25Retriever(document_store=store, top_k=1)

    print(retriever.run(query="when does the pool open?")["documents"][0].content)
    # The pool opens at seven.
    ```
    """

    def __init__(
        self,
        *,
        document_store: FAISSDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        """
        Create the FAISSBM25Retriever component.

        :param document_store: The store to search.
        :param filters: Narrow the search down to the documents that match.
        :param top_k: How many documents to return at most; greater than 0.
        :param filter_policy: Whether filters given at run time replace these (`REPLACE`) or are combined with them
            (`MERGE`).
        :raises TypeError: If `document_store` is no FAISSDocumentStore.
        :raises ValueError: If `top_k` is not greater than 0.
        """
        if not isinstance(document_store, FAISSDocumentStore):
            raise TypeError(f"document_store must be a FAISSDocumentStore, but got {type(document_store).__name__}")
        check_top_k(top_k)
        self.document_store = document_store
        self.filters = filters
        self.top_k = top_k
        self.filter_policy = FilterPolicy.from_str(filter_policy) if isinstance(filter_policy, str) else filter_policy
        self._lock = Lock()
        self._index: tuple[BM25, dict[str, Document]] | None = None

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
            filter_policy=self.filter_policy.value,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "FAISSBM25Retriever":
        """
        Deserializes the component from a dictionary.

        :param data: The dictionary of `to_dict`.
        :returns: The component.
        """
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """
        Index the words of all documents, once.
        """
        with self._lock:
            if self._index is None:
                documents = {d.id: d for d in self.document_store.filter_documents(return_embedding=False)}
                passages = {
                    id: Passage(document.content or "", str(document.meta.get("title") or ""))
                    for id, document in documents.items()
                }
                self._index = (BM25(passages), documents)

    def refresh(self) -> None:
        """
        Forget the index, so that the next search makes it anew of the documents that are there then.
        """
        with self._lock:
            self._index = None

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """
        Retrieve documents.

        :param query: The query.
        :param filters: Filters, combined with the component's by its `filter_policy`.
        :param top_k: How many documents to return at most; greater than 0.
        :returns: `documents`, best first, with their scores; only such as have a word of the query.
        :raises TypeError: If `query` is not a string.
        :raises ValueError: If `top_k` is not greater than 0.
        """
        if not isinstance(query, str):
            raise TypeError(f"FAISSBM25Retriever expects a string as query, but got {type(query).__name__}")
        top_k = self.top_k if top_k is None else top_k
        check_top_k(top_k)
        self.warm_up()
        index = self._index
        assert index is not None
        bm25, documents = index
        applied = apply_filter_policy(self.filter_policy, self.filters, filters)
        among = {d.id for d in self.document_store.filter_documents(applied, False)} if applied else None
        found = bm25.search({"query": query}, top_k if among is None else len(documents))["query"]
        ranked = [(id, score) for id, score in found.items() if among is None or id in among][:top_k]
        return {"documents": [replace(documents[id], score=score) for id, score in ranked]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """
        Retrieve documents without blocking the event loop; otherwise as `run`.

        :param query: The query.
        :param filters: Filters, combined with the component's by its `filter_policy`.
        :param top_k: How many documents to return at most; greater than 0.
        :returns: `documents`, best first, with their scores.
        """
        return await asyncio.to_thread(self.run, query=query, filters=filters, top_k=top_k)
