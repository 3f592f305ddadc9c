"""Memory that was freed, given back to the system.

Training allocates and frees tensors of ever new sizes. The C library's heap keeps what was freed between those that are
still held, and grows: over the batches of gradient caching to several times of what any of them needs.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import torch


def give_back_freed_memory(device: torch.device) -> None:
    """Shrinks the heap, where the device is a CPU and the C library is one that can (glibc)."""
    if device.type == "cpu" and (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
