"""What of a run is done, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout
from pydantic import Field, TypeAdapter, ValidationError

from rocketqa_haystack.data import DataError
from trainers.recipes.run import DONE, LOCK, PLAN, USAGE, read_json, read_record


@dataclass(frozen=True)
class State:
    """One stage of a run.

    Attributes:
        name: The stage's.
        state: `done`, `begun` or `to do`.
        seconds: What it took, or has taken so far.
        outcome: In words.
        estimate: Seconds that a stage that is not done will take, where that is known.
    """

    name: str
    state: str
    seconds: float = 0.0
    outcome: str = ""
    estimate: float | None = None


@dataclass(frozen=True)
class Planned:
    """A stage as a run's plan has it: its name, and the name of its folder."""

    name: str
    folder: str


_PLAN = TypeAdapter(Annotated[list[Planned], Field(min_length=1)])


def stage_state(folder: Path, name: str, estimate: float | None = None) -> State:
    """The state of the stage whose folder this is, or would be."""
    if (folder / DONE).is_file():
        record = read_record(folder)
        return State(name, "done", record["seconds"], record["outcome"].get("said", ""))
    if (folder / USAGE).is_file():
        return State(name, "begun", read_json(folder / USAGE, "seconds")["seconds"], estimate=estimate)
    return State(name, "to do", estimate=estimate)


def run_status(folder: Path) -> tuple[list[State], bool]:
    """The stages of the recipe that was last started in a run folder, and whether a process is at work there.

    Raises:
        DataError: There is no run, or what it has written down of its stages is damaged.
    """
    plan = folder / PLAN
    if not plan.is_file():
        raise DataError(f"{folder} is no run folder: it has no {PLAN}; `rocketqa run` makes one")
    try:
        stages = _PLAN.validate_json(plan.read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise DataError(f"{plan}: not a plan that `rocketqa run` wrote ({reason}); run the recipe again") from error
    try:
        with FileLock(folder / LOCK, timeout=0):
            running = False
    except Timeout:
        running = True
    except OSError:  # a folder of someone else, in which nothing can be locked
        running = False
    return [stage_state(folder / "stages" / stage.folder, stage.name) for stage in stages], running


def format_states(states: list[State]) -> str:
    """An aligned table, with the sums below it."""
    width = max(len("stage"), *(len(state.name) for state in states))
    lines = [f"{'stage':<{width}}  {'state':<6}  {'time':>9}  outcome", "-" * (width + 30)]
    for state in states:
        time = _duration(state.seconds) if state.state != "to do" else ""
        if state.estimate is not None:
            time = f"~{_duration(state.estimate)}"
        lines.append(f"{state.name:<{width}}  {state.state:<6}  {time:>9}  {state.outcome}".rstrip())
    lines += _sums(states)
    return "\n".join(lines)


def _sums(states: list[State]) -> Iterator[str]:
    done = [state for state in states if state.state == "done"]
    yield f"{len(done)} of {len(states)} stages done, in {_duration(sum(state.seconds for state in done))}"
    left = [state.estimate for state in states if state.estimate is not None]
    if left:
        yield f"the rest takes about {_duration(sum(left))} on this machine, give or take a half"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
