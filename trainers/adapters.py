"""What is changed inside a model for the time of its training: low-rank adapters, and activations made twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from warnings import catch_warnings, simplefilter

import torch
from accelerate.utils import set_seed
from torch import nn
from transformers import PreTrainedModel

from rocketqa_haystack.encoders.first_token import reading_first_token
from trainers.dropout import fast_dropout
from trainers.settings import TrainingSettings


def prepare(model: nn.Module, settings: TrainingSettings, device: torch.device) -> None:
    """Puts adapters into the transformers of a model that is trained, and lets them forget their activations.

    Raises:
        ImportError: Adapters are asked for, and `peft` is not installed.
        ValueError: A transformer's architecture can have no gradient checkpointing.
    """
    for transformer in _transformers(model):
        if not any(parameter.requires_grad for parameter in transformer.parameters()):
            continue
        if settings.lora_rank:
            _add_adapters(transformer, settings)
        if settings.gradient_checkpointing:
            options = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), _as_in_step(model, device))}
            with _old_names():
                transformer.gradient_checkpointing_enable(options)  # type: ignore[no-untyped-call]


def restore(model: nn.Module) -> None:
    """Takes back what `prepare` did; what adapters have learned stays, in the weights."""
    for transformer in _transformers(model):
        with _old_names():
            if transformer.is_gradient_checkpointing:
                transformer.gradient_checkpointing_disable()  # type: ignore[no-untyped-call]
    adapted = [(name, module) for name, module in model.named_modules() if hasattr(module, "get_base_layer")]
    for name, module in adapted:
        module.merge()
        model.set_submodule(name, module.get_base_layer())
    if adapted:
        model.requires_grad_(True)


@contextmanager
def _as_in_step(model: nn.Module, device: torch.device) -> Iterator[None]:
    """What a layer that runs again needs around it, to do the same as in the forward pass.

    A last layer that computes first tokens alone runs again where transformers wraps a layer's call, as earlier fifth
    versions do; where it wraps the class's `forward`, that layer keeps its few activations.
    """
    with fast_dropout(device), reading_first_token(model):
        yield


def _add_adapters(transformer: PreTrainedModel, settings: TrainingSettings) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("lora_rank needs the package peft: pip install peft") from error
    # The layers below a head alone: a head is small, often new, and trained as it is.
    backbone = transformer.base_model
    set_seed(settings.seed)  # of the adapters' first values
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
    )
    inject_adapter_in_model(config, backbone)


@contextmanager
def _old_names() -> Iterator[None]:
    """transformers has begun to call it activation checkpointing; the names of all its fifth versions are these."""
    with catch_warnings():
        simplefilter("ignore", FutureWarning)
        yield


def _transformers(model: nn.Module) -> Iterator[PreTrainedModel]:
    """The outermost transformers in a model: two where its towers do not share one."""
    for child in model.children():
        if isinstance(child, PreTrainedModel):
            yield child
        else:
            yield from _transformers(child)
