"""What every trainer can do, shown with one: accumulation, adapters, early stopping, trackers, errors, what is kept."""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_training import log_of
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rocketqa_haystack import CrossEncoder, DualEncoder, Passage
from rocketqa_haystack.data import Collection, TrainingGroup, TrainingGroups, groups_from_collection, write_groups
from trainers import CrossEncoderTrainer, DualEncoderTrainer, JointTrainer, TrainingSettings
from trainers.fingerprints import describe
from trainers.trackers import log_to, started_trackers

FAST: dict[str, Any] = {"show_progress": False, "mixed_precision": "no"}


@pytest.fixture(scope="module")
def groups(collection: Collection) -> list[TrainingGroup]:
    return groups_from_collection(collection, {id: [f"p{(int(id[1:]) + 7) % 48}"] for id in collection.queries})[:16]


def weights(trainer: DualEncoderTrainer | CrossEncoderTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.encoder.model.parameters()])


def without_dropout(trainer: DualEncoderTrainer | CrossEncoderTrainer) -> None:
    for module in trainer.encoder.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def test_accumulated_batches_take_the_step_of_one_batch(ranker_folder: Path, groups: list[TrainingGroup]) -> None:
    # A re-ranker's pairs have nothing to do with each other; the last batch and the last step are smaller.
    def trained(**options: Any) -> tuple[torch.Tensor, list[float]]:
        run = TrainingSettings(learning_rate=1e-3, **options, **FAST)
        trainer = CrossEncoderTrainer(ranker_folder, groups[:7], settings=run, negatives=1)
        without_dropout(trainer)
        for name, parameter in trainer.encoder.model.named_parameters():
            # Their gradient is nothing but rounding, of which AdamW makes steps of full length.
            parameter.requires_grad_("key.bias" not in name)
        losses = trainer.train().losses
        return weights(trainer), losses

    (whole, losses), (parts, accumulated) = trained(batch_size=9), trained(batch_size=3, gradient_accumulation=3)
    assert len(losses) == len(accumulated) == 2
    assert accumulated == pytest.approx(losses, rel=1e-5)
    assert float((whole - parts).abs().max()) < 1e-6


@pytest.mark.parametrize("caching", [False, True])
def test_gradient_checkpointing_takes_the_same_step_with_the_same_dropout(
    caching: bool, encoder_folder: Path, groups: list[TrainingGroup]
) -> None:
    def trained(checkpointing: bool) -> torch.Tensor:
        run = TrainingSettings(
            batch_size=8, learning_rate=1e-3, gradient_checkpointing=checkpointing, gradient_caching=caching, **FAST
        )
        trainer = DualEncoderTrainer(encoder_folder, groups, settings=run)
        trainer.train()
        return weights(trainer)

    assert float((trained(False) - trained(True)).abs().max()) < 1e-6


@pytest.mark.parametrize("kind", ["retriever", "re-ranker"])
def test_adapters_are_merged_into_weights_that_load_as_they_are(
    kind: str, encoder_folder: Path, ranker_folder: Path, groups: list[TrainingGroup], tmp_path: Path
) -> None:
    run = TrainingSettings(batch_size=8, learning_rate=1e-2, lora_rank=2, epochs=3, **FAST)
    trainer: DualEncoderTrainer | CrossEncoderTrainer
    if kind == "retriever":
        trainer = DualEncoderTrainer(encoder_folder, groups, settings=run)
    else:
        trainer = CrossEncoderTrainer(ranker_folder, groups, settings=run)
    before = {name: tensor.clone() for name, tensor in trainer.encoder.model.state_dict().items()}
    trainer.train(tmp_path / "model")
    after = trainer.encoder.model.state_dict()
    assert set(after) == set(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("query.weight" in name for name in changed)
    assert not any("LayerNorm" in name or "embeddings" in name for name in changed)
    assert any("classifier" in name for name in changed) == (kind == "re-ranker")
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert not any("lora" in name for name in saved)
    for name, tensor in after.items():
        assert torch.equal(saved[name.partition("model.")[2]], tensor), name
    (DualEncoder if kind == "retriever" else CrossEncoder).from_pretrained(tmp_path / "model")


def test_low_rank_updates_have_that_rank(encoder_folder: Path, groups: list[TrainingGroup]) -> None:
    run = TrainingSettings(batch_size=8, learning_rate=1e-2, lora_rank=2, **FAST)
    trainer = DualEncoderTrainer(encoder_folder, groups, settings=run)
    name = next(n for n, _ in trainer.encoder.model.named_parameters() if n.endswith("query.weight"))
    before = trainer.encoder.model.get_parameter(name).detach().clone()
    trainer.train()
    change = trainer.encoder.model.get_parameter(name).detach() - before
    assert int(torch.linalg.matrix_rank(change, rtol=1e-4)) == 2


def test_training_stops_early_where_nothing_is_gained(
    encoder_folder: Path, groups: list[TrainingGroup], collection: Collection, tmp_path: Path
) -> None:
    run = TrainingSettings(batch_size=2, learning_rate=5.0, max_grad_norm=1e9, evaluations=8, patience=2, **FAST)
    trainer = DualEncoderTrainer(encoder_folder, groups, dev=collection, settings=run)
    result = trainer.train(tmp_path / "model")
    assert [step for step, _ in result.evaluations] == [0, 1, 2]
    assert len(result.losses) == 2
    assert [line["step"] for line in log_of(tmp_path / "model")] == [0, 1, 2]
    with pytest.raises(ValueError, match="patience=2 stops nothing with evaluations=2"):
        TrainingSettings(evaluations=2, patience=2)


@pytest.mark.parametrize("steps", [3, 11])
def test_max_steps_takes_the_place_of_epochs(
    steps: int, encoder_folder: Path, groups: list[TrainingGroup], tmp_path: Path
) -> None:
    run = TrainingSettings(batch_size=4, max_steps=steps, **FAST)
    result = DualEncoderTrainer(encoder_folder, groups, settings=run).train(tmp_path / "model")
    assert len(result.losses) == steps
    lines = log_of(tmp_path / "model")
    in_epoch = -(-len(groups) // 4)
    assert [line["epoch"] for line in lines] == [step // in_epoch for step in range(steps)]
    # The last step of the fall, which begins after a warm-up of a tenth.
    assert 0 < lines[-1]["learning_rate"] < run.learning_rate / (0.89 * steps)


def test_a_tracker_is_written_to_and_comes_with_the_model(
    encoder_folder: Path, groups: list[TrainingGroup], collection: Collection, tmp_path: Path
) -> None:
    run = TrainingSettings(batch_size=4, trackers="tensorboard", evaluations=1, **FAST)
    result = DualEncoderTrainer(encoder_folder, groups, dev=collection, settings=run).train(tmp_path / "model")
    events, *_ = sorted((tmp_path / "model" / "runs").rglob("events.out.tfevents.*"), key=lambda path: len(path.parts))
    written = EventAccumulator(str(events.parent)).Reload()
    assert [event.step for event in written.Scalars("loss")] == [1, 2, 3, 4]
    assert [event.value for event in written.Scalars("loss")] == pytest.approx(result.losses, rel=1e-6)
    assert [event.step for event in written.Scalars("RR@10")] == [0, 4]


@pytest.mark.parametrize(
    ("trackers", "message"),
    [("tensorboard, nothing", "there is no tracker 'nothing'; accelerate has"), ("aim", "not installed")],
)
def test_a_tracker_that_cannot_be_had_is_refused(
    trackers: str, message: str, encoder_folder: Path, groups: list[TrainingGroup], tmp_path: Path
) -> None:
    trainer = DualEncoderTrainer(encoder_folder, groups, settings=TrainingSettings(trackers=trackers, **FAST))
    with pytest.raises(ValueError, match=message):
        trainer.train(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_the_log_has_a_line_for_each_step(
    encoder_folder: Path, groups: list[TrainingGroup], collection: Collection, tmp_path: Path
) -> None:
    run = TrainingSettings(batch_size=4, epochs=2, evaluations=2, warmup_ratio=0.0, learning_rate=1e-3, **FAST)
    result = DualEncoderTrainer(encoder_folder, groups, dev=collection, settings=run).train(tmp_path / "model")
    log = log_of(tmp_path / "model")
    assert [line["step"] for line in log] == list(range(9))
    assert [line["loss"] for line in log[1:]] == result.losses
    assert [(line["step"], line["dev"]["RR@10"]) for line in log if "dev" in line] == result.evaluations
    assert [line["learning_rate"] for line in log[1:]] == pytest.approx([1e-3 * (8 - i) / 8 for i in range(8)])
    assert [line["epoch"] for line in log[1:]] == [0] * 4 + [1] * 4


def test_a_model_card_tells_the_data_the_settings_and_the_measures(
    encoder_folder: Path, ranker_folder: Path, groups: list[TrainingGroup], collection: Collection, tmp_path: Path
) -> None:
    run = TrainingSettings(batch_size=8, learning_rate=3e-4, **FAST)
    result = DualEncoderTrainer(encoder_folder, groups, dev=collection, settings=run).train(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    for expected in ("# model\n", "| training_groups | 16 |", "| dev_queries | 48 |", "| learning_rate | 0.0003 |"):
        assert expected in card
    for step, value in result.evaluations:
        assert f"| {step} | {value:.4f} |" in card
    assert str(tmp_path) not in card
    assert str(encoder_folder.parent) not in card
    JointTrainer(encoder_folder, ranker_folder, groups, settings=run, list_length=2).train(tmp_path / "joint")
    assert "# joint: reranker" in (tmp_path / "joint" / "reranker" / "README.md").read_text()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_with_the_step_and_the_queries(
    value: float, encoder_folder: Path, groups: list[TrainingGroup], tmp_path: Path
) -> None:
    trainer = DualEncoderTrainer(encoder_folder, groups[:4], settings=TrainingSettings(batch_size=2, **FAST))
    second = trainer._batches(0)[1]
    known_loss = trainer.loss
    trainer.loss = lambda batch: known_loss(batch) * (value if batch == second else 1.0)  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError) as error:
        trainer.train(tmp_path / "model")
    ids = ", ".join(example.query_id for example in second)
    assert re.search(rf"the loss is (nan|-?inf) at step 2 of 2, for the queries {ids};", str(error.value))
    assert not (tmp_path / "model").exists()


def test_a_gradient_that_is_not_finite_stops_the_run(encoder_folder: Path, groups: list[TrainingGroup]) -> None:
    trainer = DualEncoderTrainer(encoder_folder, groups[:4], settings=TrainingSettings(batch_size=4, **FAST))
    next(trainer.encoder.model.parameters()).register_hook(lambda gradient: gradient * math.nan)
    before = weights(trainer)
    with pytest.raises(FloatingPointError, match="the gradient's length is nan at step 1 of 1, for the queries q"):
        trainer.train()
    assert torch.equal(weights(trainer), before)


@pytest.mark.parametrize("steps", [1, 2])
def test_weights_that_are_not_finite_stop_the_run_before_they_are_kept(
    steps: int, encoder_folder: Path, groups: list[TrainingGroup], tmp_path: Path
) -> None:
    steep: dict[str, Any] = {"learning_rate": 3e38, "weight_decay": 10.0, "warmup_ratio": 0.0}
    run = TrainingSettings(batch_size=4, max_steps=steps, checkpoint_every=1, **steep, **FAST)
    trainer = DualEncoderTrainer(encoder_folder, groups, settings=run)
    with pytest.raises(FloatingPointError, match=rf"weight is (nan|inf) at step 1 of {steps}, for the queries q"):
        trainer.train(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_patience_without_questions_to_evaluate_on_is_refused(
    encoder_folder: Path, groups: list[TrainingGroup], tmp_path: Path
) -> None:
    trainer = DualEncoderTrainer(encoder_folder, groups, settings=TrainingSettings(evaluations=4, patience=1, **FAST))
    with pytest.raises(ValueError, match="patience=1 needs dev"):
        trainer.train(tmp_path / "model")


def test_a_checkpoint_without_its_log_is_named(
    encoder_folder: Path, groups: list[TrainingGroup], tmp_path: Path
) -> None:
    run = TrainingSettings(batch_size=4, checkpoint_every=1, **FAST)
    trainer = DualEncoderTrainer(encoder_folder, groups, settings=run)
    known_loss, left = trainer.loss, iter(range(2))

    def loss(batch: Any) -> torch.Tensor | None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return known_loss(batch)

    trainer.loss = loss  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.train(tmp_path / "model")
    (tmp_path / "model.training" / "training.jsonl").unlink()
    with pytest.raises(OSError, match=r"training\.jsonl has not the steps up to 2, of which there is a checkpoint"):
        DualEncoderTrainer(encoder_folder, groups, settings=run).train(tmp_path / "model")
    assert (tmp_path / "model.training" / "step-2").is_dir()


def test_the_last_checkpoints_are_kept(encoder_folder: Path, groups: list[TrainingGroup], tmp_path: Path) -> None:
    seen: list[list[str]] = []
    run = TrainingSettings(batch_size=2, checkpoint_every=2, checkpoints_kept=2, **FAST)
    trainer = DualEncoderTrainer(encoder_folder, groups, settings=run)
    known_loss = trainer.loss

    def look(batch: Any) -> torch.Tensor:
        seen.append(sorted(path.name for path in (tmp_path / "model.training").glob("step-*")))
        return known_loss(batch)

    trainer.loss = look  # type: ignore[method-assign]
    trainer.train(tmp_path / "model")
    expected = [[], [], ["step-2"], ["step-2"], ["step-2", "step-4"], ["step-2", "step-4"], ["step-4", "step-6"]]
    assert seen[:7] == expected
    assert not (tmp_path / "model.training").exists()


class StoppedError(Exception):
    """Ends a run in a test."""


def interrupted(trainer: DualEncoderTrainer, output: Path, after: int) -> None:
    """Trains some steps only."""
    taken = 0
    known_loss = trainer.loss

    def stop(batch: Any) -> torch.Tensor:
        nonlocal taken
        if taken == after:
            raise StoppedError
        taken += 1
        return known_loss(batch)

    trainer.loss = stop  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        trainer.train(output)


def test_an_unfinished_run_is_not_continued_with_other_candidates_to_evaluate_on(
    ranker_folder: Path, groups: list[TrainingGroup], collection: Collection, tmp_path: Path
) -> None:
    run = TrainingSettings(batch_size=4, checkpoint_every=2, max_steps=8, **FAST)

    def trainer(*candidates: str) -> CrossEncoderTrainer:
        found = {id: dict.fromkeys(candidates, 0.0) for id in collection.queries}
        return CrossEncoderTrainer(
            ranker_folder, groups, dev=collection, dev_candidates=found, settings=run, negatives=1
        )

    interrupted(trainer("p1", "p2"), tmp_path / "model", after=3)
    with pytest.raises(ValueError, match=r"data\.dev_candidates_fingerprint was"):
        trainer("p1", "p3").train(tmp_path / "model")
    with pytest.raises(ValueError, match="dev_candidates has no candidate of any query"):
        trainer()


def test_an_unfinished_run_is_not_continued_with_other_settings_or_data(
    encoder_folder: Path, groups: list[TrainingGroup], tmp_path: Path
) -> None:
    def trainer(groups: list[TrainingGroup] = groups, rate: float = 1e-3, hard: int = 0) -> DualEncoderTrainer:
        run = TrainingSettings(batch_size=4, checkpoint_every=2, learning_rate=rate, **FAST)
        return DualEncoderTrainer(encoder_folder, groups, settings=run, hard_negatives=hard)

    output = tmp_path / "model"
    interrupted(trainer(), output, after=3)
    with pytest.raises(ValueError, match=r"settings\.learning_rate was 0\.001 and is 0\.002"):
        trainer(rate=2e-3).train(output)
    with pytest.raises(ValueError, match=r"options\.hard_negatives was 0 and is 1"):
        trainer(hard=1).train(output)
    with pytest.raises(ValueError, match=r"data\.training_groups_fingerprint was"):
        trainer([*groups[1:], groups[0]]).train(output)
    result = trainer().train(output)
    assert len(result.losses) == 4
    assert not result.finished_before
    assert not (tmp_path / "model.training").exists()
    assert trainer().train(output).finished_before
    for corrected in (replace(groups[5], query="corrected"), replace(groups[5], positives=(Passage("corrected"),))):
        with pytest.raises(FileExistsError, match="is there already"):
            trainer([*groups[:5], corrected, *groups[6:]]).train(output)


def test_the_fingerprint_of_groups_on_disk_is_that_of_all_of_them(groups: list[TrainingGroup], tmp_path: Path) -> None:
    def fingerprint(groups: list[TrainingGroup]) -> str:
        write_groups(tmp_path / "groups.jsonl", groups)
        found = describe(TrainingGroups.read(tmp_path / "groups.jsonl"))
        return str(found["training_groups_fingerprint"])

    many = [replace(group, query_id=f"{number}-{group.query_id}") for number in range(200) for group in groups]
    assert len(many) > 2_000
    whole = fingerprint(many)
    assert fingerprint(many) == whole
    changed = replace(many[1_502], positives=(Passage("corrected"),))
    assert fingerprint([*many[:1_502], changed, *many[1_503:]]) != whole


@pytest.mark.parametrize("trainer", [DualEncoderTrainer, CrossEncoderTrainer, JointTrainer])
def test_dev_questions_without_any_relevant_passage_are_refused(
    trainer: Any, encoder_folder: Path, ranker_folder: Path, groups: list[TrainingGroup], collection: Collection
) -> None:
    judged = {id: dict.fromkeys(row, 0) for id, row in collection.qrels.items()}
    models = {DualEncoderTrainer: [encoder_folder], CrossEncoderTrainer: [ranker_folder]}
    options = {"dev_candidates": {id: {"p1": 1.0} for id in judged}} if trainer is CrossEncoderTrainer else {}
    with pytest.raises(ValueError, match="dev has no question with a relevant passage"):
        trainer(
            *models.get(trainer, [encoder_folder, ranker_folder]),
            groups,
            dev=Collection(collection.corpus, collection.queries, judged),
            **options,
        )


def test_a_finished_run_started_again_gives_its_weights_and_result(
    encoder_folder: Path, groups: list[TrainingGroup], collection: Collection, tmp_path: Path
) -> None:
    def trainer() -> DualEncoderTrainer:
        run = TrainingSettings(batch_size=4, learning_rate=1e-3, **FAST)
        return DualEncoderTrainer(encoder_folder, groups, dev=collection, settings=run)

    first, second = trainer(), trainer()
    result = first.train(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    assert second.train(tmp_path / "model") == replace(result, finished_before=True)
    assert torch.equal(weights(first), weights(second))
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_run_that_was_killed_while_it_cleaned_up_is_finished(
    encoder_folder: Path, groups: list[TrainingGroup], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trainer() -> DualEncoderTrainer:
        run = TrainingSettings(batch_size=4, checkpoint_every=1, **FAST)
        return DualEncoderTrainer(encoder_folder, groups, settings=run)

    removed: list[Path] = []

    def stop_after(limit: int) -> None:
        def remove(path: Path, known: Callable[..., None] = shutil.rmtree) -> None:
            if len(removed) == limit and (tmp_path / "model").exists():
                raise StoppedError
            removed.append(path)
            known(path)

        monkeypatch.setattr(shutil, "rmtree", remove)

    stop_after(3)  # a checkpoint that was too many, and so on to the first of the two that are left
    first, again = trainer(), trainer()
    with pytest.raises(StoppedError):
        first.train(tmp_path / "model")
    monkeypatch.undo()
    assert (tmp_path / "model.training").exists()
    assert len(again.train(tmp_path / "model").losses) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_passage_that_answers_by_another_group_is_not_counted_as_a_negative(
    encoder_folder: Path, ranker_folder: Path
) -> None:
    one, other = Passage("mama dada"), Passage("kaka tata")
    crossed = [
        TrainingGroup("1", "baba", ("p",), (one,), ("o",), (other,)),
        TrainingGroup("2", "baba", ("o",), (other,), ("p",), (one,)),
    ]
    with pytest.raises(ValueError, match="no training group has negatives"):
        JointTrainer(encoder_folder, ranker_folder, crossed, settings=TrainingSettings(**FAST))
    further = TrainingGroup("3", "dada", ("p",), (one,), ("o",), (other,))
    trainer = JointTrainer(encoder_folder, ranker_folder, [*crossed, further], list_length=2)
    assert "2 with fewer than 1 different negatives (such as '1', '2')" in str(trainer.report)


def test_adapters_and_all_else_are_continued(
    encoder_folder: Path, groups: list[TrainingGroup], collection: Collection, tmp_path: Path
) -> None:
    def trainer() -> DualEncoderTrainer:
        run = TrainingSettings(
            batch_size=4,
            learning_rate=1e-2,
            epochs=2,
            lora_rank=2,
            lora_dropout=0.1,
            gradient_accumulation=2,
            gradient_checkpointing=True,
            evaluations=2,
            checkpoint_every=1,
            **FAST,
        )
        return DualEncoderTrainer(encoder_folder, groups, dev=collection, settings=run)

    whole, again = trainer(), trainer()
    result = whole.train(tmp_path / "whole")
    interrupted(trainer(), tmp_path / "stopped", after=5)
    assert again.train(tmp_path / "stopped") == result
    assert torch.equal(weights(whole), weights(again))


def test_two_processes_do_not_train_the_same_output(
    encoder_folder: Path, groups: list[TrainingGroup], tmp_path: Path
) -> None:
    run = TrainingSettings(batch_size=4, **FAST)
    trainer = DualEncoderTrainer(encoder_folder, groups, settings=run)
    known_loss, refused = trainer.loss, []

    def loss(batch: Any) -> torch.Tensor:
        if not refused:
            with pytest.raises(OSError, match="another process is training") as error:
                DualEncoderTrainer(encoder_folder, groups, settings=run).train(tmp_path / "model")
            refused.append(error)
        return known_loss(batch)

    trainer.loss = loss  # type: ignore[method-assign]
    trainer.train(tmp_path / "model")
    assert refused


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """A file system of two megabytes; gives what fills it up, and what makes room again."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {mounted.stderr.decode().strip()}")

    def fill() -> None:
        free = os.statvfs(folder)
        (folder / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize - 40_000))

    try:
        yield fill, (folder / "ballast").unlink
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def small_files(folder: Path) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """A folder; gives what forbids this process files of more than 40 kilobytes, and what allows them again."""
    folder.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE)
    try:
        yield lambda: limit((40_000, before[1])), lambda: limit(before)
    finally:
        limit(before)


@pytest.mark.parametrize(
    ("disk", "reason"),
    [(small_disk, "No space left on device"), (small_files, "File too large")],
    ids=["full", "limit"],
)
def test_a_disk_that_takes_no_more_stops_the_run_and_leaves_the_checkpoint_before_usable(
    disk: Any, reason: str, encoder_folder: Path, groups: list[TrainingGroup], tmp_path: Path
) -> None:
    def trainer() -> DualEncoderTrainer:
        run = TrainingSettings(batch_size=2, checkpoint_every=2, learning_rate=1e-3, **FAST)
        return DualEncoderTrainer(encoder_folder, groups, settings=run)

    whole, stopped, again = trainer(), trainer(), trainer()
    result = whole.train(tmp_path / "whole")
    output = tmp_path / "disk" / "model"
    known_loss, taken = stopped.loss, []
    with disk(tmp_path / "disk") as (fill, make_room):

        def loss(batch: Any) -> torch.Tensor:
            taken.append(batch)
            if len(taken) == 4:  # after the first checkpoint
                fill()
            return known_loss(batch)

        stopped.loss = loss  # type: ignore[method-assign]
        with pytest.raises(OSError, match=rf"step 4 cannot be written: .*{reason}.*to continue after step 2"):
            stopped.train(output)
        assert [path.name for path in output.with_name("model.training").glob("*step*")] == ["step-2"]
        make_room()
        assert again.train(output) == result
    assert torch.equal(weights(whole), weights(again))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's own thread
def test_a_tracker_without_room_is_named_and_does_not_hide_what_stopped_the_run(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as (fill, make_room):

        def log(run: str, stopped_by: type[Exception] | None = None) -> None:
            with started_trackers(["tensorboard"], tmp_path / "disk" / run, "run", {}, 0) as trackers:
                fill()
                with suppress(*([OSError] if stopped_by else [])):
                    for step in range(1, 2_000):
                        log_to(trackers, {"step": step, "loss": 1.0})
                if stopped_by:
                    raise stopped_by

        with pytest.raises(OSError, match=r"tensorboard failed: .*No space left on device"):
            log("a")
        make_room()
        with pytest.raises(KeyError):
            log("b", stopped_by=KeyError)


def test_a_damaged_checkpoint_is_named(encoder_folder: Path, groups: list[TrainingGroup], tmp_path: Path) -> None:
    def trainer() -> DualEncoderTrainer:
        run = TrainingSettings(batch_size=2, checkpoint_every=2, learning_rate=1e-3, **FAST)
        return DualEncoderTrainer(encoder_folder, groups, settings=run)

    output = tmp_path / "model"
    interrupted(trainer(), output, after=5)
    damaged = tmp_path / "model.training" / "step-4" / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(OSError, match=r"step-4/weights\.safetensors is damaged .* to continue from before it"):
        trainer().train(output)
    for path in (tmp_path / "model.training" / "step-4").iterdir():
        path.unlink()
    (tmp_path / "model.training" / "step-4").rmdir()
    assert len(trainer().train(output).losses) == 8
