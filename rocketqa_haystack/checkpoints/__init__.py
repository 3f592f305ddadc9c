"""Official RocketQA checkpoints: from an archive or folder in Paddle's form to a model folder, without Paddle."""

from rocketqa_haystack.checkpoints.errors import CheckpointError
from rocketqa_haystack.checkpoints.registry import OFFICIAL_MODELS, OfficialModel

__all__ = ["OFFICIAL_MODELS", "CheckpointError", "OfficialModel"]
