"""Runs, measures and reports."""

from rocketqa_haystack.evaluation.answers import (
    answer_rank,
    exact_match,
    f1_score,
    has_answer,
    measure_answers,
    normalize_answer,
)
from rocketqa_haystack.evaluation.dense import rerank, retrieve
from rocketqa_haystack.evaluation.lexical import BM25
from rocketqa_haystack.evaluation.measures import DEFAULT_MEASURES, measure
from rocketqa_haystack.evaluation.report import format_table
from rocketqa_haystack.evaluation.runs import Run, read_run, write_run

__all__ = [
    "BM25",
    "DEFAULT_MEASURES",
    "Run",
    "answer_rank",
    "exact_match",
    "f1_score",
    "format_table",
    "has_answer",
    "measure",
    "measure_answers",
    "normalize_answer",
    "read_run",
    "rerank",
    "retrieve",
    "write_run",
]
