"""Documents to Documents with vectors."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import ComponentDevice, Secret

from rocketqa_haystack.components.model_options import DEFAULT_TOKEN, ModelOptions
from rocketqa_haystack.components.passages import check_documents, check_meta_fields, to_passages
from rocketqa_haystack.encoders import DualEncoder


@component
class RocketQADocumentEmbedder:
    """
    Computes the vectors of Documents with a RocketQA dual encoder, or any sentence-transformers model.

    A document's title goes in as the first segment, as RocketQA's passage encoder was trained, not glued on by a
    separator; models without a `rocketqa.json` get title and text joined by a space.

    ### Usage example

    ```python
    from haystack import Document
    from rocketqa_haystack import RocketQADocumentEmbedder

    embedder = RocketQADocumentEmbedder(model="sentence-transformers/all-MiniLM-L6-v2")
    documents = [Document(content="Formulated by Einstein in 1905.", meta={"title": "Special relativity"})]
    print(embedder.run(documents)["documents"][0].embedding[:3])
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
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = " ",
        progress_bar: bool = True,
    ) -> None:
        """
        Creates a RocketQADocumentEmbedder component.

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
        :param meta_fields_to_embed:
            Metadata fields that make up the title. If `None`, the field `title`; `[]` embeds the content alone.
        :param embedding_separator:
            Joins the values of several metadata fields to one title.
        :param progress_bar:
            If `True`, shows a progress bar.
        :raises TypeError: If `model` is not a name.
        :raises ValueError: If `dtype` is unknown.
        """
        self._options = ModelOptions(model, device, token, dtype, revision, local_files_only, trust_remote_code)
        self.meta_fields_to_embed = check_meta_fields(meta_fields_to_embed)
        self.embedding_separator = embedding_separator
        self.progress_bar = progress_bar
        self._encoder: DualEncoder | None = None

    def to_dict(self) -> dict[str, Any]:
        """
        Serializes the component to a dictionary.

        :returns: Dictionary with serialized data.
        """
        return default_to_dict(
            self,
            **self._options.to_init_parameters(),
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
            progress_bar=self.progress_bar,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RocketQADocumentEmbedder:
        """
        Deserializes the component from a dictionary.

        :param data: Dictionary to deserialize from.
        :returns: Deserialized component.
        """
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """
        Loads the model.

        :raises ModelError: If there is no such model, or it is no dual encoder.
        """
        if self._encoder is None:
            self._encoder = DualEncoder.from_pretrained(**self._options.from_pretrained_arguments())

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """
        Embeds Documents.

        :param documents: The Documents; they are not changed.
        :returns: A dictionary with the key `documents`: copies with their vectors in `embedding`.
        :raises TypeError: If `documents` is not a list of Documents.
        """
        check_documents(documents, "RocketQADocumentEmbedder")
        self.warm_up()
        assert self._encoder is not None
        passages = to_passages(documents, self.meta_fields_to_embed, self.embedding_separator)
        vectors = self._encoder.encode_passages(passages, show_progress=self.progress_bar)
        return {"documents": [replace(d, embedding=v.tolist()) for d, v in zip(documents, vectors, strict=True)]}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, list[Document]]:
        """
        Embeds Documents without blocking the event loop; otherwise as `run`.

        :param documents: The Documents.
        :returns: A dictionary with the key `documents`.
        """
        return await asyncio.to_thread(self.run, documents=documents)
