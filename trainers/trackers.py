"""Experiment trackers, by the names that accelerate has for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers


def check_trackers(names: Sequence[str]) -> None:
    """Refuses trackers that could not be started.

    Raises:
        ValueError: There is no such tracker, or its package is not installed.
    """
    installed = {tracker.value for tracker in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(f"there is no tracker {name!r}; accelerate has {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}")
        if name not in installed:
            raise ValueError(f"the tracker {name} needs its package, which is not installed")


@contextmanager
def started_trackers(
    names: Sequence[str], folder: Path, project: str, config: Mapping[str, Any], step: int
) -> Iterator[list[GeneralTracker]]:
    """Trackers to log to within the block, on the main process.

    Args:
        names: As `check_trackers` lets pass.
        folder: For those that write files.
        project: Its name.
        config: What to record about the run.
        step: The last step that was logged before; TensorBoard forgets what came after it.

    Raises:
        OSError: A tracker cannot write its files or reach its server; so does `log_to`.
    """
    trackers = []
    try:
        for name in names:
            kind = LOGGER_TYPE_TO_CLASS[name]
            options: dict[str, Any] = {"purge_step": step + 1 if step else 0} if name == "tensorboard" else {}
            if kind.requires_logging_directory:
                options["logging_dir"] = str(folder)
            tracker = kind(project, **options)
            with _named(tracker):
                tracker.start()
                trackers.append(tracker)
                tracker.store_init_configuration({key: str(value) for key, value in config.items()})
        yield trackers
    except BaseException:
        for tracker in trackers:
            with suppress(OSError):  # what stopped the run is what is to be said
                tracker.finish()
        raise
    for tracker in trackers:
        with _named(tracker):
            tracker.finish()


def log_to(trackers: Sequence[GeneralTracker], line: Mapping[str, Any]) -> None:
    """Logs what a run's log has about a step."""
    values = {key: value for key, value in line.items() if key not in ("step", "dev")} | line.get("dev", {})
    for tracker in trackers:
        # MLflow refuses names with an @.
        named = (
            {key.replace("@", "_at_"): value for key, value in values.items()} if tracker.name == "mlflow" else values
        )
        with _named(tracker):
            tracker.log(named, step=line["step"])


@contextmanager
def _named(tracker: GeneralTracker) -> Iterator[None]:
    """Says whose error it is when something cannot be written or reached."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"the tracker {tracker.name} failed: {error.strerror or error}; start again, with it or without, "
            "to continue after the last checkpoint"
        ) from error
