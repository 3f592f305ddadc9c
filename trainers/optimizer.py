"""AdamW, its groups of parameters, its schedule, and its state by the parameters' names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainers.sharding import shard_like, whole_tensor


class ScheduledAdamW:
    """AdamW with a learning rate that is a function of the step.

    Args:
        parameters: What is trained, by name.
        weight_decay: On all weights but biases and layer norms.
        rate: A parameter's peak learning rate by its name.
        warmup_ratio: Share of the steps over which the rate rises to its peak; over the rest it falls towards 0.
        total: Steps of the run.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        weight_decay: float,
        rate: Callable[[str], float],
        warmup_ratio: float,
        total: int,
    ) -> None:
        self._named = parameters
        self._warmup, self._total = int(warmup_ratio * total), total
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self._named.items():
            # Biases and layer norms, of one dimension, are not decayed.
            groups.setdefault((rate(name), weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
        self._peaks = [peak for peak, _ in groups]
        settings = [{"params": group, "lr": peak, "weight_decay": decay} for (peak, decay), group in groups.items()]
        # BERT's own epsilon. With the default of 1e-8, gradients that are zero in exact arithmetic and noise in
        # float32, such as those of the key biases of attention, would move weights by steps of full length.
        self._optimizer = torch.optim.AdamW(settings, eps=1e-6, fused=True)

    def step(self, number: int) -> float:
        """Takes the step of a number, from 0, and forgets the gradients. Returns the first group's learning rate."""
        factor = self._factor(number)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self._optimizer.step()
        self._optimizer.zero_grad()
        return self._peaks[0] * factor

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, as whole tensors on the CPU."""
        return {
            f"{key}.{name}": whole_tensor(value)
            for name, parameter in self._named.items()
            for key, value in self._optimizer.state.get(parameter, {}).items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave."""
        for key, value in state.items():
            kind, _, name = key.partition(".")
            parameter = self._named[name]
            # The step counts are scalars, which are not sharded.
            put = shard_like(value, parameter) if value.ndim else value.to(parameter.device)
            values: dict[str, Any] = self._optimizer.state[parameter]
            values[kind] = put

    def _factor(self, step: int) -> float:
        """Up to 1 over the warm-up, down towards 0 over the rest; no step's is 0."""
        if step < self._warmup:
            return (step + 1) / (self._warmup + 1)
        return (self._total - step) / (self._total - self._warmup)
