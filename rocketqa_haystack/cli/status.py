"""`rocketqa status`: how far a run is."""

from __future__ import annotations

from pathlib import Path


def status(folder: Path) -> None:
    """Show the stages of a run, what came of those that are done, and whether it is running.

    Args:
        folder: The run folder, a recipe's `output`.
    """
    from trainers.recipes.status import format_states, run_status

    states, running = run_status(folder)
    print(format_states(states))
    print("running" if running else "not running")
