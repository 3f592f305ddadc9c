"""Results of long work, written one by one as they come, so that what was interrupted goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rocketqa_haystack.data.files import DataError


class Journal:
    """Records by id: JSON lines in a file, after a first line that says what they are of.

    Attributes:
        records: What is there, each with its `id`.
    """

    def __init__(self, path: str | Path | None, key: dict[str, Any]) -> None:
        """Reads the file; where there is none, it is begun. A last line that was cut off goes.

        Args:
            path: The file; None keeps the records in memory alone.
            key: What the records depend on; the first line.

        Raises:
            DataError: The file is of another key, or no journal.
        """
        self.records: dict[str, dict[str, Any]] = {}
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write(key)
            return
        whole = self._path.read_bytes()
        end = whole.rfind(b"\n") + 1
        try:
            lines = [json.loads(line) for line in whole[:end].splitlines()]
        except ValueError:
            lines = []
        if not lines or lines[0] != key or not all("id" in line for line in lines[1:]):
            raise DataError(f"{path} is not of the same models, data and options; remove it or choose another")
        self.records = {line["id"]: line for line in lines[1:]}
        with self._path.open("r+b") as file:
            file.truncate(end)

    def append(self, record: dict[str, Any]) -> None:
        """Adds a record, in the file first."""
        self._write(record)
        self.records[record["id"]] = record

    def _write(self, record: dict[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
