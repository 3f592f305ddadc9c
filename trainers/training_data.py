"""Training groups as the trainers take them: from a file or a sequence, looked at once before training starts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from tqdm.auto import tqdm

from rocketqa_haystack.data import Collection, GroupsReport, TrainingGroup, TrainingGroups, check_groups
from trainers.sampling import KnownPositives

logger = logging.getLogger(__name__)

#: What a trainer takes: a file in any format of `TrainingGroups.read`, a file already read, or any sequence.
Groups = str | Path | Sequence[TrainingGroup]


def open_groups(groups: Groups) -> Sequence[TrainingGroup]:
    """The groups themselves; those of a file stay on disk.

    Raises:
        DataError: A file cannot be read, or a line of it is bad.
        ValueError: There are none.
    """
    if isinstance(groups, str | Path):
        groups = TrainingGroups.read(groups)
    if not len(groups):
        raise ValueError("there are no training groups")
    return groups


def check_training_data(
    *pools: Sequence[TrainingGroup], known: KnownPositives, negatives: int, main_process: bool, show_progress: bool
) -> GroupsReport:
    """Goes through all groups once, refuses those that nothing can be learned from, and logs what else is wrong.

    Args:
        pools: The training data.
        known: Passages that are nobody's negative.
        negatives: Negatives that training will ask of every group.
        main_process: Whether this process is the one that speaks.
        show_progress: Whether to show a progress bar where it takes more than a moment.

    Raises:
        ValueError: A group has no positive, an empty question or an empty positive; the message has the report.
    """
    every: Iterable[TrainingGroup] = tqdm(
        chain(*pools),
        total=sum(map(len, pools)),
        desc="Checking training groups",
        unit="group",
        delay=2,
        disable=not (show_progress and main_process),
    )
    report = check_groups(every, negatives=negatives, known=known.__getitem__)
    if not report.trainable:
        raise ValueError(f"the training data cannot be learned from: {report}")
    if report.findings and main_process:
        logger.warning("%s", report)
    return report


def check_dev(dev: Collection | None) -> Collection | None:
    """What is evaluated on, if anything, which must be able to tell two models apart.

    Raises:
        ValueError: No question of it has a relevant passage: of weights that all measure 0 the first would be kept.
    """
    if dev is not None and not any(grade > 0 for judged in dev.qrels.values() for grade in judged.values()):
        raise ValueError("dev has no question with a relevant passage, so that nothing can be evaluated on it")
    return dev
