"""Memory and speed of mining: does memory stay the same when the corpus grows?

    python benchmarks/mining.py CORPUS.jsonl QUESTIONS.txt --sizes 10000 100000 --queries 10000

Encodes the first so many passages of a `corpus.jsonl` and mines the top 50 for questions (one on each line, repeated up
to the number asked for), each size in a process of its own, and prints passages and queries per second and the peak
resident memory: of all, and above what the process held when the model was loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

K = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--model", help="a dual encoder; the demo's small one by default")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments, arguments.one)))
        return
    print(f"{'passages':>9}  {'passages/s':>10}  {'queries/s':>9}  {'peak, MiB':>9}  {'above start':>11}")
    for size in arguments.sizes:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", str(size)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = json.loads(output.splitlines()[-1])
        print(
            f"{size:>9,}  {row['passages']:>10.1f}  {row['queries']:>9.1f}  {row['peak']:>9.0f}  {row['above']:>11.0f}",
            flush=True,
        )


def measure(arguments: argparse.Namespace, size: int) -> dict[str, float]:
    """Mines over the first `size` passages."""
    import resource

    import psutil

    from rocketqa_haystack.data import CorpusFile
    from rocketqa_haystack.encoders import DualEncoder
    from rocketqa_haystack.encoders.packaged import small_encoder
    from trainers.loop import start_accelerator
    from trainers.mining import dense_search, encode_corpus, mine

    accelerator = start_accelerator()
    encoder = DualEncoder.from_pretrained(arguments.model or small_encoder())
    encoder.encode_passages(["warm up"])
    begin = psutil.Process().memory_info().rss
    lines = [line for line in arguments.questions.read_text(encoding="utf-8").splitlines() if line.strip()]
    queries = {f"q{number}": line for number, line in enumerate(islice(cycle(lines), arguments.queries))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with arguments.corpus.open(encoding="utf-8") as source, (folder / "corpus.jsonl").open("w") as target:
            target.writelines(islice(source, size))
        corpus = CorpusFile(folder / "corpus.jsonl")
        start = time.perf_counter()
        encode_corpus(encoder, corpus, folder / "vectors", accelerator=accelerator)
        encoded = time.perf_counter()
        search = dense_search(encoder, folder / "vectors", list(corpus), K)
        mine([search], queries, folder / "run.trec", accelerator=accelerator)
        mined = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "passages": len(corpus) / (encoded - start),
        "queries": len(queries) / (mined - encoded),
        "peak": peak / 2**20,
        "above": (peak - begin) / 2**20,
    }


if __name__ == "__main__":
    main()
