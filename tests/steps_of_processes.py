"""Run by test_processes.py: the same steps on one, two and three processes, for trainers of all kinds.

    python steps_of_processes.py ENCODER TWO_TOWERS RANKER GROUPS OUTPUT

Writes OUTPUT/N.safetensors for each number N of processes: the gradients of every batch of an epoch and the weights
after it, of each case. The processes are forked after the imports, which take longer than the steps.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import Any

os.environ.update(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")

import torch
from safetensors.torch import save_file

from rocketqa_haystack.data import read_groups
from trainers import CrossEncoderTrainer, DualEncoderTrainer, JointTrainer, TrainingSettings
from trainers.gathering import sum_gradients

BATCH = 12


def trainers_of(encoder: str, two_towers: str, ranker: str, path: str, processes: int) -> dict[str, Any]:
    """Functions that make a trainer, by the name of their case."""
    groups = read_groups(path)

    def settings(caching: bool) -> TrainingSettings:
        return TrainingSettings(
            batch_size=BATCH // processes,
            mixed_precision="no",
            gradient_caching=caching,
            show_progress=False,
            warmup_ratio=0.0,
            evaluations=0,
        )

    def dual(model: str, hard_negatives: int, caching: bool) -> Any:
        return lambda: DualEncoderTrainer(model, groups, settings=settings(caching), hard_negatives=hard_negatives)

    def cross(caching: bool) -> Any:
        return lambda: CrossEncoderTrainer(ranker, groups[:20], settings=settings(caching), negatives=2)

    def joint(caching: bool) -> Any:
        options: dict[str, Any] = {"list_length": 4, "contrastive_weight": 0.5}
        return lambda: JointTrainer(encoder, ranker, groups, settings=settings(caching), **options)

    cases = {f"cross caching={caching}": cross(caching) for caching in (False, True)}
    cases |= {f"joint caching={caching}": joint(caching) for caching in (False, True)}
    for towers, model in (("one", encoder), ("two", two_towers)):
        for hard_negatives in (0, 1, 3):
            name = f"dual {towers} {hard_negatives}"
            cases[f"{name} caching=False"] = cases[f"{name} float32"] = dual(model, hard_negatives, False)
        cases[f"dual {towers} 1 caching=True"] = dual(model, 1, True)
    return cases


def steps(trainer: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The gradients of each batch of the first epoch, and the weights after it, without dropout."""
    if isinstance(trainer, JointTrainer):
        model: torch.nn.Module = torch.nn.ModuleList([trainer.retriever.encoder.model, trainer.reranker.model])
    else:
        model = trainer.encoder.model
    model.to(dtype)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    named = dict(model.named_parameters())
    found = {}
    for number, batch in enumerate(trainer._batches(0)):
        loss = trainer.loss(batch)
        if loss is not None:
            loss.backward()
        sum_gradients(named.values())
        found |= {f"gradient {number} {n}": p.grad.clone() for n, p in named.items() if p.grad is not None}
        model.zero_grad()
    trainer.train()
    return found | {f"weight {n}": p.detach().clone() for n, p in named.items()}


def process(rank: int, processes: int, port: int, *arguments: str) -> None:
    """One process of a run."""
    torch.set_num_threads(1)
    if processes > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(processes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    *inputs, output = arguments
    results = {}
    for name, make in trainers_of(*inputs, processes=processes).items():
        dtype = torch.float32 if "float32" in name else torch.float64
        results |= {f"{name} | {key}": tensor for key, tensor in steps(make(), dtype).items()}
    if rank == 0:
        save_file(results, Path(output) / f"{processes}.safetensors")
    if processes > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    started = []
    for processes in (1, 2, 3):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started += [
            context.Process(target=process, args=(rank, processes, port, *sys.argv[1:])) for rank in range(processes)
        ]
    for each in started:
        each.start()
    for each in started:
        each.join()
    sys.exit(any(each.exitcode for each in started))
