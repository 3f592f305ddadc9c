"""The one training loop: precision, clipping, schedule, progress, evaluation, the best weights, resumption."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, set_seed
from torch import Tensor, nn
from tqdm.auto import tqdm

from rocketqa_haystack.encoders.precision import computes_bfloat16
from trainers import fingerprints
from trainers.adapters import prepare, restore
from trainers.dropout import fast_dropout
from trainers.gathering import sum_gradients, sum_over_processes
from trainers.model_card import write_model_card
from trainers.optimizer import ScheduledAdamW
from trainers.run_folder import TRACKED, Checkpoint, RunFolder, read_checkpoint
from trainers.sampling import EpochBatches
from trainers.settings import TrainingSettings
from trainers.sharding import reshard, shard, shard_like, sharding_asked_for, whole_tensor
from trainers.trackers import check_trackers, log_to, started_trackers


class Example(Protocol):
    """What batches are made of."""

    @property
    def query_id(self) -> str:
        """Names it in error messages."""


class Encoder(Protocol):
    """What is trained: a model, and how to write it to a folder and read it back."""

    model: Any

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a model folder."""

    @classmethod
    def from_pretrained(cls, model: str | Path, *, device: str | None = None, dtype: str = "auto") -> Any:
        """Reads one."""


@dataclass
class TrainingResult:
    """What a run gives back.

    Attributes:
        losses: Of each step, over the batch of all processes.
        evaluations: Steps taken and the measure then, for each evaluation; the first is before training.
        finished_before: Whether the output was there already, as this very run had written it: nothing was trained.
    """

    losses: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    finished_before: bool = False

    @property
    def best_step(self) -> int | None:
        """The step whose weights were kept; None where nothing was evaluated and the last ones were."""
        return max(self.evaluations, key=lambda one: one[1])[0] if self.evaluations else None


def start_accelerator() -> Accelerator:
    """The device and the processes of a run. Its precision is not used: the loop has its own autocast."""
    # Where weights are sharded, transformers would load them on one process alone, and leave out heads that are new.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    # One process may index a corpus while the others wait, for longer than the 10 or 30 minutes that are the default.
    patience = [InitProcessGroupKwargs(timeout=timedelta(days=1))]
    try:
        return Accelerator(mixed_precision="no", kwargs_handlers=patience)
    except ValueError:  # another trainer in this process has chosen a precision, and accelerate allows one
        return Accelerator(kwargs_handlers=patience)


@dataclass(frozen=True)
class Task:
    """What a trainer has the loop do.

    Attributes:
        encoders: What to train, in float32, on the accelerator's device, by name.
        settings: How to.
        batches: The batches of an epoch, the same number each time, the same on every process.
        loss: This process's share of the loss of a batch: the shares of all processes, and their gradients, add up to
            the batch's. None where the batch leaves this process nothing to do.
        accelerator: Device and processes.
        options: What else makes the run what it is, as JSON has it: an interrupted run with others is not continued.
        data: What the run learns from, likewise.
        rate: The learning rate of a parameter by its name, which begins with the encoder's; None is that of the
            settings for all.
        evaluate: A measure on the dev split, higher is better. With it the best weights seen, those from before
            training among them, are in the model at the end.
        measure: The name of that measure.
        unit: What an example is called.
        description: Of the progress bar.
    """

    encoders: Mapping[str, Encoder]
    settings: TrainingSettings
    batches: Callable[[int], EpochBatches[Any]]
    loss: Callable[[Any], Tensor | None]
    accelerator: Accelerator
    options: Mapping[str, Any]
    data: Mapping[str, Any]
    rate: Callable[[str], float] | None = None
    evaluate: Callable[[], float] | None = None
    measure: str = "RR@10"
    unit: str = "query"
    description: str = "Training"

    @property
    def precision(self) -> str:
        """That of the forward pass: `bf16` or `no`."""
        chosen = self.settings.mixed_precision
        if chosen == "auto":
            return "bf16" if computes_bfloat16(self.accelerator.device) else "no"
        return chosen

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what comes out of the run."""
        return {
            "options": dict(self.options),
            "settings": {**self.settings.with_effect(), "mixed_precision": self.precision},
            "data": dict(self.data),
            "weights": {name: fingerprints.of_weights(encoder.model) for name, encoder in self.encoders.items()},
            "processes": self.accelerator.num_processes,
        }


def train(task: Task, output: str | Path | None) -> TrainingResult:
    """Trains encoders in place and writes their model folders; goes on with a run that was interrupted.

    Args:
        task: What to do.
        output: The folder to write, which appears whole or not at all; several encoders go to folders in it of their
            names. Until then the run is kept in `OUTPUT.training`, see trainers/run_folder.py. None writes nothing,
            and the run cannot be continued.

    Returns:
        Losses and evaluations, those of the earlier parts of an interrupted run included.

    Raises:
        FileExistsError: The output is there already, and is not this run's.
        FloatingPointError: The loss, its gradient or a weight is not finite; the message has the step and the queries.
        OSError: A checkpoint or the output cannot be written; what was there before is as it was.
        ValueError: There is nothing to train on, a setting cannot be met, or an interrupted run differs.
    """
    settings, accelerator = task.settings, task.accelerator
    check_trackers(settings.tracker_names)
    if settings.patience and task.evaluate is None:
        raise ValueError(f"patience={settings.patience} needs dev, to evaluate on")
    if settings.trackers and output is None:
        raise ValueError("trackers need an output folder, to keep their files in")
    if output is None:
        run = _Run(task)
        log = list(run.steps([]))
        run.end()
        return _result(log)
    identity = task.identity
    only = RunFolder(output, identity, settings.checkpoints_kept) if accelerator.is_main_process else nullcontext()
    with only as folder:
        found = [folder.finished, folder.path, *folder.resume()] if folder else [None] * 4
        finished, path, step, log = broadcast_object_list(found)
        if finished:
            _reload(task.encoders, Path(output))
        else:
            run = _Run(task)
            if step:
                run.load(read_checkpoint(path, step), log)
                if folder and settings.show_progress:
                    tqdm.write(f"continuing {output} after step {step}", file=sys.stderr)
            names = settings.tracker_names if folder else []
            config = {**identity["options"], **identity["settings"], **identity["data"]}
            with started_trackers(names, path / TRACKED, Path(output).name, config, step) as trackers:
                for line in run.steps(log):
                    log.append(line)
                    if folder:
                        folder.log(line)
                    log_to(trackers, line)
                    if run.checkpoint_due(line["step"]):
                        checkpoint = run.checkpoint()  # which every process makes its part of
                        if folder:
                            folder.save(line["step"], checkpoint)
            run.end()
        if folder:
            folder.finish(partial(_save, task.encoders, Path(output).name, identity, log))
    accelerator.wait_for_everyone()
    return _result(log, finished_before=finished)


class _Run:
    """The state of a run, and how it goes from one step to the next."""

    def __init__(self, task: Task) -> None:
        self.task = task
        settings, accelerator = task.settings, task.accelerator
        self._batches = task.batches(0)
        if not self._batches:
            raise ValueError("there is nothing to train on: no batches")
        self._epoch_steps = -(-len(self._batches) // settings.gradient_accumulation)
        self._total = settings.max_steps or settings.epochs * self._epoch_steps
        self._models = {name: encoder.model for name, encoder in task.encoders.items()}
        for model in self._models.values():
            prepare(model, settings, accelerator.device)
        # Sharded models cannot be made whole again, but their weights can be put into others, which wait on the CPU.
        self._whole: dict[str, Any] | None = None
        if sharding_asked_for(accelerator):
            self._whole = {name: deepcopy(model).to("cpu") for name, model in self._models.items()}
        if self._whole is not None:
            for model in self._models.values():
                shard(model, accelerator)
        every = nn.ModuleDict(self._models)
        self._trained = {name: p for name, p in every.named_parameters() if p.requires_grad}
        # Encoders that are trained together are clipped each on its own.
        self._parts = [[p for p in model.parameters() if p.requires_grad] for model in self._models.values()]
        self._optimizer = ScheduledAdamW(
            self._trained,
            weight_decay=settings.weight_decay,
            rate=task.rate or (lambda name: settings.learning_rate),
            warmup_ratio=settings.warmup_ratio,
            total=self._total,
        )
        # Without the cache of weights that were cast: it would sum their gradients over batches in bfloat16.
        self._autocast = torch.autocast(
            accelerator.device.type, dtype=torch.bfloat16, enabled=task.precision == "bf16", cache_enabled=False
        )
        times = settings.evaluations if task.evaluate else 0
        self._evaluated = {round(self._total * (i + 1) / times) for i in range(times)}
        self._measures: list[tuple[int, float]] = []
        self._best: dict[str, Tensor] = {}

    def steps(self, log: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Takes the steps after those in the log. Gives what to log about each when it has been taken."""
        settings = self.task.settings
        taken = log[-1]["step"] if log else 0
        if self._evaluated and not log:
            yield {"step": 0, "dev": {self.task.measure: self._evaluate(0)}}
        hidden = not settings.show_progress or not self.task.accelerator.is_main_process
        with tqdm(
            total=self._examples_before(self._total),
            initial=self._examples_before(taken),
            desc=self.task.description,
            unit=f" {self.task.unit}",
            disable=hidden,
        ) as progress:
            shown: dict[str, str] = {}
            for step in range(taken, self._total):
                if self._gains_nothing_more():
                    break
                line = self._step(step)
                shown |= {"loss": f"{line['loss']:.4f}", "lr": f"{line['learning_rate']:.1e}"}
                if step + 1 in self._evaluated:
                    value = self._evaluate(step + 1)
                    line["dev"] = {self.task.measure: value}
                    shown["dev"] = f"{value:.4f}"
                progress.set_postfix(shown, refresh=False)
                progress.update(self._examples_before(step + 1) - progress.n)
                yield line

    def checkpoint_due(self, step: int) -> bool:
        """Whether to keep the state after a step."""
        return step > 0 and (step % self.task.settings.checkpoint_every == 0 or step in self._evaluated)

    def checkpoint(self) -> Checkpoint:
        """All that the steps to come depend on; every process must ask for it."""
        checkpoint = {"weights": self._weights(), "optimizer": self._optimizer.state()}
        return {**checkpoint, "best": self._best} if self._best else checkpoint

    def load(self, checkpoint: Checkpoint, log: Sequence[Mapping[str, Any]]) -> None:
        """Goes back to the state of a checkpoint, and of the log at that time."""
        self._load_weights(checkpoint["weights"])
        self._optimizer.load_state(checkpoint["optimizer"])
        self._best = dict(checkpoint.get("best", {}))
        self._measures = _evaluations(log)

    def end(self) -> None:
        """Leaves the best weights, or the last ones, in models as they were before the run."""
        if self._best:
            self._load_weights(self._best)
        for name, model in self._models.items():
            if self._whole is not None:
                weights = {key: whole_tensor(p) for key, p in model.named_parameters()}
                model = self._whole[name]
                _copy(weights, dict(model.named_parameters()))
                model.to(self.task.accelerator.device)
                self.task.encoders[name].model = model
            restore(model)
            model.eval()

    def _step(self, step: int) -> dict[str, Any]:
        """Takes a step, counted from 0, and tells about it."""
        settings, accelerator = self.task.settings, self.task.accelerator
        epoch, place = divmod(step, self._epoch_steps)
        if self._batches.epoch != epoch:
            self._batches = self.task.batches(epoch)
        start = place * settings.gradient_accumulation
        window = self._batches[start : start + settings.gradient_accumulation]
        examples = [example for batch in window for example in batch]
        for model in self._models.values():
            model.train()
        total = 0.0
        for number, batch in enumerate(window):
            # Each step's random numbers are its own: a run can continue at any step, and needs no generator's state.
            random = np.random.SeedSequence([settings.seed, step, number, accelerator.process_index])
            set_seed(int(random.generate_state(1)[0]))
            with self._autocast, fast_dropout(accelerator.device):
                loss = self.task.loss(batch)
                share = torch.zeros(()) if loss is None else loss * (len(batch) / len(examples))
            total += sum_over_processes(share.to(accelerator.device))
            self._refuse("loss", total, step, examples)
            if share.requires_grad:
                share.backward()  # type: ignore[no-untyped-call]
        sum_gradients(self._trained.values())
        clipped = [nn.utils.clip_grad_norm_(part, settings.max_grad_norm) for part in self._parts if part]
        norms = [float(whole_tensor(norm)) for norm in clipped]
        for norm in norms:  # each: the greatest of a number and none may be the number
            self._refuse("gradient's length", norm, step, examples)
        rate = self._optimizer.step(step)
        if step + 1 == self._total or self.checkpoint_due(step + 1):
            # Weights that overflowed show in the next step's loss; here there is none, or they are kept before it.
            for parameter in self._trained.values():
                self._refuse("greatest weight", float(whole_tensor(parameter).abs().max()), step, examples)
        return {"step": step + 1, "epoch": epoch, "loss": total, "learning_rate": rate, "gradient_norm": max(norms)}

    def _refuse(self, what: str, value: float, step: int, examples: Sequence[Example]) -> None:
        if not isfinite(value):
            ids = ", ".join(dict.fromkeys(example.query_id for example in examples))
            raise FloatingPointError(
                f"the {what} is {value} at step {step + 1} of {self._total}, for the queries {ids}; "
                "try a lower learning rate, or mixed_precision=no"
            )

    def _evaluate(self, step: int) -> float:
        assert self.task.evaluate is not None
        for model in self._models.values():
            model.eval()
        with self._autocast:
            measured = self.task.evaluate()
        for model in self._models.values():
            reshard(model)
        # Processes may differ in the last digit, and must not in what they keep and when they stop.
        value: float = broadcast_object_list([measured])[0]
        if not self._measures or value > max(earlier for _, earlier in self._measures):
            self._best = self._weights()
        self._measures.append((step, value))
        return value

    def _gains_nothing_more(self) -> bool:
        measures = [value for _, value in self._measures]
        patience = self.task.settings.patience
        return 0 < patience < len(measures) and max(measures[:-patience]) >= max(measures[-patience:])

    def _examples_before(self, step: int) -> int:
        epoch, place = divmod(step, self._epoch_steps)
        in_epoch = place * self.task.settings.gradient_accumulation * self._batches.batch_size
        return epoch * self._batches.examples + in_epoch

    def _weights(self) -> dict[str, Tensor]:
        return {name: whole_tensor(parameter) for name, parameter in self._trained.items()}

    def _load_weights(self, weights: Mapping[str, Tensor]) -> None:
        _copy(weights, self._trained)


def _copy(weights: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(shard_like(weights[name], parameter))


def _places(encoders: Mapping[str, Encoder], output: Path) -> dict[str, Path]:
    """Where each encoder is written: one alone to the output itself."""
    return {name: output if len(encoders) == 1 else output / name for name in encoders}


def _save(
    encoders: Mapping[str, Encoder],
    title: str,
    identity: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    output: Path,
) -> None:
    """Writes model folders, each with its card."""
    for name, place in _places(encoders, output).items():
        encoders[name].save_pretrained(place)
        write_model_card(place, title if place == output else f"{title}: {name}", encoders[name], identity, log)


def _reload(encoders: Mapping[str, Encoder], output: Path) -> None:
    """Takes the weights of a run that had reached its end."""
    for name, place in _places(encoders, output).items():
        encoder = encoders[name]
        loaded = type(encoder).from_pretrained(place, device=str(encoder.model.device), dtype="float32")
        encoder.model.load_state_dict(loaded.model.state_dict())


def _evaluations(log: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    return [(line["step"], value) for line in log for value in line.get("dev", {}).values()]


def _result(log: Sequence[Mapping[str, Any]], finished_before: bool = False) -> TrainingResult:
    return TrainingResult([line["loss"] for line in log if "loss" in line], _evaluations(log), finished_before)
