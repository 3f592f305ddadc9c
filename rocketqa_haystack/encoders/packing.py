"""BERT's layers without padding, for CPUs and without gradient.

The tokens of a batch's texts stand one after another, so that linear layers see nothing but tokens; each text goes
through PyTorch's fused attention on its own, so that no mask is needed. Within `reading_first_token` the last layer
computes no other token.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import groupby
from typing import Any

import torch
from sentence_transformers.base.model import BaseModel
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUActivation
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from rocketqa_haystack.encoders.attention import NAME
from rocketqa_haystack.encoders.bert import stacks_of
from rocketqa_haystack.encoders.first_token import only_first_token_is_read

#: Tokens of a batch. Nothing but the linear layers sees all of it, and they like large matrices; beyond this, glibc
#: gives the memory of small encoders back between layers.
TOKEN_BUDGET = 4_000

#: Matrices have a multiple of so many rows: for a new size, the library below first spends milliseconds making code.
ROWS = 128


_LENGTHS: ContextVar[list[int] | None] = ContextVar("lengths", default=None)


@contextmanager
def packed(lengths: list[int]) -> Iterator[None]:
    """Lets the models prepared by `pack_layers` leave out a batch's padding within the block.

    Args:
        lengths: Tokens of each text, which are padded at their end.
    """
    token = _LENGTHS.set(lengths)
    try:
        yield
    finally:
        _LENGTHS.reset(token)


def pack_layers(model: nn.Module) -> None:
    """Prepares the transformers in a model that are of BERT's shape; outside of `packed` they stay as they are."""
    keep_freed_memory()
    for encoder, heads in stacks_of(model):
        encoder.forward = PackedLayers(encoder, heads)


@cache
def keep_freed_memory() -> None:
    """Has the C library keep the memory of one layer's activations for the next one's.

    glibc hands freed memory back to the system until it has seen a large block freed; then it keeps up to twice that
    much. Without it, a quarter of the time goes into getting the same pages again and again.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)  # just below the largest block that glibc learns from


def packs(model: BaseModel) -> bool:
    """Whether `pack_layers` has prepared all the transformers of a model."""
    transformers = [module for module in model.modules() if isinstance(module, Transformer)]
    return bool(transformers) and all(
        any(isinstance(module.__dict__.get("forward"), PackedLayers) for module in transformer.modules())
        for transformer in transformers
    )


class PackedLayers:
    """Takes the place of `forward` in the stack of layers of a BERT-shaped model."""

    def __init__(self, encoder: nn.Module, heads: int) -> None:
        self.encoder = encoder
        self.heads = heads

    def __call__(self, hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        """The stack's result; within `packed`, zeros where no token was computed.

        Args:
            hidden_states: Shape [texts, longest text, width].
            args: The rest of what the stack takes.
            options: The same, by name.
        """
        texts, first_only = _LENGTHS.get(), only_first_token_is_read()
        if texts is None:
            return type(self.encoder).forward(self.encoder, hidden_states, *args, **options)
        lengths = torch.tensor(texts)
        tokens = torch.arange(hidden_states.shape[1]) < lengths.unsqueeze(1)
        states = fill_up(hidden_states[tokens])
        *layers, last = self.encoder.layer  # type: ignore[misc]
        for layer in layers:
            states = self._layer(layer, states, texts, None)
        if first_only:
            tokens = torch.arange(hidden_states.shape[1]).expand_as(tokens) == 0
        states = self._layer(last, states, texts, lengths.cumsum(0) - lengths if first_only else None)
        result = states.new_zeros(hidden_states.shape)
        result[tokens] = states[: int(tokens.sum())]
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=result)

    def _layer(self, layer: Any, states: Tensor, lengths: list[int], read: Tensor | None) -> Tensor:
        """One layer over all tokens, shape [tokens, width]; given `read`, over those alone, which are one a text."""
        attention, attending = layer.attention.self, layer.attention.output
        key, value = linear(attention.key, states), linear(attention.value, states)
        if read is not None:
            states = fill_up(states[read])
        attended = self._attend(linear(attention.query, states), key, value, lengths, one_query=read is not None)
        states = attending.LayerNorm(linear(attending.dense, attended).add_(states))
        widened = linear(layer.intermediate.dense, states, layer.intermediate.intermediate_act_fn)
        return layer.output.LayerNorm(linear(layer.output.dense, widened).add_(states))  # type: ignore[no-any-return]

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], one_query: bool) -> Tensor:
        """Attention within each text; neighbours of one length go together."""
        result, start, row = torch.empty_like(query), 0, 0
        for length, group in groupby(lengths):
            count = len(list(group))
            rows = count if one_query else count * length
            tokens = slice(start, start + count * length)
            attended = functional.scaled_dot_product_attention(
                self._heads(query[row : row + rows], count),
                self._heads(key[tokens], count),
                self._heads(value[tokens], count),
            )
            self._heads(result[row : row + rows], count).copy_(attended)
            start, row = tokens.stop, row + rows
        result[row:] = 0
        return result

    def _heads(self, states: Tensor, texts: int) -> Tensor:
        """Shape [texts, heads, length, width of a head] from [texts times length, width]."""
        return states.view(texts, -1, self.heads, states.shape[1] // self.heads).transpose(1, 2)


def fill_up(states: Tensor) -> Tensor:
    """Rows of zeros up to a multiple of `ROWS`."""
    return functional.pad(states, (0, 0, 0, -len(states) % ROWS))


def linear(layer: nn.Module, states: Tensor, activation: nn.Module | None = None) -> Tensor:
    """The layer's result, under the activation if one is given.

    In bfloat16 its bias is added, and GELU computed, inside the matrix product rather than in passes of their own.
    """
    if type(layer) is nn.Linear and states.dtype == layer.weight.dtype == torch.bfloat16 and computes_inside():
        exact_gelu = type(activation) is GELUActivation and activation.act is functional.gelu
        step: tuple[str, list[float], str] = ("gelu", [], "none") if exact_gelu else ("none", [], "")
        states = torch.ops.mkldnn._linear_pointwise(states, layer.weight, layer.bias, *step)
        return states if exact_gelu or activation is None else activation(states)
    states = layer(states)
    return states if activation is None else activation(states)


@cache
def computes_inside() -> bool:
    """Whether this build of PyTorch has the operator that its compiler puts in the place of linear layers on CPUs."""
    ones = torch.ones(2, 2, dtype=torch.bfloat16)
    try:
        found = torch.ops.mkldnn._linear_pointwise(-ones, ones, ones[0], "gelu", [], "none")
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(found, functional.gelu(-ones), atol=0.01)


def mask_unless_packed(**options: Any) -> Tensor | None:
    """The mask in the form of transformers' AttentionMaskInterface: none within `packed`, which needs none."""
    return None if _LENGTHS.get() is not None else eager_mask(**options)


AttentionMaskInterface.register(NAME, mask_unless_packed)
