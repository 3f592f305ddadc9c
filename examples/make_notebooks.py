"""Writes the notebook forms of the examples whose cells are marked (`# %%`) beside them.

    python examples/make_notebooks.py

The scripts are the source; a test checks that the notebooks are in step.
"""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent
SCRIPTS = ("compose_pipeline", "hybrid_retrieval", "fine_tune")

#: Paths in the examples are those of the repository's root, where notebooks do not run.
ROOT_CELL = 'import os\n\nif os.path.basename(os.getcwd()) == "examples":\n    os.chdir("..")'


def notebook(script: Path) -> str:
    """The notebook of a script, the same text every time."""
    made = jupytext.read(script, fmt="py:percent")
    made.cells.insert(1, nbformat.v4.new_code_cell(ROOT_CELL))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made.metadata = nbformat.from_dict({"kernelspec": kernel})
    for number, cell in enumerate(made.cells):
        cell["id"] = f"cell-{number}"
        cell["metadata"] = {}
    return nbformat.writes(made, version=4) + "\n"


if __name__ == "__main__":
    for name in SCRIPTS:
        (FOLDER / f"{name}.ipynb").write_text(notebook(FOLDER / f"{name}.py"), encoding="utf-8")
        print(f"written: {FOLDER / f'{name}.ipynb'}")
