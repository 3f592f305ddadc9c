"""Tokenised texts, and their grouping into batches that fit a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import Router, Transformer
from transformers import PreTrainedTokenizerBase

from rocketqa_haystack.encoders.pairs import finish_pairs, has_official_pairs, without_surrogates

# A fast tokenizer sets its truncation anew for each call, and raises "Already borrowed" when another thread is using
# it; retrievers are called from several threads (MultiQueryTextRetriever). Tokenizing has threads of its own inside.
_TOKENIZER_LOCK = Lock()

#: A text, or a (first, second) segment pair.
Text = str | tuple[str, str]

#: Tokens of a padded batch. A larger one falls out of a CPU's caches, a smaller one leaves cores waiting; a GPU wants
#: batches some thirty times larger.
TOKEN_BUDGETS = {"cpu": 2_000}
DEFAULT_TOKEN_BUDGET = 65_536


def token_budget_for(device: torch.device) -> int:
    """The budget in tokens, padding included, of one forward pass on a kind of device."""
    return TOKEN_BUDGETS.get(device.type, DEFAULT_TOKEN_BUDGET)


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts as token ids, not yet padded.

    Attributes:
        lengths: Tokens of each text, shape [n].
        columns: What the model takes for each token (`input_ids`, `attention_mask`, ...): all texts' values one after
            another, shape [sum of lengths].
        padding: The value that fills up each column.
        pad_left: Whether a batch is filled up in front of its texts.
        extra: What the model takes for the batch as a whole (`modality`, `prompt_length`, `task`).
    """

    lengths: NDArray[np.int64]
    columns: dict[str, NDArray[np.int32]]
    padding: dict[str, int]
    pad_left: bool
    extra: dict[str, Any]

    def batches(self, token_budget: int) -> Iterator[NDArray[np.int64]]:
        """Positions of the texts of each batch: longest first, so that texts of about one length come together.

        A batch has at most `token_budget` tokens with its padding, or a single text.
        """
        order = np.argsort(-self.lengths, kind="stable")
        start = 0
        while start < len(order):
            size = max(1, token_budget // max(1, int(self.lengths[order[start]])))
            yield order[start : start + size]
            start += size

    def features(self, batch: NDArray[np.int64], device: torch.device) -> dict[str, Any]:
        """One batch as the model takes it: tensors of shape [len(batch), longest text]."""
        lengths = self.lengths[batch]
        width = int(lengths.max())
        ends = np.cumsum(self.lengths)
        # The place of every token of the batch in a column, and in the padded matrix.
        within = np.concatenate([np.arange(n) for n in lengths]) if len(batch) else np.empty(0, dtype=np.int64)
        source = np.repeat(ends[batch] - lengths, lengths) + within
        offset = np.repeat(width - lengths, lengths) if self.pad_left else 0
        rows = np.repeat(np.arange(len(batch)), lengths)
        features: dict[str, Any] = dict(self.extra)
        for name, column in self.columns.items():
            matrix = np.full((len(batch), width), self.padding[name], dtype=np.int64)
            matrix[rows, within + offset] = column[source]
            features[name] = torch.from_numpy(matrix).to(device)
        return features


def tokenizes_texts(model: BaseModel) -> bool:
    """Whether the model's first module is a transformer with a tokenizer, for each of its routes.

    Others (static embeddings, bags of words) have no token matrix to batch.
    """
    first = model[0]
    if isinstance(first, Router):
        entries = [next(iter(route.children()), None) for route in first.sub_modules.values()]
    else:
        entries = [first]
    return all(isinstance(m, Transformer) and isinstance(m.tokenizer, PreTrainedTokenizerBase) for m in entries)


def tokenize(
    model: BaseModel,
    texts: Sequence[Text],
    *,
    prompt: str | None = None,
    task: str | None = None,
    max_length: int | None = None,
) -> TokenizedTexts:
    """Tokenises texts once, through the model's own preprocessing, without padding.

    Args:
        model: A sentence-transformers model for which `tokenizes_texts` holds.
        texts: Texts or segment pairs, not empty.
        prompt: Put in front of every text.
        task: `query` or `document`, for models that treat them differently.
        max_length: Longest text in tokens, special tokens included; None leaves it to the model.
    """
    tokenizer = _tokenizer(model, task)
    options: dict[str, Any] = {"task": task} if task is not None else {}
    official = has_official_pairs(tokenizer)
    if max_length is not None:
        options["max_length"] = max_length + int(official)
    with _TOKENIZER_LOCK:
        output: Mapping[str, Any] = model.preprocess(
            [without_surrogates(text) for text in texts],
            prompt=prompt,
            processing_kwargs={"text": {"padding": False}, "common": {"return_tensors": None}},
            **options,
        )
    if official:
        finish_pairs(output, max_length, closes_empty=task is not None)
    ids = output["input_ids"]
    lengths = np.fromiter((len(row) for row in ids), dtype=np.int64, count=len(ids))
    columns, extra = {}, {}
    for name, value in output.items():
        if isinstance(value, list) and len(value) == len(ids) and isinstance(value[0], list):
            flat = (token for row in value for token in row)
            columns[name] = np.fromiter(flat, dtype=np.int32, count=int(lengths.sum()))
        else:
            extra[name] = value
    padding = dict.fromkeys(columns, 0)
    padding["input_ids"] = tokenizer.pad_token_id or 0
    if "token_type_ids" in columns:
        padding["token_type_ids"] = tokenizer.pad_token_type_id
    return TokenizedTexts(lengths, columns, padding, tokenizer.padding_side == "left", extra)


def _tokenizer(model: BaseModel, task: str | None) -> PreTrainedTokenizerBase:
    """Two towers may have different tokenizers."""
    first: Any = model[0]
    if isinstance(first, Router) and task is not None and task in first.sub_modules:
        first = next(iter(first.sub_modules[task].children()))
    tokenizer: PreTrainedTokenizerBase = first.tokenizer
    return tokenizer
