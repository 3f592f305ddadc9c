"""`rocketqa convert`: an official checkpoint to a model folder."""

from __future__ import annotations

from pathlib import Path


def convert(source: str, output: Path) -> None:
    """Make a model folder of a checkpoint of the official RocketQA toolkit, without Paddle.

    The model folder is one that every command, component and trainer here takes, and sentence-transformers too; its
    numbers are the official ones.

    Args:
        source: An official name (`rocketqa models` lists them), an archive (NAME.tar.gz), or a folder with a
            config.json that has the keys model_type, model_conf_path, model_vocab_path and model_checkpoint_path.
        output: The model folder to write.
    """
    from rocketqa_haystack.checkpoints.cache import official_archive
    from rocketqa_haystack.checkpoints.convert import convert as convert_checkpoint
    from rocketqa_haystack.checkpoints.registry import OFFICIAL_MODELS
    from rocketqa_haystack.data.files import refuse_occupied

    refuse_occupied(output)  # before a download
    path = Path(source)
    if not path.exists():
        if source not in OFFICIAL_MODELS:
            raise ValueError(f"{source} is no folder, no archive and no official name; `rocketqa models` lists those")
        path = official_archive(OFFICIAL_MODELS[source])
    convert_checkpoint(path, output)
    print(f"written: {output}")
