"""The demo's corpus: the documentation inside the running Python's standard library.

Every user has it and no licence stands in the way. One passage for each public module, class, function and method
with a docstring of substance: the title is the qualified name with its signature, the text is the docstring.

This file is also the program of a child process, which imports every module of the standard library: in the process of
the demo, libraries have replaced some of its functions by their own.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

# Left out so that the corpus is the same on every machine and, nearly, for every supported Python: modules that start
# something when imported, need libraries outside Python, are internal, or were deprecated and later removed.
# fmt: off
EXCLUDED = frozenset({
    "__future__", "__hello__", "__main__", "__phello__", "antigravity", "this", "idlelib", "lib2to3",
    "pydoc_data", "test", "turtledemo", "turtle", "tkinter", "curses", "readline", "dbm", "nt", "ntpath", "posix",
    "posixpath", "nturl2path", "genericpath", "sre_compile", "sre_constants", "sre_parse", "ensurepip", "venv",
    "encodings", "msilib", "winreg", "winsound", "msvcrt", "distutils", "asynchat", "asyncore", "imp", "smtpd",
    "aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "mailcap", "nis", "nntplib", "ossaudiodev",
    "pipes", "sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib", "pathlib._local", "pathlib._abc",
    "pathlib._types", "compression", "annotationlib",
})
# fmt: on

MIN_CHARACTERS = 40
MIN_WORDS = 7


def stdlib_documents() -> dict[str, tuple[str, str]]:
    """Titles and texts of the running Python's documentation, by qualified name (`shutil.disk_usage`).

    The order is fixed: modules by depth and name, members by name. An object that is reached under several names is
    there once, under the shortest.
    """
    documents: dict[str, tuple[str, str]] = {}
    seen: set[tuple[str, str]] = set()  # (last name, text): re-exports, and overridden methods with the same docstring
    for module_name in _module_names():
        module = _import(module_name)
        if module is None:
            continue
        for name, obj in _documented(module_name, module):
            text = _docstring(obj)
            key = (name.rpartition(".")[2], text)
            if len(text) < MIN_CHARACTERS or len(text.split()) < MIN_WORDS or key in seen or name in documents:
                continue
            seen.add(key)
            documents[name] = (name + _signature(obj), text)
    return documents


def _module_names() -> list[str]:
    names = {name for name in sys.stdlib_module_names if not name.startswith("_") and name not in EXCLUDED}
    names.add("os.path")
    for package in sorted(names):
        module = _import(package)
        if module is not None and hasattr(module, "__path__"):
            names.update(_submodules(package, module))
    return sorted(names, key=lambda name: (name.count("."), name))


def _submodules(package: str, module: ModuleType) -> Iterator[str]:
    for info in pkgutil.iter_modules(module.__path__):
        name = f"{package}.{info.name}"
        if info.name.startswith("_") or name in EXCLUDED or info.name in ("tests", "__main__"):
            continue
        yield name
        if info.ispkg and (child := _import(name)) is not None:
            yield from _submodules(name, child)


def _import(name: str) -> ModuleType | None:
    # Optional parts of the standard library may be missing from this build; some print or warn when imported.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except Exception:
            return None


def _documented(module_name: str, module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The module itself, its public classes and functions, and the classes' public methods."""
    yield module_name, module
    exported = getattr(module, "__all__", None)
    names = exported if exported is not None else [name for name in vars(module) if not name.startswith("_")]
    for name in sorted(set(names)):
        obj = getattr(module, name, None)
        if not (inspect.isclass(obj) or inspect.isroutine(obj)):
            continue
        if exported is None and not _defined_in(obj, module_name):
            continue
        yield f"{module_name}.{name}", obj
        if inspect.isclass(obj):
            for member_name, member in sorted(vars(obj).items()):
                if member_name.startswith("_"):
                    continue
                if isinstance(member, staticmethod | classmethod):
                    member = member.__func__
                if inspect.isroutine(member) or isinstance(member, property):
                    yield f"{module_name}.{name}.{member_name}", member


def _defined_in(obj: Any, module_name: str) -> bool:
    """Whether `obj` belongs to the module, or to a private module written in C behind it."""
    home = getattr(obj, "__module__", None)
    return home is None or home == module_name or home.lstrip("_") == module_name.rpartition(".")[2]


def _docstring(obj: Any) -> str:
    own = getattr(obj, "__doc__", None)
    return inspect.cleandoc(own).strip() if isinstance(own, str) else ""


def _signature(obj: Any) -> str:
    if isinstance(obj, ModuleType | property):
        return ""
    try:
        signature = str(inspect.signature(obj))
    except Exception:  # inspect raises what the signature text of a function written in C makes it evaluate
        return "()"
    # Defaults such as <function <lambda> at 0x7f...> differ from run to run, the interpreter's path between machines.
    return re.sub(r" at 0x[0-9a-f]+", "", signature).replace(repr(sys.executable), "sys.executable")


if __name__ == "__main__":
    json.dump(stdlib_documents(), sys.stdout)
