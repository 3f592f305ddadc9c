"""Haystack's ChatGenerators, made of what a command or a recipe says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from inspect import signature
from typing import Any

from haystack.core.serialization import component_from_dict, import_class_by_name


def make_generator(kind: type, parameters: Mapping[str, Any]) -> Any:
    """A ChatGenerator of its class and parameters.

    Args:
        kind: The class.
        parameters: Of its `__init__`, as a pipeline's YAML has them: secrets and other components as descriptions.

    Raises:
        ValueError: The class does not take the parameters or is no ChatGenerator, or a secret is written out.
    """
    for name in _written_secrets(kind, parameters):
        raise ValueError(
            f"{name} is a secret, which a file should not hold; name the environment variable that does: "
            f'{{"{name}": {{"type": "env_var", "env_vars": ["MY_KEY"], "strict": true}}}}'
        )
    # Of a copy: some components put objects in the place of what they are made from. By the class's own name: it may
    # have been found under that of a package that offers it.
    description = {"type": f"{kind.__module__}.{kind.__qualname__}", "init_parameters": deepcopy(dict(parameters))}
    try:
        generator = component_from_dict(kind, description, "generator")
    except Exception as error:  # Haystack's and the component's own errors are of many kinds
        raise ValueError(f"{kind.__name__} cannot be made with {dict(parameters)}: {error}") from error
    if "messages" not in signature(getattr(generator, "run", print)).parameters:
        raise ValueError(f"{kind.__name__} is no ChatGenerator: it takes no messages")
    return generator


def _written_secrets(kind: type, parameters: Mapping[str, Any]) -> Iterator[str]:
    """Names of secrets that stand in the parameters, or in those of components in them, as plain text."""
    for name, parameter in signature(kind).parameters.items():
        if "Secret" in str(parameter.annotation) and isinstance(parameters.get(name), str):
            yield name
    for value in parameters.values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping) and isinstance(one.get("init_parameters"), Mapping):
                yield from _written_secrets(import_class_by_name(one["type"]), one["init_parameters"])
