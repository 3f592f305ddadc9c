"""Reading lines with their place in the file, and writing files that appear whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, TextIO, cast

#: Rights that new files do not get. It can only be read by setting it, which no other thread must see: once, at first.
_UMASK = os.umask(0)
os.umask(_UMASK)


class DataError(ValueError):
    """A file that is not what it should be. The message names the file, the line where there is one, and the reason."""


@dataclass
class SkippedLines:
    """What was left out of a file that is read in spite of its bad lines.

    Attributes:
        count: Lines (of a JSON array: items) that were left out.
        examples: What was wrong with the first of them, each with its place.
    """

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, error: DataError, lines: int = 1) -> None:
        """Counts what `error` refused."""
        self.count += lines
        if len(self.examples) < 3:
            self.examples.append(str(error))

    def __str__(self) -> str:
        if not self.count:
            return "no bad lines"
        lines, more = "line" if self.count == 1 else "lines", "; ..." if self.count > len(self.examples) else ""
        return f"{self.count:,} bad {lines} left out: {'; '.join(self.examples)}{more}"


@contextmanager
def open_bytes(path: str | Path) -> Iterator[IO[bytes]]:
    """The bytes of a file; those of a gzip file, whatever its name, are unpacked.

    Raises:
        DataError: The file cannot be read, or is a damaged gzip file.
    """
    with _open(path) as raw:
        if not _is_packed(raw):
            yield raw
            return
        try:
            with gzip.GzipFile(fileobj=raw) as file:
                yield cast(IO[bytes], file)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: a damaged gzip file ({error})") from error


def open_unpacked(path: str | Path, entries: str) -> BufferedReader:
    """A file in which entries are looked up by the offsets of their lines.

    Raises:
        DataError: The file cannot be read, or is packed by gzip.
    """
    file = _open(path)
    if _is_packed(file):
        file.close()
        raise DataError(f"{path}: packed by gzip; unpack it, so that {entries} can be looked up in it")
    return file


def lines_with_offsets(file: BufferedReader) -> Iterator[tuple[int, int, bytes]]:
    """Line numbers from 1, where the lines begin in bytes, and the lines; blank lines are passed over."""
    offset = 0
    for number, raw in enumerate(file, start=1):
        if raw.strip():
            yield number, offset, raw
        offset += len(raw)


def _open(path: str | Path) -> BufferedReader:
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _is_packed(file: BufferedReader) -> bool:
    return file.peek(2)[:2] == b"\x1f\x8b"


def read_raw_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Line numbers from 1 and lines as they are in the file; blank lines are passed over.

    Raises:
        DataError: The file cannot be read.
    """
    with open_bytes(path) as file:
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                yield number, raw


def decode_line(place: str, number: int, raw: bytes) -> str:
    """A line's text, less its line break and, on the first line, a byte order mark.

    Raises:
        DataError: The line is not UTF-8.
    """
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise not_readable(place, error) from error


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines without their line break; blank lines are passed over.

    Raises:
        DataError: The file is missing, or a line is not UTF-8.
    """
    for number, raw in read_raw_lines(path):
        yield number, decode_line(f"{path}, line {number}", number, raw)


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and the JSON object on each line.

    Raises:
        DataError: A line is not a JSON object.
    """
    for number, line in read_lines(path):
        yield number, json_object(f"{path}, line {number}", line)


def json_object(place: str, text: str) -> dict[str, Any]:
    """The JSON object that a text is.

    Raises:
        DataError: It is not one; the message begins with `place`.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise not_readable(place, error) from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: expected a JSON object, found {type(record).__name__}")
    return record


def not_readable(place: str, error: ValueError | RecursionError) -> DataError:
    """What to say of what cannot be decoded or is not JSON; the message begins with `place`."""
    if isinstance(error, json.JSONDecodeError):
        reason = f"not valid JSON ({error.msg})"
    elif isinstance(error, RecursionError):
        reason = "not valid JSON (nested too deeply)"
    elif isinstance(error, UnicodeDecodeError):
        reason = f"not UTF-8 text ({error.reason})"
    else:
        reason = "a number is too long"
    return DataError(f"{place}: {reason}")


def text_field(place: str, record: dict[str, Any], *names: str, default: str | None = None) -> str:
    """The first of the named fields that the record has, which must be a string or a number (ids often are).

    Raises:
        DataError: None of them is there and there is no default, or the value is of another type or no Unicode text;
            the message begins with `place`.
    """
    for name in names:
        value = record.get(name)
        if isinstance(value, str):
            if not value.isascii():
                _check_encodable(place, name, value)
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is not None:
            raise DataError(f"{place}: {name!r} must be a string, not {type(value).__name__}")
    if default is None:
        raise DataError(f"{place}: {names[0]!r} is missing")
    return default


def _check_encodable(place: str, name: str, value: str) -> None:
    # JSON can escape one half of a surrogate pair; no file could hold it, and tokenizers refuse it.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: {name!r} holds half a surrogate pair (\\u{ord(value[error.start]):x})") from error


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
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def refuse_occupied(path: str | Path) -> None:
    """Refuses a path where there is anything but an empty folder, or that a folder cannot be moved to.

    Raises:
        FileExistsError: It is one.
    """
    path = Path(path)
    if path.is_symlink():
        raise FileExistsError(f"{path} is a link, which a new folder cannot replace; name the folder itself")
    if path.name in ("", ".."):
        raise FileExistsError(f"{path} is a folder without a name of its own, which a new one cannot replace; name one")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} is there already and is not an empty folder; remove it or choose another")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new folder to fill that takes the place of `path` when the block ends without an error, and only then.

    Its parent folder, which goes away with the block, lies beside `path` and is named `.NAME.` and something. Folders
    above that were made for it go away with an error.

    Raises:
        FileExistsError: `path` is there already and is not an empty folder.
    """
    path = Path(path)
    refuse_occupied(path)
    missing = [parent for parent in path.parents if not parent.exists()]  # the nearest first
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as temporary:
            whole = Path(temporary) / "whole"
            whole.mkdir()
            yield whole
            sync_tree(whole)
            if path.exists():
                path.rmdir()
            whole.rename(path)
            sync(path.parent)
    except BaseException:
        with suppress(OSError):  # another process may have put something there
            for parent in missing:
                parent.rmdir()
        raise


def sync_tree(folder: Path) -> None:
    """Has the disk keep a folder and all in it: after a power cut they are as they are now."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Has the disk keep a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def folder_hash(folder: Path) -> str:
    """SHA-256 of the names and the bytes of all files in a folder."""
    files = [(str(path.relative_to(folder)), file_hash(path)) for path in sorted(folder.rglob("*")) if path.is_file()]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")
