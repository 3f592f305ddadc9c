"""Which transformers are BERT in all but their weights, so that its layers can be computed in our own ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

#: Architectures of BERT's layers, whose attention is exactly softmax(q·k·scale + mask)·v.
MODEL_TYPES = frozenset({"bert", "camembert", "electra", "ernie", "roberta", "xlm-roberta"})


def transformers_of(model: nn.Module) -> Iterator[PreTrainedModel]:
    """The transformers in a model that are of BERT's shape."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel) and module.config.model_type in MODEL_TYPES:
            yield module


def stacks_of(model: nn.Module) -> Iterator[tuple[Any, int]]:
    """Their stacks of layers, with the number of heads, where they see all of a text and give the last layer alone."""
    for transformer in transformers_of(model):
        encoder = getattr(transformer, "encoder", None)
        if _is_plain(transformer.config) and isinstance(getattr(encoder, "layer", None), nn.ModuleList):
            yield encoder, transformer.config.num_attention_heads


def _is_plain(config: PreTrainedConfig) -> bool:
    return not (config.is_decoder or config.output_hidden_states or config.output_attentions)
