"""From an official checkpoint's variables to the weights of a transformers model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rocketqa_haystack.checkpoints.configuration import Architecture
from rocketqa_haystack.checkpoints.errors import CheckpointError
from rocketqa_haystack.checkpoints.variables import read_variable

#: transformers' name of each part of a layer, and Paddle's.
DENSE_PARTS = {
    "attention.self.query": "multi_head_att_query_fc",
    "attention.self.key": "multi_head_att_key_fc",
    "attention.self.value": "multi_head_att_value_fc",
    "attention.output.dense": "multi_head_att_output_fc",
    "intermediate.dense": "ffn_fc_0",
    "output.dense": "ffn_fc_1",
}
NORM_PARTS = {"attention.output.LayerNorm": "post_att_layer_norm", "output.LayerNorm": "post_ffn_layer_norm"}


def read_tower(folder: Path, prefix: str, architecture: Architecture) -> dict[str, Tensor]:
    """One tower as the weights of a BertModel or ErnieModel without its pooler.

    Args:
        folder: Where the variables are. Others than the tower's own, such as an optimizer's, are not looked at.
        prefix: `query_`, `titlepara_`, `qtp_` or nothing.
        architecture: Gives the shapes.

    Raises:
        CheckpointError: A variable is missing, or is not what it should be.
    """
    hidden = architecture.hidden_size
    tables = {
        "word_embeddings": ("word_embedding", architecture.vocabulary_size),
        "position_embeddings": ("pos_embedding", architecture.positions),
        "token_type_embeddings": ("sent_embedding", architecture.segments),
    }
    if architecture.tasks is not None:
        tables["task_type_embeddings"] = ("task_embedding", architecture.tasks)
    weights = {
        f"embeddings.{ours}.weight": _read(folder, prefix + theirs, (rows, hidden))
        for ours, (theirs, rows) in tables.items()
    }
    weights.update(_read_norm(folder, f"{prefix}pre_encoder_layer_norm", "embeddings.LayerNorm", hidden))
    for layer in range(architecture.layers):
        ours, theirs = f"encoder.layer.{layer}.", f"{prefix}encoder_layer_{layer}_"
        for part, name in DENSE_PARTS.items():
            inner = 4 * hidden  # always; the configuration's intermediate_size means nothing
            shape = {"ffn_fc_0": (hidden, inner), "ffn_fc_1": (inner, hidden)}.get(name, (hidden, hidden))
            weights.update(read_dense(folder, f"{theirs}{name}.w_0", f"{theirs}{name}.b_0", ours + part, shape))
        for part, name in NORM_PARTS.items():
            weights.update(_read_norm(folder, theirs + name, ours + part, hidden))
    return weights


def read_dense(folder: Path, weight: str, bias: str, ours: str, shape: tuple[int, int]) -> dict[str, Tensor]:
    """A linear layer under our name: Paddle's weights are [in, out], torch's [out, in].

    Raises:
        CheckpointError: As for `read_tower`.
    """
    return {
        f"{ours}.weight": _read(folder, weight, shape).T.contiguous(),
        f"{ours}.bias": _read(folder, bias, shape[1:]),
    }


def _read_norm(folder: Path, name: str, ours: str, hidden: int) -> Iterator[tuple[str, Tensor]]:
    yield f"{ours}.weight", _read(folder, f"{name}_scale", (hidden,))
    yield f"{ours}.bias", _read(folder, f"{name}_bias", (hidden,))


def _read(folder: Path, name: str, shape: tuple[int, ...]) -> Tensor:
    path = folder / name
    if not path.exists():
        raise CheckpointError(f"{folder} has no variable {name!r}; a model is not completed with random weights")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"{path} is a link that leads out of its folder")
    values: NDArray[Any] = read_variable(path, shape)
    if not np.issubdtype(values.dtype, np.floating):
        raise CheckpointError(f"{path} holds {values.dtype.name} values; weights are floating-point numbers")
    with np.errstate(over="ignore"):  # told below
        values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise CheckpointError(f"{path} holds values that are not finite in float32")
    return torch.from_numpy(values)
