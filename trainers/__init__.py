"""Trainers: everything that changes weights. They export model folders that the components load as they are."""

from trainers.cross_encoder import CrossEncoderTrainer
from trainers.dual_encoder import DualEncoderTrainer
from trainers.joint import JointTrainer
from trainers.loop import TrainingResult
from trainers.losses import JointLossSettings
from trainers.mining import mine_distractors, mine_groups
from trainers.reader import ReaderTrainer
from trainers.recipes import run_recipe
from trainers.settings import TrainingSettings

__all__ = [
    "CrossEncoderTrainer",
    "DualEncoderTrainer",
    "JointLossSettings",
    "JointTrainer",
    "ReaderTrainer",
    "TrainingResult",
    "TrainingSettings",
    "mine_distractors",
    "mine_groups",
    "run_recipe",
]
