"""Training groups on disk: a file's groups as an Arrow table that is mapped into memory, not read into it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from rocketqa_haystack.data.files import DataError, SkippedLines, write_json
from rocketqa_haystack.data.group_files import iterate_groups, no_groups
from rocketqa_haystack.data.groups import TrainingGroup
from rocketqa_haystack.data.passage import Passage

if TYPE_CHECKING:
    from datasets import Dataset

#: Part of what a cached table is known by: another number makes tables anew.
_LAYOUT = 2
_POSITIVE = ("positive_ids", "positive_texts", "positive_titles")
_NEGATIVE = ("negative_ids", "negative_texts", "negative_titles")
#: Groups that are written at a time, at most, and characters of their texts after which no more are added to them:
#: Arrow counts the bytes of a column in 31 bits.
_BATCH, _CHARACTERS = 1000, 1 << 25
#: Groups that are read at a time.
_READ = 100


class TrainingGroups(Sequence[TrainingGroup]):
    """A file's training groups as a sequence that stays on disk, whatever its size.

    ```python
    groups = TrainingGroups.read("groups.jsonl", skip_bad_lines=True)
    print(len(groups), groups.skipped)
    DualEncoderTrainer(model, groups).train("tuned-retriever")
    ```

    Attributes:
        skipped: The bad lines that were left out.
        fingerprint: Of all groups: that of others is another one.
    """

    def __init__(self, table: Dataset, skipped: SkippedLines, fingerprint: str, folder: Any = None) -> None:
        self._table = table
        self.fingerprint = fingerprint
        self._folder = folder  # a temporary folder, which goes when the last view of it does
        self.skipped = skipped

    @classmethod
    def read(cls, path: str | Path, *, cache: str | Path | None = None, skip_bad_lines: bool = False) -> TrainingGroups:
        """Reads a file in any of the formats of `group_files`, line by line.

        Args:
            path: The file.
            cache: A folder to keep the table in, for other processes and later runs: it is made once, and anew when the
                file's size or time has changed. None makes it in a temporary folder that goes with the sequence; where
                the system keeps those in memory, TMPDIR names another place.
            skip_bad_lines: Whether to leave out bad lines and count them, instead of refusing the file.

        Raises:
            DataError: As `iterate_groups` does, or there are no groups.
            ImportError: `datasets` is not installed.
        """
        path = Path(path)
        if cache is None:
            folder = tempfile.TemporaryDirectory(prefix="rocketqa-groups-", ignore_cleanup_errors=True)
            _write(Path(folder.name), path, skip_bad_lines)
            return cls(*_open(Path(folder.name)), folder)
        return cls(*_open(_cached(Path(cache), path, skip_bad_lines)))

    def without_negatives(self) -> TrainingGroups:
        """The same groups without their negatives, which are then not even read."""
        table = self._table.remove_columns([*_NEGATIVE])
        return TrainingGroups(table, self.skipped, self.fingerprint, self._folder)

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> TrainingGroup: ...

    @overload
    def __getitem__(self, index: slice) -> list[TrainingGroup]: ...

    def __getitem__(self, index: int | slice) -> TrainingGroup | list[TrainingGroup]:
        if isinstance(index, slice):
            return list(_groups(self._table[index]))
        return _group(self._table[index])

    def __iter__(self) -> Iterator[TrainingGroup]:
        for rows in self._table.iter(batch_size=_READ):
            yield from _groups(rows)


def _group(row: dict[str, Any]) -> TrainingGroup:
    return TrainingGroup(
        row["query_id"],
        row["query"],
        tuple(row["positive_ids"]),
        tuple(map(Passage, row["positive_texts"], row["positive_titles"])),
        tuple(row.get("negative_ids", ())),
        tuple(map(Passage, row.get("negative_texts", ()), row.get("negative_titles", ()))),
    )


def _groups(columns: dict[str, list[Any]]) -> Iterator[TrainingGroup]:
    for values in zip(*columns.values(), strict=True):
        yield _group(dict(zip(columns, values, strict=True)))


def _cached(cache: Path, path: Path, skip_bad_lines: bool) -> Path:
    """The folder of the file's table in the cache, which appears whole or not at all."""
    lock = _module("filelock").FileLock
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    known_by = [_LAYOUT, str(path.resolve()), state.st_size, state.st_mtime_ns, skip_bad_lines]
    folder = cache / hashlib.sha256(json.dumps(known_by).encode()).hexdigest()[:32]
    cache.mkdir(parents=True, exist_ok=True)
    with lock(f"{folder}.lock"):  # of several processes, one reads and the others wait
        if not folder.is_dir():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
            unfinished.mkdir()
            try:
                _write(unfinished, path, skip_bad_lines)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
            unfinished.replace(folder)
    return folder


def _write(folder: Path, path: Path, skip_bad_lines: bool) -> None:
    """Writes the table of a file's groups, and what was left out, into an empty folder."""
    pyarrow = _module("pyarrow")
    skipped = SkippedLines() if skip_bad_lines else None
    texts = pyarrow.list_(pyarrow.string())
    schema = pyarrow.schema(
        {"query_id": pyarrow.string(), "query": pyarrow.string(), **dict.fromkeys((*_POSITIVE, *_NEGATIVE), texts)}
    )
    groups, count, seen = iterate_groups(path, skipped=skipped), 0, hashlib.blake2b(digest_size=8)
    with (folder / "groups.arrow").open("wb") as file:
        with pyarrow.ipc.new_stream(file, schema) as writer:
            for batch in _batches(groups):
                rows = pyarrow.RecordBatch.from_pydict(_columns(batch), schema)
                writer.write_batch(rows)
                seen.update(rows.serialize())
                count += len(batch)
        file.flush()
        os.fsync(file.fileno())
    if not count:
        raise DataError(no_groups(path, skipped))
    write_json(folder / "read.json", {"skipped": vars(skipped or SkippedLines()), "fingerprint": seen.hexdigest()})


def _batches(groups: Iterable[TrainingGroup]) -> Iterator[list[TrainingGroup]]:
    batch, characters = [], 0
    for group in groups:
        batch.append(group)
        characters += sum(len(passage.text) for passage in (*group.positives, *group.negatives))
        if len(batch) == _BATCH or characters > _CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _columns(groups: Sequence[TrainingGroup]) -> dict[str, list[Any]]:
    return {
        "query_id": [group.query_id for group in groups],
        "query": [group.query for group in groups],
        **_passage_columns(_POSITIVE, [(group.positive_ids, group.positives) for group in groups]),
        **_passage_columns(_NEGATIVE, [(group.negative_ids, group.negatives) for group in groups]),
    }


def _passage_columns(
    names: Sequence[str], members: Iterable[tuple[Sequence[str], Sequence[Passage]]]
) -> dict[str, list[Any]]:
    rows = [(ids, [p.text for p in passages], [p.title for p in passages]) for ids, passages in members]
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _open(folder: Path) -> tuple[Dataset, SkippedLines, str]:
    read = json.loads((folder / "read.json").read_text(encoding="utf-8"))
    table = _module("datasets").Dataset.from_file(str(folder / "groups.arrow"))
    return table, SkippedLines(**read["skipped"]), read["fingerprint"]


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError("training groups on disk need datasets: pip install 'rocketqa-haystack[train]'") from error
