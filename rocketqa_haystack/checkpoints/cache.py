"""Official models and checkpoints as model folders, each downloaded and converted once."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import platformdirs
from filelock import FileLock

from rocketqa_haystack.checkpoints.configuration import official_kind, read_checkpoint
from rocketqa_haystack.checkpoints.download import check_md5, download
from rocketqa_haystack.checkpoints.errors import CheckpointError
from rocketqa_haystack.checkpoints.registry import OFFICIAL_MODELS, Kind, OfficialModel

#: Converted folders of an earlier form are not used again.
FORM = "2"


def cache_folder() -> Path:
    """Where archives and converted models are kept: ROCKETQA_CACHE, or the platform's folder for caches."""
    named = os.environ.get("ROCKETQA_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("rocketqa-haystack", appauthor=False)


def archive_path(model: OfficialModel) -> Path:
    """Where an official model's archive is kept, and may be put by hand."""
    return cache_folder() / "archives" / model.archive


def converted_path(model: OfficialModel) -> Path:
    """Where an official model's model folder is kept."""
    return cache_folder() / "models" / FORM / model.name


def model_folder(name: str, kind: Kind | None = None, *, local_files_only: bool = False) -> Path | None:
    """The model folder of an official name, or of a folder in the official form.

    Args:
        name: A name or folder; a folder of an official model's name comes before the model.
        kind: Refuse other models, before anything is downloaded; None takes both.
        local_files_only: Never ask the network.

    Returns:
        The folder in the cache; None where the name is neither.

    Raises:
        CheckpointError: The model is of the other kind, cannot be downloaded, or is broken.
    """
    folder = Path(name)
    model = None if os.path.exists(name) else OFFICIAL_MODELS.get(name)
    found = model.kind if model is not None else official_kind(folder)
    if found is None:
        return None
    if kind is not None and found != kind:
        raise CheckpointError(f"{name} holds a {found}, not a {kind}")
    try:
        if model is None:
            return _converted(cache_folder() / "models" / FORM / "folders" / _fingerprint(folder), lambda: folder)
        source = partial(official_archive, model, local_files_only=local_files_only)
        return _converted(converted_path(model), source)
    except OSError as error:
        raise CheckpointError(f"{name} cannot be converted: {error}") from error


def official_archive(model: OfficialModel, *, local_files_only: bool = False) -> Path:
    """The archive of an official model, downloaded if it is not there.

    Raises:
        CheckpointError: It cannot be downloaded, or is not the official one.
    """
    path = archive_path(model)
    by_hand = f"Put its archive by hand at {path} (md5 {model.md5}, from {model.url})"
    with _locked(path):
        if path.is_file():
            try:
                check_md5(path, model.md5)
            except CheckpointError as error:
                raise CheckpointError(f"{error}: it is broken or another file; remove it and try again") from error
            return path
        if local_files_only:
            raise CheckpointError(f"{model.name} is not on this machine and local_files_only is set. {by_hand}")
        try:
            download(model.url, path, model.md5)
        except CheckpointError as error:
            raise CheckpointError(f"{error}. {by_hand}") from error
        return path


def _converted(folder: Path, source: Callable[[], Path]) -> Path:
    """The folder, converted from its source if it is not there; processes that want the same wait for the first."""
    if not folder.is_dir():  # a folder appears only when it is whole
        with _locked(folder):
            if not folder.is_dir():
                from rocketqa_haystack.checkpoints.convert import convert  # slow to import

                convert(source(), folder)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from making the same file or folder, and removes what a killed one left of it."""
    lock = FileLock(cache_folder() / "locks" / f"{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise CheckpointError(
            f"the cache {cache_folder()} cannot be written ({error.strerror}); ROCKETQA_CACHE names another folder"
        ) from error
    try:
        for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


def _fingerprint(folder: Path) -> str:
    """A name for the converted form of a folder, which changes when any of the folder's files does."""
    checkpoint = read_checkpoint(folder)
    root = folder.resolve()
    files = {*root.glob("*.json"), checkpoint.configuration, checkpoint.vocabulary, *checkpoint.variables.iterdir()}
    states = sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    digest = hashlib.sha256(json.dumps([str(root), states]).encode()).hexdigest()
    return f"{root.name[:40]}-{digest[:16]}"
