"""Query text to vector."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from haystack import component, default_from_dict, default_to_dict
from haystack.utils import ComponentDevice, Secret

from rocketqa_haystack.components.model_options import DEFAULT_TOKEN, ModelOptions
from rocketqa_haystack.components.passages import check_query
from rocketqa_haystack.encoders import DualEncoder


@component
class RocketQATextEmbedder:
    """
    Computes the vector of a query with a RocketQA dual encoder, or any sentence-transformers model.

    Queries and passages may have encoders, lengths and prompts of their own: use this for queries and
    `RocketQADocumentEmbedder` for documents.

    ### Usage example

    ```python
    from rocketqa_haystack import RocketQATextEmbedder

    embedder = RocketQATextEmbedder(model="sentence-transformers/all-MiniLM-L6-v2")
    print(embedder.run(text="who proposed the theory of relativity?")["embedding"][:3])
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
    ) -> None:
        """
        Creates a RocketQATextEmbedder component.

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

        :raises TypeError: If `model` is not a name.
        :raises ValueError: If `dtype` is unknown.
        """
        self._options = ModelOptions(model, device, token, dtype, revision, local_files_only, trust_remote_code)
        self._encoder: DualEncoder | None = None

    def to_dict(self) -> dict[str, Any]:
        """
        Serializes the component to a dictionary.

        :returns: Dictionary with serialized data.
        """
        return default_to_dict(self, **self._options.to_init_parameters())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RocketQATextEmbedder:
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

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """
        Embeds a query.

        :param text: The query.
        :returns: A dictionary with the key `embedding`: the vector, a list of as many floats as the model has
            dimensions.
        :raises TypeError: If `text` is not a string.
        """
        check_query(text, "RocketQATextEmbedder")
        self.warm_up()
        assert self._encoder is not None
        return {"embedding": self._encoder.encode_queries([text])[0].tolist()}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """
        Embeds a query without blocking the event loop; otherwise as `run`.

        :param text: The query.
        :returns: A dictionary with the key `embedding`.
        """
        return await asyncio.to_thread(self.run, text=text)
