"""A run: its folder, its stages one after another, what is done and how long it took.

```
RUN/
  recipe.yaml            the recipe with all its defaults
  journal.jsonl          when which stage was started, continued and finished
  stages/NAME-KEY/       one folder for each stage; stage.json, written last, says that it is whole
  retriever/ ranker/ store/ pipeline.yaml pipeline-hybrid.yaml report.html judgements.tsv
```
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from rocketqa_haystack.data import CorpusFile, DataError
from rocketqa_haystack.data.files import atomic_write, write_json
from trainers.loop import start_accelerator
from trainers.recipes.plan import File, Stage, ordered
from trainers.recipes.settings import Recipe, RecipeError

DONE, USAGE, JOURNAL, PLAN, LOCK = "stage.json", "usage.json", "journal.jsonl", "plan.json", ".lock"
RECIPE = "recipe.yaml"

#: Seconds between two looks at a running stage's memory, and between two notes of its time.
LOOK, NOTE = 0.2, 2.0

#: Seconds to wait for the run folder, which `rocketqa status` takes for a moment to see whether it is free.
PATIENCE = 2.0


@dataclass
class Run:
    """What stages know of the run that they are part of.

    Attributes:
        folder: The run's.
        recipe: Its recipe.
        accelerator: The processes.
        show_progress: Whether stages show progress bars.
        names: Folders' names by key: stages of one key are one stage, whatever each is called.
        corpora: Those that are open.
    """

    folder: Path
    recipe: Recipe
    accelerator: Accelerator
    show_progress: bool = True
    names: dict[str, str] = field(default_factory=dict)
    corpora: dict[Path, CorpusFile] = field(default_factory=dict)

    def of(self, stage: Stage) -> Path:
        """A stage's folder."""
        return self.folder / "stages" / self.names.get(stage.key, stage.folder_name)

    def is_done(self, stage: Stage) -> bool:
        """Whether there is nothing left to do for a stage."""
        return (self.of(stage) / DONE).is_file() and bool(read_record(self.of(stage))) and stage.stands(self)

    def outcome(self, stage: Stage) -> dict[str, Any]:
        """What a finished stage said of its outcome."""
        outcome: dict[str, Any] = read_record(self.of(stage))["outcome"]
        return outcome

    def corpus(self, file: File) -> CorpusFile:
        """A corpus, opened once."""
        if file.path not in self.corpora:
            self.corpora[file.path] = CorpusFile(file.path)
        return self.corpora[file.path]

    def main_only(self, work: Callable[[], object]) -> None:
        """Does something on the main process, for which the others wait."""
        if self.accelerator.is_main_process:
            work()
        self.accelerator.wait_for_everyone()


def read_json(file: Path, *keys: str) -> dict[str, Any]:
    """What a run has written down in a file.

    Raises:
        DataError: It is damaged, or lacks one of the keys.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}); remove {file.parent} to do this again") from error
    if not isinstance(found, dict) or any(key not in found for key in keys):
        raise DataError(f"{file} is damaged; remove {file.parent} to do this again")
    return found


def read_record(folder: Path) -> dict[str, Any]:
    """The `stage.json` of a finished stage.

    Raises:
        DataError: It is damaged.
    """
    return read_json(folder / DONE, "seconds", "outcome")


def run_stages(
    recipe: Recipe, last: Stage, *, accelerator: Accelerator | None = None, show_progress: bool = True
) -> Run:
    """Does what is not done yet of a stage and of all that it depends on.

    Raises:
        RecipeError: Another process is at work in the run folder.
    """
    stages = ordered(last)
    names = {stage.key: stage.folder_name for stage in stages}
    run = Run(recipe.output, recipe, accelerator or start_accelerator(), show_progress, names)
    with _locked(run):
        if run.accelerator.is_main_process:
            _write_plan(run, stages)
        for number, stage in enumerate(stages, start=1):
            _run_stage(run, stage, f"[{number}/{len(stages)}] {stage.name}")
    return run


def _run_stage(run: Run, stage: Stage, title: str) -> None:
    folder, main = run.of(stage), run.accelerator.is_main_process
    if _agreed(run, run.is_done(stage)):
        _say(run, f"{title}: done before")
        return
    folder.mkdir(parents=True, exist_ok=True)
    if main:
        _note(run, stage, "continued" if (folder / USAGE).is_file() else "started")
    _say(run, f"{title} ...")
    with _watched(folder, main) as usage:
        outcome = stage.run(folder, run) or {}
        run.accelerator.wait_for_everyone()
    if main:
        record = {
            "name": stage.name,
            "key": stage.key,
            "kind": type(stage).__name__,
            "settings": stage.settings,
            "inputs": stage.inputs,
            "outcome": outcome,
            **usage,
            "seconds": round(usage["seconds"], 2),
            "processes": run.accelerator.num_processes,
            "finished": _now(),
        }
        write_json(folder / DONE, record)
        _note(run, stage, "finished")
    run.accelerator.wait_for_everyone()
    _say(run, f"{title}: {_told(outcome)}{usage['seconds']:.0f} s")


def _told(outcome: dict[str, Any]) -> str:
    return f"{outcome['said']}; " if outcome.get("said") else ""


def _agreed(run: Run, value: bool) -> bool:
    """The main process's answer on all processes: the others may see the disk at another moment."""
    values = [value]
    if run.accelerator.num_processes > 1:
        broadcast_object_list(values)
    return values[0]


@contextmanager
def _watched(folder: Path, main: bool) -> Iterator[dict[str, Any]]:
    """Time and peak memory of a block, those of earlier attempts included, kept in the stage's folder meanwhile."""
    file = folder / USAGE
    usage: dict[str, Any] = {"seconds": 0.0, "peak_bytes": 0}
    if file.is_file():
        usage.update(read_json(file, "seconds"))
    before, start, ended = usage["seconds"], time.monotonic(), Event()
    process, cuda = psutil.Process(), torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()

    def look() -> None:
        usage["seconds"] = before + time.monotonic() - start
        usage["peak_bytes"] = max(usage["peak_bytes"], process.memory_info().rss)
        if cuda:
            usage["peak_gpu_bytes"] = max(usage.get("peak_gpu_bytes", 0), torch.cuda.max_memory_allocated())

    def watch() -> None:
        noted = float("-inf")
        while True:
            look()
            if main and time.monotonic() - noted > NOTE:
                with suppress(OSError):  # a full disk, which the stage will say itself
                    write_json(file, usage)
                noted = time.monotonic()
            if ended.wait(LOOK):
                return

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        ended.set()
        thread.join()
        look()


@contextmanager
def _locked(run: Run) -> Iterator[None]:
    run.folder.mkdir(parents=True, exist_ok=True)
    if not run.accelerator.is_main_process:
        yield
        return
    try:
        with FileLock(run.folder / LOCK, timeout=PATIENCE):
            yield
    except Timeout as error:
        raise RecipeError(f"{run.folder}: another process is at work in this run folder") from error


def _write_plan(run: Run, stages: Sequence[Stage]) -> None:
    # The plan first: it says that what else is here is a run's.
    write_json(run.folder / PLAN, [{"name": stage.name, "folder": stage.folder_name} for stage in stages])
    with atomic_write(run.folder / RECIPE) as file:
        yaml.safe_dump(plain(run.recipe), file, sort_keys=False, allow_unicode=True)


def _note(run: Run, stage: Stage, event: str) -> None:
    line = json.dumps({"time": _now(), "event": event, "stage": stage.name, "key": stage.key, "process": os.getpid()})
    with (run.folder / JOURNAL).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _say(run: Run, text: str) -> None:
    if run.accelerator.is_main_process:
        print(text, flush=True)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def plain(value: Any) -> Any:
    """Settings as what YAML and JSON hold."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
