"""The cross-encoder: a query and a passage read together, to one relevance score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sized
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder as SentenceTransformersCrossEncoder
from tqdm.auto import tqdm
from transformers import set_seed

from rocketqa_haystack.data import Passage, as_passage
from rocketqa_haystack.encoders.engine import CHUNK_SIZE, run_model
from rocketqa_haystack.encoders.errors import ModelError
from rocketqa_haystack.encoders.loading import kind_of, load_model, resolve
from rocketqa_haystack.encoders.settings import EncoderSettings, check_lengths, save_settings

#: A query and the passage to judge.
Pair = tuple[str, Passage | str]


class CrossEncoder:
    """Scores (query, passage) pairs (RocketQA, figure 1; RocketQAv2, section 3.1).

    Any sentence-transformers cross-encoder with one or two outputs serves. The passage's title and text go in as one
    segment.

    Attributes:
        model: The sentence-transformers model.
        settings: The length of a pair.
    """

    def __init__(self, model: SentenceTransformersCrossEncoder, settings: EncoderSettings | None = None) -> None:
        if model.num_labels not in (1, 2):
            raise ModelError(f"a re-ranker has one or two outputs; this cross-encoder has {model.num_labels}")
        self.model = model
        self.settings = check_lengths(settings or EncoderSettings(title="join"), model)

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
    ) -> CrossEncoder:
        """Loads a cross-encoder; the arguments and errors are those of `DualEncoder.from_pretrained`."""
        loaded, settings = load_model(
            SentenceTransformersCrossEncoder,
            "cross-encoder",
            model,
            device=device,
            dtype=dtype,
            token=token,
            revision=revision,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
        )
        return cls(loaded, settings)

    @classmethod
    def for_training(
        cls, model: str | Path, *, device: str | None = None, seed: int = 0, prior: float = 0.5
    ) -> CrossEncoder:
        """A cross-encoder in float32 to train: one that is there, or an encoder or language model with a new head.

        Args:
            model: A folder, an official RocketQA name or a Hugging Face id.
            device: Such as `cpu` or `cuda:0`; None takes the best there is.
            seed: Of the new head's random weights.
            prior: The probability that a new head starts from, best the share of relevant pairs in the training data.
                From another one, a loss over single pairs first moves the whole encoder to that share, and a small
                encoder may not learn to tell pairs apart afterwards.

        Raises:
            ModelError: There is no such model, or it can have no head (two towers, static embeddings).
        """
        set_seed(seed)
        model = resolve(model)
        trained = kind_of(model) == "cross-encoder"
        loaded, settings = load_model(
            SentenceTransformersCrossEncoder if trained else partial(SentenceTransformersCrossEncoder, num_labels=1),
            "cross-encoder",
            model,
            new_head=not trained,
            device=device,
            dtype="float32",
            token=None,
            revision=None,
            local_files_only=False,
            trust_remote_code=False,
        )
        if not trained:
            _start_from(loaded, prior)
            # The lengths of a dual encoder's sides are not the length of a pair.
            settings = EncoderSettings(title="join", title_separator=settings.title_separator)
        return cls(loaded, settings)

    @property
    def prompt(self) -> str | None:
        """The prompt that the model puts in front of a pair."""
        name = self.model.default_prompt_name
        return self.model.prompts.get(name) if name is not None else None

    def pair_text(self, pair: Pair) -> tuple[str, str]:
        """What the model reads for a pair: the query, and the passage's title and text joined.

        Raises:
            TypeError: The pair is not (string, passage).
        """
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise TypeError(f"a pair must be (query string, passage), not {pair!r:.80}")
        return pair[0], self.settings.joined(as_passage(pair[1]))

    def score(self, pairs: Iterable[Pair], *, show_progress: bool = False) -> NDArray[np.float32]:
        """Relevance as a number.

        Returns:
            Scores of shape [number of pairs]. With one output, it under the model's own activation, as
            sentence-transformers' `predict` gives it; with two, the softmax probability of the second (relevant).

        Raises:
            TypeError: A pair is not (string, passage).
        """
        logits = self.logits(pairs, show_progress=show_progress)
        if self.model.num_labels == 2:
            return sigmoid(logits)
        activation = self.model.activation_fn or torch.nn.Identity()
        activated: torch.Tensor = activation(torch.from_numpy(logits).unsqueeze(1))
        return activated.squeeze(1).numpy()

    def logits(self, pairs: Iterable[Pair], *, show_progress: bool = False) -> NDArray[np.float32]:
        """Relevance before any activation.

        Returns:
            One logit for each pair, shape [number of pairs]. With two outputs, their difference, whose sigmoid is the
            softmax probability of the second class. A sigmoid of the logits is a probability for both kinds.
        """
        total = len(pairs) if isinstance(pairs, Sized) else None
        results = [np.empty(0, dtype=np.float32)]
        texts = map(self.pair_text, pairs)
        with tqdm(total=total, desc="Scoring pairs", unit="pair", disable=not show_progress) as progress:
            while chunk := list(islice(texts, CHUNK_SIZE)):
                results.append(self._chunk_logits(chunk, progress))
        return np.concatenate(results)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a model folder that sentence-transformers and the components load as it is.

        Weights are saved in the precision they are held in: load with `dtype="float32"` to keep all of them.
        """
        if self.settings.passage_max_length is not None:  # so that plain sentence-transformers cuts pairs where we do
            self.model.max_seq_length = self.settings.passage_max_length
        self.model.save_pretrained(str(folder), create_model_card=False)
        if self.settings != EncoderSettings(title="join"):
            save_settings(folder, self.settings)

    def _chunk_logits(self, chunk: list[tuple[str, str]], progress: tqdm[Any]) -> NDArray[np.float32]:
        outputs = np.empty((len(chunk), self.model.num_labels), dtype=np.float32)
        run_model(
            self.model,
            chunk,
            outputs,
            "scores",
            prompt=self.prompt,
            max_length=self.settings.passage_max_length,
            progress=progress,
        )
        return outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs[:, 0]


def _start_from(model: SentenceTransformersCrossEncoder, prior: float) -> None:
    """Sets the bias of a new head of one output, where it has one, to the log-odds of this probability."""
    heads = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1]
    if heads and heads[-1].bias is not None:
        torch.nn.init.constant_(heads[-1].bias, math.log(prior / (1 - prior)))


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logistic function, elementwise: logits to probabilities."""
    return torch.from_numpy(logits).sigmoid().numpy()
