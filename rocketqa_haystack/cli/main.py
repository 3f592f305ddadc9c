"""The command `rocketqa`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from inspect import signature
from typing import Any, get_type_hints

import docstring_parser
from jsonargparse import ArgumentError, ArgumentParser, Namespace

DESCRIPTION = """Dense retrieval and re-ranking by RocketQA, for Haystack.

New here? `rocketqa demo` takes you the whole way on a corpus you have: Python's own documentation.
"""

#: Module and function behind each subcommand, and the line that the overview gives it.
COMMANDS = {
    "demo": ("rocketqa_haystack.cli.demo.run", "demo", "the whole way in one command: train, evaluate, index, answer"),
    "index": ("rocketqa_haystack.cli.index", "index", "encode passages and write them to a document store"),
    "search": ("rocketqa_haystack.cli.search", "search", "search a document store"),
    "evaluate": ("rocketqa_haystack.cli.evaluate", "evaluate", "measure a retriever and a re-ranker beside BM25"),
    "serve": ("rocketqa_haystack.cli.serve", "serve", "serve a pipeline: a page to ask on, and a REST service"),
    "train-dual-encoder": ("rocketqa_haystack.cli.train", "train_dual_encoder", "train a retriever"),
    "train-cross-encoder": ("rocketqa_haystack.cli.train", "train_cross_encoder", "train a re-ranker"),
    "train-joint": ("rocketqa_haystack.cli.train", "train_joint", "train both together, the re-ranker teaching"),
    "run": ("rocketqa_haystack.cli.run", "run", "run a recipe: all stages, from a collection to a pipeline"),
    "status": ("rocketqa_haystack.cli.status", "status", "show how far a recipe's run is"),
    "train-reader": ("rocketqa_haystack.cli.train_reader", "train_reader", "train a reader that finds the answers"),
    "pipeline": ("rocketqa_haystack.cli.pipeline", "pipeline", "write a pipeline as YAML: retrieve, re-rank, answer"),
    "evaluate-qa": ("rocketqa_haystack.cli.evaluate_qa", "evaluate_qa", "measure the answers of a pipeline"),
    "models": ("rocketqa_haystack.cli.models", "models", "list the official RocketQA models and what is cached"),
    "convert": ("rocketqa_haystack.cli.convert", "convert", "make a model folder of an official checkpoint"),
}

#: Parameters that are given by position rather than as an option.
POSITIONAL = {
    "index": ("corpus", "store"),
    "search": ("store", "question"),
    "evaluate": ("collection",),
    "serve": ("folder",),
    "pipeline": ("output",),
    "evaluate-qa": ("pipeline", "collection"),
    "convert": ("source", "output"),
    "run": ("recipe",),
    "status": ("folder",),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: 0, or 2 after a user's mistake, which is told in one sentence.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    quiet_libraries()
    parser = make_parser(next((argument for argument in arguments if argument in COMMANDS), None))
    try:
        options = parser.parse_args(arguments)
    except UnicodeDecodeError as error:
        print(f"rocketqa: error: a file among the options is no UTF-8 text: {error}", file=sys.stderr)
        return 2
    except ArgumentError as error:
        print(f"rocketqa: error: {' '.join(str(error).split())}; `rocketqa --help` tells more", file=sys.stderr)
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


class _Parser(ArgumentParser):
    """Options with dashes (`--run-file`), where jsonargparse takes over a parameter's underscores."""

    def __init__(self, **options: Any) -> None:
        super().__init__(exit_on_error=False, **options)

    def add_argument(self, *names: str, **options: Any) -> Any:
        if names != ("--print_config",):  # jsonargparse finds its own option by its name
            names = tuple(name.replace("_", "-") if name.startswith("--") else name for name in names)
        return super().add_argument(*names, **options)


def make_parser(command: str | None) -> ArgumentParser:
    """The parser of all subcommands, with the arguments of one of them: the others need not be imported."""
    parser = _Parser(prog="rocketqa", description=DESCRIPTION)
    subcommands = parser.add_subcommands(required=True, title="commands", metavar="COMMAND")
    for name, (_, _, help) in COMMANDS.items():
        subparser = command_parser(name) if name == command else _Parser(description=help)
        subcommands.add_subcommand(name, subparser, help=help)
    return parser


def command_parser(name: str) -> ArgumentParser:
    """The parser of one subcommand, with its arguments."""
    parser = _Parser(prog=f"rocketqa {name}")
    _add_arguments(parser, name)
    return parser


def _add_arguments(parser: ArgumentParser, name: str) -> None:
    function = _function(name)
    documented = docstring_parser.parse(function.__doc__ or "")
    parser.description = "\n\n".join(filter(None, (documented.short_description, documented.long_description)))
    helps = {param.arg_name: param.description for param in documented.params}
    types = get_type_hints(function)
    apart: set[str | int] = set()
    for argument, parameter in signature(function).parameters.items():
        if argument in POSITIONAL.get(name, ()):
            parser.add_argument(argument, type=types[argument], help=helps[argument])
            apart.add(argument)
        elif parameter.default is False:
            parser.add_argument(f"--{argument}", action="store_true", help=helps[argument])
            apart.add(argument)
        elif argument == "settings":
            from trainers import TrainingSettings

            parser.add_argument(
                "--config", action="config", help="A YAML file of options, as --print_config prints it."
            )
            parser.add_class_arguments(TrainingSettings, as_group=False)
            apart.add(argument)
    parser.add_function_arguments(function, as_group=False, skip=apart)


def _function(name: str) -> Callable[..., None]:
    module, function, _ = COMMANDS[name]
    return getattr(import_module(module), function)  # type: ignore[no-any-return]


def _run(name: str, options: Namespace) -> None:
    values: dict[str, Any] = {key: value for key, value in options.as_dict().items() if key != "config"}
    if "settings" in signature(_function(name)).parameters:
        from trainers import TrainingSettings

        names = {field.name for field in fields(TrainingSettings)}
        values["settings"] = TrainingSettings(**{key: values.pop(key) for key in names})
    _function(name)(**values)


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
