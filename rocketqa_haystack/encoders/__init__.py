"""Encoders: load, encode or score fast, save. They know nothing of Haystack."""

from rocketqa_haystack.encoders.cross_encoder import CrossEncoder
from rocketqa_haystack.encoders.dual_encoder import DualEncoder
from rocketqa_haystack.encoders.errors import ModelError
from rocketqa_haystack.encoders.settings import EncoderSettings

__all__ = ["CrossEncoder", "DualEncoder", "EncoderSettings", "ModelError"]
