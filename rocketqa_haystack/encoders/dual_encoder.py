"""The dual encoder: queries and passages to vectors whose similarity is their relevance."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router, Transformer
from tqdm.auto import tqdm

from rocketqa_haystack.data import Passage, as_passage
from rocketqa_haystack.encoders.batching import Text, tokenizes_texts
from rocketqa_haystack.encoders.engine import CHUNK_SIZE, run_model
from rocketqa_haystack.encoders.errors import ModelError
from rocketqa_haystack.encoders.loading import load_model
from rocketqa_haystack.encoders.settings import EncoderSettings, check_lengths, save_settings

Side = Literal["query", "document"]
Item = TypeVar("Item")


class DualEncoder:
    """Encodes queries and passages to float32 vectors (RocketQA, section 3.2; RocketQAv2, section 3.1).

    Any sentence-transformers model serves, with its own pooling, normalisation, prompts and similarity. A folder with a
    `rocketqa.json` gets a passage as the segment pair (title, text), any other model gets them joined by a space.

    Attributes:
        model: The sentence-transformers model.
        settings: Lengths and title rule.
    """

    def __init__(self, model: SentenceTransformer, settings: EncoderSettings | None = None) -> None:
        self.model = model
        self.settings = check_lengths(settings or EncoderSettings(title="join"), model)
        self._batched = tokenizes_texts(model)

    def change_settings(self, **changes: int | str | None) -> None:
        """Takes those changes of the settings that are not None.

        Raises:
            ModelError: A length is greater than the model can read.
            ValueError: A value makes no sense.
        """
        self.settings = check_lengths(self.settings.updated(**changes), self.model)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        device: str | None = None,
        dtype: str = "auto",
        token: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
    ) -> DualEncoder:
        """Loads a dual encoder.

        Args:
            model: A model folder, also one in the official RocketQA form, an official name such as `v2_marco_de`, or a
                Hugging Face id; taken in this order.
            device: Such as `cpu` or `cuda:0`; None takes the best there is.
            dtype: `auto` (bfloat16 where it is computed natively, else float32), `float32`, `bfloat16` or `float16`.
            token: For private models on the Hugging Face Hub.
            revision: Branch, tag or commit on the Hub.
            local_files_only: Never ask the network.
            trust_remote_code: Run code that comes with the model. Off unless you know the model.

        Raises:
            ModelError: There is no such model, or it is none that can be used as a dual encoder.
        """
        loaded, settings = load_model(
            SentenceTransformer,
            "dual encoder",
            model,
            device=device,
            dtype=dtype,
            token=token,
            revision=revision,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
        )
        return cls(loaded, settings)

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        dimension = self.model.get_embedding_dimension()
        if dimension is None:  # some custom modules do not tell
            dimension = self.model.encode_query("?").shape[-1]
        return dimension

    @property
    def similarity(self) -> str:
        """The model's own similarity: `dot`, `cosine`, `euclidean` or `manhattan`."""
        return self.model.similarity_fn_name

    @property
    def store_similarity(self) -> Literal["inner_product", "cosine", "l2"]:
        """How a vector store must compare the vectors.

        Raises:
            ModelError: The model's similarity is that of manhattan.
        """
        match self.similarity:
            case "dot":
                return "inner_product"
            case "cosine":
                return "cosine"
            case "euclidean":
                return "l2"
        raise ModelError(f"this model compares by {self.similarity}; vector stores have dot products, cosines and L2")

    @property
    def normalizes(self) -> bool:
        """Whether all vectors have length 1, so that dot products are cosines."""
        last = self.model[-1]
        ends = (
            [list(route.children())[-1] for route in last.sub_modules.values()] if isinstance(last, Router) else [last]
        )
        return all(isinstance(end, Normalize) for end in ends)

    def encode_queries(self, queries: Iterable[str], *, show_progress: bool = False) -> NDArray[np.float32]:
        """Encodes queries.

        Returns:
            Vectors of shape [number of queries, dimension], in the order of the queries.

        Raises:
            TypeError: A query is not a string.
        """
        return _collect(
            self._stream(map(_as_query, _items(queries)), "query", queries, show_progress), queries, self.dimension
        )

    def encode_passages(self, passages: Iterable[Passage | str], *, show_progress: bool = False) -> NDArray[np.float32]:
        """Encodes passages.

        Returns:
            Vectors of shape [number of passages, dimension], in the order of the passages.

        Raises:
            TypeError: A passage is neither a `Passage` nor a string.
        """
        chunks = self.stream_passages(passages, show_progress=show_progress)
        return _collect(chunks, passages, self.dimension)

    def stream_passages(
        self, passages: Iterable[Passage | str], *, show_progress: bool = False
    ) -> Iterator[NDArray[np.float32]]:
        """Encodes passages of any number in constant memory.

        Yields:
            Vectors of the next passages, shape [at most 4,096, dimension].
        """
        return self._stream(map(self.passage_text, _items(passages)), "document", passages, show_progress)

    def passage_text(self, passage: Passage | str) -> Text:
        """What the model reads for a passage: a segment pair or one text, by the title rule."""
        passage = as_passage(passage)
        if self.settings.title == "pair":
            return passage.title, passage.text
        return self.settings.joined(passage)

    def prompt(self, side: Side) -> str | None:
        """The prompt that the model puts in front of a text of one side, resolved as sentence-transformers does."""
        names = ("query",) if side == "query" else ("document", "passage", "corpus")
        prompts = self.model.prompts
        name = next((name for name in names if prompts.get(name) is not None), self.model.default_prompt_name)
        return prompts.get(name) if name is not None else None

    def max_length(self, side: Side) -> int | None:
        """Longest text of one side in tokens; None where the model decides."""
        return self.settings.query_max_length if side == "query" else self.settings.passage_max_length

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a model folder that sentence-transformers and the components load as it is.

        Weights are saved in the precision they are held in: load with `dtype="float32"` to keep all of them.
        """
        for module in self.model.modules():
            if isinstance(module, Transformer):  # so that plain sentence-transformers cuts texts where we do
                module.query_length = self.settings.query_max_length or module.query_length
                module.document_length = self.settings.passage_max_length or module.document_length
        self.model.save_pretrained(str(folder), create_model_card=False)
        if self.settings != EncoderSettings(title="join"):
            save_settings(folder, self.settings)

    def _stream(
        self, texts: Iterator[Text], side: Side, source: object, show_progress: bool
    ) -> Iterator[NDArray[np.float32]]:
        total = len(source) if isinstance(source, Sized) else None
        unit, units = ("query", "queries") if side == "query" else ("passage", "passages")
        dimension = self.dimension
        with tqdm(total=total, desc=f"Encoding {units}", unit=unit, disable=not show_progress) as progress:
            while chunk := list(islice(texts, CHUNK_SIZE)):
                if self._batched:
                    vectors = np.empty((len(chunk), dimension), dtype=np.float32)
                    run_model(
                        self.model,
                        chunk,
                        vectors,
                        "sentence_embedding",
                        prompt=self.prompt(side),
                        task=side,
                        max_length=self.max_length(side),
                        progress=progress,
                    )
                else:
                    # Static embeddings have no padding to save: sentence-transformers' own loop is as good.
                    encode = self.model.encode_query if side == "query" else self.model.encode_document
                    with torch.inference_mode():
                        vectors = np.asarray(encode(chunk, show_progress_bar=False), dtype=np.float32)
                    progress.update(len(chunk))
                yield vectors


def _as_query(query: object) -> str:
    if not isinstance(query, str):
        raise TypeError(f"a query must be a string, not {type(query).__name__}: {query!r:.80}")
    return query


def _items(values: Iterable[Item]) -> Iterator[Item]:
    if isinstance(values, str | Passage):
        raise TypeError(f"expected a list of texts, not a single {type(values).__name__}")
    return iter(values)


def _collect(chunks: Iterator[NDArray[np.float32]], source: object, dimension: int) -> NDArray[np.float32]:
    """All chunks in one array: preallocated where the number is known, else grown by doubling."""
    vectors = np.empty((len(source) if isinstance(source, Sized) else CHUNK_SIZE, dimension), dtype=np.float32)
    filled = 0
    for chunk in chunks:
        if filled + len(chunk) > len(vectors):
            vectors.resize((2 * len(vectors) + len(chunk), dimension), refcheck=False)
        vectors[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    vectors.resize((filled, dimension), refcheck=False)
    return vectors
