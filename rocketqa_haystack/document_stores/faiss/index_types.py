"""FAISS's index types: made from factory strings, how many vectors they are trained on, how they are searched."""

from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

Similarity = Literal["inner_product", "cosine", "l2"]

EXACT = "Flat"

#: Search parameters by FAISS's own names; each is for the index types that have it.
SEARCH_PARAMETERS = ("nprobe", "max_codes", "efSearch", "quantizer_efSearch", "k_factor")

#: Search parameters that leave no vector out.
EVERY_LIST = {"nprobe": 2**31 - 1}

# What FAISS asks for, below which it warns that centroids are poor, and what a training run gets to see at most.
ENOUGH_POINTS = 39
TRAINING_POINTS = 64
# Of the quantizers without a number of centroids of their own (SQ8, PCA): as for the 256 of a PQ.
LEAST_CENTROIDS = 256


def import_faiss() -> Any:
    """
    Return the module `faiss`.

    :raises ImportError: If it is not installed; the message names the extras.
    """
    # Here and not at the top: importing rocketqa_haystack must neither need FAISS nor wait for it.
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "FAISSDocumentStore needs FAISS: install rocketqa-haystack[cpu], or rocketqa-haystack[gpu] for NVIDIA GPUs."
        ) from error
    return faiss


def make_index(factory: str, dimension: int, similarity: Similarity) -> Any:
    """
    Return a new FAISS index.

    :raises ValueError: If FAISS cannot make it of this string, for this dimension and similarity, or it is one that
        cannot serve a document store; the message says which and why.
    """
    faiss = import_faiss()
    metric = faiss.METRIC_L2 if similarity == "l2" else faiss.METRIC_INNER_PRODUCT
    try:
        index = faiss.index_factory(dimension, factory, metric)
    except (RuntimeError, TypeError) as error:
        reason = str(error).rsplit("Error: ", 1)[-1].strip()
        raise ValueError(
            f"FAISS cannot make an index {factory!r} for {similarity} of {dimension} dimensions: {reason}"
        ) from error
    for part in _parts(index):
        if isinstance(part, faiss.IndexIDMap | faiss.IndexIDMap2):
            raise ValueError(f"index {factory!r}: leave out the IDMap, the store numbers the vectors itself")
        if isinstance(part, faiss.IndexNSG):
            raise ValueError(f"index {factory!r}: an NSG cannot take documents that come later; HNSW32 is its like")
        if isinstance(part, faiss.IndexIVFFlatDedup):
            raise ValueError(f"index {factory!r}: FlatDedup searches only the first of equal vectors; Flat is its like")
        if isinstance(part, faiss.IndexLSH):
            raise ValueError(f"index {factory!r}: LSH gives Hamming distances and no {similarity}")
    return index


@lru_cache
def centroids(factory: str, dimension: int, similarity: Similarity) -> int:
    """
    Return how many centroids an index is trained to, in the part that has most; 0 for one that needs no training.
    """
    faiss, index = import_faiss(), make_index(factory, dimension, similarity)
    if index.is_trained:
        return 0
    most = LEAST_CENTROIDS
    for part in _parts(index):
        if isinstance(part, faiss.IndexIVF):
            quantizer = faiss.downcast_index(part.quantizer)
            cells = quantizer.pq.ksub if isinstance(quantizer, faiss.MultiIndexQuantizer) else part.nlist
            most = max(most, cells)
        if hasattr(part, "pq"):
            most = max(most, part.pq.ksub)
    return most


def is_exact(index: Any) -> bool:
    """
    Whether a search of this index compares the query with every vector as it is.
    """
    return isinstance(index, import_faiss().IndexFlat)


def with_whole_vectors(index: Any) -> Any:
    """
    Return the part of an index that, with the search parameters `EVERY_LIST`, compares a query with every whole vector.

    :returns: The index itself, one inside it, or None where vectors are compressed or a list may be missed.
    """
    faiss = import_faiss()
    if isinstance(index, faiss.IndexRefine):
        return with_whole_vectors(faiss.downcast_index(index.refine_index))
    if isinstance(index, faiss.IndexHNSW):
        return with_whole_vectors(faiss.downcast_index(index.storage))
    if isinstance(index, faiss.IndexIVFFlat):
        return index if is_exact(faiss.downcast_index(index.quantizer)) else None
    return index if is_exact(index) else None


def check_search_parameters(values: dict[str, Any]) -> None:
    """
    Refuse search parameters that no index type has.

    :raises ValueError: If there is one, or its value is no number from 1 on.
    """
    for name, value in values.items():
        if name not in SEARCH_PARAMETERS:
            raise ValueError(f"search parameters are {', '.join(SEARCH_PARAMETERS)}, but got {name!r}")
        fits = type(value) is int or (
            isinstance(value, Real if name == "k_factor" else Integral) and not isinstance(value, bool)
        )
        if not fits or not 1 <= value < 2**31:
            whole = "" if name == "k_factor" else "whole "
            raise ValueError(f"the search parameter {name} must be a {whole}number from 1 on, but got {value!r}")


def search_parameters(index: Any, values: dict[str, Any], selected: np.ndarray | None) -> Any:
    """
    Return FAISS's search parameters for an index, or None if there is nothing to say.

    A selection makes approximate indexes look at as many times more candidates as it leaves out, so that as many of
    those selected come into view as without it.

    :param values: By name; those that the index does not have are passed over.
    :param selected: Which positions may be found, bool `[n]`; None for all.
    """
    faiss = import_faiss()
    selector, share = None, 1.0
    if selected is not None:
        selector = faiss.IDSelectorBitmap(np.packbits(selected, bitorder="little"))
        share = max(float(np.count_nonzero(selected)) / len(selected), 1 / len(selected))
    if selector is None and not values:
        return None
    return _parameters(faiss, faiss.downcast_index(index), values, selector, share)


def _parameters(faiss: Any, index: Any, values: dict[str, Any], selector: Any, share: float) -> Any:
    chosen = {} if selector is None else {"sel": selector}
    if isinstance(index, faiss.IndexPreTransform):
        return _parameters(faiss, faiss.downcast_index(index.index), values, selector, share)
    if isinstance(index, faiss.IndexRefine):
        base = _parameters(faiss, faiss.downcast_index(index.base_index), values, selector, share)
        factor = float(values.get("k_factor", index.k_factor))
        return faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=base)
    if isinstance(index, faiss.IndexIVF):
        probes = min(index.nlist, int(np.ceil(values.get("nprobe", index.nprobe) / share)))
        options = {"nprobe": probes, "max_codes": int(values.get("max_codes", index.max_codes))}
        quantizer = faiss.downcast_index(index.quantizer)
        if isinstance(quantizer, faiss.IndexHNSW):
            breadth = max(probes, int(values.get("quantizer_efSearch", quantizer.hnsw.efSearch)))
            options["quantizer_params"] = faiss.SearchParametersHNSW(efSearch=breadth)
        return faiss.SearchParametersIVF(**options, **chosen)
    if isinstance(index, faiss.IndexHNSW):
        breadth = min(index.ntotal, int(np.ceil(values.get("efSearch", index.hnsw.efSearch) / share)))
        return faiss.SearchParametersHNSW(efSearch=max(1, breadth), **chosen)
    return faiss.SearchParameters(**chosen) if chosen else None


def supports_selectors(index: Any) -> bool:
    """
    Whether searches of this index can be narrowed down to some of its vectors.
    """
    try:
        index.search(
            np.zeros((1, index.d), dtype=np.float32),
            1,
            params=search_parameters(index, {}, np.ones(max(1, index.ntotal), dtype=bool)),
        )
    except RuntimeError:
        return False
    return True


def _parts(index: Any) -> list[Any]:
    """An index and those inside it."""
    faiss = import_faiss()
    parts = [faiss.downcast_index(index)]
    for name in ("index", "base_index"):
        if (inner := getattr(parts[0], name, None)) is not None:
            parts.extend(_parts(inner))
    return parts
