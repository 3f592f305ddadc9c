"""A forward pass with gradient over many texts, in batches of a token budget."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sentence_transformers.base.model import BaseModel
from torch import Tensor

from rocketqa_haystack.encoders.batching import Text, token_budget_for, tokenize


def forward_in_batches(
    model: BaseModel,
    texts: Sequence[Text],
    output: str,
    *,
    prompt: str | None = None,
    task: str | None = None,
    max_length: int | None = None,
) -> Tensor:
    """Runs the model over texts sorted by length, so that little of the work is padding.

    Args:
        model: A sentence-transformers model.
        texts: Texts or segment pairs, not empty.
        output: The model's output to keep: `sentence_embedding` or `scores`.
        prompt: Put in front of every text.
        task: `query` or `document`.
        max_length: Longest text in tokens.

    Returns:
        The outputs as float32, shape [len(texts), width], in the order of the texts.
    """
    tokens = tokenize(model, texts, prompt=prompt, task=task, max_length=max_length)
    device = model.device
    options = {"task": task} if task is not None else {}
    order, parts = [], []
    for batch in tokens.batches(token_budget_for(device)):
        order.append(torch.from_numpy(batch))
        parts.append(model(tokens.features(batch, device), **options)[output].reshape(len(batch), -1).float())
    return torch.cat(parts)[torch.cat(order).argsort().to(device)]
