"""Writing what was trained as a folder that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from rocketqa_haystack.data.files import atomic_folder, refuse_occupied


@contextmanager
def export(save: Callable[[Path], None], output: str | Path | None, accelerator: Accelerator) -> Iterator[None]:
    """Fills the folder `output` when the block, the training, has ended without an error; None writes nothing.

    Args:
        save: Writes into the folder it is given.
        output: The folder.
        accelerator: Whose main process does it.

    Raises:
        FileExistsError: Before the block: the folder is there already and is not empty, or is a file.
    """
    if output is None:
        yield
        return
    refuse_occupied(output)
    yield
    if accelerator.is_main_process:
        with atomic_folder(output) as folder:
            save(folder)
    accelerator.wait_for_everyone()
