"""What `rocketqa` reads from the command line, and how it speaks of what it cannot read."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from inspect import signature
from typing import Any, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ArgumentParser, DefaultHelpFormatter

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

#: A class as Python prints it.
_CLASS = re.compile(r"<class '(?:\w+\.)*(\w+)'>")


class _HelpFormatter(DefaultHelpFormatter):  # type: ignore[misc]
    """Names types as their users do: `Path` where jsonargparse prints `<class 'Path'>`."""

    def _expand_help(self, action: Any) -> str:
        return _CLASS.sub(r"\1", super()._expand_help(action))


class _Parser(ArgumentParser):
    """Options with dashes (`--run-file`), where jsonargparse takes over a parameter's underscores."""

    def __init__(self, **options: Any) -> None:
        super().__init__(exit_on_error=False, formatter_class=_HelpFormatter, **options)

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
    function = function_of(name)
    documented = docstring_parser.parse(function.__doc__ or "")
    parser.description = "\n\n".join(filter(None, (documented.short_description, documented.long_description)))
    helps = {param.arg_name: param.description for param in documented.params}
    types = get_type_hints(function)
    apart: set[str | int] = set()
    for argument, parameter in signature(function).parameters.items():
        if argument in POSITIONAL.get(name, ()):
            parser.add_argument(argument, type=types[argument], help=helps[argument])
            apart.add(argument)
        elif get_origin(types[argument]) is list:
            (item,) = get_args(types[argument])
            parser.add_argument(
                f"--{argument}", nargs="+", type=item, default=list(parameter.default), help=helps[argument]
            )
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


def function_of(name: str) -> Callable[..., None]:
    """The function behind a subcommand, whose parameters are its options."""
    module, function, _ = COMMANDS[name]
    return getattr(import_module(module), function)  # type: ignore[no-any-return]


def reworded(message: str, command: str | None) -> str:
    """What jsonargparse says is wrong, in the words of the command line: options for keys, plain names for types."""

    def typed(key: str) -> str:
        name = key.strip().removeprefix(f"{command}.")
        return name if name in POSITIONAL.get(command or "", ()) else f"--{name.replace('_', '-')}"

    message = " ".join(message.split())
    message = re.sub(r"(?<=are required: ).*", lambda keys: ", ".join(map(typed, keys[0].split(","))), message)
    message = re.sub(r'Parser key "([\w.-]+)"', lambda key: typed(key[1]), message)
    message = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", message)
    return re.sub(r"Expected an? (.*?)\. Got value: ", r"expected \1, but got ", _CLASS.sub(r"\1", message))
