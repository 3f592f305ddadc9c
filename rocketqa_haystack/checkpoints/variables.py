"""Paddle's variable files, read with numpy.

Little endian: uint32 version 0; uint64 number of LoD levels, 0; uint32 version 0; int32 size of a protobuf message
`TensorDesc { data_type = 1; repeated int64 dims = 2 }`; the values in C order.
"""

from __future__ import annotations

import os
import stat
import struct
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rocketqa_haystack.checkpoints.errors import CheckpointError

DATA_TYPES = {
    0: np.dtype("?"),
    1: np.dtype("<i2"),
    2: np.dtype("<i4"),
    3: np.dtype("<i8"),
    4: np.dtype("<f2"),
    5: np.dtype("<f4"),
    6: np.dtype("<f8"),
    20: np.dtype("u1"),
    21: np.dtype("i1"),
}

PREFIX = struct.Struct("<IQIi")

#: A data type and the dims of a tensor fill some 20 bytes.
LONGEST_DESCRIPTION = 256
MOST_DIMENSIONS = 8


def read_variable(path: str | Path, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    """Reads one variable.

    Nothing past the file is read, and no more memory is taken than the file is large, plus a kilobyte: header and file
    size must agree before the values are read.

    Args:
        path: The file; its name is the variable's name.
        shape: The shape that the variable must have; None takes any.

    Raises:
        CheckpointError: The file is missing, is none of this format, has another size than its header says, or holds an
            unknown data type or another shape.
    """
    path = Path(path)
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CheckpointError(f"{path} is not a file")
            return _read(file, status.st_size, path, shape)
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:  # ValueError: no name of a file
        raise CheckpointError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe would wait for a writer for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read(file: BinaryIO, size: int, path: Path, shape: tuple[int, ...] | None) -> NDArray[Any]:
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        raise CheckpointError(f"{path} is no Paddle variable: it ends within its header")
    version, levels, tensor_version, length = PREFIX.unpack(prefix)
    if version != 0 or tensor_version != 0:
        raise CheckpointError(f"{path} is no Paddle variable of version 0")
    if levels != 0:
        raise CheckpointError(f"{path} has {levels} LoD levels; a parameter has none")
    if not 0 < length <= LONGEST_DESCRIPTION:
        raise CheckpointError(f"{path} is no Paddle variable: its description would have {length} bytes")
    description = file.read(length)
    if len(description) < length:
        raise CheckpointError(f"{path} is no Paddle variable: it ends within its header")
    number, dims = _parse_description(description, path)
    if number not in DATA_TYPES:
        raise CheckpointError(f"{path} has the unknown data type {number}")
    if shape is not None and dims != shape:
        raise CheckpointError(f"{path} has the shape {list(dims)}, not {list(shape)}")
    data_type = DATA_TYPES[number]
    count = prod(dims)
    expected, found = count * data_type.itemsize, size - PREFIX.size - length
    if expected != found:
        raise CheckpointError(
            f"{path} is {'truncated' if found < expected else 'too long'}: "
            f"its header announces {expected} bytes of values, it has {found}"
        )
    values = np.fromfile(file, dtype=data_type, count=count)
    if len(values) != count:
        raise CheckpointError(f"{path} became shorter while it was read")
    return values.reshape(dims)


def _parse_description(message: bytes, path: Path) -> tuple[int, tuple[int, ...]]:
    """Data type and dims of a TensorDesc."""
    data_type: int | None = None
    dims: list[int] = []
    position = 0
    while position < len(message):
        key, position = _parse_number(message, position, path)
        value, position = _parse_number(message, position, path)
        if key == 0x08 and data_type is None:  # field 1, a number
            data_type = value
        elif key == 0x10 and len(dims) < MOST_DIMENSIONS and value > 0:  # field 2, a number
            dims.append(value)
        else:
            raise CheckpointError(f"{path} is no Paddle variable: its description cannot be read")
    if data_type is None:
        raise CheckpointError(f"{path} is no Paddle variable: it names no data type")
    return data_type, tuple(dims)


def _parse_number(message: bytes, position: int, path: Path) -> tuple[int, int]:
    """A protobuf varint, of 10 bytes at most, and the position after it."""
    value = 0
    for index, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise CheckpointError(f"{path} is no Paddle variable: its description cannot be read")
