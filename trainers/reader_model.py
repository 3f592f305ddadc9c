"""The model of a reader: a transformer with a start and an end logit for every token."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForQuestionAnswering, AutoTokenizer, set_seed

from rocketqa_haystack.encoders.attention import use_chunked_attention
from rocketqa_haystack.encoders.errors import ModelError
from rocketqa_haystack.encoders.loading import is_folder, resolve, transformer_subfolder
from rocketqa_haystack.encoders.precision import resolve_dtype

#: What TransformersExtractiveReader multiplies the sum of a span's logits by before it takes the sigmoid.
CALIBRATION = 0.1

#: In the name of every parameter of the answer head.
HEAD = "qa_outputs"

#: Tokens of a window, as in TransformersExtractiveReader.
MAX_LENGTH = 384

#: Tokens of a passage of some hundred words.
TYPICAL_TOKENS = 150


class Reader:
    """An extractive reader: a transformers model for question answering, and its tokenizer.

    Attributes:
        model: A transformer with a start and an end logit for every token.
        tokenizer: A fast one, whose `model_max_length` is `max_length`.
        max_length: Tokens of a window of passage with the question.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int) -> None:
        tokenizer.model_max_length = max_length
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        device: str | None = None,
        dtype: str = "float32",
        max_length: int | None = None,
        seed: int = 0,
    ) -> Reader:
        """Loads a reader; an encoder or language model gets a new answer head.

        Args:
            model: A folder, an official RocketQA name or a Hugging Face id.
            device: Such as `cpu` or `cuda:0`; None is the CPU.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            max_length: Tokens of a window; None is what the model was trained with, 384 at most.
            seed: Of the new head's random weights.

        Raises:
            ModelError: There is no such model, it can have no answer head, or it cannot read `max_length` tokens.
        """
        name, target = resolve(model), torch.device(device or "cpu")
        is_folder(name)  # which refuses what is no model's name
        set_seed(seed)
        place = {"subfolder": transformer_subfolder(name)}
        try:
            config = AutoConfig.from_pretrained(name, **place)
            trained = any(kind.endswith("ForQuestionAnswering") for kind in config.architectures or ())
            tokenizer = AutoTokenizer.from_pretrained(name, **place)
            loaded = AutoModelForQuestionAnswering.from_pretrained(
                name, config=config, dtype=resolve_dtype(dtype, target), use_safetensors=True, **place
            )
        except Exception as error:  # the library raises many kinds, with messages of many lines
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"{model} cannot be loaded as a reader: {reason}") from error
        if not tokenizer.is_fast:
            raise ModelError(f"{model} has no fast tokenizer, which tells where a token stands in the text")
        head = [part for path, part in loaded.named_modules() if path.endswith(HEAD) and isinstance(part, nn.Linear)]
        if not head:
            raise ModelError(f"{model} is a {config.model_type}, whose answer head is not one that can be trained here")
        if not trained:
            # At first a passage is as likely to answer as not: the odds of its tokens add up to 1.
            head[0].weight.data.div_(CALIBRATION)
            head[0].bias.data.fill_(-math.log(TYPICAL_TOKENS) / CALIBRATION)
        positions = getattr(config, "max_position_embeddings", MAX_LENGTH)
        if config.model_type in ("roberta", "xlm-roberta", "camembert"):
            positions -= 2  # which count from the padding's id
        length = min(MAX_LENGTH, positions, tokenizer.model_max_length) if max_length is None else max_length
        if not 16 <= length <= positions:
            raise ModelError(f"max_length must be between 16 and the {positions} tokens {model} reads, not {length}")
        loaded.to(target)
        if target.type == "cpu":
            use_chunked_attention(loaded)
        loaded.eval()
        return cls(loaded, tokenizer, length)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a model folder: weights as safetensors, and a tokenizer that knows the length of a window."""
        self.model.save_pretrained(str(folder))
        self.tokenizer.save_pretrained(str(folder))
