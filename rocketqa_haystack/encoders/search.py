"""Exact search: the top k passages of every query by the encoder's own similarity."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.util import SimilarityFunction
from torch.nn.functional import normalize

#: Similarities computed at a time, about 128 MiB as float32.
BLOCK = 32 * 1024 * 1024


def exact_search(
    queries: NDArray[np.float32],
    passages: NDArray[np.float32],
    k: int,
    *,
    similarity: str = "dot",
    device: torch.device | str = "cpu",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compares every query with every passage, some queries at a time.

    Args:
        queries: Vectors of shape [n, dimension].
        passages: Vectors of shape [m, dimension].
        k: Passages to keep for each query; all of them where there are fewer.
        similarity: `dot`, `cosine`, `euclidean` or `manhattan`, as `DualEncoder.similarity` tells it.
        device: What compares them; it has to hold all passages.

    Returns:
        Similarities, falling, and positions of the passages, both of shape [n, min(k, m)].
    """
    k = min(k, len(passages))
    scores = np.empty((len(queries), k), dtype=np.float32)
    positions = np.empty((len(queries), k), dtype=np.int64)
    device = torch.device(device)
    query_tensor, passage_tensor = torch.from_numpy(queries).to(device), torch.from_numpy(passages).to(device)
    if similarity == "cosine":  # scaled once, not again with every block
        query_tensor, passage_tensor = normalize(query_tensor, dim=1), normalize(passage_tensor, dim=1)
        similarity = "dot"
    compare = SimilarityFunction.to_similarity_fn(similarity)
    rows = max(1, BLOCK // max(1, len(passages)))
    for start in range(0, len(queries), rows):
        with torch.autocast(device.type, enabled=False):  # a training run's precision is not the search's
            block = compare(query_tensor[start : start + rows], passage_tensor)
        top = block.topk(k, dim=1)
        scores[start : start + rows] = top.values.cpu().numpy()
        positions[start : start + rows] = top.indices.cpu().numpy()
    return scores, positions
