"""`rocketqa serve` under load: questions encoded together beside questions encoded one by one.

    python benchmarks/serve.py [COLLECTION] [--clients 32] [--seconds 30] [--rounds 1] [--ranker FOLDER]

COLLECTION is a folder in BEIR layout; without it, Python's documentation and the demo's questions are taken. The first
thousand passages are indexed with all-MiniLM-L6-v2. Two services run, the second with --batch-size 1, and are asked in
turn by as many clients at once, each sending its next question when it has the answer to the last; the clients run in
this process, on the same cores. Takes about a minute a round. Any failed request ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from urllib.request import urlopen

from haystack import Document, Pipeline

from rocketqa_haystack import DualEncoder, FAISSDocumentStore, RocketQARanker, RocketQARetriever
from rocketqa_haystack.cli.demo.questions import demo_collections
from rocketqa_haystack.cli.main import quiet_libraries
from rocketqa_haystack.data import Collection, load_collection
from rocketqa_haystack.encoders.packaged import small_encoder

PASSAGES = 1_000

HEAD = "POST /ask/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"


@dataclass
class Load:
    """What the clients saw."""

    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main() -> int:
    """Prints both services' rates and latencies, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", nargs="?")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ranker", help="a cross-encoder that re-ranks 20 passages for each question")
    arguments = parser.parse_args()
    quiet_libraries()
    collection = load_collection(arguments.collection) if arguments.collection else demo_collections()["train"]
    questions = list(collection.queries.values())
    ratios, failed = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        write_pipeline(Path(temporary), collection, arguments.ranker)
        with service(temporary, 32) as together, service(temporary, 1) as one_by_one:
            for port in (together, one_by_one):
                asyncio.run(load(port, questions, arguments.clients, 2))
            for number in range(1, arguments.rounds + 1):
                rates = []
                for name, port in (("together", together), ("one by one", one_by_one)):
                    before = batches(port)
                    seen = asyncio.run(load(port, questions, arguments.clients, arguments.seconds))
                    calls, requests = (after - earlier for after, earlier in zip(batches(port), before, strict=True))
                    rates.append(len(seen.latencies) / arguments.seconds)
                    failed += len(seen.failures)
                    cuts = statistics.quantiles(seen.latencies, n=20)
                    print(
                        f"round {number}: {name}: {rates[-1]:.1f} questions/s, {len(seen.failures)} failed, "
                        f"p50 {1000 * cuts[9]:.0f} ms, p95 {1000 * cuts[18]:.0f} ms, "
                        f"{requests / max(1, calls):.1f} questions a batch {seen.failures[:1] or ''}",
                        flush=True,
                    )
                ratios.append(rates[0] / rates[1])
    print(f"\n{arguments.clients} clients, {os.cpu_count()} CPUs: together is faster by (median, lowest to highest)")
    print(f"{statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}); {failed} requests failed")
    return int(failed > 0)


def write_pipeline(folder: Path, collection: Collection, ranker: str | None) -> None:
    """Indexes the passages and writes pipeline.yaml."""
    encoder = DualEncoder.from_pretrained(small_encoder())
    store = FAISSDocumentStore(path=folder / "store", similarity=encoder.store_similarity)
    passages = dict(islice(collection.corpus.items(), PASSAGES))
    documents = [Document(id=id, content=p.text, meta={"title": p.title}) for id, p in passages.items()]
    with store:
        store.write_vectors(documents, encoder.encode_passages(list(passages.values()), show_progress=True))
    pipeline = Pipeline()
    retriever = RocketQARetriever(model=small_encoder(), document_store=store, top_k=20 if ranker else 5)
    pipeline.add_component("retriever", retriever)
    if ranker:
        pipeline.add_component("ranker", RocketQARanker(model=ranker, top_k=5))
        pipeline.connect("retriever", "ranker")
    (folder / "pipeline.yaml").write_text(pipeline.dumps(), encoding="utf-8")


@contextmanager
def service(folder: str, batch_size: int) -> Iterator[int]:
    """A service in a process of its own; gives its port."""
    command = [sys.executable, "-m", "rocketqa_haystack.cli.main", "serve", folder, "--port", "0"]
    with subprocess.Popen([*command, "--batch-size", str(batch_size)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(int(found[1]) for line in process.stdout if (found := re.search(r"http://.*:(\d+)/", line)))
        finally:
            process.terminate()


async def load(port: int, questions: list[str], clients: int, seconds: float) -> Load:
    """Asks for some seconds, from several clients at once over connections that they keep."""
    seen, end, source = Load(), time.perf_counter() + seconds, cycle(questions)

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            body = json.dumps({"question": next(source)}).encode()
            head = HEAD.format(length=len(body)).encode()
            start = time.perf_counter()
            writer.write(head + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer.lower())
            content = await reader.readexactly(int(length[1])) if length else b""
            if answer.startswith(b"HTTP/1.1 200 ") and b'"passages"' in content:
                seen.latencies.append(time.perf_counter() - start)
            else:
                seen.failures.append(answer.decode().splitlines()[0])
        writer.close()

    for outcome in await asyncio.gather(*(client() for _ in range(clients)), return_exceptions=True):
        if outcome is not None:
            seen.failures.append(repr(outcome))
    return seen


def batches(port: int) -> tuple[float, float]:
    """How many batches the dual encoder has computed, and of how many questions."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        text = response.read().decode()
    found = (
        re.search(rf'rocketqa_batch_requests_{name}{{encoder="dual encoder"}} (\S+)', text) for name in ("count", "sum")
    )
    count, total = (float(match[1]) if match else 0.0 for match in found)
    return count, total


if __name__ == "__main__":
    sys.exit(main())
