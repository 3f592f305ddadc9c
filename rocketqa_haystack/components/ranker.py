"""A query and Documents to re-ordered Documents."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import ComponentDevice, Secret
from numpy.typing import NDArray

from rocketqa_haystack.components.model_options import DEFAULT_TOKEN, ModelOptions
from rocketqa_haystack.components.passages import (
    check_documents,
    check_meta_fields,
    check_query,
    has_visible_text,
    to_passages,
)
from rocketqa_haystack.encoders import CrossEncoder
from rocketqa_haystack.encoders.cross_encoder import sigmoid
from rocketqa_haystack.top_k import check_top_k


@component
class RocketQARanker:
    """
    Re-orders Documents by their relevance to a query with a RocketQA cross-encoder, or any of sentence-transformers.

    ### Usage example

    ```python
    from haystack import Document
    from rocketqa_haystack import RocketQARanker

    ranker = RocketQARanker(model="cross-encoder/ms-marco-MiniLM-L6-v2", top_k=1)
    documents = [Document(content="Paris"), Document(content="Berlin")]
    print(ranker.run(query="City in Germany", documents=documents)["documents"][0].content)
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
        top_k: int = 10,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = " ",
        scale_score: bool = True,
        score_threshold: float | None = None,
        retriever_weight: float = 0.0,
        distinct_texts: bool = False,
        progress_bar: bool = False,
    ) -> None:
        """
        Creates a RocketQARanker component.

        :param model:
            A model folder, an official RocketQA name such as `v2_marco_ce`, or a Hugging Face id; in this order. Any
            sentence-transformers cross-encoder with one or two outputs works.
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
        :param top_k:
            The number of documents to return at most.
        :param meta_fields_to_embed:
            Metadata fields that make up the title. If `None`, the field `title`; `[]` reads the content alone.
        :param embedding_separator:
            Joins the values of several metadata fields to one title.
        :param scale_score:
            If `True`, scores are probabilities (the sigmoid of the logit; for a model with two outputs, the softmax);
            if `False`, logits (for two outputs, their difference). The order is that of the logits in both cases.
        :param score_threshold:
            Documents with a lower score are left out.
        :param retriever_weight:
            The logit of a document is that of the cross-encoder plus this weight times the score that the document
            comes with, its similarity to the query. 0 goes by the cross-encoder alone. A cross-encoder trained on few
            questions gains from the retriever's opinion; one over the retriever's training temperature (20, for
            cosines) puts both on one scale.
        :param distinct_texts:
            If `True`, Documents without text that can be seen are left out, and of several with the same text all but
            the most relevant: a reader or a language model behind the ranker gains nothing from them.
        :param progress_bar:
            If `True`, shows a progress bar.
        :raises TypeError: If `model` is not a name.
        :raises ValueError: If `top_k` is not > 0, another number is not finite, or `dtype` is unknown.
        """
        check_top_k(top_k)
        for name, number in (("score_threshold", score_threshold), ("retriever_weight", retriever_weight)):
            if number is not None and not (isinstance(number, Real) and math.isfinite(number)):
                raise ValueError(f"{name} must be a finite number, but got {number!r}")
        self._options = ModelOptions(model, device, token, dtype, revision, local_files_only, trust_remote_code)
        self.top_k = top_k
        self.meta_fields_to_embed = check_meta_fields(meta_fields_to_embed)
        self.embedding_separator = embedding_separator
        self.scale_score = scale_score
        self.score_threshold = score_threshold
        self.retriever_weight = retriever_weight
        self.distinct_texts = distinct_texts
        self.progress_bar = progress_bar
        self._encoder: CrossEncoder | None = None

    def to_dict(self) -> dict[str, Any]:
        """
        Serializes the component to a dictionary.

        :returns: Dictionary with serialized data.
        """
        return default_to_dict(
            self,
            **self._options.to_init_parameters(),
            top_k=self.top_k,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
            scale_score=self.scale_score,
            score_threshold=self.score_threshold,
            retriever_weight=self.retriever_weight,
            distinct_texts=self.distinct_texts,
            progress_bar=self.progress_bar,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RocketQARanker:
        """
        Deserializes the component from a dictionary.

        :param data: Dictionary to deserialize from.
        :returns: Deserialized component.
        """
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """
        Loads the model.

        :raises ModelError: If there is no such model, or it is no cross-encoder.
        """
        if self._encoder is None:
            self._encoder = CrossEncoder.from_pretrained(**self._options.from_pretrained_arguments())

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """
        Re-orders Documents. Of several with the same id, the one with the highest score is kept.

        :param query: The query.
        :param documents: The Documents; they are not changed.
        :param top_k: The number of documents to return at most; overrides the value given at initialization.
        :param scale_score: Overrides the value given at initialization.
        :param score_threshold: Overrides the value given at initialization.
        :returns: A dictionary with the key `documents`: copies of the Documents, the most relevant first, with their
            relevance in `score`.
        :raises TypeError: If `query` is not a string, or `documents` is not a list of Documents.
        :raises ValueError: If `top_k` is not > 0, or `retriever_weight` is set and a document has no score.
        """
        check_query(query, "RocketQARanker")
        check_documents(documents, "RocketQARanker")
        top_k = self.top_k if top_k is None else top_k
        check_top_k(top_k)
        scale_score = self.scale_score if scale_score is None else scale_score
        score_threshold = self.score_threshold if score_threshold is None else score_threshold
        candidates = _without_repeats(documents)
        if self.distinct_texts:
            candidates = [document for document in candidates if has_visible_text(document.content or "")]
        if not candidates:
            return {"documents": []}
        self.warm_up()
        assert self._encoder is not None
        passages = to_passages(candidates, self.meta_fields_to_embed, self.embedding_separator)
        logits = self._encoder.logits([(query, passage) for passage in passages], show_progress=self.progress_bar)
        if self.retriever_weight:
            logits = logits + np.float32(self.retriever_weight) * _retriever_scores(candidates)
        scores = sigmoid(logits) if scale_score else logits
        # Ranked by the logit: sigmoids of large logits are equal in float32.
        order = np.argsort(-logits, kind="stable")
        ranked = [replace(candidates[i], score=float(scores[i])) for i in order]
        if self.distinct_texts:
            ranked = _first_of_each_text(ranked)
        if score_threshold is not None:
            ranked = [
                document for document in ranked if document.score is not None and document.score >= score_threshold
            ]
        return {"documents": ranked[:top_k]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """
        Re-orders Documents without blocking the event loop; otherwise as `run`.

        :param query: The query.
        :param documents: The Documents.
        :param top_k: The number of documents to return at most; overrides the value given at initialization.
        :param scale_score: Overrides the value given at initialization.
        :param score_threshold: Overrides the value given at initialization.
        :returns: A dictionary with the key `documents`.
        """
        return await asyncio.to_thread(
            self.run,
            query=query,
            documents=documents,
            top_k=top_k,
            scale_score=scale_score,
            score_threshold=score_threshold,
        )


def _without_repeats(documents: list[Document]) -> list[Document]:
    best: dict[str, Document] = {}
    for document in documents:
        if document.id not in best or _score(document) > _score(best[document.id]):
            best[document.id] = document
    return list(best.values())


def _first_of_each_text(ranked: list[Document]) -> list[Document]:
    first: dict[str, Document] = {}
    for document in ranked:
        first.setdefault((document.content or "").strip(), document)
    return list(first.values())


def _retriever_scores(documents: list[Document]) -> NDArray[np.float32]:
    for document in documents:
        if document.score is None:
            raise ValueError(f"retriever_weight needs the retriever's scores, but document {document.id!r} has none")
        if not math.isfinite(document.score):
            raise ValueError(f"the score of document {document.id!r} is {document.score}")
    return np.asarray([document.score for document in documents], dtype=np.float32)


def _score(document: Document) -> float:
    return float("-inf") if document.score is None else document.score
