"""What tells whether two runs start from the same weights and see the same data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rocketqa_haystack.data import Collection, Passage
from rocketqa_haystack.evaluation import Run


def describe(groups: Sequence[object], dev: Collection | None = None, candidates: Run | None = None) -> dict[str, Any]:
    """What a run learns from and is evaluated on: how much, and fingerprints of all of it.

    Of the candidates that are re-ranked it is their ids. Groups on disk have a fingerprint of their own, which is made
    when they are read: going through all of them again would take longer than starting.
    """
    found: dict[str, Any] = {
        "training_groups": len(groups),
        "training_groups_fingerprint": getattr(groups, "fingerprint", None) or _digest(groups),
    }
    if dev is not None:
        found |= {
            "dev_queries": len(dev.queries),
            "dev_passages": len(dev.corpus),
            "dev_fingerprint": _digest([dev.queries, dev.qrels, *dev.corpus.items()]),
        }
    if candidates is not None:
        found["dev_candidates_fingerprint"] = _digest((id, list(row)) for id, row in candidates.items())
    return found


def model_name(model: str | Path) -> str:
    """What to call a model: a folder by its own name, wherever it lies. Its weights are told apart by `of_weights`."""
    return Path(model).resolve().name if Path(model).is_dir() else str(model)


def of_weights(model: nn.Module) -> str:
    """Of a model's weights."""
    total = blake2b(digest_size=8)
    for name, parameter in model.named_parameters():
        total.update(name.encode())
        # As bytes while it is a tensor: numpy has no bfloat16.
        total.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def of_passages(corpus: Mapping[str, Passage]) -> str:
    """Of all ids, titles and texts, and their order."""
    return _digest(corpus.items())


def _digest(parts: Iterable[object]) -> str:
    total = blake2b(digest_size=8)
    for part in parts:
        total.update(repr(part).encode("utf-8", "surrogatepass"))
    return total.hexdigest()
