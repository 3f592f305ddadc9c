"""Writes checkpoints in the official form: random weights, and a small vocabulary of made-up words."""

from __future__ import annotations

import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORDS = ["sonne", "mond", "stern", "fluss", "berg", "wald", "regen", "wind", "feld", "haus", "meer", "licht"]
PIECES = ["##er", "##en", "##ung", *(f"##{c}" for c in "\u03b1\u03b2\u03bf\u03b4\u03c3\u03c2")]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789")]
OTHERS = [*"[](),.:;!?'\"-+#/\\_=$%&*<>^`|~@{}", *"\u03b1\u03b2\u03bf\u03b4\u03c3\u03c2", *"\u5929\u5730\u4eba\u5c71"]
VOCABULARY = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *PIECES, *LETTERS, *OTHERS, "[UNK]"]

HEADER = struct.pack("<IQI", 0, 0, 0)


def encode_variable(values: NDArray[Any]) -> bytes:
    """An array as the bytes of a Paddle variable file."""
    number = {"bool": 0, "int32": 2, "int64": 3, "float16": 4, "float32": 5, "float64": 6}[values.dtype.name]
    description = b"\x08" + _varint(number) + b"".join(b"\x10" + _varint(size) for size in values.shape)
    return HEADER + struct.pack("<i", len(description)) + description + values.tobytes()


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def write_checkpoint(
    folder: Path,
    kind: str,
    *,
    seed: int = 0,
    conf: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    vocabulary: list[str] | None = None,
    optimizer_state: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """Writes a folder in the official form.

    Args:
        folder: The folder, made here.
        kind: `dual_encoder` or `cross_encoder`.
        seed: Of the weights.
        conf: Changes of the model configuration.
        config: Changes of config.json.
        vocabulary: Tokens; the vocabulary of this file by default.
        optimizer_state: Leave what the official training leaves beside the weights.

    Returns:
        The variables by name.
    """
    vocabulary = VOCABULARY if vocabulary is None else vocabulary
    conf = {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 16,
        "initializer_range": 0.02,
        "max_position_embeddings": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "sent_type_vocab_size": 4,
        "task_type_vocab_size": 16,
        "vocab_size": len(vocabulary),
        **(conf or {}),
    }
    lengths = {"q_max_seq_len": 12, "p_max_seq_len": 32} if kind == "dual_encoder" else {"max_seq_len": 32}
    config = {
        "model_type": kind,
        **lengths,
        "model_conf_path": "model_conf.json",
        "model_vocab_path": "vocab.txt",
        "model_checkpoint_path": "params",
        "for_cn": False,
        **({"share_parameter": 0} if kind == "dual_encoder" else {}),
        **(config or {}),
    }
    generator = np.random.default_rng(seed)
    variables: dict[str, NDArray[np.float32]] = {}
    for prefix in prefixes(config):
        variables.update(_tower(prefix, conf, generator))
    hidden = conf["hidden_size"]
    if kind == "cross_encoder":
        heads = {"qtp__cls_out_w": (hidden, 1), "qtp__cls_out_b": (1,)}
        if not config.get("joint_training"):
            heads = {
                "pooled_fc.w_0": (hidden, hidden),
                "pooled_fc.b_0": (hidden,),
                "_cls_out_w": (hidden, 2),
                "_cls_out_b": (2,),
            }
        variables.update({name: _normal(generator, shape) for name, shape in heads.items()})
    params = folder / "params"
    params.mkdir(parents=True)
    for name, values in variables.items():
        (params / name).write_bytes(encode_variable(values))
        if optimizer_state:
            for left in ("moment1_0", "moment2_0"):
                (params / f"{name}_{left}").write_bytes(encode_variable(np.zeros_like(values)))
            (params / f"{name}_beta1_pow_acc_0").write_bytes(encode_variable(np.ones(1, dtype=np.float32)))
    if optimizer_state:
        (params / "@LR_DECAY_COUNTER@").write_bytes(encode_variable(np.ones(1, dtype=np.int64)))
        (params / "learning_rate_0").write_bytes(encode_variable(np.ones(1, dtype=np.float32)))
    (folder / "model_conf.json").write_text(json.dumps(conf), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return variables


def prefixes(config: dict[str, Any]) -> list[str]:
    """The prefixes of the variables' names: of the query tower first, then of the passage tower."""
    if config["model_type"] == "cross_encoder":
        return ["qtp_" if config.get("joint_training") else ""]
    return ["titlepara_"] if config["share_parameter"] else ["query_", "titlepara_"]


def pack(folder: Path, archive: Path) -> Path:
    """Packs a folder as the official archives are packed."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return archive


def _tower(prefix: str, conf: dict[str, Any], generator: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    hidden = conf["hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "word_embedding": (conf["vocab_size"], hidden),
        "pos_embedding": (conf["max_position_embeddings"], hidden),
        "sent_embedding": (conf.get("sent_type_vocab_size") or conf["type_vocab_size"], hidden),
    }
    if conf.get("use_task_id"):
        shapes["task_embedding"] = (conf["task_type_vocab_size"], hidden)
    norms = ["pre_encoder_layer_norm"]
    for layer in range(conf["num_hidden_layers"]):
        start = f"encoder_layer_{layer}_"
        for name, before, after in (
            *((f"multi_head_att_{part}_fc", hidden, hidden) for part in ("query", "key", "value", "output")),
            ("ffn_fc_0", hidden, 4 * hidden),
            ("ffn_fc_1", 4 * hidden, hidden),
        ):
            shapes[f"{start}{name}.w_0"] = (before, after)
            shapes[f"{start}{name}.b_0"] = (after,)
        norms += [f"{start}post_att_layer_norm", f"{start}post_ffn_layer_norm"]
    tower = {prefix + name: _normal(generator, shape) for name, shape in shapes.items()}
    for norm in norms:
        tower[f"{prefix}{norm}_scale"] = 1 + _normal(generator, (hidden,))
        tower[f"{prefix}{norm}_bias"] = _normal(generator, (hidden,))
    return tower


def _normal(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return generator.normal(0, 0.3, shape).astype(np.float32)
