"""Haystack's ChatGenerators, made of what a command or a recipe says of them."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from inspect import signature
from typing import Any

from haystack.core.serialization import component_from_dict, import_class_by_name
from haystack.utils.auth import Secret, SecretType


def make_generator(kind: type, options: Mapping[str, Any]) -> Any:
    """A ChatGenerator of its class and the options of its `__init__`.

    Args:
        kind: The class.
        options: As JSON has them; secrets and other components as a pipeline's YAML does.

    Raises:
        ValueError: The class does not take the options or is no ChatGenerator, or a secret is written out.
    """
    _refuse_written_secrets(kind, options)
    try:
        return _chatting(kind(**{name: _made(value) for name, value in options.items()}))
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{kind.__name__} cannot be made with {dict(options)}: {error}") from error


def load_generator(description: Mapping[str, Any]) -> Any:
    """A ChatGenerator as a pipeline's YAML has it: `type` and `init_parameters`.

    Raises:
        ValueError: There is no such class, Haystack does not allow it, it does not take the parameters or is no
            ChatGenerator, or a secret is written out.
    """
    try:
        kind, parameters = import_class_by_name(description["type"]), description.get("init_parameters") or {}
        _refuse_written_secrets(kind, parameters)
        # Of a copy: some components put objects in the place of what they are made from. By the class's own name: it
        # may have been found under that of a package that offers it.
        own = {"type": f"{kind.__module__}.{kind.__qualname__}", "init_parameters": deepcopy(dict(parameters))}
        return _chatting(component_from_dict(kind, own, "generator"))
    except Exception as error:  # Haystack's and the component's own errors are of many kinds
        raise ValueError(f"{description['type']} cannot be made: {error}") from error


def _made(value: Any) -> Any:
    """What a description stands for; any other value as it is."""
    if isinstance(value, list):
        return [_made(one) for one in value]
    if isinstance(value, Mapping) and isinstance(value.get("init_parameters"), Mapping):
        return load_generator(value)
    if isinstance(value, Mapping) and value.get("type") in [kind.value for kind in SecretType]:
        return Secret.from_dict(dict(value))
    return value


def _refuse_written_secrets(kind: type, options: Mapping[str, Any]) -> None:
    for name, parameter in signature(kind.__init__).parameters.items():  # type: ignore[misc]
        if "Secret" in str(parameter.annotation) and isinstance(options.get(name), str):
            raise ValueError(
                f"{name} is a secret, which a file should not hold; name the environment variable that does: "
                f'{{"{name}": {{"type": "env_var", "env_vars": ["MY_KEY"], "strict": true}}}}'
            )


def _chatting(generator: Any) -> Any:
    if "messages" not in signature(getattr(generator, "run", print)).parameters:
        raise ValueError(f"{type(generator).__name__} is no ChatGenerator: it takes no messages")
    return generator
