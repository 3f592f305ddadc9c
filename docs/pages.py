"""The pages that nobody writes: made of scripts, the parser and docstrings each time the site is built.

mkdocs runs this as a hook (mkdocs.yml). It also gives links between files of the repository their pages, so that the
documents read the same in a checkout, and turns formulas into MathML, which browsers show without a script.
"""

from __future__ import annotations

import ast
import html
import re
from argparse import Action, _HelpAction
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import jupytext
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from rocketqa_haystack.cli.parser import COMMANDS, DESCRIPTION, command_parser

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Adds the pages."""
    modules = re.findall(r"api/([\w.]+)\.md", str(config.nav))
    for path, text in [*how_tos(), *recipes(), *api(modules)]:
        files.append(File.generated(config, path, content=text))
    files.append(File.generated(config, "commands.md", content=commands()))
    files.append(File.generated(config, "benchmarks.md", content=benchmarks()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links that lead out of docs/, to the pages of what they lead to; others fail the build."""
    for path, page in (
        (r"examples/(\w+)\.py", r"how-to/\1.md"),
        (r"examples/recipes/([\w-]+)\.yaml", r"recipes/\1.md"),
    ):
        markdown = re.sub(rf"\]\(\.\./{path}\)", rf"]({page})", markdown)
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML."""

    def formula(found: re.Match[str]) -> str:
        mathml = convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline")
        if "\\" in mathml:  # a command that the converter does not know, left as it was
            raise PluginError(f"no MathML for {found[2]}")
        return mathml

    return re.sub(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', formula, content, flags=re.DOTALL)


def how_tos() -> Iterator[tuple[str, str]]:
    """Each example: its header and notes as text, the rest as code."""
    for script in sorted((ROOT / "examples").glob("*.py")):
        if script.stem == "make_notebooks":
            continue
        first, *cells = jupytext.read(script, fmt="py:percent").cells
        if first.cell_type == "code":  # no cells are marked
            docstring = ast.parse(first.source).body[0]
            code = "\n".join(first.source.splitlines()[docstring.end_lineno :]).strip()
            text = [f"# {script.stem.replace('_', ' ').capitalize()}", described(first.source), fenced(code, "python")]
        else:
            text = [first.source]
            text += [fenced(cell.source, "python") if cell.cell_type == "code" else cell.source for cell in cells]
        yield f"how-to/{script.stem}.md", "\n\n".join(text)


def recipes() -> Iterator[tuple[str, str]]:
    """Each recipe as it is."""
    for path in sorted((ROOT / "examples/recipes").glob("*.yaml")):
        yield f"recipes/{path.stem}.md", f"# {path.name}\n\n{fenced(path.read_text(encoding='utf-8'), 'yaml')}"


def commands() -> str:
    """What the parser knows of every command."""
    text = ["# Commands", DESCRIPTION.strip(), "Each has `--help`, which says the same."]
    for name in COMMANDS:
        parser = command_parser(name)
        formatter = parser._get_formatter()
        text += [f"## {name}", parser.description or "", fenced(parser.format_usage().removeprefix("usage: "))]
        for action in parser._actions:
            if not isinstance(action, _HelpAction):
                meaning = " ".join(formatter._expand_help(action).split())
                text.append(f"`{invocation(action)}`\n:   {meaning}")
    return "\n\n".join(text)


def invocation(action: Action) -> str:
    """An option or argument as it is typed."""
    return ", ".join(action.option_strings) or str(action.metavar or action.dest)


def benchmarks() -> str:
    """What was measured, from README.md, and what each script says of itself."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    measured = re.search(r"^## Measured\n.*?(?=^## )", readme, flags=re.DOTALL | re.MULTILINE)
    assert measured is not None
    text = ["# Benchmarks", measured[0], "## The scripts"]
    for script in sorted((ROOT / "benchmarks").glob("*.py")):
        description = described(script.read_text(encoding="utf-8"))
        if f"python benchmarks/{script.name}" in description:  # and not what only the others import
            text += [f"### {script.name}", description]
    return "\n\n".join(text)


def api(modules: list[str]) -> Iterator[tuple[str, str]]:
    """Each module's public names: those of `__all__`, or else its functions and classes. A name is described once."""
    loader = griffe.GriffeLoader(search_paths=[ROOT])
    for top in {name.partition(".")[0] for name in modules}:
        loader.load(top)
    loader.resolve_aliases()
    pages: dict[str, str] = {}
    for name in modules:
        module = loader.modules_collection[name]
        text = [f"# {name}", module.docstring.value if module.docstring else ""]
        for member in public(module):
            path = member.canonical_path
            if path in pages:
                text.append(f"## {member.name}\n\nSee [`{pages[path]}`][{pages[path]}].")
            else:
                pages[path] = f"{name}.{member.name}"
                text.append(f"::: {name}.{member.name}")
        yield f"api/{name}.md", "\n\n".join(text)


def public(module: Any) -> list[Any]:
    """The members of a module that its page describes."""
    if module.exports is not None:
        return [module[str(name)] for name in module.exports]
    return [m for m in module.members.values() if m.is_public and not m.is_alias and (m.is_function or m.is_class)]


def described(source: str) -> str:
    """A script's docstring."""
    return ast.get_docstring(ast.parse(source)) or ""


def fenced(code: str, language: str = "") -> str:
    """Code as Markdown has it."""
    return f"```{language}\n{code.strip()}\n```"
