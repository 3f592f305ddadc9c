"""What the JSON files of an official checkpoint say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocketqa_haystack.checkpoints.errors import CheckpointError
from rocketqa_haystack.checkpoints.registry import Kind

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
    if not path.is_file() or (Path(folder) / "modules.json").is_file():
        return None
    try:
        return KINDS.get(str(_read_json(path).get("model_type")))
    except CheckpointError:
        return None


def read_checkpoint(folder: str | Path) -> OfficialCheckpoint:
    """Reads config.json and the model configuration that it names.

    Raises:
        CheckpointError: A file is missing or no JSON object, a key is missing or has a value that makes no sense, or a
            path leads out of the folder.
    """
    folder = Path(folder)
    config = _Values(folder / CONFIG_NAME)
    model_type = config.one_of("model_type", tuple(KINDS))
    kind = KINDS[model_type]
    is_dual = kind == "dual encoder"
    architecture = _read_architecture(_inside(folder, config, "model_conf_path"))
    lengths = {
        name: config.size(name) for name in (("q_max_seq_len", "p_max_seq_len") if is_dual else ("max_seq_len",))
    }
    for name, length in lengths.items():
        if not 4 <= length <= architecture.positions:
            raise CheckpointError(
                f"{config.path}: {name} is {length}; it must be at least 4, and the model has {architecture.positions} "
                "positions"
            )
    variables = _inside(folder, config, "model_checkpoint_path")
    if not variables.is_dir():
        raise CheckpointError(f"{config.path}: model_checkpoint_path must be a folder, but {variables} is none")
    return OfficialCheckpoint(
        kind=kind,
        vocabulary=_inside(folder, config, "model_vocab_path"),
        variables=variables,
        architecture=architecture,
        query_max_length=lengths.get("q_max_seq_len"),
        passage_max_length=lengths["p_max_seq_len" if is_dual else "max_seq_len"],
        removes_spaces=config.flag("for_cn"),
        shared=is_dual and config.flag("share_parameter"),
        joint=not is_dual and config.flag("joint_training", default=False),
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
        tasks=conf.size("task_type_vocab_size") if conf.flag("use_task_id", default=False) else None,
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


def _inside(folder: Path, config: _Values, key: str) -> Path:
    """A path that config.json names, if it stays in the folder, also by its links."""
    value = config.text(key)
    root = folder.resolve()
    try:
        path = (root / value).resolve()
        there = path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{config.path}: {key} {value!r:.80} is no path") from error
    if path == root or not path.is_relative_to(root):
        raise CheckpointError(f"{config.path}: {key} {value!r:.80} leads out of the checkpoint's folder")
    if not there:
        raise CheckpointError(f"{config.path}: {key} names {value!r:.80}, which is not there")
    return path


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

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._required(key) if default is None else self._values.get(key, default)
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
