"""What the JSON files of an official checkpoint say."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rocketqa_haystack.checkpoints.errors import CheckpointError
from rocketqa_haystack.checkpoints.registry import Kind

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.json"

KINDS: dict[str, Kind] = {"dual_encoder": "dual encoder", "cross_encoder": "cross-encoder"}

#: The activation functions that have one meaning in Paddle and in transformers. `gelu` is the exact form in both.
ACTIVATIONS = ("gelu", "relu", "sigmoid", "tanh")

#: Configurations have some hundred bytes.
LONGEST_JSON = 1024 * 1024


@dataclass(frozen=True)
class Architecture:
    """A tower of an official model, as its model configuration gives it (`model_conf_path`)."""

    hidden_size: int
    layers: int
    heads: int
    vocabulary_size: int
    positions: int
    segments: int
    tasks: int | None
    activation: str
    dropout: float
    attention_dropout: float


@dataclass(frozen=True)
class OfficialCheckpoint:
    """A folder in the official form.

    Attributes:
        kind: What it holds.
        configuration: The model configuration.
        vocabulary: The vocabulary file.
        variables: The folder with one file for each variable.
        architecture: Of each tower.
        query_max_length: Longest query in tokens; None for a cross-encoder.
        passage_max_length: Longest passage in tokens, or longest pair for a cross-encoder.
        removes_spaces: Whether spaces are removed from texts (`for_cn`).
        shared: Whether one tower encodes queries and passages (`share_parameter`).
        joint: Whether a cross-encoder has one logit on the raw state (`joint_training`), rather than two classes.
    """

    kind: Kind
    configuration: Path
    vocabulary: Path
    variables: Path
    architecture: Architecture
    query_max_length: int | None
    passage_max_length: int
    removes_spaces: bool
    shared: bool
    joint: bool


def official_kind(folder: str | Path) -> Kind | None:
    """What a folder in the official form holds; None for any other folder."""
    path = Path(folder) / CONFIG_NAME
    # transformers' models have a config.json with a model_type too, but of other values.
    # os.path has an answer for every string, such as one too long for a path.
    if not os.path.isfile(path) or (Path(folder) / "modules.json").is_file():
        return None
    try:
        return KINDS.get(str(_read_json(path).get("model_type")))
    except CheckpointError:
        return None


def read_checkpoint(folder: str | Path) -> OfficialCheckpoint:
    """Reads config.json and the model configuration that it names.

    The official train() leaves the variables in `step_N`, and beside it the config.json that it started from, which
    names the start's folders: where those are not there, the last step is taken, and files beside config.json.

    Raises:
        CheckpointError: A file is missing or no JSON object, a key is missing or has a value that makes no sense, or a
            path leads out of the folder.
    """
    folder = Path(folder)
    config = _Values(folder / CONFIG_NAME)
    model_type = config.one_of("model_type", tuple(KINDS))
    kind = KINDS[model_type]
    is_dual = kind == "dual encoder"
    configuration = _inside(folder, config, "model_conf_path")
    architecture = _read_architecture(configuration)
    lengths = {
        name: config.size(name) for name in (("q_max_seq_len", "p_max_seq_len") if is_dual else ("max_seq_len",))
    }
    for name, length in lengths.items():
        if not 4 <= length <= architecture.positions:
            raise CheckpointError(
                f"{config.path}: {name} is {length}; it must be at least 4, and the model has {architecture.positions} "
                "positions"
            )
    key = "model_checkpoint_path"
    variables = _inside(folder, config, key, _last_step(folder) or config.text(key))
    if not variables.is_dir():
        raise CheckpointError(f"{config.path}: model_checkpoint_path must be a folder, but {variables} is none")
    return OfficialCheckpoint(
        kind=kind,
        configuration=configuration,
        vocabulary=_inside(folder, config, "model_vocab_path"),
        variables=variables,
        architecture=architecture,
        query_max_length=lengths.get("q_max_seq_len"),
        passage_max_length=lengths["p_max_seq_len" if is_dual else "max_seq_len"],
        removes_spaces=config.flag("for_cn"),
        shared=is_dual and config.flag("share_parameter"),
        joint=not is_dual and config.flag("joint_training"),
    )


def _read_architecture(path: Path) -> Architecture:
    conf = _Values(path)
    architecture = Architecture(
        hidden_size=conf.size("hidden_size"),
        layers=conf.size("num_hidden_layers"),
        heads=conf.size("num_attention_heads"),
        vocabulary_size=conf.size("vocab_size"),
        positions=conf.size("max_position_embeddings"),
        segments=conf.size("sent_type_vocab_size" if conf.get("sent_type_vocab_size") else "type_vocab_size"),
        # English configurations have a number of task types without using it.
        tasks=conf.size("task_type_vocab_size")
        if conf.get("use_task_id") is not None and conf.flag("use_task_id")
        else None,
        activation=conf.one_of("hidden_act", ACTIVATIONS),
        dropout=conf.share("hidden_dropout_prob"),
        attention_dropout=conf.share("attention_probs_dropout_prob"),
    )
    if architecture.hidden_size % architecture.heads:
        raise CheckpointError(
            f"{path}: hidden_size {architecture.hidden_size} is no multiple of the {architecture.heads} attention heads"
        )
    if architecture.segments < 2:
        raise CheckpointError(f"{path}: the model has {architecture.segments} segment type; pairs need two")
    return architecture


def _inside(folder: Path, config: _Values, key: str, instead: str | None = None) -> Path:
    """A path that config.json names, if it stays in the folder, also by its links.

    Args:
        instead: What is taken where that path is not there; by default what has its base name beside config.json.
    """
    named = config.text(key)
    root = folder.resolve()
    for value in (named, instead or PurePosixPath(named).name):
        try:
            path = (root / value).resolve()
            there = path.exists()
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{config.path}: {key} {value!r:.80} is no path") from error
        if not path.is_relative_to(root):
            raise CheckpointError(f"{config.path}: {key} {value!r:.80} leads out of the checkpoint's folder")
        if there:
            if value != named:
                logger.info("%s: %s names %r, which is not there; %r is taken", config.path, key, named, value)
            return path
    raise CheckpointError(f"{config.path}: {key} names {named!r:.80}, which is not there")


def _last_step(folder: Path) -> str | None:
    """The folder of variables that the official train() wrote last."""
    steps = (path.name for path in folder.glob("step_*") if re.fullmatch("step_[0-9]{1,18}", path.name))
    return max((name for name in steps if (folder / name).is_dir()), key=lambda name: int(name[5:]), default=None)


class _Values:
    """The values of a JSON file, checked as they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values = _read_json(path)

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def size(self, key: str) -> int:
        value = self._required(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._error(key, "a whole number of at least 1")
        return value

    def share(self, key: str) -> float:
        value = self._required(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise self._error(key, "a number from 0 to below 1")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self._values.get(key, False)
        if not isinstance(value, int) or value not in (0, 1):  # a bool is an int
            raise self._error(key, "true, false, 0 or 1")
        return bool(value)

    def text(self, key: str) -> str:
        value = self._required(key)
        if not isinstance(value, str) or not value:
            raise self._error(key, "a path")
        return value

    def one_of(self, key: str, choices: tuple[str, ...]) -> str:
        value = self._required(key)
        if not isinstance(value, str) or value not in choices:
            raise self._error(key, f"one of {', '.join(choices)}")
        return value

    def _required(self, key: str) -> Any:
        if key not in self._values:
            raise CheckpointError(f"{self.path}: the key {key!r} is missing")
        return self._values[key]

    def _error(self, key: str, expected: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {key} must be {expected}, not {self._values[key]!r:.80}")


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is not there")
    if path.stat().st_size > LONGEST_JSON:
        raise CheckpointError(f"{path} is no configuration: it is larger than {LONGEST_JSON:,} bytes")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value
