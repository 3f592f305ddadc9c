"""Reading lines with their place in the file, and writing files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO


class DataError(ValueError):
    """A file that is not what it should be. The message names the file, the line where there is one, and the reason."""


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines without their line break; blank lines are passed over.

    Raises:
        DataError: The file is missing, or a line is not UTF-8.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    with file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, line {number}: not UTF-8 text ({error.reason})") from error
            if line.strip():
                yield number, line


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and the JSON object on each line.

    Raises:
        DataError: A line is not a JSON object.
    """
    for number, line in read_lines(path):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error.msg})") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: expected a JSON object, found {type(record).__name__}")
        yield number, record


def text_field(path: str | Path, number: int, record: dict[str, Any], *names: str, default: str | None = None) -> str:
    """The first of the named fields that the record has, which must be a string or a number (ids often are).

    Raises:
        DataError: None of them is there and there is no default, or the value is of another type.
    """
    for name in names:
        value = record.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is not None:
            raise DataError(f"{path}, line {number}: {name!r} must be a string, not {type(value).__name__}")
    if default is None:
        raise DataError(f"{path}, line {number}: {names[0]!r} is missing")
    return default


@contextmanager
def atomic_write(path: str | Path) -> Iterator[TextIO]:
    """A text file to write that takes the place of `path` when the block ends without an error, and only then."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner may read; results are ordinary files.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def refuse_occupied(path: str | Path) -> None:
    """Refuses a path where there is anything but an empty folder.

    Raises:
        FileExistsError: There is.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} is there already and is not an empty folder; remove it or choose another")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new folder to fill that takes the place of `path` when the block ends without an error, and only then.

    Its parent folder, which goes away with the block, lies beside `path` and is named `.NAME.` and something.

    Raises:
        FileExistsError: `path` is there already and is not an empty folder.
    """
    path = Path(path)
    refuse_occupied(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        yield whole
        if path.exists():
            path.rmdir()
        whole.rename(path)


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
