"""Extraction of archives that nobody vouches for."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from rocketqa_haystack.checkpoints.errors import CheckpointError

#: Members of an archive. The official ones have a few hundred; optimizer state makes that a few thousand.
MOST_MEMBERS = 20_000

#: Folders within folders.
DEEPEST = 16

#: An archive may unpack to this much, and beyond it to so many times its own size. Weights hardly compress at all.
FREE_SIZE = 64 * 1024 * 1024
MOST_EXPANSION = 20

#: What a folder counts for; file systems take about as much for one.
FOLDER_SIZE = 4096

#: What is read into memory at a time, of a member's data or of all the headers in front of it.
CHUNK = 64 * 1024


def extract_archive(archive: str | Path, folder: str | Path) -> None:
    """Extracts a .tar.gz or .tar archive into a new folder.

    Only folders and plain files with relative names come out, and the files' owners, modes and times do not. No more
    than a few `CHUNK`s of memory are taken, and no more than max(`FREE_SIZE`, `MOST_EXPANSION` times the archive's
    size) written, where each folder, also one that only a member's name implies, counts for `FOLDER_SIZE`.

    Raises:
        CheckpointError: The archive is missing, broken, or holds anything else: links, devices, sparse files, absolute
            names, `..`, two members of one name, too many of them, too much data. Nothing of it is left then.
    """
    archive, folder = Path(archive), Path(folder)
    folder.mkdir(parents=True)
    try:
        with archive.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            limit = max(FREE_SIZE, MOST_EXPANSION * os.fstat(file.fileno()).st_size)
            source = _Source(gzip.GzipFile(fileobj=file) if compressed else file, limit)
            _extract(source, _Target(folder, limit))
    except CheckpointError as error:
        shutil.rmtree(folder)
        raise CheckpointError(f"{archive} is refused: {error}") from error
    except Exception as error:  # tarfile, gzip and zlib raise a dozen kinds over broken data
        shutil.rmtree(folder)
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CheckpointError(f"{archive} cannot be extracted: {reason}") from error
    except BaseException:
        shutil.rmtree(folder)
        raise


class _Source:
    """The uncompressed archive as a file that only moves forward, with a limit on it and on each step.

    tarfile reads whatever length a header announces into memory at once, and headers in front of headers.
    """

    def __init__(self, file: IO[bytes] | gzip.GzipFile, limit: int) -> None:
        self._file = file
        self._limit = limit
        self._position = 0
        self._allowed = 0
        self.last_block = b""

    def allow(self, size: int) -> None:
        """Lets the reads from now on have so many bytes together."""
        self._allowed = size

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._allowed:
            raise CheckpointError("it has oversized headers")
        self._allowed -= size
        self.last_block = self._advance(size)
        return self.last_block

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise CheckpointError("it is not in order")
        while self._position < position and self._advance(min(CHUNK, position - self._position)):
            pass

    def finish(self) -> None:
        """Reads what is left, so that the checksum at the end of the archive is looked at."""
        while self._advance(CHUNK):
            pass

    def _advance(self, size: int) -> bytes:
        data = self._file.read(size)
        self._position += len(data)
        if self._position > self._limit:
            raise CheckpointError(f"it would expand to more than {self._limit:,} bytes")
        return data


class _Target:
    """The new folder, with a limit on what comes into it: little of an archive can make many folders."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._taken = 0

    def take(self, size: int) -> None:
        """Counts what is about to be written."""
        self._taken += size
        if self._taken > self._limit:
            raise CheckpointError(f"it would expand to more than {self._limit:,} bytes")

    def make_folder(self, name: PurePosixPath) -> Path:
        folder = self._folder
        for part in name.parts:
            folder = folder / part
            if not folder.is_dir():
                self.take(FOLDER_SIZE)
                folder.mkdir()
        return folder


def _extract(source: _Source, target: _Target) -> None:
    source.allow(CHUNK)
    tar = tarfile.TarFile(fileobj=source)  # type: ignore[arg-type]
    seen = 0
    while True:
        source.allow(CHUNK)
        member = tar.next()
        if member is None:
            break
        seen += 1
        if seen > MOST_MEMBERS:
            raise CheckpointError(f"it has more than {MOST_MEMBERS:,} members")
        # tarfile keeps every header it has seen.
        tar.members.clear()  # type: ignore[attr-defined]
        tar.pax_headers = {}
        _extract_member(tar, member, source, target)
    # A header that makes no sense ends the archive for tarfile as the empty block does that ought to.
    if source.last_block.strip(b"\0"):
        raise CheckpointError("it has a broken header, or a member larger than its header says")
    source.finish()


def _extract_member(tar: tarfile.TarFile, member: tarfile.TarInfo, source: _Source, target: _Target) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or Path(member.name).drive:
        raise CheckpointError(f"its member {member.name!r:.80} lies outside the archive's folder")
    if len(name.parts) > DEEPEST:
        raise CheckpointError(f"its member {member.name!r:.80} lies {len(name.parts)} folders deep")
    if member.isdir():
        target.make_folder(name)
        return
    # A sparse file, whose holes its header only counts, may be of the plain files' type.
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
        raise CheckpointError(f"its member {member.name!r:.80} is neither a folder nor a plain file")
    data = tar.extractfile(member)
    assert data is not None
    path = target.make_folder(name.parent) / name.name
    try:
        file = path.open("xb")
    except FileExistsError as error:
        raise CheckpointError(f"it has two members {member.name!r:.80}") from error
    with file:
        left = member.size
        while left:
            source.allow(2 * CHUNK)  # the file object of tarfile reads ahead
            chunk = data.read(min(CHUNK, left))
            if not chunk:
                raise CheckpointError(f"it ends within its member {member.name!r:.80}")
            target.take(len(chunk))
            file.write(chunk)
            left -= len(chunk)
