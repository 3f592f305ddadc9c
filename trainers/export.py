"""Writing a trained encoder as a model folder that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from rocketqa_haystack.data.files import atomic_folder, refuse_occupied
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder


@contextmanager
def export(encoder: DualEncoder | CrossEncoder, output: str | Path | None, accelerator: Accelerator) -> Iterator[None]:
    """Writes the encoder to `output` when the block, the training, has ended without an error; None writes nothing.

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
            encoder.save_pretrained(folder)
    accelerator.wait_for_everyone()
