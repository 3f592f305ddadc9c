"""A forward pass with gradient over many texts, in batches of a token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.model import BaseModel
from torch import Tensor
from transformers import PreTrainedModel

from rocketqa_haystack.encoders.batching import Text, TokenizedTexts, token_budget_for, tokenize
from rocketqa_haystack.encoders.first_token import reading_first_token
from trainers.gathering import most_of_all_processes
from trainers.replay import replayed
from trainers.sharding import is_sharded

#: The most tokens of a batch, whose activations gradient caching keeps at a time: fewer than a GPU likes in inference,
#: where those of all layers need not be kept. With and without caching the batches are the same, as what dropout leaves
#: out depends on them.
MOST_TOKENS = 8_192


def forward_in_batches(
    model: BaseModel,
    texts: Sequence[Text],
    output: str,
    *,
    prompt: str | None = None,
    task: str | None = None,
    max_length: int | None = None,
    replay: bool = False,
) -> Tensor:
    """Runs the model over texts sorted by length, so that little of the work is padding.

    With `replay` no activations are kept, see `replayed`: memory is that of one batch, whatever the number of texts.

    Args:
        model: A sentence-transformers model.
        texts: Texts or segment pairs; none where the model's weights are sharded and other processes have some.
        output: The model's output to keep: `sentence_embedding` or `scores`.
        prompt: Put in front of every text.
        task: `query` or `document`.
        max_length: Longest text in tokens.
        replay: Trade a second forward pass for the memory of all batches but one.

    Returns:
        The outputs as float32, shape [len(texts), width], in the order of the texts.
    """
    # A process without texts goes along with an empty one, see `forward_tokens`.
    tokens = tokenize(model, texts or [""], prompt=prompt, task=task, max_length=max_length)
    options = {"task": task} if task is not None else {}

    def run(features: dict[str, Any]) -> Tensor:
        with reading_first_token(model):
            result: Tensor = model(features, **options)[output]
        return result.reshape(len(result), -1).float()

    return forward_tokens(model, run, tokens, replay=replay)[: len(texts)]


def forward_tokens(
    model: BaseModel | PreTrainedModel,
    run: Callable[[dict[str, Any]], Tensor],
    tokens: TokenizedTexts,
    *,
    replay: bool = False,
) -> Tensor:
    """Runs a model over tokenised texts; see `forward_in_batches`.

    Args:
        model: The model.
        run: From a batch as it takes it to its outputs, one row for each text, the same shape for all batches.
        tokens: The texts, at least one.
        replay: Trade a second forward pass for the memory of all batches but one.

    Returns:
        The outputs in the order of the texts, shape [texts, ...].
    """
    device = model.device

    def forward(batch: NDArray[np.int64]) -> Tensor:
        return run(tokens.features(batch, device))

    batches = list(tokens.batches(min(token_budget_for(device), MOST_TOKENS)))
    calls: list[Callable[[], Tensor]] = [partial(forward, batch) for batch in batches]
    if is_sharded(model):
        # Sharded weights are put together by all processes, for each batch: those with fewer batches go along.
        more = most_of_all_processes(len(batches), device) - len(batches)
        calls += [lambda: forward(batches[0])[:0]] * more
    learns = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters())
    outputs = replayed(calls, device) if replay and learns else torch.cat([call() for call in calls])
    order = torch.from_numpy(np.concatenate(batches)).argsort()
    return outputs[order.to(device)]
