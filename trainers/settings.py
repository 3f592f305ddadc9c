"""What every trainer takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Any

#: Seeds that numpy takes.
SEEDS = 2**32


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Args:
        epochs: Times to go through the training data.
        max_steps: Steps to take, whatever the epochs say; 0 takes as many as they have.
        batch_size: Queries of a batch on each process: pairs for a pointwise cross-encoder, lists for what learns from
            lists. A step has `gradient_accumulation` batches.
        learning_rate: Peak of the schedule: a linear rise over the warm-up, then a linear fall to 0.
        warmup_ratio: Share of the steps that the rise takes.
        weight_decay: AdamW's, on all weights but biases and layer norms.
        max_grad_norm: Longest gradient; longer ones are scaled down to it.
        mixed_precision: `bf16`, `no`, or `auto`: bf16 where the device computes it natively. Weights stay float32.
        seed: Of the order, the sampling and the dropout. On CPUs the same seed on the same machine gives the
            same weights.
        gradient_accumulation: Batches of a step, gone through one after another. Negatives come from a batch, not from
            a step: for more of them, choose a larger batch and gradient caching.
        gradient_caching: Keep the activations of one forward pass of some thousand tokens at a time, and run each once
            more in the backward pass: the same step, slower, at a memory that hardly grows with the batch.
        gradient_checkpointing: Keep the activations of one layer at a time, for models that are large themselves.
        lora_rank: Rank of the low-rank adapters to train in the place of the model's own weights (LoRA, needs `peft`);
            they are merged into the exported weights. 0 trains the weights themselves.
        lora_alpha: Scale of the adapters, which are multiplied by `lora_alpha / lora_rank`.
        lora_dropout: Dropout of what goes into the adapters.
        evaluations: Times to evaluate on the dev split, evenly over the run; the best weights seen are kept.
        patience: Evaluations in a row without a better measure after which to stop early; 0 never does.
        checkpoint_every: Steps between checkpoints, from which an interrupted run continues; one is also made after
            each evaluation.
        checkpoints_kept: Checkpoints to keep, the last ones.
        trackers: What to log to, by accelerate's names, separated by commas: `tensorboard`, `wandb`, `mlflow`,
            `trackio`. Their packages are installed apart.
        show_progress: Whether to show a progress bar.
    """

    epochs: int = 1
    max_steps: int = 0
    batch_size: int = 32
    learning_rate: float = 2e-5
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    mixed_precision: str = "auto"
    seed: int = 0
    gradient_accumulation: int = 1
    gradient_caching: bool = False
    gradient_checkpointing: bool = False
    lora_rank: int = 0
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    evaluations: int = 1
    patience: int = 0
    checkpoint_every: int = 500
    checkpoints_kept: int = 2
    trackers: str = ""
    show_progress: bool = True

    def __post_init__(self) -> None:
        if (missing := next((name for name, value in asdict(self).items() if value is None), None)) is not None:
            raise ValueError(f"{missing} must have a value")
        for name in ("epochs", "batch_size", "gradient_accumulation", "checkpoint_every", "checkpoints_kept"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but got {getattr(self, name)}")
        for name in ("learning_rate", "max_grad_norm", "lora_alpha"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, but got {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay"):  # max_grad_norm may be infinite, for no limit
            if getattr(self, name) == inf:
                raise ValueError(f"{name} must be finite, but got {getattr(self, name)}")
        if self.seed >= SEEDS:
            raise ValueError(f"seed must be less than {SEEDS:,}, but got {self.seed:,}")
        for name in ("warmup_ratio", "lora_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, but got {getattr(self, name)}")
        for name in ("max_steps", "weight_decay", "lora_rank", "evaluations", "patience", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, but got {getattr(self, name)}")
        if self.patience and self.patience >= self.evaluations:
            raise ValueError(
                f"patience={self.patience} stops nothing with evaluations={self.evaluations}; ask for more"
            )
        if self.mixed_precision not in ("auto", "bf16", "no"):
            raise ValueError(f"mixed_precision must be auto, bf16 or no, but got {self.mixed_precision!r}")

    @property
    def tracker_names(self) -> list[str]:
        """The trackers, each by its name."""
        return [name.strip() for name in self.trackers.split(",") if name.strip()]

    def with_effect(self) -> dict[str, Any]:
        """The settings that have a say in what a run computes."""
        without = ("checkpoint_every", "checkpoints_kept", "trackers", "show_progress")
        return {name: value for name, value in asdict(self).items() if name not in without}
