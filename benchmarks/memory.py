"""Peak memory of training, and what gradient caching costs in time.

    python benchmarks/memory.py COLLECTION [--steps 2] [--rounds 3] [--groups 1000000]

COLLECTION is a folder in BEIR layout with a train split. Every measurement is a process of its own on the CPU, which
trains from all-MiniLM-L6-v2 on texts of the collection and prints the largest resident memory it ever had (VmHWM, of
Linux).

- A retriever with gradient caching: batches of 1,024 queries against batches of 32.
- Retriever and re-ranker together, with gradient caching: lists of 128 candidates against lists of 8.
- The same steps with and without gradient caching, in turn: the ratio of the times of the steps alone.
- With `--groups`, a file of so many training groups, written for it, against one with a hundredth of them, each trained
  on for a step by all three trainers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rocketqa_haystack.cli.main import quiet_libraries
from rocketqa_haystack.data import (
    Passage,
    TrainingGroup,
    TrainingGroups,
    groups_from_collection,
    load_collection,
    write_groups,
)
from rocketqa_haystack.encoders.packaged import small_encoder
from trainers import CrossEncoderTrainer, DualEncoderTrainer, JointTrainer, TrainingSettings

MAX_LENGTH = 128
MEGABYTE = 1 << 20


def main() -> None:
    """Prints the figures, or is the process of one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--groups", type=int, default=0)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        quiet_libraries()
        print(json.dumps(measure(arguments.collection, **json.loads(arguments.measure))))
        return
    with tempfile.TemporaryDirectory() as folder:
        questions, lists = Path(folder) / "questions.jsonl", Path(folder) / "lists.jsonl"
        write_groups(questions, groups_of(arguments.collection, arguments.steps * 1024, 0))
        write_groups(lists, groups_of(arguments.collection, arguments.steps * 32, 127))
        compare_memory(questions, "dual", "batch_size", (32, 1024), arguments.steps)
        compare_memory(lists, "joint", "list_length", (8, 128), arguments.steps)
        compare_times(questions, "dual", 128, arguments.steps, arguments.rounds)
        compare_times(lists, "cross", 128, arguments.steps, arguments.rounds)
        compare_times(lists, "joint", 4, arguments.steps, arguments.rounds)
        if arguments.groups:
            compare_files(Path(folder), arguments.groups)


def compare_memory(data: Path, kind: str, option: str, values: tuple[int, int], steps: int) -> None:
    """Prints the peaks of two runs with gradient caching that differ in one option, and their ratio."""
    peaks = []
    for value in values:
        found = run(data, kind=kind, caching=True, steps=steps, **{option: value})
        peaks.append(found["peak"])
        print(f"{kind}, {option} {value:,}: {found['peak']:.0f} MiB", flush=True)
    print(f"{kind}: {peaks[1] / peaks[0]:.2f} times the memory\n")


def compare_times(data: Path, kind: str, batch_size: int, steps: int, rounds: int) -> None:
    """Prints seconds of the same steps without and with gradient caching, and their ratio."""
    ratios = []
    for number in range(1, rounds + 1):
        found = [run(data, kind=kind, caching=caching, steps=steps, batch_size=batch_size) for caching in (False, True)]
        ratios.append(found[1]["seconds"] / found[0]["seconds"])
        plain, cached = (f"{each['seconds']:.1f} s, {each['peak']:.0f} MiB" for each in found)
        print(f"round {number}: {kind}: {plain}; with gradient caching {cached}", flush=True)
    median = statistics.median(ratios)
    print(f"{kind}: gradient caching takes {median:.2f} times as long ({min(ratios):.2f} to {max(ratios):.2f})\n")


def compare_files(folder: Path, count: int) -> None:
    """Prints the peaks of one step of each trainer on a small and a large file of training groups."""
    for number in (count // 100, count):
        path = folder / f"{number}.jsonl"
        write_groups(path, (synthetic_group(i) for i in range(number)))
        size = path.stat().st_size / MEGABYTE
        for kind in ("dual", "cross", "joint"):
            found = run(path, kind=kind, caching=False, steps=1, whole_file=True, batch_size=8)
            print(
                f"{kind}, a file of {number:,} groups ({size:,.0f} MiB): {found['peak']:.0f} MiB, of which "
                f"{found['own']:.0f} MiB are not the file's own pages; ready after {found['ready']:.0f} s",
                flush=True,
            )


def run(data: Path, **options: object) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, str(data), "--measure", json.dumps(options)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}  # what a GPU holds is no resident memory
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    found: dict[str, float] = json.loads(output)
    return found


def measure(
    data: str,
    *,
    kind: str,
    caching: bool,
    steps: int,
    batch_size: int = 4,
    list_length: int = 32,
    whole_file: bool = False,
) -> dict[str, float]:
    """Trains for some steps. Seconds are of the steps; peaks in MiB."""
    start = time.perf_counter()
    groups = TrainingGroups.read(data)
    settings = TrainingSettings(batch_size=batch_size, gradient_caching=caching, show_progress=False, evaluations=0)
    trainer: DualEncoderTrainer | CrossEncoderTrainer | JointTrainer
    own = groups if whole_file else groups[: steps * batch_size]
    encoder = small_encoder()
    if kind == "dual":
        trainer = DualEncoderTrainer(
            encoder, own, settings=settings, query_max_length=32, passage_max_length=MAX_LENGTH
        )
    elif kind == "cross":
        own = own if whole_file else own[: steps * batch_size // 5]
        trainer = CrossEncoderTrainer(encoder, own, settings=settings, max_length=MAX_LENGTH)
    else:
        trainer = JointTrainer(
            encoder,
            encoder,
            own,
            settings=settings,
            list_length=list_length,
            query_max_length=32,
            passage_max_length=MAX_LENGTH,
            pair_max_length=MAX_LENGTH,
        )
    ready = time.perf_counter() - start
    start = time.perf_counter()
    if whole_file:
        loss = trainer.loss(trainer._batches(0)[0])  # type: ignore[arg-type]
        assert loss is not None
        loss.backward()
    else:
        trainer.train()
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak, mapped = (int(re.findall(rf"{name}:\s+(\d+) kB", status)[0]) / 1024 for name in ("VmHWM", "RssFile"))
    return {"peak": peak, "own": peak - mapped, "seconds": seconds, "ready": ready}


def groups_of(collection: str, count: int, negatives: int) -> list[TrainingGroup]:
    """Questions with their paragraphs, and other paragraphs of the collection at random as negatives."""
    loaded = load_collection(collection, "train")
    generator, ids = random.Random(0), list(loaded.corpus)
    every = groups_from_collection(loaded)
    groups = []
    for group in every[:: max(1, len(every) // count)][:count]:
        # One more than asked for: the positive may be among them, and does not count.
        chosen = tuple(generator.sample(ids, negatives + 1)) if negatives else ()
        groups.append(replace(group, negative_ids=chosen, negatives=tuple(loaded.corpus[id] for id in chosen)))
    return groups


def synthetic_group(number: int) -> TrainingGroup:
    """A question with a positive and four negatives of about 300 characters."""

    def passage(place: int) -> Passage:
        return Passage(f"passage {number} {place} " + "of words that stand for others " * 9, f"title {number}")

    names = tuple(f"{number}.{place}" for place in range(5))
    passages = tuple(passage(place) for place in range(5))
    return TrainingGroup(str(number), f"question {number}?", names[:1], passages[:1], names[1:], passages[1:])


if __name__ == "__main__":
    main()
