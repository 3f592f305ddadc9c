"""How many documents are asked for: what components and document stores take for it."""

from numbers import Integral


def check_top_k(top_k: int) -> None:
    """Refuses a top_k that is not a number of documents.

    :raises ValueError: With the value given.
    """
    if isinstance(top_k, bool) or not isinstance(top_k, Integral) or top_k <= 0:
        raise ValueError(f"top_k must be a whole number > 0, but got {top_k!r}")
