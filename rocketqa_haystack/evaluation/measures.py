"""Measures of a run against judgements, under the names of ir-measures."""

from __future__ import annotations

from collections.abc import Sequence

import ir_measures

from rocketqa_haystack.data import Qrels
from rocketqa_haystack.evaluation.runs import Run

DEFAULT_MEASURES = ("RR@10", "R@10", "R@50", "nDCG@10")


def measure(run: Run, qrels: Qrels, measures: Sequence[str] = DEFAULT_MEASURES) -> dict[str, float]:
    """Means over all judged queries; a query that the run lacks counts as 0.

    Raises:
        ValueError: A measure that ir-measures does not know.
    """
    parsed = [_parse(name) for name in measures]
    results = ir_measures.calc_aggregate(parsed, qrels, run)
    return {name: float(results[parsed_measure]) for name, parsed_measure in zip(measures, parsed, strict=True)}


def measure_queries(run: Run, qrels: Qrels, measures: Sequence[str] = DEFAULT_MEASURES) -> dict[str, dict[str, float]]:
    """Each measure of each judged query, by the measure's name and the query's id; 0 where the run lacks the query.

    Raises:
        ValueError: A measure that ir-measures does not know.
    """
    names = {_parse(name): name for name in measures}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    for metric in ir_measures.iter_calc(list(names), qrels, run):
        values[names[metric.measure]][metric.query_id] = float(metric.value)
    return values


def _parse(name: str) -> ir_measures.Measure:
    try:
        return ir_measures.parse_measure(name)
    except (ValueError, NameError, SyntaxError) as error:
        raise ValueError(f"unknown measure {name!r}; examples: RR@10, R@50, nDCG@10, Success@5") from error
