"""A forward pass with gradient over many texts, in batches of a token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.model import BaseModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rocketqa_haystack.encoders.batching import Text, TokenizedTexts, token_budget_for, tokenize
from trainers.dropout import fast_dropout
from trainers.gathering import most_of_all_processes
from trainers.heap import give_back_freed_memory
from trainers.sharding import is_sharded

#: Batches of gradient caching of which one gives freed memory back.
BATCHES_BETWEEN_TRIMS = 4


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

    With `replay` a batch's activations are not kept: the backward pass, which knows by then the gradient of every
    output, runs each batch forward once more, with the same dropout, and backward at once. Memory is then that of one
    batch, whatever the number of texts. This is gradient caching (Gao et al., 2021, "Scaling Deep Contrastive Learning
    Batch Size under Memory Limited Setup").

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
    contexts = replay_contexts(device)

    def trimmed(features: dict[str, Any]) -> Tensor:
        give_back_freed_memory(device)
        return run(features)

    def forward(batch: NDArray[np.int64], number: int = 0) -> Tensor:
        features = tokens.features(batch, device)
        if not replay:
            return run(features)
        # After every batch it would cost a sixth of the time: what was given back has to be asked for again.
        function = trimmed if number % BATCHES_BETWEEN_TRIMS == 0 else run
        replayed: Tensor = checkpoint(function, features, use_reentrant=False, context_fn=contexts)
        return replayed

    batches = list(tokens.batches(token_budget_for(device)))
    parts = [forward(batch, number) for number, batch in enumerate(batches)]
    if is_sharded(model):
        # Sharded weights are put together by all processes, for each batch: those with fewer batches go along.
        parts += [forward(batches[0])[:0] for _ in range(most_of_all_processes(len(batches), device) - len(batches))]
    order = torch.from_numpy(np.concatenate(batches)).argsort()
    return torch.cat(parts)[order.to(device)]


def replay_contexts(
    device: torch.device,
) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """What is around a first forward pass and around its replay, which autograd runs outside of the loop's blocks."""
    return lambda: (nullcontext(), fast_dropout(device))
