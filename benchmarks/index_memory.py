"""The memory that `rocketqa index` needs, and how far that of a killed one is continued.

    python benchmarks/index_memory.py COLLECTION [--model MODEL] [--kill SECONDS]

COLLECTION is a folder in BEIR layout. Indexes it into a temporary folder, with a BERT of two small layers with random
weights unless a model is given, and prints the peak of resident memory, the part of it that is there once the model has
encoded a first batch, and the time. With --kill, the command is killed after so many seconds and started again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel, BertTokenizerFast

from rocketqa_haystack.encoders.packaged import small_encoder

MODEL_ALONE = """
import sys, psutil
from rocketqa_haystack import DualEncoder, FAISSDocumentStore, Passage
DualEncoder.from_pretrained(sys.argv[1]).encode_passages([Passage("word " * 200)] * 1024)
with FAISSDocumentStore() as store:
    store.count_documents()
memory = psutil.Process().memory_info()
print(getattr(memory, "peak_wset", memory.rss))
"""


def main() -> None:
    """Prints the peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("--model")
    parser.add_argument("--kill", type=float)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model = arguments.model or random_model(Path(temporary))
        alone = subprocess.run([sys.executable, "-c", MODEL_ALONE, model], check=True, capture_output=True, text=True)
        print(f"program and model: {int(alone.stdout.split()[-1]) / 2**20:,.0f} MiB")
        command = [sys.executable, "-m", "rocketqa_haystack.cli.main", "index", arguments.collection]
        command += [str(Path(temporary) / "store"), "--model", str(model)]
        for limit in ([arguments.kill] if arguments.kill else []) + [None]:
            start = time.perf_counter()
            peak, output = run(command, limit)
            print(f"{output.strip() or 'killed'} ({time.perf_counter() - start:.0f} s, peak {peak / 2**20:,.0f} MiB)")


def random_model(folder: Path) -> str:
    """A BERT of two small layers with the vocabulary of all-MiniLM-L6-v2, mean pooling."""
    language_model = folder / "language-model"
    tokenizer = BertTokenizerFast.from_pretrained(small_encoder())
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size)).save_pretrained(language_model)
    tokenizer.save_pretrained(language_model)
    modules = [Transformer(str(language_model), max_seq_length=256), Pooling(32, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "model"))
    shutil.rmtree(language_model)
    return str(folder / "model")


def run(command: list[str], limit: float | None) -> tuple[int, str]:
    """Runs a command, kills it after `limit` seconds, and returns its peak memory in bytes and its output."""
    peak, start = 0, time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            if limit is not None and time.perf_counter() - start > limit:
                process.kill()
            time.sleep(0.02)
        assert process.stdout is not None
        output = process.stdout.read()
    if limit is None and process.returncode:
        raise SystemExit(f"{command} failed")
    return peak, output


if __name__ == "__main__":
    main()
