"""Runs, measures and reports."""

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
    "best",
    "bootstrap",
    "bootstrap_gain",
    "format_table",
    "fuse",
    "iterate_run",
    "measure",
    "measure_queries",
    "read_run",
    "rerank",
    "retrieve",
    "run_lines",
    "write_run",
]
