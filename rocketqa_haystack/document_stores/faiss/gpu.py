"""Copies of FAISS indexes on a GPU."""

from threading import Lock
from typing import Any

import numpy as np

from rocketqa_haystack.document_stores.faiss.index_types import import_faiss

#: What FAISS's kernels keep at most for a query, and the most lists that they go through.
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
            return GPUIndex(index, import_faiss().index_cpu_to_gpu(self._resources, 0, index))
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot search {type(index).__name__} on a GPU: {error}") from error


class GPUIndex:
    """
    An index with its copy on a GPU, which one thread at a time may search.

    :param index: The index.
    :param copy: FAISS's GPU index.
    """

    def __init__(self, index: Any, copy: Any) -> None:
        self._index = index
        self._copy = copy
        self._lock = Lock()

    @property
    def ntotal(self) -> int:
        """
        The number of vectors.
        """
        return int(self._index.ntotal)

    def search(self, queries: np.ndarray, top_k: int, *, params: Any) -> tuple[np.ndarray, np.ndarray]:
        """
        Return distances and positions, both `[n, top_k]`, as FAISS does; on the CPU what the GPU cannot.
        """
        if top_k > MOST_RESULTS or not _suit_gpus(params):
            return self._index.search(queries, top_k, params=params)  # type: ignore[no-any-return]
        with self._lock:
            return self._copy.search(queries, top_k, params=params)  # type: ignore[no-any-return]


def _suit_gpus(params: Any) -> bool:
    """FAISS's GPU indexes know no selections and no bound on the vectors of the lists."""
    return params is None or (
        params.sel is None and not getattr(params, "max_codes", 0) and getattr(params, "nprobe", 1) <= MOST_RESULTS
    )
