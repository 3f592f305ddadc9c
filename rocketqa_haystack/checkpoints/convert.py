"""From an official checkpoint to a model folder in sentence-transformers' layout."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder as SentenceTransformersCrossEncoder
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, Pooling
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    ErnieConfig,
    ErnieForSequenceClassification,
    ErnieModel,
    PreTrainedTokenizerFast,
)

from rocketqa_haystack.checkpoints.archive import extract_archive
from rocketqa_haystack.checkpoints.configuration import CONFIG_NAME, OfficialCheckpoint, read_checkpoint
from rocketqa_haystack.checkpoints.errors import CheckpointError
from rocketqa_haystack.checkpoints.tokenizer import build_tokenizer
from rocketqa_haystack.checkpoints.weights import read_dense, read_tower
from rocketqa_haystack.data.files import atomic_folder
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder, EncoderSettings

#: Dropout in front of a cross-encoder's head in the official training.
HEAD_DROPOUT = 0.1


def convert(source: str | Path, output: str | Path) -> None:
    """Converts a checkpoint in the official form.

    Args:
        source: A folder with a config.json, or an archive with such a folder in it.
        output: The model folder, which appears whole or not at all.

    Raises:
        CheckpointError: The checkpoint is broken, or is none.
        FileExistsError: The output is there already and is not empty.
    """
    source, output = Path(source), Path(output)
    with atomic_folder(output) as folder:
        if source.is_dir():
            _convert(source, folder)
            return
        if not source.is_file():
            raise CheckpointError(f"{source} is neither a folder nor an archive")
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            extracted = Path(temporary) / "archive"
            extract_archive(source, extracted)
            _convert(_checkpoint_folder(extracted, source), folder)


def _checkpoint_folder(extracted: Path, archive: Path) -> Path:
    """The folder of config.json: the archive's one folder, or the archive itself."""
    for folder in (extracted, *sorted(extracted.iterdir())):
        if (folder / CONFIG_NAME).is_file():
            return folder
    raise CheckpointError(f"{archive} holds no {CONFIG_NAME}")


def _convert(source: Path, folder: Path) -> None:
    checkpoint = read_checkpoint(source)
    tokenizer = build_tokenizer(
        checkpoint.vocabulary,
        vocabulary_size=checkpoint.architecture.vocabulary_size,
        removes_spaces=checkpoint.removes_spaces,
        max_length=checkpoint.passage_max_length,
    )
    # for_cn takes the spaces of each text away, so one cannot stand between a title and a text.
    separator = "\n" if checkpoint.removes_spaces else " "
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        if checkpoint.kind == "dual encoder":
            settings = EncoderSettings(
                query_max_length=checkpoint.query_max_length,
                passage_max_length=checkpoint.passage_max_length,
                title="pair",
                title_separator=separator,
            )
            DualEncoder(_dual_encoder(checkpoint, tokenizer, Path(temporary)), settings).save_pretrained(folder)
        else:
            settings = EncoderSettings(
                passage_max_length=checkpoint.passage_max_length, title="join", title_separator=separator
            )
            CrossEncoder(_cross_encoder(checkpoint, tokenizer, Path(temporary)), settings).save_pretrained(folder)


def _dual_encoder(
    checkpoint: OfficialCheckpoint, tokenizer: PreTrainedTokenizerFast, work: Path
) -> SentenceTransformer:
    def tower(prefix: str) -> list[Module]:
        weights = read_tower(checkpoint.variables, prefix, checkpoint.architecture)
        transformer = _transformer(checkpoint, weights, tokenizer, work / prefix)
        return [transformer, Pooling(checkpoint.architecture.hidden_size, "cls")]

    modules: list[Module]
    if checkpoint.shared:
        modules = tower("titlepara_")
    else:
        modules = [Router({"query": tower("query_"), "document": tower("titlepara_")}, default_route="document")]
    return SentenceTransformer(modules=list(modules), device="cpu", similarity_fn_name="dot")


def _cross_encoder(
    checkpoint: OfficialCheckpoint, tokenizer: PreTrainedTokenizerFast, work: Path
) -> SentenceTransformersCrossEncoder:
    hidden, variables = checkpoint.architecture.hidden_size, checkpoint.variables
    if checkpoint.joint:
        weights = read_tower(variables, "qtp_", checkpoint.architecture)
        head = read_dense(variables, "qtp__cls_out_w", "qtp__cls_out_b", "linear", (hidden, 1))
        modules = [
            _transformer(checkpoint, weights, tokenizer, work / "tower"),
            Pooling(hidden, "cls"),
            Dropout(HEAD_DROPOUT),
            Dense(
                hidden,
                1,
                activation_function=nn.Identity(),
                init_weight=head["linear.weight"],
                init_bias=head["linear.bias"],
                module_output_name="scores",
            ),
        ]
    else:
        bert = {f"bert.{name}": weight for name, weight in read_tower(variables, "", checkpoint.architecture).items()}
        bert |= read_dense(variables, "pooled_fc.w_0", "pooled_fc.b_0", "bert.pooler.dense", (hidden, hidden))
        bert |= read_dense(variables, "_cls_out_w", "_cls_out_b", "classifier", (hidden, 2))
        modules = [_transformer(checkpoint, bert, tokenizer, work / "tower", classifies=True)]
    model: SentenceTransformersCrossEncoder = SentenceTransformersCrossEncoder(
        modules=modules, device="cpu", activation_fn=nn.Identity()
    )
    return model


def _transformer(
    checkpoint: OfficialCheckpoint,
    weights: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    classifies: bool = False,
) -> Transformer:
    """A tower as sentence-transformers' module, by way of a folder as transformers writes it."""
    architecture = checkpoint.architecture
    options = {
        "vocab_size": architecture.vocabulary_size,
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "intermediate_size": 4 * architecture.hidden_size,
        "hidden_act": architecture.activation,
        "hidden_dropout_prob": architecture.dropout,
        "attention_probs_dropout_prob": architecture.attention_dropout,
        "max_position_embeddings": architecture.positions,
        "type_vocab_size": architecture.segments,
        "layer_norm_eps": 1e-5,
        "pad_token_id": tokenizer.pad_token_id,
        **({"num_labels": 2, "classifier_dropout": HEAD_DROPOUT} if classifies else {}),
    }
    config: Any
    model_class: Any
    if architecture.tasks is None:
        config = BertConfig(**options)
        model_class = BertForSequenceClassification if classifies else BertModel
    else:
        config = ErnieConfig(**options, use_task_id=True, task_type_vocab_size=architecture.tasks)
        model_class = ErnieForSequenceClassification if classifies else ErnieModel
        weights = {name.replace("bert.", "ernie.", 1): weight for name, weight in weights.items()}
    if not classifies:
        # transformers' models have a pooler, which sentence-transformers does not look at. Left out, it would be filled
        # by chance; the identity is a sound start for a new head.
        hidden = architecture.hidden_size
        weights |= {"pooler.dense.weight": torch.eye(hidden), "pooler.dense.bias": torch.zeros(hidden)}
    config.architectures = [model_class.__name__]
    with torch.device("meta"):
        expected = {name: weight.shape for name, weight in model_class(config).state_dict().items()}
    assert expected == {name: weight.shape for name, weight in weights.items()}
    config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    transformer: Transformer = Transformer(
        str(folder),
        transformer_task="sequence-classification" if classifies else "feature-extraction",
        model_kwargs={"dtype": torch.float32, "use_safetensors": True, "local_files_only": True},
        max_seq_length=checkpoint.passage_max_length,
    )
    return transformer
