"""Query text to Documents."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict, logging
from haystack.components.retrievers.types import EmbeddingRetriever
from haystack.core.serialization import component_to_dict
from haystack.document_stores.types import FilterPolicy, apply_filter_policy
from haystack.utils import ComponentDevice, Secret

from rocketqa_haystack.components.model_options import DEFAULT_TOKEN, ModelOptions
from rocketqa_haystack.components.passages import check_query
from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore, FAISSEmbeddingRetriever
from rocketqa_haystack.encoders import DualEncoder
from rocketqa_haystack.top_k import check_top_k

logger = logging.getLogger(__name__)


@component
class RocketQARetriever:
    """
    Retrieves Documents for a query string with a RocketQA dual encoder, or any sentence-transformers model.

    It embeds the query and searches a `FAISSDocumentStore`, or whatever a Haystack embedding retriever searches. It is
    a `TextRetriever`, so `MultiRetriever` and `MultiQueryTextRetriever` take it.

    ### Usage example

    ```python
    from haystack import Document
    from rocketqa_haystack import FAISSDocumentStore, RocketQADocumentEmbedder, RocketQARetriever

    model = "sentence-transformers/all-MiniLM-L6-v2"
    store = FAISSDocumentStore()
    documents = [Document(content="Paris is the capital of France."), Document(content="Berlin is in Germany.")]
    store.write_documents(RocketQADocumentEmbedder(model=model).run(documents)["documents"])

    retriever = RocketQARetriever(model=model, document_store=store, top_k=1)
    print(retriever.run(query="capital of France")["documents"][0].content)
    ```
    """

    def __init__(
        self,
        *,
        model: str | Path,
        device: ComponentDevice | None = None,
        token: Secret | None = DEFAULT_TOKEN,
        dtype: str = "auto",
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        document_store: FAISSDocumentStore | None = None,
        retriever: EmbeddingRetriever | None = None,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        """
        Creates a RocketQARetriever component.

        :param model:
            A model folder, an official RocketQA name such as `v2_marco_de`, or a Hugging Face id; in this order. Any
            sentence-transformers dual encoder works.
        :param device:
            The device to load the model on. If `None`, the default device is chosen.
        :param token:
            The API token to download private models from Hugging Face.
        :param dtype:
            The precision to compute in: `auto` (bfloat16 where it is computed natively, else float32), `float32`,
            `bfloat16` or `float16`.
        :param revision:
            The branch, tag or commit of a model on Hugging Face.
        :param local_files_only:
            If `True`, the model is not looked for on the network.
        :param trust_remote_code:
            If `True`, runs code that comes with the model. Leave it off unless you know the model.
        :param document_store:
            The store to search. Its documents must have been embedded with the same model.
        :param retriever:
            Instead of a store: a Haystack embedding retriever, such as `InMemoryEmbeddingRetriever`.
        :param filters:
            Filters that narrow the search.
        :param top_k:
            The number of documents to return at most.
        :param filter_policy:
            Whether filters given at run time replace those given here or are merged with them.
        :raises TypeError: If `model` is not a name, `document_store` is no FAISSDocumentStore, or `retriever` has no
            `run`.
        :raises ValueError: If not exactly one of `document_store` and `retriever` is given, or `top_k` is not > 0.
        """
        if (document_store is None) == (retriever is None):
            raise ValueError("RocketQARetriever needs either a document_store or a retriever, and not both")
        if document_store is not None and not isinstance(document_store, FAISSDocumentStore):
            raise TypeError(
                f"document_store must be a FAISSDocumentStore, but got {type(document_store).__name__}; "
                "for other stores give their embedding retriever as retriever"
            )
        if retriever is not None and not callable(getattr(retriever, "run", None)):
            raise TypeError(f"retriever must be a Haystack embedding retriever, but got {type(retriever).__name__}")
        check_top_k(top_k)
        self._options = ModelOptions(model, device, token, dtype, revision, local_files_only, trust_remote_code)
        self.document_store = document_store
        self.retriever = retriever
        self.filters = filters
        self.top_k = top_k
        self.filter_policy = (
            filter_policy if isinstance(filter_policy, FilterPolicy) else FilterPolicy.from_str(filter_policy)
        )
        self._encoder: DualEncoder | None = None
        self._search: Any = retriever
        if document_store is not None:
            self._search = FAISSEmbeddingRetriever(document_store=document_store)

    def to_dict(self) -> dict[str, Any]:
        """
        Serializes the component to a dictionary.

        :returns: Dictionary with serialized data.
        """
        return default_to_dict(
            self,
            **self._options.to_init_parameters(),
            document_store=self.document_store,
            retriever=component_to_dict(self.retriever, "retriever") if self.retriever is not None else None,
            filters=self.filters,
            top_k=self.top_k,
            filter_policy=self.filter_policy.value,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RocketQARetriever:
        """
        Deserializes the component from a dictionary.

        :param data: Dictionary to deserialize from.
        :returns: Deserialized component.
        """
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """
        Loads the model.

        :raises ModelError: If there is no such model, it is no dual encoder, or the store lacks its similarity.
        """
        if self._encoder is None:
            encoder = DualEncoder.from_pretrained(**self._options.from_pretrained_arguments())
            if self.document_store is not None:
                _check_similarity(encoder, self.document_store, self._options.model)
            self._encoder = encoder
        if hasattr(self._search, "warm_up"):
            self._search.warm_up()

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """
        Retrieves Documents.

        :param query: The query.
        :param filters: Filters that narrow the search; see `filter_policy`.
        :param top_k: The number of documents to return at most; overrides the value given at initialization.
        :returns: A dictionary with the key `documents`: the Documents, the most similar first, with their similarity in
            `score`.
        :raises TypeError: If `query` is not a string.
        :raises ValueError: If `top_k` is not > 0, or the store holds vectors of another dimension than the model's.
        """
        result: dict[str, list[Document]] = self._search.run(**self._search_arguments(query, filters, top_k))
        return {"documents": result["documents"]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """
        Retrieves Documents without blocking the event loop; otherwise as `run`.

        :param query: The query.
        :param filters: Filters that narrow the search; see `filter_policy`.
        :param top_k: The number of documents to return at most; overrides the value given at initialization.
        :returns: A dictionary with the key `documents`.
        """
        arguments = await asyncio.to_thread(self._search_arguments, query, filters, top_k)
        if hasattr(self._search, "run_async"):
            result = await self._search.run_async(**arguments)
        else:
            result = await asyncio.to_thread(self._search.run, **arguments)
        return {"documents": result["documents"]}

    def _search_arguments(self, query: str, filters: dict[str, Any] | None, top_k: int | None) -> dict[str, Any]:
        check_query(query, "RocketQARetriever")
        top_k = self.top_k if top_k is None else top_k
        check_top_k(top_k)
        self.warm_up()
        assert self._encoder is not None
        return {
            "query_embedding": self._encoder.encode_queries([query])[0].tolist(),
            "filters": apply_filter_policy(self.filter_policy, self.filters, filters),
            "top_k": top_k,
        }


def _check_similarity(encoder: DualEncoder, store: FAISSDocumentStore, model: str) -> None:
    needed = encoder.store_similarity
    if needed != store.similarity and not encoder.normalizes:
        logger.warning(
            "{model} compares by {needed}, but the store by {found}: make it with similarity='{needed}'.",
            model=model,
            needed=needed,
            found=store.similarity,
        )
