"""`rocketqa models`: the official RocketQA models, and what of them is on this machine."""

from __future__ import annotations


def models() -> None:
    """List the official RocketQA models by name, and what of each is on this machine.

    Wherever a command, a component or a trainer takes a model, these names do: the model is downloaded at its first
    use, checked, converted and kept. In the last column, `ready` is a model that loads without a network, `archive` one
    that is downloaded or was put there by hand and still has to be converted. ROCKETQA_CACHE names the folder that
    all of them are kept in.
    """
    from rocketqa_haystack.checkpoints.cache import archive_path, cache_folder, converted_path
    from rocketqa_haystack.checkpoints.registry import OFFICIAL_MODELS

    for model in OFFICIAL_MODELS.values():
        cached = "archive" if archive_path(model).is_file() else ""
        if converted_path(model).is_dir():
            cached = "ready"
        print(f"{model.name:<19}{model.kind:<15}{model.purpose:<37}{cached}".rstrip())
    print(f"\ncached in {cache_folder()}")
