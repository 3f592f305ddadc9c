"""
Whether SQLite's write-ahead log is as it was written.

SQLite takes the first frame of the log that does not fit its checksum for the end of it, because that is what a process
that was killed while writing leaves: what comes after damage would be lost without a word. But a killed process leaves
the file of the wal-index too, and there is written how many frames were committed. The formats are those of
https://www.sqlite.org/fileformat2.html#the_write_ahead_log and https://www.sqlite.org/walformat.html.
"""

import time
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

HEADER, FRAME_HEADER, INDEX_HEADER = 32, 24, 48  # bytes
MAGIC = 0x377F0682  # its last bit says in which byte order the words are that checksums are of
CHUNK = 2048  # frames read at once

# Another process may be beginning the log anew: what is damaged still is so after so many seconds.
SECOND_LOOK = 0.1


def is_damaged(database: Path) -> bool:
    """
    Whether something that was committed cannot be read in the log of a database any more.

    Where there is no wal-index beside it, as with a copy of the other two files, nothing is known.
    """
    if (found := _damage(database)) is None:
        return False
    time.sleep(SECOND_LOOK)
    return _damage(database) == found


def _damage(database: Path) -> tuple[bytes, bytes, int] | None:
    """The two headers and the first damaged frame (-1: the log's header), or None if all is well."""
    log, index = (database.with_name(f"{database.name}-{kind}") for kind in ("wal", "shm"))
    try:
        with index.open("rb") as first, log.open("rb") as stream:
            known, header = first.read(2 * INDEX_HEADER), stream.read(HEADER)
            number = _first_damaged(known, header, stream)
    except OSError:  # most likely there is no log
        return None
    return None if number is None else (known, header, number)


def _first_damaged(known: bytes, header: bytes, stream: BinaryIO) -> int | None:
    if len(known) < 2 * INDEX_HEADER or known[:INDEX_HEADER] != known[INDEX_HEADER:] or len(header) < HEADER:
        return None
    index = np.frombuffer(known[:INDEX_HEADER], np.uint32)
    if (_advanced(np.zeros(2, np.uint32), index[np.newaxis, :10])[-1] != index[10:]).any():
        return None  # it was not written to its end
    committed, salts = int(index[4]), known[32:40]
    magic, _, page, *_ = np.frombuffer(header, ">u4").tolist()
    words = ">u4" if magic & 1 else "<u4"
    last = _advanced(np.zeros(2, np.uint32), np.frombuffer(header[:24], words)[np.newaxis])[-1]
    if magic | 1 != MAGIC | 1 or (last != np.frombuffer(header[24:], ">u4")).any():
        return -1 if committed else None
    if header[16:24] != salts:
        return None  # the index is of an earlier log
    for number in range(0, committed, CHUNK):
        count, size = min(CHUNK, committed - number), FRAME_HEADER + page
        raw = stream.read(count * size)
        frames = np.frombuffer(raw, np.uint8, len(raw) // size * size).reshape(-1, size)
        heads = np.ascontiguousarray(frames[:, :FRAME_HEADER]).view(">u4")
        content = np.concatenate([frames[:, :8], frames[:, FRAME_HEADER:]], axis=1).view(words)
        sums = _advanced(last, content)
        whole = (heads[:, 2:4] == np.frombuffer(salts, ">u4")).all(axis=1) & (sums == heads[:, 4:]).all(axis=1)
        if not whole.all():
            return number + int(np.argmin(whole))
        if len(frames) < count:
            return number + len(frames)
        last = sums[-1]
    return None


def _advanced(start: np.ndarray, words: np.ndarray) -> np.ndarray:
    """
    The two running sums after each row of `words` `[n, 2 * pairs]`, uint32 `[n, 2]`.

    A pair of words x, y takes the sums s, t to s + t + x and s + 2 t + x + y modulo 2 ** 32. That is linear, so each
    row adds what it would to sums of zero, and multiplies those before it by the same matrix.
    """
    power, weights = _linear(words.shape[1] // 2)
    added = words.astype(np.uint32) @ weights
    sums = np.empty((len(words), 2), np.uint32)
    s, t = start.tolist()
    (a, b), (c, d) = power
    for place, (x, y) in enumerate(added.tolist()):
        s, t = (a * s + b * t + x) & 0xFFFFFFFF, (c * s + d * t + y) & 0xFFFFFFFF
        sums[place] = s, t
    return sums


@lru_cache
def _linear(pairs: int) -> tuple[list[list[int]], np.ndarray]:
    """What so many pairs multiply the sums by, and the weights of their words, uint32 `[2 * pairs, 2]`."""
    (a, b), (c, d) = (1, 0), (0, 1)
    weights = []
    for _ in range(pairs):  # from the last pair back
        weights += [(b, d), ((a + b) & 0xFFFFFFFF, (c + d) & 0xFFFFFFFF)]
        a, b, c, d = (x & 0xFFFFFFFF for x in (a + b, a + 2 * b, c + d, c + 2 * d))
    return [[a, b], [c, d]], np.array(weights[::-1], dtype=np.uint32)
