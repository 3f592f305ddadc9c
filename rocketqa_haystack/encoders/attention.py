"""Attention for CPUs where there is padding or a gradient: step by step, some texts at a time.

The scores of a batch of long texts fill tens of megabytes, which fall out of a CPU's caches at every step. A few texts
at a time stay in them, while the batch stays large enough for the matrix products around. PyTorch's fused kernel for
CPUs is slower with a mask, and in training would draw its dropout itself, on one core. Without either, packing.py uses
that kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from rocketqa_haystack.encoders.bert import transformers_of

NAME = "rocketqa_chunked"

#: Attention scores computed at a time: 4 MiB in bfloat16.
CHUNK_SCORES = 2 * 1024 * 1024


def use_chunked_attention(model: nn.Module) -> None:
    """Makes the transformers in a model that are of BERT's shape compute their attention this way."""
    for transformer in transformers_of(model):
        transformer.set_attn_implementation(NAME)


def chunked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Softmax attention in the form of transformers' AttentionInterface.

    Args:
        module: The layer; its mode decides whether there is dropout.
        query: Shape [batch, heads, length, width of a head], as are key and value.
        key: See query.
        value: See query.
        attention_mask: Added to the scores, shape [batch, 1, 1 or length, length]; None where there is no padding.
        scaling: Multiplies the scores.
        dropout: Share of the attention weights that is dropped.

    Returns:
        Shape [batch, length, heads, width of a head], and no attention weights.
    """
    batch, heads, length, _width = query.shape
    step = max(1, CHUNK_SCORES // (heads * length * length))
    query, key = query * scaling, key.transpose(2, 3)
    parts = []
    for start in range(0, batch, step):
        chunk = slice(start, start + step)
        scores = torch.matmul(query[chunk], key[chunk])
        if attention_mask is not None:
            scores += attention_mask[chunk]
        weights = functional.dropout(scores.softmax(dim=-1), dropout, training=module.training)
        parts.append(torch.matmul(weights, value[chunk]).transpose(1, 2))
    return torch.cat(parts), None


AttentionInterface.register(NAME, chunked_attention)
