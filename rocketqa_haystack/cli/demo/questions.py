"""The demo's collection: the standard library's documentation, and questions about it written by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rocketqa_haystack.data import Collection, Passage
from rocketqa_haystack.data.files import read_jsonl

QUESTIONS = Path(__file__).with_name("questions.jsonl")
CORPUS_PROGRAM = Path(__file__).with_name("corpus.py")
SPLITS = ("train", "dev", "test")


def demo_collections() -> dict[str, Collection]:
    """The collections of the splits `train`, `dev` and `test`, over the same passages.

    A name that this Python's standard library does not have is left out of a question's answers; the questions were
    chosen so that each keeps at least one in every supported version.
    """
    # Isolated and without site-packages: nothing but the standard library itself.
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(CORPUS_PROGRAM)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    corpus = {name: Passage(text=text, title=title) for name, (title, text) in json.loads(output).items()}
    collections = {split: Collection(corpus=corpus, queries={}, qrels={}) for split in SPLITS}
    for number, record in read_jsonl(QUESTIONS):
        answers = {name: 1 for name in record["answers"] if name in corpus}
        if answers:
            collection = collections[record["split"]]
            collection.queries[f"q{number}"] = record["question"]
            collection.qrels[f"q{number}"] = answers
    return collections
