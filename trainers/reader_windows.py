"""A question and a passage as a reader sees them: windows of tokens, and the answers' places in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from rocketqa_haystack.data.answers import Span
from rocketqa_haystack.encoders.batching import TokenizedTexts


@dataclass(frozen=True)
class Window:
    """The question and a part of the passage.

    Attributes:
        ids: The tokens.
        in_text: Those of the passage, from the first to the one after the last.
        characters: Where each of these stands in the passage's text.
        spans: First and last token of each answer that the window holds.
    """

    ids: list[int]
    in_text: tuple[int, int]
    characters: list[Span]
    spans: tuple[Span, ...] = ()


def windows(
    tokenizer: PreTrainedTokenizerBase,
    query: str,
    text: str,
    spans: Sequence[Span] = (),
    *,
    max_length: int,
    stride: int,
) -> list[Window]:
    """All windows of a passage, cut as Haystack's TransformersExtractiveReader cuts them.

    Those without any token of the passage are left out: there is none for an empty text. An answer is in a window that
    holds the whole of it. One too long for every window is in each that holds a part, as that part.

    Args:
        tokenizer: A fast one.
        query: The question.
        text: The passage's text.
        spans: The answers' places in it, in characters.
        max_length: Tokens of a window at most.
        stride: Tokens of the passage that a window has in common with the one before.
    """
    output = tokenizer(
        [query], [text], truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True
    )
    found = []
    for encoding in output.encodings:
        places = [place for place, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
        if places:
            begin, stop = places[0], places[-1] + 1
            found.append(Window(encoding.ids, (begin, stop), encoding.offsets[begin:stop]))
    for whole in (True, False):
        marked = [_with_spans(window, spans, whole) for window in found]
        if any(window.spans for window in marked):
            return marked
    return found


def _with_spans(window: Window, spans: Sequence[Span], whole: bool) -> Window:
    starts, ends = np.asarray(window.characters).T
    begin = window.in_text[0]
    held = []
    for start, end in spans:
        tokens = np.flatnonzero((starts < end) & (ends > start))
        if len(tokens) and (not whole or (starts[0] <= start and end <= ends[-1])):
            held.append((begin + int(tokens[0]), begin + int(tokens[-1])))
    return Window(window.ids, window.in_text, window.characters, tuple(dict.fromkeys(held)))


def as_tokenized(chosen: Sequence[Window], padding: int) -> TokenizedTexts:
    """Windows as the model's batches are made of. There are no segment ids: the reader gives none to the model."""
    lengths = np.array([len(window.ids) for window in chosen], dtype=np.int64)
    ids = np.concatenate([window.ids for window in chosen]).astype(np.int32)
    columns = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return TokenizedTexts(lengths, columns, {"input_ids": padding, "attention_mask": 0}, False, {})
