"""From a model's name to its sentence-transformers model and settings."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from sentence_transformers.base.model import BaseModel

from rocketqa_haystack.encoders.attention import use_chunked_attention
from rocketqa_haystack.encoders.errors import ModelError
from rocketqa_haystack.encoders.first_token import shorten_last_layers
from rocketqa_haystack.encoders.packing import pack_layers
from rocketqa_haystack.encoders.precision import resolve_dtype
from rocketqa_haystack.encoders.settings import FILE_NAME, EncoderSettings, parse_settings

Kind = Literal["dual encoder", "cross-encoder"]
FoundKind = Literal["dual encoder", "cross-encoder", "language model"]
Model = TypeVar("Model", bound=BaseModel)


def load_model(
    model_class: Callable[..., Model],
    kind: Kind,
    model: str | Path,
    *,
    new_head: bool = False,
    device: str | None,
    dtype: str,
    token: str | None,
    revision: str | None,
    local_files_only: bool,
    trust_remote_code: bool,
) -> tuple[Model, EncoderSettings]:
    """Loads a model folder, an official RocketQA model or a Hugging Face id.

    Args:
        new_head: Take a model of any kind, and put new weights where it has none.

    Returns:
        The sentence-transformers model, on its device and in its precision, and the settings of its `rocketqa.json`;
        without that file, titles are joined to the text by a space.

    Raises:
        ModelError: No such folder, a folder that is no model or one of the other kind, weights other than safetensors,
            an official model that cannot be downloaded or converted, or an id that cannot be loaded from the Hugging
            Face Hub.
    """
    name = resolve(model, None if new_head else kind, local_files_only=local_files_only)
    target = _device(device)
    hub: dict[str, Any] = {"token": token, "revision": revision, "local_files_only": local_files_only}
    model_kwargs: dict[str, Any] = {"dtype": resolve_dtype(dtype, target), "use_safetensors": True}
    try:
        if not new_head:
            check_kind(name, kind, **hub)
        loaded = model_class(
            name, device=str(target), trust_remote_code=trust_remote_code, model_kwargs=model_kwargs, **hub
        )
        settings = _load_settings(name, **hub)
    except ModelError:
        raise
    except Exception as error:  # the libraries below raise many kinds, with messages of many lines
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if is_folder(name):
            raise ModelError(f"{model} cannot be loaded as a {kind}: {reason}") from error
        raise ModelError(
            f"model {name!r} is no folder here, and could not be loaded from the Hugging Face Hub: {reason}"
        ) from error
    shorten_last_layers(loaded)
    if target.type == "cpu":
        use_chunked_attention(loaded)
        pack_layers(loaded)
    loaded.eval()
    return loaded, settings


def resolve(model: str | Path, kind: Kind | None = None, *, local_files_only: bool = False) -> str:
    """The folder or Hugging Face id that a model's name means: a folder, an official name or an id, in this order.

    An official name, or a folder in the official form, gives the folder that it was converted to.

    Args:
        model: The name.
        kind: Refuse official models of another kind, before they are downloaded.
        local_files_only: Never ask the network.

    Raises:
        ModelError: An official model is of another kind, or cannot be downloaded or converted.
    """
    from rocketqa_haystack.checkpoints.cache import model_folder  # which imports this package to convert
    from rocketqa_haystack.checkpoints.errors import CheckpointError

    try:
        folder = model_folder(str(model), kind, local_files_only=local_files_only)
    except CheckpointError as error:
        raise ModelError(str(error)) from error
    return str(model) if folder is None else str(folder)


def is_folder(name: str) -> bool:
    """Whether a model's name means a place on this machine rather than a Hugging Face id.

    Raises:
        ModelError: The name is a path, and there is nothing, or a file.
    """
    path = Path(name)
    if os.path.isdir(name):  # which, unlike Path's, has an answer for a name too long for a path
        return True
    if os.path.exists(name):
        raise ModelError(f"{name} is a file; a model is a folder, and `rocketqa convert` makes one of an archive")
    if (
        not name.strip()
        or path.is_absolute()
        or name.startswith((".", "~"))
        or name.count("/") > 1
        or os.sep == name[-1]
    ):
        raise ModelError(f"there is no model folder {name!r}")
    return False


def check_kind(name: str, kind: Kind, **hub: Any) -> None:
    """Refuses a model of the other kind, and a folder whose weights only pickle can read.

    Raises:
        ModelError: With the model's name and what is wrong.
    """
    found = kind_of(name, **hub)
    # A language model can be read as a dual encoder: its token states are pooled. It has nothing to score pairs with.
    if found != kind and not (found == "language model" and kind == "dual encoder"):
        raise ModelError(f"{name} holds a {found}, not a {kind}")
    if is_folder(name):
        for pickled in Path(name).rglob("pytorch_model.bin"):
            if not pickled.with_name("model.safetensors").is_file():
                raise ModelError(f"{pickled} is a pickle and is not read; save the model's weights as safetensors")


def kind_of(name: str, **hub: Any) -> FoundKind:
    """What kind of model a folder or a Hugging Face id is, by its configuration.

    Args:
        name: The folder or id.
        hub: `token`, `revision` and `local_files_only`, as for `load_model`.

    Raises:
        ModelError: It is none.
    """
    modules, config = _file(name, "modules.json", **hub), _file(name, "config.json", **hub)
    if modules is None and config is None:
        if is_folder(name):
            raise ModelError(f"{name} is no model folder: it has neither modules.json nor config.json")
        raise ModelError(
            f"model {name!r} is no folder here, and could not be loaded from the Hugging Face Hub: "
            "neither modules.json nor config.json is to be had"
        )
    declared = _read_json(_file(name, "config_sentence_transformers.json", **hub)).get("model_type")
    if declared is not None:
        kinds: dict[str, FoundKind] = {"SentenceTransformer": "dual encoder", "CrossEncoder": "cross-encoder"}
        if declared not in kinds:
            raise ModelError(f"{name} holds a {declared}, which is neither a dual encoder nor a cross-encoder")
        return kinds[declared]
    if modules is not None:
        return "dual encoder"  # saved before cross-encoders had modules
    architectures = _read_json(config).get("architectures") or [""]
    return "cross-encoder" if architectures[0].endswith("ForSequenceClassification") else "language model"


def transformer_subfolder(name: str, **hub: Any) -> str:
    """Where a model folder or Hugging Face id holds its one transformer: the empty string for the folder itself.

    Args:
        name: The folder or id.
        hub: `token`, `revision` and `local_files_only`, as for `load_model`.

    Raises:
        ModelError: It has two towers, or no transformer.
    """
    kind_of(name, **hub)
    modules = _file(name, "modules.json", **hub)
    if modules is None:
        return ""
    first = json.loads(modules.read_text(encoding="utf-8"))[0]
    if not str(first["type"]).endswith(".Transformer"):
        raise ModelError(f"{name} begins with a {str(first['type']).rsplit('.', 1)[-1]}, not with one transformer")
    return str(first["path"])


def _file(name: str, file: str, **hub: Any) -> Path | None:
    """A file of a model, from its folder or from the Hub's cache; None where there is none."""
    if is_folder(name):
        path = Path(name) / file
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(name, file, **hub))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None


def _read_json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _load_settings(name: str, **hub: Any) -> EncoderSettings:
    path = _file(name, FILE_NAME, **hub)
    return EncoderSettings(title="join") if path is None else parse_settings(path.read_text(encoding="utf-8"), path)


def _device(device: str | None) -> torch.device:
    if device is not None:
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise ModelError(f"there is no device {device!r}; examples: cpu, cuda, cuda:1, mps") from error
    if torch.accelerator.is_available() and (accelerator := torch.accelerator.current_accelerator()) is not None:
        return torch.device(accelerator)
    return torch.device("cpu")
