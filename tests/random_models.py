"""Models of BERT's shape with random weights and the made-up words, small enough to make in a test."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, BertTokenizerFast

#: Of the vectors.
WIDTH = 32

SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}


def folder_of(architecture: str, language_model: Path, tmp_path: Path, auto: type, **options: object) -> Path:
    """A model of an architecture, as one of transformers' classes makes it, in a folder."""
    tokenizer = BertTokenizerFast.from_pretrained(language_model)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture, vocab_size=len(tokenizer), initializer_range=0.2, pad_token_id=0, **SHAPE, **options
    )
    auto.from_config(config).save_pretrained(tmp_path / architecture)  # type: ignore[attr-defined]
    tokenizer.save_pretrained(tmp_path / architecture)
    return tmp_path / architecture
