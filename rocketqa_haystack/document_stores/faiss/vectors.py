"""Vectors as they are stored and compared: finite, one-dimensional float32."""

from collections.abc import Sequence

import numpy as np

# Up to this square of their lengths, the squared distance of any two vectors is within float32's range. FAISS does not
# find what is further away, and training an index on it ends the process.
LONGEST_SQUARE = 8e37

# Little-endian whatever the machine, so that a store's folder can be copied between machines.
STORED = np.dtype("<f4")


def as_vector(values: Sequence[float] | np.ndarray, owner: str) -> np.ndarray:
    """
    Check one embedding and return it as float32.

    :param values: The numbers, `[dim]`.
    :param owner: What the embedding belongs to, for the error message ("the query", "document 'a'").
    :returns: A float32 array `[dim]`; no copy if `values` is one already.
    :raises ValueError: If it is empty, not a flat list of numbers, holds NaN or a number beyond float32's range, or is
        longer than `LONGEST_SQUARE` allows.
    """
    if isinstance(values, np.ndarray) and values.dtype == STORED:
        vector = values
    else:
        try:
            with np.errstate(over="ignore"):  # what overflows becomes infinite, which is refused below
                vector = np.asarray(values, dtype=STORED)
        except (TypeError, ValueError) as error:
            raise ValueError(f"The embedding of {owner} must be a list of floats: {error}.") from error
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"The embedding of {owner} must be a flat, non-empty list of floats, not of {vector.shape}.")
    # One quick look, which every search pays for: no sum of squares with NaN or infinity in it is below the limit.
    with np.errstate(over="ignore"):
        square = vector.dot(vector)
    if not square <= LONGEST_SQUARE:
        if np.isfinite(vector).all():
            raise ValueError(f"The embedding of {owner} is too long: its squares must not sum to more than 8e37.")
        place = int(np.flatnonzero(~np.isfinite(vector))[0])
        raise ValueError(
            f"The embedding of {owner} must be finite float32 numbers, but holds {values[place]} at {place}."
        )
    return vector


def normalized(vectors: np.ndarray) -> np.ndarray:
    """
    Scale every row of `vectors` `[n, dim]` to length 1; a row of zeros stays as it is and is similar to nothing.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), dtype=np.float32)
