"""Segment pairs as the official toolkit builds them.

transformers cuts a pair that is too long one token at a time from the longer segment, as the toolkit does, but where
both are equally long from either; the toolkit then takes the second. And where a cross-encoder's second segment is
empty, the toolkit leaves out the `[SEP]` after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

#: The key in tokenizer_config.json that asks for these rules. It travels with the tokenizer, through training as well.
OFFICIAL_PAIRS = "rocketqa_pairs"


def has_official_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the rules of the official toolkit hold for a tokenizer."""
    return bool(tokenizer.init_kwargs.get(OFFICIAL_PAIRS))


def finish_pairs(output: Mapping[str, Any], max_length: int | None, *, closes_empty: bool) -> None:
    """Makes the tokens of each text the official ones, in place.

    Cutting one token at a time, it does not matter where one stops in between: transformers cuts to one token more than
    the limit, which takes both segments to the point where only the official rule is left to apply.

    Args:
        output: What the tokenizer gave: columns such as `input_ids`, texts cut to `max_length` + 1 tokens.
        max_length: Longest text in tokens; None cuts nothing.
        closes_empty: Keep the second `[SEP]` where the second segment is empty.
    """
    columns = [output[name] for name in ("input_ids", "attention_mask", "token_type_ids")]
    for row, types in enumerate(output["token_type_ids"]):
        second = sum(types)  # tokens of the second segment with its [SEP]; 0 for a single text
        if max_length is not None and len(types) > max_length:
            first_is_longer = len(types) - second - 2 > second - 1
            _drop(columns, row, len(types) - second - 2 if second and first_is_longer else -2)
            second -= int(bool(second) and not first_is_longer)
        if second == 1 and not closes_empty:
            _drop(columns, row, -1)


def _drop(columns: list[list[list[int]]], row: int, position: int) -> None:
    for column in columns:
        del column[row][position]


def without_surrogates(text: Any) -> Any:
    """A text or pair without halves of surrogate pairs, which no tokenizer takes and the toolkit passes over."""
    if isinstance(text, tuple):
        return tuple(map(without_surrogates, text))
    return text.encode("utf-8", errors="ignore").decode("utf-8")
