"""The encoding engine: tokenise once, sort by length, run batches of a token budget, write straight into an array."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.base.model import BaseModel
from tqdm.auto import tqdm

from rocketqa_haystack.encoders.batching import Text, token_budget_for, tokenize
from rocketqa_haystack.encoders.first_token import reading_first_token
from rocketqa_haystack.encoders.packing import TOKEN_BUDGET, packed, packs

#: Texts that are tokenised and sorted together: enough for batches of even length, little enough to hold as token ids.
CHUNK_SIZE = 4_096


def run_model(
    model: BaseModel,
    texts: Sequence[Text],
    out: NDArray[np.float32],
    output: str,
    *,
    prompt: str | None = None,
    task: str | None = None,
    max_length: int | None = None,
    progress: tqdm[Any] | None = None,
) -> None:
    """Runs a model over at most `CHUNK_SIZE` texts.

    Args:
        model: The sentence-transformers model.
        texts: Texts or segment pairs.
        out: Where the results go, shape [len(texts), width of the output], in the order of the texts.
        output: The model's output to keep: `sentence_embedding` or `scores`.
        prompt: Put in front of every text.
        task: `query` or `document`.
        max_length: Longest text in tokens.
        progress: Moved on by the number of texts of each batch.
    """
    if not texts:
        return
    tokens = tokenize(model, texts, prompt=prompt, task=task, max_length=max_length)
    device = model.device
    forward_options = {"task": task} if task is not None else {}
    # Weights in training may be sharded over processes. They are put together in the course of the layers' calls, which
    # packing passes by, and the tensors that are kept for it must serve the training as well.
    whole = all(type(parameter) is torch.nn.Parameter for parameter in model.parameters())
    packable = whole and device.type == "cpu" and packs(model) and not tokens.pad_left
    with torch.inference_mode() if whole else torch.no_grad(), reading_first_token(model):
        for batch in tokens.batches(TOKEN_BUDGET if packable else token_budget_for(device)):
            with packed(tokens.lengths[batch].tolist()) if packable else nullcontext():
                result = model(tokens.features(batch, device), **forward_options)[output]
            # A model that truncates its vectors does so after its forward pass.
            out[batch] = result.reshape(len(batch), -1)[:, : out.shape[1]].float().cpu().numpy()
            if progress is not None:
                progress.update(len(batch))
