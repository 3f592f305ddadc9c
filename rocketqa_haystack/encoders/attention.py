"""Attention for CPUs: a few texts at a time.

The scores of a batch of long texts fill tens of megabytes, which fall out of a CPU's caches at every step. A few texts
at a time stay in them, while the batch stays large enough for the matrix products around. Without gradient a text goes
through PyTorch's fused kernel on its own, so that nothing is padded and no mask is needed; with gradient that kernel
would be the slower one, and would draw its dropout on one core.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, eager_mask

NAME = "rocketqa_chunked"

#: Attention scores computed at a time: 4 MiB in bfloat16.
CHUNK_SCORES = 2 * 1024 * 1024

#: Architectures whose attention is exactly softmax(q·k·scale + mask)·v.
MODEL_TYPES = frozenset({"bert", "camembert", "electra", "ernie", "roberta", "xlm-roberta"})


def use_chunked_attention(model: nn.Module) -> None:
    """Makes the transformers in a model that are of BERT's shape compute their attention this way."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.config.model_type in MODEL_TYPES:
            module.set_attn_implementation(NAME)


def attention_mask_for(*, attention_mask: Tensor | None = None, mask_function: Any, **options: Any) -> Tensor | None:
    """The mask in the form of transformers' AttentionMaskInterface.

    Args:
        attention_mask: True for tokens, False for padding, shape [batch, length].
        mask_function: Which tokens see which.
        options: The others of the interface, for masks that are added to the scores.

    Returns:
        Without gradient, the same for `attend_each`, if every token sees every other and texts are padded at the end;
        None if there is no padding; else a mask to add to the scores, as eager attention has it.
    """
    if not torch.is_grad_enabled() and mask_function is bidirectional_mask_function:
        if attention_mask is None or attention_mask.all():
            return None
        positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        if torch.equal(attention_mask, positions < attention_mask.sum(dim=1, keepdim=True)):
            return attention_mask
    return eager_mask(attention_mask=attention_mask, mask_function=mask_function, **options)


def attention(
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
        attention_mask: As `attention_mask_for` gives it.
        scaling: Multiplies the scores.
        dropout: Share of the attention weights that is dropped.

    Returns:
        Shape [batch, length, heads, width of a head], and no attention weights.
    """
    dropped = dropout if module.training else 0.0
    if torch.is_grad_enabled() or dropped or (attention_mask is not None and attention_mask.ndim != 2):
        return attend_in_chunks(query * scaling, key, value, attention_mask, dropped), None
    return attend_each(query, key, value, attention_mask, scaling), None


def attend_each(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float) -> Tensor:
    """Attention of each text on its own; neighbours of one length go together."""
    batch, heads, length, width = query.shape
    lengths = [length] * batch if attention_mask is None else attention_mask.sum(dim=1).tolist()
    result = query.new_zeros((batch, length, heads, width))
    start = 0
    for tokens, group in groupby(lengths):
        rows = slice(start, start + len(list(group)))
        start = rows.stop
        attended = functional.scaled_dot_product_attention(
            query[rows, :, :tokens], key[rows, :, :tokens], value[rows, :, :tokens], scale=scaling
        )
        result[rows, :tokens] = attended.transpose(1, 2)
    return result


def attend_in_chunks(
    query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, dropout: float
) -> Tensor:
    """Attention step by step, some padded texts at a time; the query is scaled already."""
    batch, heads, length, _width = query.shape
    step = max(1, CHUNK_SCORES // (heads * length * length))
    key = key.transpose(2, 3)
    parts = []
    for start in range(0, batch, step):
        chunk = slice(start, start + step)
        scores = torch.matmul(query[chunk], key[chunk])
        if attention_mask is not None:
            scores += attention_mask[chunk]
        weights = functional.dropout(scores.softmax(dim=-1), dropout)
        parts.append(torch.matmul(weights, value[chunk]).transpose(1, 2))
    return torch.cat(parts)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, attention_mask_for)
