"""What a model folder needs beyond the sentence-transformers layout: `rocketqa.json`."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn
from transformers import PreTrainedModel

from rocketqa_haystack.data import Passage
from rocketqa_haystack.data.files import write_json
from rocketqa_haystack.encoders.errors import ModelError

logger = logging.getLogger(__name__)

FILE_NAME = "rocketqa.json"

TitleRule = Literal["pair", "join"]


@dataclass(frozen=True)
class EncoderSettings:
    """How texts become tokens.

    Attributes:
        query_max_length: Longest query in tokens, special tokens included; None leaves it to the model.
        passage_max_length: The same for a passage; for a cross-encoder, the longest (query, passage) pair.
        title: `pair` puts the title and the text in as two segments, `[CLS] title [SEP] text [SEP]`, as RocketQA's
            dual encoders do; `join` joins them, for models that never saw two segments. A cross-encoder's
            second segment is always title and text joined.
        title_separator: What joins a title to its text. Models that take the spaces out of texts need another.
    """

    query_max_length: int | None = None
    passage_max_length: int | None = None
    title: TitleRule = "pair"
    title_separator: str = " "

    def __post_init__(self) -> None:
        for name in ("query_max_length", "passage_max_length"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 4):
                raise ValueError(f"{name} must be a whole number of at least 4 tokens, not {value!r}")
        if self.title not in get_args(TitleRule):
            raise ValueError(f"title must be one of {', '.join(get_args(TitleRule))}, not {self.title!r}")
        if not isinstance(self.title_separator, str):
            raise ValueError(f"title_separator must be a string, not {self.title_separator!r}")

    def joined(self, passage: Passage) -> str:
        """A passage as one text: its title, if it has one, and its text."""
        return f"{passage.title}{self.title_separator}{passage.text}" if passage.title else passage.text

    def updated(self, **changes: int | str | None) -> EncoderSettings:
        """The settings with those changes that are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]


def check_lengths(settings: EncoderSettings, model: nn.Module) -> EncoderSettings:
    """The settings, if each of the model's transformers has a position for every token that they allow.

    Raises:
        ModelError: A length is greater.
    """
    limits = [_positions(module) for module in model.modules() if isinstance(module, PreTrainedModel)]
    positions = min((limit for limit in limits if limit is not None), default=None)
    for name in ("query_max_length", "passage_max_length"):
        value = getattr(settings, name)
        if value is not None and positions is not None and value > positions:
            raise ModelError(f"{name} is {value}, but the model reads {positions} tokens at most")
    return settings


def _positions(transformer: PreTrainedModel) -> int | None:
    """How many tokens a transformer reads; None where it has no limit."""
    limit: int | None = getattr(transformer.config, "max_position_embeddings", None)
    for name, table in transformer.named_modules():
        if not isinstance(table, nn.Embedding) or table.padding_idx is None:
            continue
        if name.endswith("position_embeddings"):
            return table.num_embeddings - table.padding_idx - 1  # RoBERTa and its kin count from behind the padding
    return limit


def parse_settings(text: str, source: str | Path) -> EncoderSettings:
    """The settings in the text of a `rocketqa.json`.

    Raises:
        ModelError: The text is not a JSON object, or a value is of the wrong kind. Unknown keys are logged and ignored,
            so that a folder written by a later version still loads.
    """
    try:
        values: Any = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"expected a JSON object, found {type(values).__name__}")
        known = {field.name for field in fields(EncoderSettings)}
        if unknown := sorted(values.keys() - known):
            logger.warning("%s: ignoring unknown keys: %s", source, ", ".join(unknown))
        return EncoderSettings(**{name: value for name, value in values.items() if name in known})
    except ValueError as error:
        raise ModelError(f"{source}: {error}") from error


def save_settings(folder: str | Path, settings: EncoderSettings) -> None:
    """Writes `rocketqa.json` into a model folder."""
    write_json(Path(folder) / FILE_NAME, asdict(settings))
