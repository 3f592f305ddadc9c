"""The last layer of BERT, where nothing but each text's first token is read afterwards: it computes no other.

So do a re-ranker's head and RocketQA's own pooling read their texts. Of the layer's matrix products only those that
make keys and values are left, a sixth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rocketqa_haystack.encoders.attention import NAME
from rocketqa_haystack.encoders.bert import stacks_of

_READ: ContextVar[bool] = ContextVar("first_token", default=False)


def only_first_token_is_read() -> bool:
    """Whether the code that is running is in a block of `reading_first_token`."""
    return _READ.get()


@contextmanager
def reading_first_token(model: nn.Module) -> Iterator[None]:
    """Lets a model's transformers leave out, within the block, what its result does not depend on.

    The block must be around the backward pass as well where that runs layers once more, as gradient checkpointing does.
    """
    token = _READ.set(reads_first_token(model))
    try:
        yield
    finally:
        _READ.reset(token)


def reads_first_token(model: nn.Module) -> bool:
    """Whether a sentence-transformers model's result is computed from each text's first token alone."""
    first, *following = model.children()
    routes = (
        [list(route.children()) for route in first.sub_modules.values()] if isinstance(first, Router) else [[first]]
    )
    return all(_route_reads_first_token([*route, *following]) for route in routes)


def _route_reads_first_token(modules: list[nn.Module]) -> bool:
    transformer = getattr(modules[0], "auto_model", None)
    if type(transformer).__name__.endswith("ForSequenceClassification"):
        return True
    if len(modules) < 2 or not isinstance(modules[1], Pooling) or modules[1].pooling_mode not in ("cls", ("cls",)):
        return False
    # What the pooling takes for the first token: the one after a prompt that it leaves out, or after padding.
    return modules[1].include_prompt and getattr(modules[0].tokenizer, "padding_side", "right") == "right"


def shorten_last_layers(model: nn.Module) -> None:
    """Prepares the transformers in a model that are of BERT's shape; outside of `reading_first_token` they stay so."""
    for encoder, heads in stacks_of(model):
        last = encoder.layer[-1]
        last.forward = LastLayer(last, heads)


class LastLayer:
    """Takes the place of `forward` in the last layer of a BERT-shaped model."""

    def __init__(self, layer: Any, heads: int) -> None:
        self.layer = layer
        self.heads = heads

    def __call__(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **options: Any
    ) -> Tensor:
        """The layer's result; within `reading_first_token`, zeros for all tokens but the first.

        Args:
            hidden_states: Shape [texts, longest text, width].
            attention_mask: Shape [texts, 1, 1 or longest text, longest text]; None where there is no padding.
            args: The rest of what the layer takes.
            options: The same, by name.
        """
        layer, attention = self.layer, self.layer.attention.self
        implementation = attention.config._attn_implementation
        if not only_first_token_is_read() or implementation not in (NAME, "sdpa"):  # others have masks of other forms
            result: Tensor = type(layer).forward(layer, hidden_states, attention_mask, *args, **options)
            return result

        def heads(states: Tensor) -> Tensor:
            return states.view(*states.shape[:2], self.heads, -1).transpose(1, 2)

        first = hidden_states[:, :1]
        query = heads(attention.query(first))
        attended, _ = ALL_ATTENTION_FUNCTIONS[implementation](
            attention,
            query,
            heads(attention.key(hidden_states)),
            heads(attention.value(hidden_states)),
            attention_mask[:, :, :1] if attention_mask is not None else None,
            scaling=query.shape[3] ** -0.5,
            dropout=attention.dropout.p if attention.training else 0.0,
        )
        first = layer.attention.output(attended.flatten(2), first)
        first = layer.output(layer.intermediate(first), first)
        return functional.pad(first, (0, 0, 0, hidden_states.shape[1] - 1))
