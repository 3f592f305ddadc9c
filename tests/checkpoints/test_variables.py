"""The reader of Paddle's variable files: what it reads, and that nothing else than its error comes of broken files."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from official_form import HEADER, encode_variable

from rocketqa_haystack.checkpoints.errors import CheckpointError
from rocketqa_haystack.checkpoints.variables import read_variable

#: What the reader may take beyond the size of the file: buffers of the file object, the header, messages.
MEMORY_BOUND = 256 * 1024

quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    kind=st.sampled_from(["bool", "int32", "int64", "float16", "float32", "float64"]),
)
@quick
def test_what_was_written_is_read(shape: list[int], kind: str, tmp_path: Path) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(kind)
    path = tmp_path / "variable"
    path.write_bytes(encode_variable(values))
    read = read_variable(path, tuple(shape))
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)


WHOLE = encode_variable(np.arange(6, dtype=np.float32).reshape(2, 3))
HUGE = HEADER + struct.pack("<i", 22) + b"\x08\x05" + 2 * (b"\x10" + b"\xff" * 8 + b"\x7f")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A whole file with bytes changed, cut off or added; or any bytes at all."""
    data = bytearray(draw(st.one_of(st.just(WHOLE), st.binary(max_size=200))))
    for _ in range(draw(st.integers(0, 4))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    data = data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data
    return bytes(data) + draw(st.binary(max_size=20))


@given(data=damaged())
@example(data=HUGE)
@example(data=HEADER + struct.pack("<i", 2**31 - 1))
@example(data=HEADER + struct.pack("<i", -1))
@quick
def test_broken_files_give_the_error_or_their_values_and_no_more_memory_than_the_file(
    data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "variable"
    path.write_bytes(data)
    values, message = None, ""
    tracemalloc.start()
    try:
        values = read_variable(path)
    except CheckpointError as error:
        message = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if values is None:
        assert str(path) in message
    else:  # all that follows the header
        assert values.nbytes + 20 < len(data)
        assert values.tobytes() == data[len(data) - values.nbytes :]
    assert peak < len(data) + MEMORY_BOUND


def test_a_sparse_file_with_a_small_tensor_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "variable"
    path.write_bytes(WHOLE)
    os.truncate(path, 1 << 40)
    with pytest.raises(CheckpointError, match="too long"):
        read_variable(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "variable")
    with pytest.raises(CheckpointError, match="is not a file"):
        read_variable(tmp_path / "variable")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_variable(tmp_path / "nothing")


def test_what_is_no_file_is_told_and_nothing_stays_open(tmp_path: Path) -> None:
    opened = len(os.listdir("/dev/fd"))
    for path in (tmp_path, tmp_path / "a\0b", tmp_path / ("n" * 300)):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_variable(path)
    assert len(os.listdir("/dev/fd")) == opened


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (WHOLE[:-1], "truncated: its header announces 24 bytes of values, it has 23"),
        (WHOLE + b"\0", "too long"),
        (b"\1" + WHOLE[1:], "version 0"),
        (WHOLE[:4] + b"\1" + WHOLE[5:], "1 LoD levels"),
        (WHOLE[:21] + b"\x63" + WHOLE[22:], "unknown data type 99"),
        (WHOLE[:20] + b"\x12" + WHOLE[21:], "description cannot be read"),
        (WHOLE[:23] + b"\x00" + WHOLE[24:], "description cannot be read"),
    ],
)
def test_each_defect_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "variable"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_variable(path)
    path.write_bytes(WHOLE)
    with pytest.raises(CheckpointError, match=r"shape \[2, 3\], not \[3, 2\]"):
        read_variable(path, (3, 2))
