"""Weights that are spread over the processes: PyTorch's fully sharded data parallelism, as accelerate is told to do it.

`accelerate config`, or `accelerate launch --use_fsdp --fsdp_version 2`, ask for it. Every process must then run the
model equally often: see `forward_in_batches`.
"""

from __future__ import annotations

import os

from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel


def sharding_asked_for(accelerator: Accelerator) -> bool:
    """Whether accelerate's configuration asks for sharded weights, and there is more than one process to shard over."""
    return accelerator.num_processes > 1 and bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def shard(model: nn.Module, accelerator: Accelerator) -> None:
    """Spreads a model's weights over the processes, in place. Gradients are summed, as `sum_gradients` sums others.

    Raises:
        ValueError: The first version of FSDP is asked for, which cannot run a model several times before a backward,
            or what this does not do: weights that are kept on the CPU, and accelerate's activation checkpointing.
    """
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    # accelerate reads its environment for the plugin on GPUs only; CPUs can do the same. Each model has one of its own,
    # because the layers that are sharded one by one are the architecture's. They are so unless something else is asked
    # for: of a model in one piece, every process would put all weights together for as long as a step lasts.
    wrap = os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    plugin = FullyShardedDataParallelPlugin(auto_wrap_policy=wrap)  # type: ignore[arg-type]
    if plugin.fsdp_version != 2:
        raise ValueError("sharded training needs the second version of FSDP: accelerate launch --fsdp_version 2")
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise ValueError("sharded weights stay on their device: leave out --fsdp_offload_params")
    if plugin.activation_checkpointing:
        raise ValueError("in the place of --fsdp_activation_checkpointing, choose the setting gradient_checkpointing")
    if plugin.transformer_cls_names_to_wrap is None:
        names = {name for part in model.modules() if isinstance(part, PreTrainedModel) for name in _layers(part)}
        plugin.transformer_cls_names_to_wrap = sorted(names)
    accelerator.state.fsdp_plugin = plugin
    fsdp2_prepare_model(accelerator, model)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)


def _layers(model: PreTrainedModel) -> list[str]:
    # Not what holds the input embeddings: accelerate shards these by themselves, and nothing can be sharded twice.
    embeddings = model.get_input_embeddings()
    present = {type(part).__name__ for part in model.modules() if embeddings not in part.modules()}
    return [name for name in model._no_split_modules or () if name in present]


def reshard(model: nn.Module) -> None:
    """Lets go of weights that a forward pass without a backward pass has left put together.

    Until then a model holds copies of its weights, which do not change with them.
    """
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` has been at a model."""
    return isinstance(model, FSDPModule)


def whole_tensor(tensor: Tensor) -> Tensor:
    """A copy on the CPU; of a sharded tensor all of it, for which every process must ask."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.detach().cpu().clone()


def shard_like(whole: Tensor, other: Tensor) -> Tensor:
    """A whole tensor on the device, and spread over the processes in the way, of another."""
    if isinstance(other, DTensor):
        return distribute_tensor(whole.to(other.device), other.device_mesh, other.placements)
    return whole.to(other.device)
