"""Timing several sides of a comparison in turn, and printing their rates and ratios."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Side = Callable[[], Any]


def compare(sides: dict[str, Side], amount: int, unit: str, rounds: int, *, own: int = 1) -> dict[str, Any]:
    """Runs the sides one after another, round by round, and prints a table.

    Args:
        sides: What to time, by name; each of the last ones is compared with each of the others.
        amount: Units of work in one call of a side.
        unit: Their name.
        rounds: How often to run each side.
        own: How many the last ones are.

    Returns:
        What each side returned in its last round.
    """
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results = {}
    for number in range(1, rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            results[name] = side()
            seconds[name].append(time.perf_counter() - start)
            print(f"round {number}: {name}: {amount / seconds[name][-1]:.1f} {unit}/s", flush=True)
    others, last = list(sides)[:-own], list(sides)[-own:]
    width = max(len(name) for name in sides)
    for ours in last:
        print(f"\n{'':<{width}}  {unit}/s (median)   {ours} is faster by (median, lowest to highest of the rounds)")
        for name in [*others, ours]:
            rate = amount / statistics.median(seconds[name])
            line = f"{name:<{width}}  {rate:>10.1f}"
            if name in others:
                ratios = [theirs / mine for theirs, mine in zip(seconds[name], seconds[ours], strict=True)]
                line += f"         {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
            print(line)
    return results
