"""Pipeline files: reading one, and the document stores in a pipeline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from haystack import Pipeline
from haystack.core.serialization_security import DESERIALIZATION_ALLOWLIST_ENV_VAR
from haystack.marshal import YamlMarshaller

#: The name of the file in a folder that holds a pipeline.
PIPELINE_FILE = "pipeline.yaml"

#: The module in Haystack's refusal to import from it.
_REFUSED = re.compile(r"allow_deserialization_module\('([^']+)'\)")


class UntrustedModuleError(ValueError):
    """A pipeline with a class of a module that Haystack was not told to trust; the message says how to tell it."""


def load_pipeline(file: Path) -> Pipeline:
    """The pipeline of a YAML file.

    Raises:
        ValueError: The file cannot be read, or is no pipeline that can be loaded.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return parse_pipeline(text, file)


def parse_pipeline(text: str, file: Path) -> Pipeline:
    """The pipeline of a YAML text.

    Args:
        text: The YAML text.
        file: Its name in errors.

    Raises:
        UntrustedModuleError: It has a class of a module that is not trusted.
        ValueError: It is no pipeline that can be loaded.
    """
    try:
        return Pipeline.from_dict(_described(text))
    except Exception as error:  # components may raise what they like
        if refused := _REFUSED.search(str(error)):
            raise UntrustedModuleError(
                f"{file} has a class of the module {refused[1]}, which Haystack is not told to trust; if you trust it, "
                f"set the environment variable {DESERIALIZATION_ALLOWLIST_ENV_VAR}={refused[1]}"
            ) from error
        raise ValueError(f"{file} is no pipeline that can be loaded: {error}") from error


def document_stores(pipeline: Pipeline) -> Iterator[Any]:
    """The document stores of all components, and of the retrievers inside of components."""
    for _, instance in pipeline.walk():
        for owner in (instance, getattr(instance, "retriever", None)):
            if (store := getattr(owner, "document_store", None)) is not None:
                yield store


def _described(text: str) -> dict[str, Any]:
    try:
        description = YamlMarshaller().unmarshal(text)
    except Exception as error:
        raise ValueError(f"it is no YAML: {error}") from error
    components = description.get("components") if isinstance(description, dict) else None
    if not isinstance(components, dict) or not all(
        isinstance(component, dict) and isinstance(component.get("type"), str) for component in components.values()
    ):
        raise ValueError("its `components` must be a mapping of names to a `type` and `init_parameters` each")
    return description
