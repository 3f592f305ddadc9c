"""Passages, questions, judgements and training groups, with readers and writers of their file formats."""

from rocketqa_haystack.data.answers import AnsweredCollection, AnsweredQuestion, find_answers, load_answered_collection
from rocketqa_haystack.data.beir import (
    Collection,
    Qrels,
    load_collection,
    read_answers,
    read_corpus,
    read_corpus_with_metadata,
    read_qrels,
    read_queries,
    save_collection,
    write_qrels,
    write_queries,
)
from rocketqa_haystack.data.corpus_file import CorpusFile
from rocketqa_haystack.data.files import DataError, SkippedLines
from rocketqa_haystack.data.group_checks import GroupsReport, check_groups
from rocketqa_haystack.data.group_files import group_format, iterate_groups, read_groups, write_groups
from rocketqa_haystack.data.groups import TrainingGroup, groups_from_collection
from rocketqa_haystack.data.passage import Passage, as_passage
from rocketqa_haystack.data.squad import load_squad
from rocketqa_haystack.data.training_groups import TrainingGroups

__all__ = [
    "AnsweredCollection",
    "AnsweredQuestion",
    "Collection",
    "CorpusFile",
    "DataError",
    "GroupsReport",
    "Passage",
    "Qrels",
    "SkippedLines",
    "TrainingGroup",
    "TrainingGroups",
    "as_passage",
    "check_groups",
    "find_answers",
    "group_format",
    "groups_from_collection",
    "iterate_groups",
    "load_answered_collection",
    "load_collection",
    "load_squad",
    "read_answers",
    "read_corpus",
    "read_corpus_with_metadata",
    "read_groups",
    "read_qrels",
    "read_queries",
    "save_collection",
    "write_groups",
    "write_qrels",
    "write_queries",
]
