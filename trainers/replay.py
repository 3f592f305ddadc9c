"""Gradient caching: a second forward pass in the place of kept activations.

Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.random import fork_rng
from torch.utils.checkpoint import get_device_states, set_device_states

from trainers.dropout import fast_dropout


def replayed(batches: Sequence[Callable[[], Tensor]], device: torch.device) -> Tensor:
    """The outputs of some batches, one after another, of which nothing is kept for the backward pass.

    That runs each batch forward once more, with the same random numbers, and backward at once, as the gradient of every
    output is known by then. Gradients of weights go to their `grad`.

    Args:
        batches: Each runs one; the weights must not change between the two passes.
        device: What they run on.

    Returns:
        Shape [outputs of all batches, ...].
    """
    outputs: Tensor = _Replayed.apply(torch.zeros((), requires_grad=True), batches, device)  # type: ignore[no-untyped-call]
    return outputs


class _Replayed(torch.autograd.Function):
    """The first argument is there for autograd alone, which asks for the gradient of what has one."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, batches: Sequence[Callable[[], Tensor]], device: torch.device) -> Tensor:
        ctx.batches, ctx.device = batches, device
        ctx.dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        ctx.states, outputs = [], []
        with _autocast(ctx):
            for batch in batches:
                ctx.states.append((torch.get_rng_state(), *get_device_states(torch.empty(0, device=device))))
                outputs.append(batch())
        ctx.sizes = [len(output) for output in outputs]
        return torch.cat(outputs)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        gradients = torch.split(gradient, ctx.sizes)
        devices = [ctx.device] if ctx.device.type == "cuda" else []
        with fork_rng(devices), torch.enable_grad(), fast_dropout(ctx.device), _autocast(ctx):
            # The last one first, as autograd does: the gradients of weights are summed in the same order.
            for batch, (state, *states), part in [*zip(ctx.batches, ctx.states, gradients, strict=True)][::-1]:
                torch.set_rng_state(state)
                set_device_states(*states, device_type=ctx.device.type)
                torch.autograd.backward(batch(), part)
        return None, None, None


def _autocast(ctx: Any) -> torch.autocast:
    # Without the cache of weights that were cast: those of the first pass have no gradient, and those of a batch's
    # backward pass no longer.
    return torch.autocast(ctx.device.type, dtype=ctx.dtype, enabled=ctx.dtype is not None, cache_enabled=False)
