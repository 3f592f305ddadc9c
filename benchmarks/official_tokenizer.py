"""Tokenising passages: the official RocketQA tokenizer of converted models beside transformers' BertTokenizerFast.

    python benchmarks/official_tokenizer.py COLLECTION [--vocabulary FILE] [--rounds 5]

COLLECTION is a folder in BEIR layout; its passages go in as (title, text) pairs, cut at 128 tokens. The vocabulary is
that of all-MiniLM-L6-v2, BERT's for English, unless a file is given.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from sides import compare
from transformers import BertTokenizerFast

from rocketqa_haystack.checkpoints.tokenizer import build_tokenizer
from rocketqa_haystack.data import read_corpus
from rocketqa_haystack.encoders.packaged import small_encoder
from rocketqa_haystack.encoders.pairs import finish_pairs, without_surrogates

MAX_LENGTH = 128


def main() -> None:
    """Prints rates and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("--vocabulary", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    pairs = [(passage.title, passage.text) for _, passage in read_corpus(arguments.collection / "corpus.jsonl")]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = arguments.vocabulary or _vocabulary(Path(folder) / "vocab.txt")
        plain = BertTokenizerFast(vocab=str(vocabulary))
        official = build_tokenizer(vocabulary, vocabulary_size=len(plain), removes_spaces=False, max_length=MAX_LENGTH)

    def ours() -> object:
        texts = [without_surrogates(pair) for pair in pairs]
        output = official(texts, truncation="longest_first", max_length=MAX_LENGTH + 1)
        finish_pairs(output, MAX_LENGTH, closes_empty=True)
        return output

    sides = {"transformers": lambda: plain(pairs, truncation="longest_first", max_length=MAX_LENGTH), "official": ours}
    for side in sides.values():
        side()  # warm
    compare(sides, len(pairs), "passages", arguments.rounds)


def _vocabulary(path: Path) -> Path:
    """The small encoder's vocabulary, one token on each line."""
    ids: dict[str, int] = json.loads((small_encoder() / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    path.write_text("\n".join(sorted(ids, key=ids.__getitem__)), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
