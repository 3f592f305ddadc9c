"""
Whether SQLite's write-ahead log is as it was written.

SQLite takes the first frame of the log that does not fit its checksum for the end of it, because that is what a process
that was killed while writing leaves. If two more transactions follow that were committed in this log, it was not the
end: the first of them began when all before it was whole. One alone proves nothing, because SQLite writes a long
transaction's checksums last. The format is that of https://www.sqlite.org/fileformat2.html#the_write_ahead_log.
"""

import time
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

HEADER, FRAME_HEADER = 32, 24  # bytes
MAGIC = 0x377F0682  # its last bit says in which byte order the words are that checksums are of
CHUNK = 2048  # frames read at once

# Another process may be beginning the log anew: what is damaged still is so after so many seconds.
SECOND_LOOK = 0.1


def is_damaged(file: Path) -> bool:
    """
    Whether something that was committed cannot be read in the log any more.

    What the last transaction wrote is never called damaged: its process may have been killed.
    """
    if (found := _damage(file)) is None:
        return False
    time.sleep(SECOND_LOOK)
    return _damage(file) == found


def _damage(file: Path) -> tuple[bytes, int, int] | None:
    """The header, the time of the last change and the first damaged frame (-1: the header), or None if all is well."""
    try:
        with file.open("rb") as stream:
            changed = file.stat().st_mtime_ns
            header = stream.read(HEADER)
            if (number := _first_damaged(header, stream)) is not None:
                return header, changed, number
    except FileNotFoundError:
        pass
    return None


def _first_damaged(header: bytes, stream: BinaryIO) -> int | None:
    if len(header) < HEADER:
        return None
    magic, _, page, *_ = np.frombuffer(header, ">u4").tolist()
    words = ">u4" if magic & 1 else "<u4"
    last = _advanced(np.zeros(2, np.uint32), np.frombuffer(header[:24], words)[np.newaxis])[-1]
    if magic | 1 != MAGIC | 1 or (last != np.frombuffer(header[24:], ">u4")).any():
        return -1 if stream.read(1) else None
    salts, damaged, number, commits = np.frombuffer(header[16:24], ">u4"), None, 0, 0
    while len(frames := _frames(stream, FRAME_HEADER + page)):
        heads = np.ascontiguousarray(frames[:, :FRAME_HEADER]).view(">u4")
        # Frames of an earlier log, which this one has not come to yet, have other salts.
        ours, after = (heads[:, 2:4] == salts).all(axis=1), 0
        if damaged is None:
            content = np.concatenate([frames[:, :8], frames[:, FRAME_HEADER:]], axis=1).view(words)
            sums = _advanced(last, content)
            whole = ours & (sums == heads[:, 4:6]).all(axis=1)
            last, after = sums[-1], len(frames)
            if not whole.all():
                damaged = number + int(np.argmin(whole))
                after = damaged - number + 1
        commits += int(np.count_nonzero(ours[after:] & (heads[after:, 1] != 0)))
        if commits > 1:
            return damaged
        number += len(frames)
    return None


def _frames(stream: BinaryIO, size: int) -> np.ndarray:
    """The next whole frames, uint8 `[n, size]`."""
    raw = stream.read(CHUNK * size)
    count = len(raw) // size
    return np.frombuffer(raw, np.uint8, count * size).reshape(count, size)


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
