"""The one training loop: precision, clipping, schedule, progress, evaluation, the best weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from tqdm.auto import tqdm

from rocketqa_haystack.encoders.precision import computes_bfloat16
from trainers.dropout import fast_dropout
from trainers.gathering import sum_gradients

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class TrainingSettings:
    """What every trainer takes.

    Args:
        epochs: Times to go through the training data.
        batch_size: Queries of a step on each process (pairs, for a cross-encoder).
        learning_rate: Peak of the schedule: a linear rise over the warm-up, then a linear fall to 0.
        warmup_ratio: Share of the steps that the rise takes.
        weight_decay: AdamW's, on all weights but biases and layer norms.
        max_grad_norm: Longest gradient; longer ones are scaled down to it.
        mixed_precision: `bf16`, `no`, or `auto`: bf16 where the device computes it natively. Weights stay float32.
        seed: Of the order, the sampling and the dropout. The same seed on the same machine gives the same weights.
        gradient_caching: Keep the activations of one forward pass of some thousand tokens at a time, and run each once
            more in the backward pass: the same step, slower, at a memory that hardly grows with the batch.
        evaluations: Times to evaluate on the dev split, evenly over the run; the best weights seen are kept.
        show_progress: Whether to show a progress bar.
    """

    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 2e-5
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    mixed_precision: str = "auto"
    seed: int = 0
    gradient_caching: bool = False
    evaluations: int = 1
    show_progress: bool = True

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but got {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, but got {getattr(self, name)}")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio must be at least 0 and less than 1, but got {self.warmup_ratio}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, but got {self.weight_decay}")
        if self.evaluations < 0:
            raise ValueError(f"evaluations must not be negative, but got {self.evaluations}")
        if self.mixed_precision not in ("auto", "bf16", "no"):
            raise ValueError(f"mixed_precision must be auto, bf16 or no, but got {self.mixed_precision!r}")


@dataclass
class TrainingResult:
    """What a run gives back.

    Attributes:
        losses: This process's loss of each step; a contrastive loss is that of all processes' batch.
        evaluations: Steps taken and the measure then, for each evaluation; the first is before training.
        best_step: The step whose weights were kept; None where nothing was evaluated and the last ones were.
    """

    losses: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    best_step: int | None = None


def start_accelerator() -> Accelerator:
    """The device and the processes of a run. Its precision is not used: the loop has its own autocast."""
    try:
        return Accelerator(mixed_precision="no")
    except ValueError:  # another trainer in this process has chosen a precision, and accelerate allows one
        return Accelerator()


def train(
    model: nn.Module,
    settings: TrainingSettings,
    batches: Callable[[int], Sequence[Batch]],
    loss: Callable[[Batch], Tensor | None],
    *,
    accelerator: Accelerator,
    rates: Callable[[str], float] | None = None,
    evaluate: Callable[[], float] | None = None,
    description: str = "Training",
) -> TrainingResult:
    """Trains a model in place.

    Args:
        model: In float32, on the accelerator's device.
        settings: The run's settings.
        batches: The batches of an epoch, the same number each time, the same on every process.
        loss: This process's loss for a batch, such that the gradients of all processes add up to the batch's; None
            where the batch leaves this process nothing to do.
        accelerator: Device and processes.
        rates: The learning rate of a parameter by its name, where not all have that of the settings.
        evaluate: A measure on the dev split, higher is better. With it the best weights seen, those from before
            training among them, are in the model at the end.
        description: Of the progress bar.

    Returns:
        Losses and evaluations.

    Raises:
        FloatingPointError: The loss is not finite; the message has the step.
    """
    # Different dropout on each process; order and sampling have generators of their own.
    set_seed(settings.seed, device_specific=True)
    autocast = _autocast(settings, accelerator.device)
    first_epoch = batches(0)
    total = settings.epochs * len(first_epoch)
    if total == 0:
        raise ValueError("there is nothing to train on: no batches")
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Two encoders that are trained together are clipped each on its own.
    models = model.values() if isinstance(model, nn.ModuleDict) else [model]
    parts = [[p for p in each.parameters() if p.requires_grad] for each in models]
    groups = _parameter_groups(model, settings.weight_decay, rates or (lambda name: settings.learning_rate))
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rise_and_fall(settings.warmup_ratio, total))
    due = {round(total * (i + 1) / settings.evaluations) for i in range(settings.evaluations)} if evaluate else set()
    result = TrainingResult()
    best: dict[str, Tensor] = {}

    def run_evaluation(step: int) -> None:
        nonlocal best
        assert evaluate is not None
        model.eval()
        with autocast:
            value = evaluate()
        if result.best_step is None or value > max(measured for _, measured in result.evaluations):
            result.best_step = step
            best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        result.evaluations.append((step, value))

    if due:
        run_evaluation(0)
    step = 0
    hidden = not settings.show_progress or not accelerator.is_main_process
    with tqdm(total=total, desc=description, unit="step", disable=hidden) as progress:
        for epoch in range(settings.epochs):
            for batch in first_epoch if epoch == 0 else batches(epoch):
                model.train()
                with autocast, fast_dropout(accelerator.device):
                    value = loss(batch)
                if value is not None:
                    if not torch.isfinite(value):
                        raise FloatingPointError(
                            f"the loss is {value.item()} at step {step + 1} of {total}; "
                            "try a lower learning rate, or mixed_precision=no"
                        )
                    value.backward()  # type: ignore[no-untyped-call]
                sum_gradients(parameters)
                norm = max(nn.utils.clip_grad_norm_(part, settings.max_grad_norm) for part in parts)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                result.losses.append(0.0 if value is None else value.item())
                step += 1
                progress.update()
                shown: dict[str, Any] = {"lr": f"{schedule.get_last_lr()[0]:.1e}", "norm": f"{float(norm):.2f}"}
                shown["loss"] = f"{result.losses[-1]:.4f}"
                if result.evaluations:
                    shown["dev"] = f"{result.evaluations[-1][1]:.4f}"
                progress.set_postfix(shown, refresh=False)
                if step in due:
                    run_evaluation(step)
    if best:
        model.load_state_dict(best)
    model.eval()
    return result


def _autocast(settings: TrainingSettings, device: torch.device) -> torch.autocast:
    """The precision of the forward pass."""
    chosen = settings.mixed_precision
    if chosen == "auto":
        chosen = "bf16" if computes_bfloat16(device) else "no"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=chosen == "bf16")


def _rise_and_fall(warmup_ratio: float, total: int) -> Callable[[int], float]:
    """Factors of the learning rate: up to 1 over the warm-up, down towards 0 over the rest; no step's is 0."""
    warmup = int(warmup_ratio * total)

    def factor(step: int) -> float:
        return (step + 1) / (warmup + 1) if step < warmup else (total - step) / (total - warmup)

    return factor


def _parameter_groups(model: nn.Module, weight_decay: float, rates: Callable[[str], float]) -> list[dict[str, Any]]:
    """Parameters by what the optimizer does to them; biases and layer norms, of one dimension, are not decayed."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rates(name), decay), []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
