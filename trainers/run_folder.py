"""The folder of an unfinished run: its identity, log and checkpoints, which become the output when the run ends.

```
OUTPUT.training/
  lock              held by the process that trains
  run.json          what makes the run this one: settings, options, data, weights it starts from
  training.jsonl    a line for each step
  runs/             of trackers that write files
  step-500/         a checkpoint: state.safetensors, and best.safetensors once something was evaluated
OUTPUT/             written as OUTPUT.training/whole/ and renamed
```
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rocketqa_haystack.data.files import read_jsonl, refuse_occupied, sync, sync_tree, write_json

RUN, LOG, TRACKED = "run.json", "training.jsonl", "runs"

#: Tensors by name, by file.
Checkpoint = Mapping[str, Mapping[str, Tensor]]


class RunFolder:
    """Keeps a run, for one process at a time.

    Args:
        output: The folder to write in the end; `OUTPUT.training` lies beside it until then.
        identity: What makes the run this one, as JSON has it.
        kept: Checkpoints to keep.

    Raises:
        FileExistsError: The output is there already, and is not that of this very run.
        ValueError: There is an unfinished run that differs; the message says in what.
        OSError: Another process is at it.
    """

    def __init__(self, output: str | Path, identity: Mapping[str, Any], kept: int) -> None:
        self.output = Path(output)
        self.path = self.output.with_name(f"{self.output.name}.training")
        self._identity = json.loads(json.dumps(identity))
        self._kept = kept
        self.finished = _read(self.output / RUN) == self._identity
        if not self.finished:
            refuse_occupied(self.output)
        known = _read(self.path / RUN)
        self.path.mkdir(parents=True, exist_ok=True)
        if (
            known is None
            and not self.finished
            and any(path.name != "lock" and path.name[0] != "." for path in self.path.iterdir())
        ):
            raise FileExistsError(f"{self.path} is there already and is no unfinished run; remove it")
        self._lock = FileLock(self.path / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OSError(f"another process is training {self.output} already") from None
        if known is None:
            write_json(self.path / RUN, self._identity)
        elif (differences := _differences(known, self._identity)) and not self.finished:
            self._lock.release()
            raise ValueError(
                f"{self.path} holds an unfinished run that differs: {'; '.join(differences)}. "
                "Start with its settings to continue it, or remove the folder to start anew"
            )
        self._log: Any = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *error: object) -> None:
        """Lets others have the folder, which goes away where there is nothing to continue from."""
        try:
            if self._log is not None:
                with suppress(OSError):  # a line that found no room, which has been said
                    self._log.close()
            if not self._steps():
                self._remove()
        finally:
            self._lock.release()

    def resume(self) -> tuple[int, list[dict[str, Any]]]:
        """The step of the last checkpoint, 0 where there is none, and the log up to there.

        What was logged after it is cut off: those steps will be taken again. Of a finished run, all of it.
        """
        if self.finished:
            log = [line for _, line in read_jsonl(self.output / LOG)]
            return log[-1]["step"], log
        for path in self.path.iterdir():
            if path.name == "whole" or path.name.startswith("."):  # an end that was not reached
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        step = max(self._steps(), default=0)
        path = self.path / LOG
        lines, size = [], 0
        if path.exists():
            with path.open("rb") as file:
                for raw in file:
                    line = json.loads(raw) if raw.endswith(b"\n") else {"step": step + 1}
                    if line["step"] > step or not step:
                        break
                    lines.append(line)
                    size += len(raw)
            os.truncate(path, size)
        if step and (not lines or lines[-1]["step"] < step):
            raise OSError(f"{path} has not the steps up to {step}, of which there is a checkpoint; remove {self.path}")
        self._log = path.open("a", encoding="utf-8")
        return step, lines

    def log(self, line: Mapping[str, Any]) -> None:
        """Adds a line to the log."""
        try:
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()
        except OSError as error:
            raise OSError(f"{self.path / LOG} cannot be written: {_reason(error)}; {self._advice()}") from error

    def save(self, step: int, checkpoint: Checkpoint) -> None:
        """Writes the checkpoint of a step, whole or not at all, and removes those that are too many.

        Raises:
            OSError: It cannot be written; those before it stay as they are.
        """
        beside = self.path / f".step-{step}"
        try:
            beside.mkdir()
            for name, tensors in checkpoint.items():
                save_file(dict(tensors), beside / f"{name}.safetensors")
            sync_tree(beside)
            os.fsync(self._log.fileno())
            beside.rename(self.path / f"step-{step}")
            sync(self.path)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise OSError(
                f"{self.path}: the checkpoint of step {step} cannot be written: {_reason(error)}; {self._advice()}"
            ) from error
        for old in sorted(self._steps())[: -self._kept]:
            # Renamed first: what is called step-N is whole.
            gone = (self.path / f"step-{old}").rename(self.path / f".step-{old}")
            shutil.rmtree(gone)

    def finish(self, save: Callable[[Path], None]) -> None:
        """Writes the output, whole or not at all, with the log and what identifies the run; its folder goes away.

        Args:
            save: Writes into the folder it is given.
        """
        if not self.finished:
            whole = self.path / "whole"
            whole.mkdir()
            try:
                save(whole)
                for name in (RUN, LOG):
                    shutil.copyfile(self.path / name, whole / name)
                if (self.path / TRACKED).exists():
                    shutil.copytree(self.path / TRACKED, whole / TRACKED)
                sync_tree(whole)
                if self.output.exists():
                    self.output.rmdir()
                whole.rename(self.output)
                sync(self.output.parent)
            except Exception as error:
                shutil.rmtree(whole, ignore_errors=True)
                # The libraries that write models have errors of their own for a full disk.
                if isinstance(error, OSError | SafetensorError) or "os error" in str(error):
                    raise OSError(f"{self.output} cannot be written: {_reason(error)}; {self._advice()}") from error
                raise
        self._remove()

    def _remove(self) -> None:
        """Removes the folder; what says whose it is goes last, should this be interrupted."""
        if self.path.exists():
            for path in sorted(self.path.iterdir(), key=lambda path: path.name in (RUN, "lock")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self.path.rmdir()

    def _steps(self) -> list[int]:
        found = (re.fullmatch(r"step-(\d+)", path.name) for path in self.path.glob("step-*"))
        return [int(match[1]) for match in found if match]

    def _advice(self) -> str:
        step = max(self._steps(), default=0)
        return f"make room and start again, to continue after step {step}" if step else "make room and start again"


def check_output(output: str | Path) -> None:
    """Refuses, before any long work, a folder that no run could write to or has written.

    Raises:
        FileExistsError: It is one.
    """
    if _read(Path(output) / RUN) is None:
        refuse_occupied(output)


def read_checkpoint(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of a step in a run's folder, on the CPU.

    Raises:
        OSError: A file of it is damaged.
    """
    found = {}
    for path in sorted((folder / f"step-{step}").glob("*.safetensors")):
        try:
            found[path.stem] = load_file(path)
        except SafetensorError as error:
            raise OSError(f"{path} is damaged ({error}); remove {path.parent} to continue from before it") from error
    return found


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], place: str = "") -> list[str]:
    found = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{place}{key}.")
        elif old != new:
            found.append(f"{place}{key} was {old} and is {new}")
    return found
