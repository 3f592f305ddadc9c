"""Writing a trained encoder as a model folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

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
    folder = Path(output)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already and is not an empty folder; remove it or choose another")
    yield
    if accelerator.is_main_process:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            whole = Path(temporary) / "model"
            encoder.save_pretrained(whole)
            if folder.exists():
                folder.rmdir()
            shutil.move(whole, folder)
    accelerator.wait_for_everyone()
