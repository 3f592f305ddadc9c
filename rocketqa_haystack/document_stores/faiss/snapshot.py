"""
The FAISS index on disk: `index.faiss`, an ordinary FAISS file, and `index.json`, which says what the former holds.

A snapshot only saves time: whatever is wrong with it, the index is built anew from the database.
"""

import json
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from filelock import FileLock

from rocketqa_haystack.document_stores.faiss.index_types import Similarity, import_faiss

INDEX_FILE = "index.faiss"
TAG_FILE = "index.json"
LOCK_FILE = "index.lock"

_BLOCK = 1 << 20

# Bytes from which on reading an index costs more than mapping it: fresh memory is slow where it is a virtual machine's.
_LARGE = 64 << 20


@dataclass(frozen=True)
class Tag:
    """
    What a snapshot holds.

    :param store: The identity of the store it was made from.
    :param session: The last that had written then; tells the generation from one of the same number in a database that
        was restored from a backup.
    :param generation: The generation of the database it holds.
    :param dimension: Numbers in a vector.
    :param similarity: How the vectors are compared.
    :param factory: FAISS's name of the index type.
    :param count: Vectors in it, removed ones included.
    :param size: Bytes of `index.faiss`.
    :param checksum: CRC-32 of `index.faiss`.
    """

    store: str
    session: str
    generation: int
    dimension: int
    similarity: Similarity
    factory: str
    count: int
    size: int
    checksum: int


class Snapshot(NamedTuple):
    """
    A snapshot that was read.

    :param tag: What it holds.
    :param index: The FAISS index.
    :param is_mapped: Whether the index stayed in its file, in memory that processes share. To change it would end the
        process.
    """

    tag: Tag
    index: Any
    is_mapped: bool


def read_snapshot(folder: Path, check: Callable[[Tag], None]) -> Snapshot | None:
    """
    Return the snapshot in `folder`, mapped if it is large; None if there is none.

    :param check: Raises a ValueError if the snapshot is of no use.
    :raises ValueError: If it is damaged, or of no use.
    """
    tag = _read_tag(folder)
    while tag is not None:
        try:
            check(tag)
            is_mapped = tag.size >= _LARGE
            return Snapshot(tag, _read_index(folder, tag, is_mapped), is_mapped)
        except ValueError:
            newer = _read_tag(folder)
            if newer == tag:
                raise
            tag = newer  # another process put a new snapshot in place meanwhile
    return None


def in_own_memory(index: Any) -> Any:
    """
    Return a copy of a mapped index that can be changed.

    Not by its file, in whose place there may be another one by now, and a block at a time: it takes the memory of one.
    """
    faiss = import_faiss()
    receiving, sending = os.pipe()

    def send() -> None:
        with open(sending, "wb") as stream:
            faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write, _BLOCK))

    with ThreadPoolExecutor(1) as thread, open(receiving, "rb") as stream:
        sent = thread.submit(send)
        copy = faiss.read_index(faiss.PyCallbackIOReader(stream.read, _BLOCK))
        sent.result()
    return copy


def write_snapshot(folder: Path, index: Any, **about: Any) -> None:
    """
    Write a snapshot, whole or not at all.

    :param index: The FAISS index.
    :param about: The fields of its `Tag` that the index does not know itself.
    :raises OSError: If it cannot be written; the snapshot of before then stays.
    """
    new_index, new_tag = folder / f"{INDEX_FILE}.new", folder / f"{TAG_FILE}.new"
    with FileLock(folder / LOCK_FILE):
        try:
            # Of a process that ended below: others may have mapped it, so it must not be written over.
            new_index.unlink(missing_ok=True)
            size, checksum = _write_index(new_index, index)
            tag = Tag(**about, dimension=index.d, count=index.ntotal, size=size, checksum=checksum)
            with new_tag.open("w", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(tag)) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            # In this order: between the two the tag finds its index under its new name.
            new_tag.replace(folder / TAG_FILE)
            new_index.replace(folder / INDEX_FILE)
        except BaseException:
            for file in (new_index, new_tag):
                if file.is_file():
                    file.unlink()
            raise


def _read_tag(folder: Path) -> Tag | None:
    try:
        return Tag(**json.loads((folder / TAG_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"its snapshot is damaged: {TAG_FILE}: {error}") from error


def _read_index(folder: Path, tag: Tag, is_mapped: bool) -> Any:
    # The first is not yet renamed while a snapshot is being put in place, or by a process that ended then.
    found = (_index_in(folder / name, tag, is_mapped) for name in (f"{INDEX_FILE}.new", INDEX_FILE))
    index = next((index for index in found if index is not None), None)
    if index is None:
        raise ValueError("its snapshot is damaged.")
    if (index.ntotal, index.d) != (tag.count, tag.dimension):
        raise ValueError("its snapshot does not hold what it says.")
    return index


def _index_in(file: Path, tag: Tag, is_mapped: bool) -> Any:
    """The index in a file; None if it is not the tag's, or if the name is another file's by now."""
    faiss = import_faiss()
    try:
        with file.open("rb") as stream:
            opened = os.fstat(stream.fileno())
            if opened.st_size != tag.size or _checksum(stream) != tag.checksum:
                return None
            error, index = None, None
            try:
                index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if is_mapped else 0)
            except RuntimeError as raised:
                error = raised
            # FAISS opens the file by its name: what it found is what was checked only if the name is still its own.
            if not os.path.samestat(opened, file.stat()):
                return None
            if error is not None:
                raise ValueError(f"its snapshot cannot be read: {error}") from error
            return index
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"its snapshot cannot be read: {error}") from error


def _write_index(file: Path, index: Any) -> tuple[int, int]:
    size, checksum = 0, 0
    with file.open("wb") as stream:

        def write(block: bytes) -> None:
            nonlocal size, checksum
            size, checksum = size + len(block), zlib.crc32(block, checksum)
            stream.write(block)

        faiss = import_faiss()
        # Through Python's file, which reports a full disk; FAISS's own may lose the last bytes without a word.
        faiss.write_index(index, faiss.PyCallbackIOWriter(write, _BLOCK))
        stream.flush()
        os.fsync(stream.fileno())
    return size, checksum


def _checksum(stream: BinaryIO) -> int:
    checksum = 0
    while block := stream.read(_BLOCK):
        checksum = zlib.crc32(block, checksum)
    return checksum
