"""An interrupted run goes on as if nothing had happened."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from killed_training import finish, kill, log_of, start, train_retriever

KILLS = 20


def log_size(output: Path) -> int:
    """Of a run under way: none before its first step."""
    log = output.with_name(f"{output.name}.training") / "training.jsonl"
    return log.stat().st_size if log.is_file() else 0


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_at_random_moments_ends_with_the_weights_and_the_log_of_one_that_was_not(
    processes: int, encoder_folder: Path, collection_folder: Path, tmp_path: Path
) -> None:
    def begin(output: Path) -> Any:
        # The batch of a step is the same for one process and for two; what differs is the dropout.
        options = {"batch_size": 8 // processes}
        return start(train_retriever, encoder_folder, collection_folder, output, options, processes=processes)

    def wait_for_a_step(output: Path, before: int) -> None:
        """Or for the end: until the log is not as long any more as before the start."""
        while log_size(output) == before and not output.exists():
            time.sleep(0.01)

    finish(begin(tmp_path / "first"))  # after which everything is imported
    whole = tmp_path / "whole"
    began = time.monotonic()
    running = begin(whole)
    wait_for_a_step(whole, 0)
    first_step = time.monotonic() - began
    finish(running)
    duration = time.monotonic() - began
    generator = random.Random(processes)
    kills, runs, resumed = 0, 0, 0
    while kills < KILLS:
        output = tmp_path / f"killed-{runs}"
        runs += 1
        while not output.exists():
            resumed += any(output.with_name(f"{output.name}.training").glob("step-*"))
            before = log_size(output)
            running = begin(output)
            if kills % 2:
                time.sleep(generator.uniform(0, duration))
            else:  # among its steps, however long the machine takes to get there
                wait_for_a_step(output, before)
                time.sleep(generator.uniform(0, duration - first_step))
            if output.exists() or kills == KILLS:
                finish(running)
                break
            kill(running)
            kills += 1
        finish(begin(output))  # the run is at its end, but may have been killed before it had cleaned up
        assert (output / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        assert log_of(output) == log_of(whole)
        assert not output.with_name(f"{output.name}.training").exists()
    assert [line["step"] for line in log_of(whole)] == list(range(13))
    assert resumed > 3, "hardly any run was continued from a checkpoint"
