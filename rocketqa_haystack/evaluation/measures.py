"""Measures of a run against judgements, under the names of ir-measures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import ir_measures

from rocketqa_haystack.data import Qrels
from rocketqa_haystack.evaluation.runs import Run

DEFAULT_MEASURES = ("RR@10", "R@10", "R@50", "nDCG@10")


def measure(run: Run, qrels: Qrels, measures: Sequence[str] = DEFAULT_MEASURES) -> dict[str, float]:
    """Means over all judged queries; a query that the run lacks counts as 0.

    Raises:
        ValueError: A measure that ir-measures does not know.
    """
    parsed = {name: _parse(name) for name in measures}
    results = ir_measures.calc_aggregate(list(parsed.values()), qrels, run)
    return {name: float(results[known]) for name, known in parsed.items()}


def measure_queries(run: Run, qrels: Qrels, measures: Sequence[str] = DEFAULT_MEASURES) -> dict[str, dict[str, float]]:
    """Each measure of each judged query, by the measure's name and the query's id; 0 where the run lacks the query.

    Raises:
        ValueError: A measure that ir-measures does not know.
    """
    parsed = {name: _parse(name) for name in measures}  # of which two may mean the same: RR@10 and MRR@10
    values = {known: dict.fromkeys(qrels, 0.0) for known in parsed.values()}
    for metric in ir_measures.iter_calc(list(values), qrels, run):
        values[metric.measure][metric.query_id] = float(metric.value)
    return {name: dict(values[known]) for name, known in parsed.items()}


@cache
def _parse(name: str) -> ir_measures.Measure:
    examples = "examples: RR@10, R@50, nDCG@10, Success@5"
    try:
        parsed = ir_measures.parse_measure(name)
    except (ValueError, NameError, SyntaxError) as error:
        raise ValueError(f"unknown measure {name!r}; {examples}") from error
    try:  # what only shows now: a cutoff that is missing, a program that is not installed
        ir_measures.calc_aggregate([parsed], {"query": {"passage": 1}}, {"query": {"passage": 1.0}})
    except Exception as error:  # of the many libraries behind ir-measures
        raise ValueError(
            f"the measure {name!r} cannot be computed here ({error or type(error).__name__}); {examples}"
        ) from error
    return parsed
