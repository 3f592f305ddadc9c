"""Trainers: everything that changes weights. They export model folders that the components load as they are."""

from trainers.cross_encoder import CrossEncoderTrainer
from trainers.dual_encoder import DualEncoderTrainer
from trainers.loop import TrainingResult, TrainingSettings
from trainers.mining import mine_groups

__all__ = ["CrossEncoderTrainer", "DualEncoderTrainer", "TrainingResult", "TrainingSettings", "mine_groups"]
