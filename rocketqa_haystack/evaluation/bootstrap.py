"""How far a measure may be off: bootstrap intervals over the queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

#: Resamplings of the queries.
SAMPLES = 2000


class Interval(NamedTuple):
    """A mean and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Mapping[str, float], seed: int = 0) -> Interval:
    """The mean of a measure over queries, with the percentile bootstrap's 95 % interval.

    Args:
        values: The measure by query id, as `measure_queries` gives it.
        seed: Of the resampling.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("there are no queries to measure")
    array = np.fromiter(values.values(), dtype=np.float64, count=len(values))
    generator = np.random.default_rng(seed)
    # One resampling at a time: all at once would be gigabytes for a large test set.
    means = [array[generator.integers(len(array), size=len(array))].mean() for _ in range(SAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(array.mean()), float(low), float(high))


def bootstrap_gain(values: Mapping[str, float], baseline: Mapping[str, float], seed: int = 0) -> Interval:
    """What a system has above another on the same queries: the mean difference with its 95 % interval.

    Raises:
        ValueError: The two are not measured on the same queries.
    """
    if values.keys() != baseline.keys():
        raise ValueError("the two systems were measured on different queries")
    return bootstrap({query_id: value - baseline[query_id] for query_id, value in values.items()}, seed)
