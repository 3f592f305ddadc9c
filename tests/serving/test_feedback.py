"""Votes in a file, and the training groups that they read back as."""

from __future__ import annotations

import json
import logging
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocketqa_haystack.data import DataError, Passage, TrainingGroup, TrainingGroups, read_groups, write_groups
from rocketqa_haystack.data.feedback import FeedbackFile, Vote

GOOD, BAD = Passage("Hold the power key.", "Resetting"), Passage("The battery lasts two days.", "Power")


def test_a_vote_is_a_line_in_the_training_group_format(tmp_path: Path) -> None:
    file = FeedbackFile(tmp_path / "new" / "feedback.jsonl")
    file.append("my remote is stuck?", "p1", GOOD, "up")
    file.append("my remote is stuck?", "p2", BAD, "down")
    up, down = (json.loads(line) for line in file.path.read_text().splitlines())
    assert up["query"] == "my remote is stuck?"
    assert up["positive_passages"] == [{"docid": "p1", "title": "Resetting", "text": "Hold the power key."}]
    assert up["negative_passages"] == []
    assert (down["positive_passages"], [p["docid"] for p in down["negative_passages"]]) == ([], ["p2"])
    assert up["query_id"] == down["query_id"]
    expected = TrainingGroup(up["query_id"], "my remote is stuck?", ("p1",), (GOOD,), ("p2",), (BAD,))
    assert read_groups(file.path) == [expected]
    assert list(TrainingGroups.read(file.path)) == [expected]


def test_thumbs_down_before_any_thumbs_up_wait_for_it_and_are_not_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = FeedbackFile(tmp_path / "feedback.jsonl")
    file.append("stuck?", "p2", BAD, "down")
    with pytest.raises(DataError, match="no training groups"), caplog.at_level(logging.WARNING):
        read_groups(file.path)
    assert "1 question with no thumbs-up yet" in caplog.text
    file.append("other?", "p1", GOOD, "up")
    assert [group.query for group in read_groups(file.path)] == ["other?"]
    file.append("  STUCK?", "p1", GOOD, "up")
    group = read_groups(file.path)[0]
    assert (group.query, group.positives, group.negatives) == ("stuck?", (GOOD,), (BAD,))


@settings(deadline=None, max_examples=40)  # every vote waits for the disk
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("12"), st.sampled_from(["up", "down"])), min_size=1))
def test_the_last_vote_on_a_passage_counts(
    tmp_path_factory: pytest.TempPathFactory, votes: list[tuple[str, str, Vote]]
) -> None:
    file = FeedbackFile(tmp_path_factory.mktemp("votes") / "feedback.jsonl")
    last: dict[tuple[str, str], str] = {}
    for question, id, vote in votes:
        file.append(question, id, Passage(f"text {id}"), vote)
        last[question, id] = vote
    expected = {
        question: tuple(
            {id for (q, id), vote in last.items() if q == question and vote == kind} for kind in ("up", "down")
        )
        for question in "ab"
        if any(q == question and vote == "up" for (q, _), vote in last.items())
    }
    try:
        groups = read_groups(file.path)
    except DataError:
        groups = []
    assert {group.query: (set(group.positive_ids), set(group.negative_ids)) for group in groups} == expected


def _vote_many(path: Path, start: int) -> None:
    file = FeedbackFile(path)
    for number in range(start, start + 20):
        file.append(f"question {number}", "p1", Passage("x" * 2000), "up")


def test_votes_of_several_threads_and_processes_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    file = FeedbackFile(path)
    processes = [multiprocessing.get_context("fork").Process(target=_vote_many, args=(path, s)) for s in (1000, 2000)]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: file.append(f"question {n}", "p1", GOOD, "up"), range(40)))
    for process in processes:
        process.join()
    assert len(read_groups(path)) == 80


def test_what_a_crash_left_of_a_line_is_taken_off_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    file = FeedbackFile(path)
    file.append("one?", "p1", GOOD, "up")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    file.append("two?", "p1", GOOD, "up")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))  # as an editor may leave it
    file.append("three?", "p1", GOOD, "up")
    assert [group.query for group in read_groups(path)] == ["one?", "two?", "three?"]
    path.write_bytes(b'{"torn')
    file.append("four?", "p1", GOOD, "up")
    assert [group.query for group in read_groups(path)] == ["four?"]


def test_votes_may_follow_other_groups_and_bad_ones_are_refused_by_their_line(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    group = TrainingGroup("q1", "labelled?", ("p9",), (GOOD,))
    write_groups(path, [group])
    FeedbackFile(path).append("asked?", "p1", GOOD, "up")
    assert [group.query for group in read_groups(path)] == ["labelled?", "asked?"]
    line = json.loads(path.read_text().splitlines()[1])
    for changes, reason in (
        ({"vote": "sideways"}, "'vote' must be 'up' or 'down'"),
        ({"positive_passages": []}, "needs at least one positive passage"),
    ):
        path.write_text(json.dumps({**line, **changes}))
        with pytest.raises(DataError, match=rf"feedback\.jsonl, line 1: .*{reason}"):
            read_groups(path)


def test_votes_that_nothing_can_be_learned_from_are_refused(tmp_path: Path) -> None:
    file = FeedbackFile(tmp_path / "feedback.jsonl")
    for question, passage, vote in ((" ", GOOD, "up"), ("q", Passage(" "), "up"), ("q", GOOD, "none")):
        with pytest.raises(ValueError):  # noqa: PT011
            file.append(question, "p1", passage, vote)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="surrogates"):
        file.append("half \ud800", "p1", GOOD, "up")
    assert not file.path.exists()
