"""What users say of the passages they were shown: a file of votes that reads back as training groups.

Every vote is a line of its own: a training group with one passage, positive for a thumbs-up and negative for a
thumbs-down, and the mark `vote`. A question's votes become one group when the file is read, the last vote on a passage
counting. A question that only has thumbs-down waits: its negatives have no positive yet to be ranked below.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass, field
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Literal

from rocketqa_haystack.data.files import json_object
from rocketqa_haystack.data.groups import TrainingGroup
from rocketqa_haystack.data.passage import Passage

logger = logging.getLogger(__name__)

Vote = Literal["up", "down"]


class FeedbackFile:
    """A JSONL file that votes are appended to, safe for threads and for several processes.

    A vote is on the disk when `append` returns. What a crash left of a line is taken off before the next one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = Lock()

    def append(self, question: str, passage_id: str, passage: Passage, vote: Vote) -> None:
        """Writes one vote.

        Args:
            question: The question as it was asked.
            passage_id: The id of the passage that was shown.
            passage: The passage.
            vote: `up` where it answers the question, `down` where it does not.

        Raises:
            ValueError: The question or the passage is empty, the vote is neither, or a text is no Unicode.
            OSError: The file cannot be written.
        """
        from filelock import FileLock

        if vote not in ("up", "down"):
            raise ValueError(f"a vote is 'up' or 'down', not {vote!r}")
        if not question.strip() or passage.is_empty():
            raise ValueError("nothing can be learned from an empty question or passage")
        shown = [{"docid": passage_id, "title": passage.title, "text": passage.text}]
        record = {
            "query_id": question_id(question),
            "query": question,
            "positive_passages": shown if vote == "up" else [],
            "negative_passages": shown if vote == "down" else [],
            "vote": vote,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, FileLock(self.path.with_name(f".{self.path.name}.lock")):
            with self.path.open("a+b", buffering=0) as file:
                size = file.seek(0, os.SEEK_END)
                end, open_line = _whole_lines(file, size)
                if end != size:
                    logger.warning("%s: the unfinished last line was taken off", self.path)
                    file.truncate(end)
                written = file.write(b"\n" + line if open_line else line)
                if written < len(line):  # the disk is full
                    file.truncate(end)
                    raise OSError(f"{self.path}: the disk is full")
                os.fsync(file.fileno())


def question_id(question: str) -> str:
    """The id of a question: the same for the same words, whatever their case and spacing."""
    return hashlib.sha256(" ".join(question.casefold().split()).encode()).hexdigest()[:16]


@dataclass
class Votes:
    """The votes of a file, gathered by question."""

    _questions: dict[str, str] = field(default_factory=dict)
    _votes: dict[str, dict[str, tuple[Passage, bool]]] = field(default_factory=dict)

    def add(self, query_id: str, query: str, passages: list[tuple[str, Passage]], vote: Vote) -> None:
        """Takes one line's vote, which replaces an earlier one on the same passage."""
        self._questions.setdefault(query_id, query)
        known = self._votes.setdefault(query_id, {})
        known.update({id: (passage, vote == "up") for id, passage in passages})

    def groups(self, source: str | Path) -> list[TrainingGroup]:
        """One group for each question with a thumbs-up; how many have none is logged, with the file's name."""
        groups = []
        for query_id, votes in self._votes.items():
            positives = {id: passage for id, (passage, up) in votes.items() if up}
            negatives = {id: passage for id, (passage, up) in votes.items() if not up}
            if positives:
                groups.append(
                    TrainingGroup(
                        query_id=query_id,
                        query=self._questions[query_id],
                        positive_ids=tuple(positives),
                        positives=tuple(positives.values()),
                        negative_ids=tuple(negatives),
                        negatives=tuple(negatives.values()),
                    )
                )
        if waiting := len(self._votes) - len(groups):
            logger.warning("%s: left out for now: %s with no thumbs-up yet", source, _count(waiting, "question"))
        return groups


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _whole_lines(file: FileIO, size: int) -> tuple[int, bool]:
    """Where the file's last whole line ends, and whether it lacks its line break but is whole: JSON."""
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        start = max(0, start - (1 << 16))
        file.seek(start)
        tail = file.read(min(1 << 16, size - start - len(tail))) + tail
    last = tail[tail.rfind(b"\n") + 1 :]
    if not last:
        return size, False
    try:
        json_object("", last.decode())
    except ValueError:  # a UnicodeDecodeError is one as well
        return size - len(last), False
    return size, True
