"""Collections, training groups and runs: what is written is read back, and a bad line is refused with its place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketqa_haystack.data import (
    Collection,
    DataError,
    Passage,
    TrainingGroup,
    TrainingGroups,
    as_passage,
    groups_from_collection,
    load_collection,
    read_groups,
    read_qrels,
    save_collection,
    write_groups,
)
from rocketqa_haystack.data.files import atomic_folder, atomic_write, read_lines
from rocketqa_haystack.evaluation import read_run, write_run


def test_a_collection_is_read_as_it_was_written(tmp_path: Path, collection: Collection) -> None:
    qrels = {"train": dict(list(collection.qrels.items())[:30]), "test": dict(list(collection.qrels.items())[30:])}
    save_collection(tmp_path, collection.corpus, collection.queries, qrels)
    for split, judgements in qrels.items():
        loaded = load_collection(tmp_path, split)
        assert loaded.corpus == collection.corpus
        assert loaded.qrels == judgements
        assert loaded.queries == {id: collection.queries[id] for id in judgements}


def test_trec_and_beir_judgements_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "beir.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n")
    (tmp_path / "trec.qrels").write_text("q1 0 d1 1\nq1 0 d2 0\n")
    assert read_qrels(tmp_path / "beir.tsv") == read_qrels(tmp_path / "trec.qrels") == {"q1": {"d1": 1, "d2": 0}}


def test_a_question_may_be_called_like_the_header(tmp_path: Path) -> None:
    for header in ("", "query-id\tcorpus-id\tscore\n"):
        (tmp_path / "qrels.tsv").write_text(f"{header}qid\td1\t1\nq1\td2\t0\n")
        assert read_qrels(tmp_path / "qrels.tsv") == {"qid": {"d1": 1}, "q1": {"d2": 0}}


def test_a_grade_that_measures_could_not_hold_is_refused(tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("q1\td1\t1\nq1\td2\t2147483648\n")
    with pytest.raises(DataError, match="line 2: the grade 2147483648 is beyond 1,000"):
        read_qrels(tmp_path / "qrels.tsv")


def small_folder(folder: Path) -> Path:
    save_collection(folder, {"d": Passage("text")}, {"q": "question"}, {"test": {"q": {"d": 1}}})
    return folder


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("corpus.jsonl", "{", r"corpus\.jsonl, line 2: not valid JSON"),
        ("corpus.jsonl", "[]", r"corpus\.jsonl, line 2: expected a JSON object, found list"),
        ("corpus.jsonl", '{"text": "x"}', r"corpus\.jsonl, line 2: '_id' is missing"),
        ("corpus.jsonl", '{"_id": "e", "text": null}', r"corpus\.jsonl, line 2: 'text' is missing"),
        ("corpus.jsonl", '{"_id": "e", "text": ["x"]}', r"corpus\.jsonl, line 2: 'text' must be a string, not list"),
        ("corpus.jsonl", '{"_id": "d", "text": "again"}', r"corpus\.jsonl, line 2: the id 'd' was used before"),
        ("queries.jsonl", '{"_id": "q", "text": "again"}', r"queries\.jsonl, line 2: the id 'q' was used before"),
        ("qrels/test.tsv", "q\td", r"test\.tsv, line 3: expected 3 columns .* found 2"),
        ("qrels/test.tsv", "q\td\tyes", r"test\.tsv, line 3: the grade must be a whole number, not 'yes'"),
        ("qrels/test.tsv", "q9\td\t1", r"test\.tsv: query 'q9' is not in queries\.jsonl"),
        ("corpus.jsonl", '{"_id": %s}' % ("1" * 5_000), r"corpus\.jsonl, line 2: a number is too long"),
        ("qrels/test.tsv", "q\t\t1", r"test\.tsv: passage '', judged for query 'q', is not in corpus\.jsonl"),
        ("qrels/test.tsv", "q\td9\t1", r"test\.tsv: passage 'd9', judged for query 'q', is not in corpus\.jsonl"),
    ],
)
def test_a_bad_line_is_refused_with_file_line_and_reason(tmp_path: Path, file: str, line: str, message: str) -> None:
    with (small_folder(tmp_path) / file).open("a") as opened:
        opened.write(line + "\n")
    with pytest.raises(DataError, match=message):
        load_collection(tmp_path)


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    with (small_folder(tmp_path) / "corpus.jsonl").open("ab") as opened:
        opened.write(b'{"_id": "e", "text": "\xff"}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl, line 2: not UTF-8"):
        load_collection(tmp_path)


def test_missing_files_and_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"corpus\.jsonl: cannot be read: No such file"):
        load_collection(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"there is no split 'dev' \(splits here: test\)"):
        load_collection(small_folder(tmp_path), "dev")


texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
passages = st.builds(Passage, text=texts, title=texts)


@given(
    st.lists(
        st.builds(
            lambda query, positives, negatives: TrainingGroup(
                "q",
                query,
                tuple(f"p{i}" for i in range(len(positives))),
                tuple(positives),
                tuple(f"n{i}" for i in range(len(negatives))),
                tuple(negatives),
            ),
            texts.filter(str.strip),
            st.lists(passages.filter(lambda passage: not passage.is_empty()), min_size=1, max_size=3),
            st.lists(passages, max_size=3),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_training_groups_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, groups: list[TrainingGroup]
) -> None:
    path = tmp_path_factory.mktemp("groups") / "groups.jsonl"
    write_groups(path, groups)
    assert read_groups(path) == groups
    on_disk = TrainingGroups.read(path)
    assert list(on_disk) == on_disk[:] == [on_disk[i] for i in range(len(groups))] == groups


def test_the_form_of_training_groups_is_tevatrons(tmp_path: Path) -> None:
    record = {
        "query_id": "1",
        "query": "who?",
        "positive_passages": [{"docid": "7", "title": "T", "text": "x", "score": 0.5}],
        "negative_passages": [{"docid": "8", "text": "y"}],
    }
    (tmp_path / "groups.jsonl").write_text(json.dumps(record) + "\n")
    expected = TrainingGroup("1", "who?", ("7",), (Passage("x", "T"),), ("8",), (Passage("y"),))
    assert read_groups(tmp_path / "groups.jsonl") == [expected]
    (tmp_path / "bad.jsonl").write_text(json.dumps({**record, "positive_passages": []}) + "\n")
    with pytest.raises(DataError, match=r"bad\.jsonl, line 1: a training group needs at least one positive"):
        read_groups(tmp_path / "bad.jsonl")


def test_judged_positives_are_never_among_the_negatives(collection: Collection) -> None:
    groups = groups_from_collection(collection, {id: list(collection.corpus) for id in collection.queries})
    for group in groups:
        assert not set(group.positive_ids) & set(group.negative_ids)
        assert len(group.negative_ids) == len(collection.corpus) - 1
    nothing = Collection(collection.corpus, {"q": "x"}, {"q": {"p1": 0}})
    assert groups_from_collection(nothing) == []


def test_runs_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = {"q1": {"a": 1.5, "b": -0.25}, "q2": {"c": 1e-7}}
    write_run(tmp_path / "run.trec", run)
    assert read_run(tmp_path / "run.trec") == run
    assert (tmp_path / "run.trec").read_text().splitlines()[0] == "q1 Q0 a 1 1.5 rocketqa"
    with pytest.raises(DataError, match="cannot hold ids with white space: 'q', 'a b'"):
        write_run(tmp_path / "bad.trec", {"q": {"a b": 1.0}})
    assert sorted(os.listdir(tmp_path)) == ["run.trec"]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail() -> None:
        with atomic_write(target) as file:
            file.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]
    with atomic_write(target) as file:
        file.write("new")
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o444 == 0o444


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfone\r\n\n  \ntwo")
    assert list(read_lines(tmp_path / "file")) == [(1, "one"), (4, "two")]


def test_passages_and_strings_are_passages() -> None:
    assert as_passage("x") == Passage("x")
    assert as_passage(Passage("x", "y")) == Passage("x", "y")
    with pytest.raises(TypeError, match="must be a Passage or a string, not int"):
        as_passage(3)  # type: ignore[arg-type]


def test_a_folder_that_could_not_be_filled_leaves_no_folders_above_it(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "a" / "b" / "model") as folder:
            (folder / "half").touch()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert not list(tmp_path.iterdir())
    with atomic_folder(tmp_path / "a" / "b" / "model") as folder:
        (folder / "whole").touch()
    assert [path.name for path in (tmp_path / "a" / "b").rglob("*")] == ["model", "whole"]
