"""What crosses processes in a training step: the vectors of all of them, and the sum of their gradients.

Every process computes the loss of the whole batch, with its own rows carrying gradient and the others' as constants.
The gradient that reaches its weights is then exactly its share of the whole batch's, and the shares add up: N processes
with B queries take the step of one process with N·B, with no communication in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

Value = TypeVar("Value")


def gather_rows(local: Tensor) -> Tensor:
    """The rows of all processes in rank order; this process's own carry gradient.

    Args:
        local: This process's rows, shape [n, width]; n may differ between processes and may be 0.

    Returns:
        Shape [sum of n, width].
    """
    if not _distributed():
        return local
    world, rank = distributed.get_world_size(), distributed.get_rank()
    counts = [torch.zeros(1, dtype=torch.int64, device=local.device) for _ in range(world)]
    distributed.all_gather(counts, torch.tensor([len(local)], device=local.device))
    longest = int(torch.cat(counts).max())
    padded = local.new_zeros((longest, local.shape[1]))
    padded[: len(local)] = local.detach()
    gathered = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(gathered, padded)
    rows = [part[: int(count)] for part, count in zip(gathered, counts, strict=True)]
    rows[rank] = local
    return torch.cat(rows)


def made_once(accelerator: Accelerator, make: Callable[[], Value]) -> Value:
    """What the main process makes, for all processes, which wait for it."""
    value: Value = broadcast_object_list([make() if accelerator.is_main_process else None])[0]
    return value


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Adds up the gradients of all processes in place; a parameter without one on this process counts as zero.

    One that has none on any process stays without, as it does on a single process: a gradient of zero would let weight
    decay have its way.
    """
    if not _distributed():
        return
    parameters = list(parameters)
    if not parameters:
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
    distributed.all_reduce(used)
    for parameter, count in zip(parameters, used.tolist(), strict=True):
        # Of sharded weights, the gradients are summed as they come about.
        if not count or isinstance(parameter, DTensor):
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        distributed.all_reduce(parameter.grad)


def sum_over_processes(share: Tensor) -> float:
    """The sum of a number of which each process has a share; not finite where any share is not."""
    if not _distributed():
        return float(share.detach())
    total = share.detach().double()
    distributed.all_reduce(total)
    return float(total)


def most_of_all_processes(count: int, device: torch.device) -> int:
    """The greatest of the numbers that the processes have."""
    most = torch.tensor(count, device=device)
    if _distributed():
        distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most)


def as_share(loss: Tensor) -> Tensor:
    """The whole batch's loss, which every process has, as this process's share of it: shares add up to the whole.

    Its gradient, which reaches this process's own rows alone, is a share already and stays as it is.
    """
    if not _distributed():
        return loss
    return loss - loss.detach() * (1 - 1 / distributed.get_world_size())


def process_slice(length: int) -> slice:
    """This process's part of a batch of `length`: parts differ by at most one, and the first are the longer."""
    if not _distributed():
        return slice(0, length)
    world, rank = distributed.get_world_size(), distributed.get_rank()
    share, rest = divmod(length, world)
    start = rank * share + min(rank, rest)
    return slice(start, start + share + (rank < rest))


def _distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
