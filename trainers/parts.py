"""Long work in parts: shared by all processes, each part whole or not there, none done twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator
from tqdm.auto import tqdm


def make_parts(
    folder: Path,
    count: int,
    make: Callable[[int, Path], None],
    *,
    suffix: str,
    accelerator: Accelerator,
    description: str,
    show_progress: bool = False,
) -> list[Path]:
    """Makes those files of a folder that are not there yet; every process makes its share and waits for the others.

    Where the work is cut does not depend on the number of processes: with any number, and after any interruption, the
    files are the same.

    Args:
        folder: Of the parts; made if it is not there.
        count: Number of parts.
        make: Writes a part, by its number, into the file it is given.
        suffix: Of the files' names.
        accelerator: The processes.
        description: Of the progress bar.
        show_progress: Whether to show one.

    Returns:
        The files, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06}{suffix}" for number in range(count)]
    own = range(accelerator.process_index, count, accelerator.num_processes)
    hidden = not show_progress or not accelerator.is_main_process
    with tqdm(total=len(own), desc=description, unit="part", disable=hidden) as progress:
        for number in own:
            if not paths[number].is_file():
                # A part is made by one process only: what a killed one left under this name is written over.
                unfinished = paths[number].with_suffix(".unfinished")
                make(number, unfinished)
                _sync(unfinished)
                unfinished.replace(paths[number])
            progress.update()
    accelerator.wait_for_everyone()
    return paths


def join_parts(parts: Sequence[Path], output: Path, accelerator: Accelerator) -> None:
    """Puts files one behind another into `output`, which appears whole, and removes the folder of the parts."""
    if accelerator.is_main_process:
        output.parent.mkdir(parents=True, exist_ok=True)
        unfinished = output.with_name(f".{output.name}.unfinished")
        with unfinished.open("wb") as whole:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole)
        _sync(unfinished)
        unfinished.replace(output)
        if parts:
            shutil.rmtree(parts[0].parent)
    accelerator.wait_for_everyone()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
