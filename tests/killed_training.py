"""Trains in processes of their own, which can be killed. They are forked from a server that has imported everything."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["trainers", "accelerate", "bm25s", "datasets", "peft", "torch.distributed.fsdp"])


def start(target: Callable[..., None], *arguments: object, processes: int = 1) -> list[BaseProcess]:
    """Starts one process, or several that find each other as those of `accelerate launch` do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        SERVER.Process(target=_run, args=(rank, processes, port, target, arguments)) for rank in range(processes)
    ]
    for process in started:
        process.start()
    return started


def finish(started: list[BaseProcess], timeout: float = 120) -> None:
    """Waits until all have ended well."""
    deadline = time.monotonic() + timeout
    for process in started:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in started]
    kill(started)
    assert codes == [0] * len(codes), codes


def kill(started: list[BaseProcess]) -> None:
    """kill -9, to all of them."""
    for process in started:
        process.kill()
    for process in started:
        process.join()


def log_of(output: Path) -> list[dict[str, Any]]:
    """What a run has logged."""
    return [json.loads(line) for line in (output / "training.jsonl").read_text().splitlines()]


def _run(rank: int, processes: int, port: int, target: Callable[..., None], arguments: tuple[object, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    if processes > 1:
        os.environ.update(
            ACCELERATE_USE_CPU="true",
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(processes),
            LOCAL_WORLD_SIZE=str(processes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    target(*arguments)


def train_retriever(model: Path, collection: Path, output: Path, options: dict[str, object]) -> None:
    """A short run with dropout, hard negatives and two evaluations."""
    from rocketqa_haystack.data import groups_from_collection, load_collection
    from trainers import DualEncoderTrainer, TrainingSettings

    train = load_collection(collection, "train")
    groups = groups_from_collection(train, {id: [f"p{(int(id[1:]) + 7) % 48}"] for id in train.queries})
    values = {
        "epochs": 3,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "evaluations": 2,
        "checkpoint_every": 3,
        "mixed_precision": "no",
        "show_progress": False,
        **options,
    }
    settings = TrainingSettings(**values)  # type: ignore[arg-type]
    DualEncoderTrainer(
        model, groups, dev=load_collection(collection, "dev"), settings=settings, hard_negatives=1
    ).train(output)


def train_sharded(kind: str, model: Path, reranker: Path, collection: Path, output: Path) -> None:
    """Trains with weights that are spread over the processes, as `accelerate launch --use_fsdp` asks for it."""
    os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2", FSDP_CPU_RAM_EFFICIENT_LOADING="true")
    if kind in ("worse", "new head"):
        os.environ["FSDP_AUTO_WRAP_POLICY"] = "NO_WRAP"
    train_kind(kind, model, reranker, collection, output)


def train_kind(kind: str, model: Path, reranker: Path, collection: Path, output: Path) -> None:
    """A short run of one of the trainers without dropout, with a last batch that leaves a process nothing to do."""
    import torch
    from made_up_answers import made_up

    from rocketqa_haystack.data import groups_from_collection, load_collection
    from trainers import CrossEncoderTrainer, DualEncoderTrainer, JointTrainer, ReaderTrainer, TrainingSettings

    train, dev = load_collection(collection, "train"), load_collection(collection, "dev")
    groups = groups_from_collection(train, {id: [f"p{(int(id[1:]) + 7) % 48}"] for id in train.queries})[:9]
    world = int(os.environ.get("WORLD_SIZE", "1"))
    settings = TrainingSettings(
        batch_size=8 // world, epochs=2, learning_rate=1e-4, mixed_precision="no", show_progress=False, evaluations=2
    )
    trainer = {
        "retriever": lambda: DualEncoderTrainer(model, groups, dev=dev, settings=settings),
        "adapters": lambda: DualEncoderTrainer(model, groups, dev=dev, settings=replace(settings, lora_rank=2)),
        "worse": lambda: DualEncoderTrainer(model, groups, dev=dev, settings=replace(settings, learning_rate=5.0)),
        "new head": lambda: CrossEncoderTrainer(model, groups, settings=settings, loss="listwise"),
        "reranker": lambda: CrossEncoderTrainer(reranker, groups[:5] + groups[:4], settings=settings, negatives=1),
        "joint": lambda: JointTrainer(model, reranker, groups, settings=settings, list_length=2, contrastive_weight=1),
        "reader": lambda: ReaderTrainer(model, made_up(9, seed=0), dev=made_up(4, seed=1), settings=settings),
    }[kind]()
    if kind == "joint":
        encoders = [trainer.retriever.encoder, trainer.reranker]
    else:
        encoders = [trainer.reader if kind == "reader" else trainer.encoder]
    for encoder in encoders:
        for module in encoder.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for name, parameter in encoder.model.named_parameters():
            # A softmax is blind to them: their gradient is rounding, of which AdamW makes steps of full length.
            parameter.requires_grad_("key.bias" not in name and not (kind == "joint" and "classifier.bias" in name))
    trainer.train(output)


def count_encodings(arguments: list[str], counted: Path) -> None:
    """Runs a command, with a line in a file for each time that passages are encoded."""
    from rocketqa_haystack import DualEncoder
    from rocketqa_haystack.cli.main import main

    encode = DualEncoder.encode_passages

    def encode_and_count(*args: Any, **kwargs: Any) -> Any:
        with counted.open("a") as file:
            file.write("encoded\n")
        return encode(*args, **kwargs)

    DualEncoder.encode_passages = encode_and_count  # type: ignore[method-assign]
    assert main(arguments) == 0
