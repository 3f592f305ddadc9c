"""Searching through FAISSDocumentStore beside FAISS used bare, for each type of index.

    python benchmarks/store.py COLLECTION --folder build/bench-store [--vectors 1000000] [--base 10000]

COLLECTION is a folder in BEIR layout. Its first passages are encoded by all-MiniLM-L6-v2 and kept in the folder, where
a second run, or one after an interruption, finds them; the other vectors are these with noise added, scaled to length 1
again, and so are the queries. A store of them is written once and rebuilt as one type of index after the other. A
million vectors take 7 GB of disk, 5 GB of memory, and on 2 CPU cores one hour, most of it building.

For every type: build time; size of the index; seconds and memory that opening the store takes in a new process (to its
first search, snapshot there and in the system's cache; memory without what stays in files), as often as there are
rounds; and for some search parameters recall@10 against exact search and queries per second, one at a time, on one and
on two threads:

- bare: `index.search` of the same FAISS index.
- bare + fetch: the same, then the 10 documents by plain SQL from the same database, as Haystack Documents with their
  scores, best first.
- store: `FAISSDocumentStore.embedding_retrieval`.

Then recall@10 and the median time of searches among half of the documents, by a filter that is new and by one that was
asked before.

The ratio is the time of the store over that of bare + fetch on one thread, where these two take turns at single
queries: median and range of the rounds.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import psutil
from haystack import Document
from tqdm import tqdm

from rocketqa_haystack import DualEncoder, FAISSDocumentStore
from rocketqa_haystack.cli.main import quiet_libraries
from rocketqa_haystack.data import read_corpus
from rocketqa_haystack.encoders.packaged import small_encoder

DIMENSION = 384
NOISE = 0.6  # length of what is added to a vector of length 1
WRITE_SIZE = 20_000
FILTERED = 20  # queries that are asked with a filter
#: Types of index and the search parameters to try each with.
TYPES: dict[str, list[dict[str, Any]]] = {
    "Flat": [{}],
    "SQfp16": [{}],
    "HNSW32": [{"efSearch": 64}, {"efSearch": 256}],
    "IVF1024,Flat": [{"nprobe": 16}, {"nprobe": 64}],
    "IVF4096,PQ48": [{"nprobe": 64}],
    "OPQ48,IVF1024,PQ48": [{"nprobe": 64}],
}

OPEN = """
import sys, time, json, psutil, numpy as np
from rocketqa_haystack import FAISSDocumentStore
import faiss
def own():
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared
before, start = own(), time.perf_counter()
store = FAISSDocumentStore(path=sys.argv[1])
store.embedding_retrieval(np.ones(int(sys.argv[2]), dtype=np.float32))
print(json.dumps([time.perf_counter() - start, own() - before]))
"""


def main() -> None:
    """Prints a table for each type of index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="where vectors and store are kept")
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--base", type=int, default=10_000, help="passages to encode")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--types", nargs="+", default=list(TYPES), help="FAISS factory strings")
    arguments = parser.parse_args()
    quiet_libraries()
    base = encoded(arguments.collection, arguments.folder, arguments.base)
    folder = arguments.folder / f"store-{arguments.vectors}"
    write_store(folder, base, arguments.vectors)
    queries = perturbed(base, range(-arguments.queries, 0))
    best = exact(base, arguments.vectors, queries)
    best_of_half = exact(base, arguments.vectors // 2, queries[:FILTERED])
    for name in arguments.types:
        build_and_open(folder, name, arguments.rounds)
        measure(folder, TYPES.get(name, [{}]), queries, best, arguments.rounds)
        print_filtered(folder, arguments.vectors // 2, queries[:FILTERED], best_of_half)


def encoded(collection: Path, folder: Path, count: int) -> np.ndarray:
    """The vectors of the first passages, `[count, 384]`: those in the folder, and the missing ones encoded."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "base.f32"
    row = 4 * DIMENSION
    done = file.stat().st_size // row if file.exists() else 0
    if done < count:
        encoder = DualEncoder.from_pretrained(str(small_encoder()))
        passages = islice((passage for _, passage in read_corpus(collection / "corpus.jsonl")), done, count)
        with file.open("ab") as stream, tqdm(total=count, initial=done, desc="Encoding", unit="passage") as progress:
            stream.truncate(done * row)
            while chunk := list(islice(passages, 512)):
                stream.write(encoder.encode_passages(chunk).tobytes())
                stream.flush()
                progress.update(len(chunk))
    return np.fromfile(file, dtype=np.float32).reshape(-1, DIMENSION)[:count]


def perturbed(base: np.ndarray, numbers: range) -> np.ndarray:
    """Vectors by their numbers; the first `len(base)` are the base itself, negative numbers are queries."""
    vectors = base[np.asarray(numbers) % len(base)].copy()
    for place, number in enumerate(numbers):
        if not 0 <= number < len(base):
            noise = np.random.default_rng(number % 2**32).standard_normal(DIMENSION, dtype=np.float32)
            vectors[place] += noise * (NOISE / np.linalg.norm(noise))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def blocks(base: np.ndarray, start: int, stop: int) -> Iterator[tuple[range, np.ndarray]]:
    """All vectors from number `start` on, a block at a time."""
    for first in range(start, stop, WRITE_SIZE):
        numbers = range(first, min(first + WRITE_SIZE, stop))
        yield numbers, perturbed(base, numbers)


def write_store(folder: Path, base: np.ndarray, count: int) -> None:
    """Writes the documents that are not there yet."""
    with FAISSDocumentStore(path=folder) as store:
        done, seconds = store.count_documents(), 0.0
        if done >= count:
            return
        for numbers, vectors in tqdm(blocks(base, done, count), desc="Writing", unit_scale=WRITE_SIZE, unit="document"):
            documents = [Document(id=f"d{n}", content=f"passage {n} " + "word " * 100, meta={"n": n}) for n in numbers]
            start = time.perf_counter()
            store.write_vectors(documents, vectors)
            seconds += time.perf_counter() - start
        print(f"writing: {(count - done) / seconds:,.0f} documents/s")


def exact(base: np.ndarray, count: int, queries: np.ndarray) -> np.ndarray:
    """The numbers of the 10 best vectors for each query, `[n, 10]`."""
    heap = faiss.ResultHeap(len(queries), 10, keep_max=True)
    for numbers, vectors in blocks(base, 0, count):
        scores, places = faiss.knn(queries, vectors, 10, metric=faiss.METRIC_INNER_PRODUCT)
        heap.add_result(scores, places + numbers.start)
    heap.finalize()
    return np.asarray(heap.I)


def build_and_open(folder: Path, name: str, rounds: int) -> None:
    """Builds one type of index and prints what that takes, and opening it."""
    with FAISSDocumentStore(path=folder) as store:
        start = time.perf_counter()
        store.rebuild(name)
        build = time.perf_counter() - start
    megabytes = (folder / "index.faiss").stat().st_size / 2**20
    command = [sys.executable, "-c", OPEN, str(folder), str(DIMENSION)]
    openings = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(rounds)]
    seconds, memory = zip(*map(json.loads, openings), strict=True)
    print(
        f"\n{name}: built in {build:.0f} s, {megabytes:,.0f} MiB on disk; opened in "
        f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
        f"taking {statistics.median(memory) / 2**20:,.0f} MiB of its own"
    )


def measure(folder: Path, settings: list[dict[str, Any]], queries: np.ndarray, best: np.ndarray, rounds: int) -> None:
    """Prints what the store's index does beside FAISS used bare."""
    whole = faiss.read_index(str(folder / "index.faiss"))  # with the documents' numbers, which bare FAISS has not
    index = faiss.downcast_index(whole.index)
    faiss.omp_set_num_threads(1)
    with FAISSDocumentStore(path=folder) as store:
        for parameters in settings:
            print_speed(folder, store, index, parameters, queries, best, rounds)
    faiss.omp_set_num_threads(psutil.cpu_count() or 1)


def print_speed(
    folder: Path,
    store: FAISSDocumentStore,
    index: Any,
    parameters: dict[str, Any],
    queries: np.ndarray,
    best: np.ndarray,
    rounds: int,
) -> None:
    """Recall and queries per second of one setting."""
    if "nprobe" in parameters:
        chosen = faiss.SearchParametersIVF(**parameters)
    else:
        chosen = faiss.SearchParametersHNSW(**parameters) if parameters else None
    connections = threading.local()

    def bare(query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores, places = index.search(query[np.newaxis], 10, params=chosen)
        return scores[0], places[0]

    def with_documents(query: np.ndarray) -> list[Document]:
        if not hasattr(connections, "own"):
            connections.own = sqlite3.connect(folder / "documents.sqlite")
        scores, places = bare(query)
        numbers = (places + 1).tolist()
        sql = f"SELECT number, id, content, meta FROM documents WHERE number IN ({', '.join('?' * len(numbers))})"
        rows = {number: row for number, *row in connections.own.execute(sql, numbers)}
        return [
            Document(id=id, content=content, meta=json.loads(meta), score=score)
            for (id, content, meta), score in zip((rows[number] for number in numbers), scores.tolist(), strict=True)
        ]

    def through_store(query: np.ndarray) -> list[Document]:
        return store.embedding_retrieval(query, search_parameters=parameters)

    sides: dict[str, Callable[[np.ndarray], Any]] = {
        "bare": bare,
        "bare + fetch": with_documents,
        "store": through_store,
    }
    found = [{document.meta["n"] for document in through_store(query)} for query in queries]
    recall = statistics.mean(len(set(row.tolist()) & ours) / 10 for row, ours in zip(best, found, strict=True))
    rates: dict[str, dict[int, list[float]]] = {side: {1: [], 2: []} for side in sides}
    for _ in range(rounds):
        # On one thread the two that are compared take turns: what else the machine does falls on both alike. Each has
        # its copy of the index and is at another query, so that neither finds in the processor's caches what the other
        # has read.
        seconds = dict.fromkeys(sides, 0.0)
        for turn in (["bare"], ["bare + fetch", "store"]):
            for number in range(len(queries)):
                for place, side in enumerate(turn):
                    query = queries[(number + place * len(queries) // 2) % len(queries)]
                    start = time.perf_counter()
                    sides[side](query)
                    seconds[side] += time.perf_counter() - start
        for side, search in sides.items():
            rates[side][1].append(len(queries) / seconds[side])
            with ThreadPoolExecutor(2) as pool:
                start = time.perf_counter()
                list(pool.map(search, queries))
                rates[side][2].append(len(queries) / (time.perf_counter() - start))
    ratios = [theirs / ours for theirs, ours in zip(rates["bare + fetch"][1], rates["store"][1], strict=True)]
    line = "; ".join(
        f"{side} {statistics.median(rates[side][1]):,.1f} and {statistics.median(rates[side][2]):,.1f}"
        for side in sides
    )
    label = ", ".join(f"{key} {value}" for key, value in parameters.items()) or "defaults"
    print(
        f"  {label}: recall@10 {recall:.4f}; queries/s on 1 and 2 threads: {line}; "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def print_filtered(folder: Path, count: int, queries: np.ndarray, best: np.ndarray) -> None:
    """Recall and time of searches among the first `count` documents, of which `best` are the true ones."""
    half = {"field": "meta.n", "operator": "<", "value": count}
    kinds: dict[str, list[float]] = {"new": [], "asked before": []}
    hits = 0
    with FAISSDocumentStore(path=folder) as store:
        store.embedding_retrieval(queries[0])
        for number, (query, expected) in enumerate(zip(queries, best, strict=True)):
            other = {
                "operator": "AND",
                "conditions": [half, {"field": "meta.n", "operator": "!=", "value": -1 - number}],
            }
            for seconds in kinds.values():
                start = time.perf_counter()
                found = store.embedding_retrieval(query, filters=other)
                seconds.append(time.perf_counter() - start)
            hits += len({document.meta["n"] for document in found} & set(expected))
    times = ", ".join(f"{statistics.median(seconds):.3f} s by a filter {kind}" for kind, seconds in kinds.items())
    print(f"  among {count:,} documents: recall@10 {hits / best.size:.4f}; {times}", flush=True)


if __name__ == "__main__":
    main()
