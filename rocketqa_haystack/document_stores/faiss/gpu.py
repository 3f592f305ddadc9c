"""Copies of FAISS indexes on a GPU."""

from threading import Lock
from typing import Any

import numpy as np

from rocketqa_haystack.document_stores.faiss.index_types import import_faiss

#: What FAISS's kernels keep at most for a query.
MOST_RESULTS = 2_048


class GPU:
    """
    The first GPU, to search on.

    :raises ImportError: If FAISS is not the one for GPUs, or finds none.
    """

    def __init__(self) -> None:
        faiss = import_faiss()
        if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
            raise ImportError(
                "gpu=True needs an NVIDIA GPU and rocketqa-haystack[gpu] in place of rocketqa-haystack[cpu]."
            )
        self._resources = faiss.StandardGpuResources()

    def copy(self, index: Any) -> "GPUIndex":
        """
        Return a copy of an index.

        :raises ValueError: If FAISS has no GPU code for its type.
        """
        try:
            return GPUIndex(import_faiss().index_cpu_to_gpu(self._resources, 0, index))
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot search {type(index).__name__} on a GPU: {error}") from error


class GPUIndex:
    """
    An index on a GPU, which one thread at a time may search.

    :param index: FAISS's GPU index.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self._lock = Lock()

    @property
    def ntotal(self) -> int:
        """
        The number of vectors.
        """
        return int(self._index.ntotal)

    def search(self, queries: np.ndarray, top_k: int, *, params: Any) -> tuple[np.ndarray, np.ndarray]:
        """
        Return distances and positions, both `[n, top_k]`, as FAISS does.
        """
        with self._lock:
            distances, positions = self._index.search(queries, top_k, params=params)
            return distances, positions
