"""Dropout that is fast on CPUs.

PyTorch draws dropout masks on one core, one 24-bit number for each element: in a training step of a small transformer
that is a third of the time. Within `fast_dropout` the masks come from numpy's SFC64 generator, a byte for each element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class _FastDropout(TorchFunctionMode):
    """Takes the place of `torch.nn.functional.dropout`, wherever a model calls it, while active."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.dropout:
            return _dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def fast_dropout(device: torch.device) -> Iterator[None]:
    """Draws dropout masks fast within the block, on CPUs; elsewhere PyTorch's own are fast already.

    The generator of each mask is seeded from PyTorch's, so that its state determines the masks as always: the same
    seed gives the same run, and a replayed forward pass with the state restored is the same forward pass.
    """
    if device.type != "cpu":
        yield
        return
    with _FastDropout():
        yield


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    # The probability in steps of 1/256; the scale fits the step, so that the expectation is exact.
    dropped = round(p * 256)
    if not training or dropped == 0:
        return input
    if dropped >= 256:
        return input * 0
    seed = int(torch.randint(2**62, ()))
    numbers = np.random.Generator(np.random.SFC64(seed)).bytes(input.numel())
    kept = torch.frombuffer(bytearray(numbers), dtype=torch.uint8).view(input.shape) >= dropped
    return input * kept.to(input.dtype).mul_(256 / (256 - dropped))
