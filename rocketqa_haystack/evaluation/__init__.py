"""Runs, measures and reports."""

from rocketqa_haystack.evaluation.answers import (
    answer_rank,
    exact_match,
    f1_score,
    has_answer,
    measure_answers,
    normalize_answer,
)
from rocketqa_haystack.evaluation.bootstrap import Interval, bootstrap, bootstrap_gain
from rocketqa_haystack.evaluation.dense import rerank, retrieve
from rocketqa_haystack.evaluation.fusion import fuse
from rocketqa_haystack.evaluation.lexical import BM25
from rocketqa_haystack.evaluation.measures import DEFAULT_MEASURES, measure, measure_queries
from rocketqa_haystack.evaluation.report import format_table
from rocketqa_haystack.evaluation.runs import Run, RunFile, best, iterate_run, read_run, run_lines, write_run

__all__ = [
    "BM25",
    "DEFAULT_MEASURES",
    "Interval",
    "Run",
    "RunFile",
    "answer_rank",
    "best",
    "bootstrap",
    "bootstrap_gain",
    "exact_match",
    "f1_score",
    "format_table",
    "fuse",
    "has_answer",
    "iterate_run",
    "measure",
    "measure_answers",
    "measure_queries",
    "normalize_answer",
    "read_run",
    "rerank",
    "retrieve",
    "run_lines",
    "write_run",
]
