"""Passages, questions, judgements and training groups, with readers and writers of their file formats."""

from rocketqa_haystack.data.beir import Collection, Qrels, load_collection, read_corpus, read_qrels, save_collection
from rocketqa_haystack.data.files import DataError
from rocketqa_haystack.data.groups import TrainingGroup, groups_from_collection, read_groups, write_groups
from rocketqa_haystack.data.passage import Passage, as_passage

__all__ = [
    "Collection",
    "DataError",
    "Passage",
    "Qrels",
    "TrainingGroup",
    "as_passage",
    "groups_from_collection",
    "load_collection",
    "read_corpus",
    "read_groups",
    "read_qrels",
    "save_collection",
    "write_groups",
]
