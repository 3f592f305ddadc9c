"""Training groups in files of every format: read alike, refused with their place, kept on disk, checked."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rocketqa_haystack.cli.main import main
from rocketqa_haystack.data import (
    DataError,
    Passage,
    SkippedLines,
    TrainingGroup,
    TrainingGroups,
    check_groups,
    group_format,
    iterate_groups,
    read_groups,
    write_groups,
)
from rocketqa_haystack.data import training_groups as training_groups_module

CAPITALS = [
    TrainingGroup("1", "capital of France?", ("7",), (Passage("Paris is.", "France"),), ("8",), (Passage("Bern is."),)),
    TrainingGroup("2", "capital of Chad?", ("9",), (Passage("恩贾梅纳 is.", "Chad"),), ("7",), (Passage("Paris is."),)),
]


def record(group: TrainingGroup) -> dict[str, Any]:
    """A group as a line of JSON lines."""

    def passages(ids: tuple[str, ...], members: tuple[Passage, ...]) -> list[dict[str, str]]:
        return [{"docid": id, "title": p.title, "text": p.text} for id, p in zip(ids, members, strict=True)]

    return {
        "query_id": group.query_id,
        "query": group.query,
        "positive_passages": passages(group.positive_ids, group.positives),
        "negative_passages": passages(group.negative_ids, group.negatives),
    }


def jsonl(groups: list[TrainingGroup]) -> str:
    return "".join(json.dumps(record(group)) + "\n" for group in groups)


def triples(groups: list[TrainingGroup]) -> str:
    return "".join(
        "\t".join((g.query, g.positives[0].title, g.positives[0].text, g.negatives[0].title, g.negatives[0].text, "0"))
        + "\n"
        for g in groups
    )


def pairs(groups: list[TrainingGroup]) -> str:
    rows = [(g.query, p, label) for g in groups for p, label in ((g.positives[0], 1), (g.negatives[0], 0))]
    return "".join(f"{query}\t{p.title}\t{p.text}\t{label}\n" for query, p, label in rows)


def dpr(groups: list[TrainingGroup], **options: Any) -> str:
    def contexts(passage: Passage, **id: str) -> list[dict[str, Any]]:
        return [{"title": passage.title, "text": passage.text, "score": 1.5, "title_score": 0, **id}]

    records = [
        {
            "dataset": "capitals",
            "question": g.query,
            "answers": ["x"],
            "positive_ctxs": contexts(g.positives[0], passage_id=g.positive_ids[0]),
            "negative_ctxs": contexts(Passage("never used")),
            "hard_negative_ctxs": contexts(g.negatives[0], psg_id=g.negative_ids[0]),
        }
        for g in groups
    ]
    return json.dumps(records, **options)


FORMATS: dict[str, tuple[str, Callable[[list[TrainingGroup]], str]]] = {
    "jsonl": ("jsonl", jsonl),
    "triples": ("triples", triples),
    "pairs": ("pairs", pairs),
    "dpr": ("dpr", dpr),
    "dpr, indented": ("dpr", lambda groups: dpr(groups, indent=4)),
}


def contents(groups: Any) -> list[tuple[Any, ...]]:
    """Groups without the ids, which not every format has."""
    return [(group.query, group.positives, group.negatives) for group in groups]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
@pytest.mark.parametrize(("name", "write"), FORMATS.values(), ids=FORMATS)
def test_the_same_groups_are_read_from_every_format(
    tmp_path: Path, name: str, write: Callable[[list[TrainingGroup]], str], mark: bytes, packed: bool
) -> None:
    content = mark + write(CAPITALS).encode()
    path = tmp_path / "train.data"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert group_format(path) == name
    groups = read_groups(path)
    assert contents(groups) == contents(CAPITALS)
    if name in ("jsonl", "dpr"):
        assert [g.positive_ids + g.negative_ids for g in groups] == [g.positive_ids + g.negative_ids for g in CAPITALS]
    assert list(TrainingGroups.read(path)) == groups


def test_every_positive_of_the_pair_format_makes_a_group_with_its_querys_negatives(tmp_path: Path) -> None:
    lines = ["a\t\tgood\t1", "b\tT\tbad\t0", "a\t\tpoor\t0", "b\t\tfine\t1", "a\t\tbetter\t1", "a\t\tworse\t0"]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    negatives = (Passage("poor"), Passage("worse"))
    assert read_groups(tmp_path / "train.tsv") == [
        TrainingGroup("1", "a", ("1",), (Passage("good"),), ("3", "6"), negatives),
        TrainingGroup("5", "a", ("5",), (Passage("better"),), ("3", "6"), negatives),
        TrainingGroup("4", "b", ("4",), (Passage("fine"),), ("2",), (Passage("bad", "T"),)),
    ]


def test_dprs_other_negatives_stand_in_where_there_are_no_hard_ones(tmp_path: Path) -> None:
    question = {"question": "q", "positive_ctxs": [{"title": None, "text": "p"}], "hard_negative_ctxs": []}
    (tmp_path / "train.json").write_text(json.dumps([{**question, "negative_ctxs": [{"text": "n", "passage_id": 3}]}]))
    expected = TrainingGroup("1", "q", ("1.positive.1",), (Passage("p"),), ("3",), (Passage("n"),))
    assert read_groups(tmp_path / "train.json") == [expected]


def test_a_query_may_begin_like_json(tmp_path: Path) -> None:
    for query in ("[SEP] what?", "{x} what?", "[", "{"):
        (tmp_path / "train.tsv").write_text(f"{query}\t\tyes\t\tno\t0\n")
        assert contents(read_groups(tmp_path / "train.tsv")) == [(query, (Passage("yes"),), (Passage("no"),))]


GOOD = {name: write(CAPITALS[:1]) for name, (_, write) in FORMATS.items()}

BAD = [
    ("jsonl", "{", "not valid JSON"),
    ("jsonl", "[1]", "expected a JSON object, found list"),
    ("jsonl", json.dumps({**record(CAPITALS[0]), "query": " "}), "the query is empty"),
    ("jsonl", json.dumps({**record(CAPITALS[0]), "query": None}), "'query' is missing"),
    ("jsonl", json.dumps({**record(CAPITALS[0]), "query": "\ud800"}), r"'query' holds half a surrogate pair \(\\ud800"),
    ("jsonl", json.dumps({**record(CAPITALS[0]), "positive_passages": []}), "needs at least one positive passage"),
    ("jsonl", json.dumps({**record(CAPITALS[0]), "positive_passages": 3}), "'positive_passages' must be a list of"),
    ("jsonl", json.dumps({**record(CAPITALS[0]), "negative_passages": {}}), "'negative_passages' must be a list of"),
    (
        "jsonl",
        json.dumps({**record(CAPITALS[0]), "positive_passages": [{"docid": "7", "text": "\t"}]}),
        "the positive passage '7' is empty",
    ),
    (
        "jsonl",
        json.dumps({**record(CAPITALS[0]), "positive_passages": [{"docid": "", "text": ""}]}),
        "the positive passage '' is empty",
    ),
    ("jsonl", b'{"query": "\xff"}', "not UTF-8 text"),
    ("triples", "q\t\tyes\tno\t0", "expected 6 columns separated by tabs, found 5"),
    ("triples", " \t\tyes\t\tno\t0", "the query is empty"),
    ("triples", "q\t\t \t\tno\t0", r"the positive passage '2\.positive' is empty"),
    ("triples", b"q\t\t\xff\t\tno\t0", "not UTF-8 text"),
    ("pairs", "q\t\tyes\tno\t0", "expected 4 columns separated by tabs, found 5"),
    ("pairs", "q\t\tyes\t2", "the label must be 1 or 0, not '2'"),
    ("pairs", "q\t\tyes\t0", r"no line of the file has a positive \(label 1\) for this query"),
    ("pairs", "q\t\t\t1", "the positive passage '3' is empty"),
    ("pairs", "\t\tyes\t1", "the query is empty"),
]


@pytest.mark.parametrize(("name", "line", "reason"), BAD, ids=[f"{name}: {reason}" for name, _, reason in BAD])
def test_a_bad_line_is_refused_or_left_out_and_counted(
    tmp_path: Path, name: str, line: str | bytes, reason: str
) -> None:
    path = tmp_path / f"train.{'jsonl' if name == 'jsonl' else 'tsv'}"
    path.write_bytes(GOOD[name].encode() + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    number = GOOD[name].count("\n") + 1
    message = rf"train\.(jsonl|tsv), line {number}: .*{reason}"
    with pytest.raises(DataError, match=message):
        read_groups(path)
    with pytest.raises(DataError, match=message):
        TrainingGroups.read(path)
    groups = TrainingGroups.read(path, skip_bad_lines=True)
    assert contents(groups) == contents(CAPITALS[:1])
    assert groups.skipped.count == 1
    assert str(groups.skipped).startswith(f"1 bad line left out: {path}, line {number}: ")
    noted = SkippedLines()
    assert contents(iterate_groups(path, skipped=noted)) == contents(CAPITALS[:1])
    assert noted == groups.skipped


def test_a_bad_item_of_dprs_json_is_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    items: list[Any] = [3, {"question": "q"}, *json.loads(dpr(CAPITALS)), {"positive_ctxs": [{"text": "x"}]}]
    path.write_text(json.dumps(items))
    with pytest.raises(DataError, match=r"train\.json: expected JSON lines, a JSON array, or 4 or 6 columns"):
        read_groups(path)  # an array of numbers is no array of questions
    path.write_text(json.dumps(items[1:]))
    with pytest.raises(DataError, match=r"train\.json, item 1: a training group needs at least one positive"):
        read_groups(path)
    groups = TrainingGroups.read(path, skip_bad_lines=True)
    assert contents(groups) == contents(CAPITALS)
    assert groups.skipped.count == 2
    assert groups.skipped.examples[1] == f"{path}, item 4: 'question' is missing"
    # What follows broken JSON cannot be told from it.
    path.write_text(json.dumps(items[2:])[:-4])
    with pytest.raises(DataError, match=r"train\.json, item 3: not valid JSON"):
        read_groups(path, skipped=SkippedLines())


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"[" * 100_000, r"not valid JSON \(nested too deeply\)"),
        (b'{"question": ' + b"1" * 5000 + b"}", "a number is too long"),
        (b'{"question": "\xff"}', "not UTF-8 text"),
        (b'{"question": ]}', "not valid JSON"),
        (b'{"question": "q"} {', r"not valid JSON \(expected ,\)"),
        (b"", "not valid JSON"),
        (b"{}] x", r"not valid JSON \(expected the end\)"),
    ],
    ids=["deep", "number", "bytes", "syntax", "no comma", "no item", "no end"],
)
def test_an_array_that_breaks_off_gives_what_comes_before(tmp_path: Path, broken: bytes, reason: str) -> None:
    path = tmp_path / "train.json"
    # The items before it fill what is read at a time, those that come after it are never reached.
    good = dpr(CAPITALS * 500).encode()[:-1]
    path.write_bytes(good + b", " + broken + b", " + good[1:] + b"]")
    with pytest.raises(DataError, match=rf"train\.json, item \d+: {reason}"):
        read_groups(path, skipped=SkippedLines())
    number = len(json.loads(good + b"]")) + 1
    if reason != "not UTF-8 text":  # which is found when a part of the file is read
        found = []
        with pytest.raises(DataError, match=rf"item {number}: | item {number + 1}: "):
            found.extend(iterate_groups(path, skipped=SkippedLines()))
        assert len(found) == number - 1


def test_a_number_in_dprs_json_may_be_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(dpr(CAPITALS).replace("1.5", "1e999999999999999999999"))
    assert contents(read_groups(path)) == contents(CAPITALS)
    path.write_text(dpr(CAPITALS).replace("France", "\\ud800"))
    with pytest.raises(DataError, match=r"item 1: 'title' holds half a surrogate pair"):
        read_groups(path)


def test_items_of_an_array_may_be_longer_than_what_is_read_at_a_time(tmp_path: Path) -> None:
    long = [TrainingGroup("1", "q", ("1",), (Passage("x" * 700_001),), ("2",), (Passage("\u00e9" * 300_003),))] * 5
    (tmp_path / "train.json").write_text(dpr(long, ensure_ascii=False))
    assert contents(read_groups(tmp_path / "train.json")) == contents(long)


def test_all_lines_of_a_query_without_a_positive_are_counted(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(GOOD["pairs"] + "q\t\tone\t0\nq\t\ttwo\t0\n")
    groups = TrainingGroups.read(tmp_path / "train.tsv", skip_bad_lines=True)
    assert groups.skipped.count == 2
    assert len(groups.skipped.examples) == 1


def test_files_without_any_group_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    for content, message in (
        ("", "no training groups"),
        ("one\ttwo\n", r"expected JSON lines, .*the file begins with 'one\\ttwo\\n'"),
        ("q\t\tonly\t0\n", r"no training groups \(1 bad line left out: .*line 1: no line of the file"),
        ("[]", "no training groups"),
    ):
        path.write_text(content)
        for read in (
            lambda: read_groups(path, skipped=SkippedLines()),
            lambda: TrainingGroups.read(path, skip_bad_lines=True),
        ):
            with pytest.raises(DataError, match=rf"train\.tsv: {message}"):
                read()
    with pytest.raises(DataError, match=r"nowhere: cannot be read: No such file"):
        TrainingGroups.read(tmp_path / "nowhere", cache=tmp_path / "cache")


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(jsonl(CAPITALS * 500).encode())[:-20])
    with pytest.raises(DataError, match=r"train\.jsonl\.gz: a damaged gzip file"):
        read_groups(tmp_path / "train.jsonl.gz", skipped=SkippedLines())


def test_a_cached_table_is_made_once_and_anew_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache, reads = tmp_path / "train.jsonl", tmp_path / "cache", []
    path.write_text(jsonl(CAPITALS) + "{\n")

    def counted(*arguments: Any, **options: Any) -> Any:
        reads.append(arguments)
        return iterate_groups(*arguments, **options)

    monkeypatch.setattr(training_groups_module, "iterate_groups", counted)
    with pytest.raises(DataError, match="line 3"):
        TrainingGroups.read(path, cache=cache)
    assert [name for name in os.listdir(cache) if not name.endswith(".lock")] == [], "half a table was left behind"
    for _ in range(3):
        groups = TrainingGroups.read(path, cache=cache, skip_bad_lines=True)
        assert list(groups) == CAPITALS
        assert groups.skipped.count == 1
    assert len(reads) == 2
    path.write_text(jsonl(CAPITALS[:1]))
    changed = TrainingGroups.read(path, cache=cache, skip_bad_lines=True)
    assert list(changed) == CAPITALS[:1]
    assert changed.skipped.count == 0
    assert list(groups) == CAPITALS, "the old table is as it was"
    assert len(reads) == 3


def test_what_a_killed_process_left_behind_is_replaced(tmp_path: Path) -> None:
    path, cache = tmp_path / "train.jsonl", tmp_path / "cache"
    path.write_text(jsonl(CAPITALS))
    TrainingGroups.read(path, cache=cache)
    (folder,) = (f for f in cache.iterdir() if f.is_dir())
    folder.rename(folder.with_suffix(".unfinished"))
    (folder.with_suffix(".unfinished") / "groups.arrow").write_bytes(b"half")
    assert list(TrainingGroups.read(path, cache=cache)) == CAPITALS
    assert [f for f in cache.iterdir() if f.is_dir()] == [folder]


def test_several_readers_of_one_cache_read_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads, read = tmp_path / "train.jsonl", [], []
    path.write_text(jsonl(CAPITALS * 1000))

    def counted(*arguments: Any, **options: Any) -> Any:
        reads.append(arguments)
        return iterate_groups(*arguments, **options)

    monkeypatch.setattr(training_groups_module, "iterate_groups", counted)
    threads = [
        threading.Thread(target=lambda: read.append(len(TrainingGroups.read(path, cache=tmp_path / "cache"))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [2000] * 4
    assert len(reads) == 1


def test_groups_on_disk_are_a_sequence(tmp_path: Path) -> None:
    groups = [TrainingGroup(str(i), f"query {i}", ("p",), (Passage(f"text {i}"),)) for i in range(2500)]
    write_groups(tmp_path / "train.jsonl", groups)
    on_disk = TrainingGroups.read(tmp_path / "train.jsonl")
    assert len(on_disk) == 2500
    assert list(on_disk) == groups
    assert (on_disk[0], on_disk[1001], on_disk[-1]) == (groups[0], groups[1001], groups[-1])
    assert on_disk[998:1002] == groups[998:1002]
    assert on_disk[::-1000] == groups[::-1000]
    assert on_disk[5:5] == []
    with pytest.raises(IndexError):
        on_disk[2500]
    assert groups[3] in on_disk


def test_groups_without_negatives_are_the_same_less_these(tmp_path: Path) -> None:
    write_groups(tmp_path / "train.jsonl", CAPITALS)
    on_disk = TrainingGroups.read(tmp_path / "train.jsonl")
    view = on_disk.without_negatives()
    del on_disk  # the view keeps the table
    assert contents(view) == [(g.query, g.positives, ()) for g in CAPITALS]
    assert contents([view[1]]) == [(CAPITALS[1].query, CAPITALS[1].positives, ())]


READER = """
import sys
import threading
from pathlib import Path
from rocketqa_haystack.data import TrainingGroups, read_groups
from trainers.sampling import known_positives
import datasets

def private():
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024

TrainingGroups.read(sys.argv[2])  # what the libraries need once
before, measured, done = private(), [], threading.Event()

def measure():
    while not done.wait(0.01):
        measured.append(private())

thread = threading.Thread(target=measure)
thread.start()
groups = TrainingGroups.read(sys.argv[1])
count = sum(len(group.query) > 0 for group in groups)
known = known_positives(groups)
assert groups[count - 1].positives[0] in known[groups[count - 1].query]
done.set()
thread.join()
print(count, max(measured) - before)
"""


def test_many_groups_take_little_memory(tmp_path: Path) -> None:
    # In memory these take some 45 MB.
    line = json.dumps(record(CAPITALS[0]))
    with (tmp_path / "train.jsonl").open("w") as file:
        file.writelines(line.replace("France?", f"France {i}?") + "\n" for i in range(60_000))
    (tmp_path / "small.jsonl").write_text(jsonl(CAPITALS * 1000))
    result = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path / "train.jsonl"), str(tmp_path / "small.jsonl")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    count, megabytes = result.stdout.split()
    assert int(count) == 60_000
    assert float(megabytes) < 15


def test_long_groups_are_kept_in_several_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.jsonl").write_text(jsonl(CAPITALS * 20))
    monkeypatch.setattr("rocketqa_haystack.data.training_groups._CHARACTERS", 100)
    groups = TrainingGroups.read(tmp_path / "train.jsonl")
    assert contents(groups) == contents(CAPITALS * 20)
    assert groups._table.data.table.column(0).num_chunks > 5


def test_checks_tell_what_is_wrong_by_count_and_example() -> None:
    yes, no = Passage("yes"), Passage("no")
    groups = [
        TrainingGroup("fine", "?", ("y",), (yes,), ("n", "m"), (no, Passage("not"))),
        TrainingGroup("few", "?", ("y",), (yes,), ("n", "n"), (no, no)),
        TrainingGroup("positive", "?", ("y",), (yes,), ("n", "y"), (no, yes)),
        TrainingGroup("title", "?", ("y",), (Passage("", "yes"),), ("n", "m"), (no, Passage(" "))),
        TrainingGroup("id", "?", ("y",), (yes,), ("n", "y"), (no, Passage("yes", "No"))),
    ]
    report = check_groups(groups, negatives=2)
    assert report.trainable
    assert str(report) == (
        "5 training groups: 2 with fewer than 2 different negatives (such as 'few', 'positive'). "
        "1 with a positive among its negatives (such as 'positive'). "
        "1 with an empty negative passage (such as 'title'). "
        "1 with a negative that has the id of a positive and another text (such as 'id')."
    )
    assert str(check_groups(groups[:1], negatives=2)) == "1 training groups, none with a fault."
    assert "fewer" not in str(check_groups(groups))
    useless = [
        TrainingGroup("a", "?", (), ()),
        TrainingGroup("b", " ", ("y",), (yes,)),
        TrainingGroup("c", "?", ("y",), (Passage("\n"),)),
    ]
    report = check_groups(useless * 9)
    assert not report.trainable
    assert {fault: finding.count for fault, finding in report.findings.items()} == {
        "no positive passage": 9,
        "an empty question": 9,
        "an empty positive passage": 9,
    }
    assert all(len(finding.query_ids) == 3 for finding in report.findings.values())


@pytest.mark.parametrize("command", ["train-dual-encoder", "train-cross-encoder"])
def test_the_command_trains_on_the_official_toolkits_files_and_says_what_it_left_out(
    command: str,
    encoder_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "train.tsv"
    path.write_text(pairs(CAPITALS) + "too few\tcolumns\n")
    model = ["--model", str(encoder_folder), "--output", str(tmp_path / "out"), "--show-progress", "false"]
    arguments = [command, "--data", str(path), *model]
    assert main(arguments) == 2
    assert f"{path}, line 5: expected 4 columns separated by tabs, found 2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    asked = ["--hard-negatives" if command == "train-dual-encoder" else "--negatives", "2"]
    assert main([*arguments, *asked, "--skip-bad-lines", "--data-cache", str(tmp_path / "cache")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"1 bad line left out: {path}, line 5: expected 4 columns separated by tabs, found 2"
    assert "2 training groups: 2 with fewer than 2 different negatives (such as '1', '3')." in caplog.messages
    assert any(folder.is_dir() for folder in (tmp_path / "cache").iterdir())


def test_options_for_files_are_refused_for_folders(
    collection_folder: Path, encoder_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(encoder_folder), "--output", str(tmp_path / "out"), "--data", str(collection_folder)]
    assert main(["train-dual-encoder", *model, "--skip-bad-lines"]) == 2
    assert "is a BEIR folder: --skip-bad-lines is for files of training groups" in capsys.readouterr().err
    retriever = ["--retriever", str(encoder_folder), "--data-cache", str(tmp_path)]
    assert main(["train-cross-encoder", *model, *retriever]) == 2
    assert "is a BEIR folder: --data-cache is for files of training groups" in capsys.readouterr().err
