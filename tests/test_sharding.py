"""Weights spread over the processes (FSDP) are trained as whole ones are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from killed_training import finish, log_of, start, train_kind, train_sharded
from safetensors.torch import load_file

from trainers.loop import start_accelerator
from trainers.sharding import shard


@pytest.mark.parametrize("kind", ["retriever", "reranker", "joint", "adapters", "worse", "new head", "reader"])
def test_sharded_weights_take_the_steps_of_whole_ones(
    kind: str, encoder_folder: Path, ranker_folder: Path, collection_folder: Path, tmp_path: Path
) -> None:
    arguments = (kind, encoder_folder, ranker_folder, collection_folder)
    finish(start(train_kind, *arguments, tmp_path / "whole"))
    finish(start(train_sharded, *arguments, tmp_path / "sharded", processes=2))
    for path in (tmp_path / "whole").rglob("*.safetensors"):
        whole, sharded = load_file(path), load_file(tmp_path / "sharded" / path.relative_to(tmp_path / "whole"))
        assert set(whole) == set(sharded)
        for name, tensor in whole.items():
            assert float((tensor - sharded[name]).abs().max()) < 1e-5, name
    if kind == "worse":  # the weights from before training are the best, and are kept
        return
    # AdamW's steps do not tell whether all gradients are twice as long; the log does.
    one, two = (log_of(tmp_path / name) for name in ("whole", "sharded"))
    for key in ("loss", "gradient_norm"):
        assert [line[key] for line in two if key in line] == pytest.approx(
            [line[key] for line in one if key in line], rel=1e-4
        )


@pytest.mark.parametrize(
    ("name", "said"),
    [("OFFLOAD_PARAMS", "stay on their device"), ("ACTIVATION_CHECKPOINTING", "gradient_checkpointing")],
)
def test_what_sharding_does_not_do_is_refused(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv(f"FSDP_{name}", "true")
    accelerator = start_accelerator()
    with pytest.raises(ValueError, match=said):
        shard(torch.nn.Linear(1, 1), accelerator)
