"""The command `rocketqa`."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import fields
from inspect import signature
from typing import Any

from jsonargparse import ArgumentError, Namespace

from rocketqa_haystack.cli.parser import COMMANDS, function_of, make_parser, reworded


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: 0, or 2 after a user's mistake, which is told in one sentence.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    quiet_libraries()
    command = next((argument for argument in arguments if argument in COMMANDS), None)
    program = f"rocketqa {command}" if command else "rocketqa"
    try:
        options = make_parser(command).parse_args(arguments)
    except UnicodeDecodeError as error:
        print(f"{program}: error: a file among the options is no UTF-8 text: {error}", file=sys.stderr)
        return 2
    except ArgumentError as error:
        print(f"{program}: error: {reworded(str(error), command)}; `{program} --help` tells more", file=sys.stderr)
        return 2
    name = options.subcommand
    try:
        _run(name, options[name])
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except _users_mistakes() as error:
        print(f"rocketqa {name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _run(name: str, options: Namespace) -> None:
    values: dict[str, Any] = {key: value for key, value in options.as_dict().items() if key != "config"}
    parameters = signature(function_of(name)).parameters
    for key, value in values.items():
        if key in parameters and isinstance(parameters[key].default, bool) and not isinstance(value, bool):
            raise ValueError(f"{key} must be true or false, but got {value!r}")  # flags of a file have no type
    if "settings" in parameters:
        from trainers import TrainingSettings

        names = {field.name for field in fields(TrainingSettings)}
        values["settings"] = TrainingSettings(**{key: values.pop(key) for key in names})
    function_of(name)(**values)


def _users_mistakes() -> tuple[type[Exception], ...]:
    from haystack.core.errors import PipelineError
    from haystack.document_stores.errors import DocumentStoreError
    from haystack.errors import FilterError

    return ValueError, OSError, ImportError, FloatingPointError, DocumentStoreError, FilterError, PipelineError


def quiet_libraries() -> None:
    """Leaves the terminal to this program's own lines; ROCKETQA_VERBOSE=1 shows what the libraries say."""
    if os.environ.get("ROCKETQA_VERBOSE"):
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    for name in ("sentence_transformers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if (loaded := sys.modules.get("transformers.utils.logging")) is not None:  # which reads the environment once
        loaded.set_verbosity_error()
        loaded.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
