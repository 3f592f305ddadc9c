"""Runs, measures and reports."""

from rocketqa_haystack.evaluation.dense import rerank, retrieve
from rocketqa_haystack.evaluation.lexical import BM25
from rocketqa_haystack.evaluation.measures import DEFAULT_MEASURES, measure
from rocketqa_haystack.evaluation.report import format_table
from rocketqa_haystack.evaluation.runs import Run, read_run, write_run

__all__ = ["BM25", "DEFAULT_MEASURES", "Run", "format_table", "measure", "read_run", "rerank", "retrieve", "write_run"]
