"""Answers: SQuAD's measures, the match by answer string, and the files that answers come from."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocketqa_haystack.data import (
    DataError,
    Passage,
    find_answers,
    load_answered_collection,
    load_squad,
    read_answers,
    save_collection,
)
from rocketqa_haystack.evaluation import (
    answer_rank,
    exact_match,
    f1_score,
    has_answer,
    measure_answers,
    normalize_answer,
)

TEXTS = st.text(st.sampled_from(" abtThe.,-!'12é\n\tAN"), max_size=25)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Denver\tBroncos", "denver broncos"),
        ("U.S.A.", "usa"),
        ("an apple, a day", "apple day"),
        ("thereafter", "thereafter"),  # articles are words, not beginnings of words
        ("twenty-one", "twentyone"),  # punctuation goes without leaving a space
        ("a-team", "ateam"),  # and before articles
        ("“the” end", "“ ” end"),  # only ASCII punctuation, but an article all the same
        ("$12", "12"),
        ("a", ""),
        ("", ""),
    ],
)
def test_normalisation_is_that_of_squad(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("The Denver Broncos!", ["Denver Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos", "Carolina"], 0, 2 / 3),
        ("in October 1973", ["October 1973", "October", "1973"], 0, 4 / 5),  # the best of the answers
        ("no no no yes", ["no yes yes"], 0, 2 * 2 / 7),  # words as multisets: one no and one yes in common
        ("Paris", ["Berlin"], 0, 0),
        ("", ["Berlin"], 0, 0),
        ("", [], 1, 1),  # a question without an answer
        ("Berlin", [], 0, 0),
        ("the", ["an"], 1, 1),  # nothing is left of either
        ("the", ["Berlin"], 0, 0),
        ("Berlin", ["the", "Berlin"], 1, 1),
        ("", ["the", "Berlin"], 0, 0),  # an answer of which nothing is left does not count beside others
    ],
)
def test_exact_match_and_f1_are_those_of_squad(prediction: str, answers: list[str], em: float, f1: float) -> None:
    assert exact_match(prediction, answers) == em
    assert f1_score(prediction, answers) == pytest.approx(f1)


@given(TEXTS, TEXTS)
def test_f1_is_symmetric_and_1_for_what_matches_exactly(first: str, second: str) -> None:
    assert f1_score(first, [second]) == pytest.approx(f1_score(second, [first]))
    assert 0 <= f1_score(first, [second]) <= 1
    if exact_match(first, [second]):
        assert f1_score(first, [second]) == 1
    assert normalize_answer(normalize_answer(first)) == normalize_answer(first)


def test_measures_are_means_and_a_missing_prediction_is_no_answer() -> None:
    answers = {"1": ("x y",), "2": ("z",), "3": ()}
    assert measure_answers({"1": "x", "2": "the z"}, answers) == pytest.approx({"EM": 2 / 3, "F1": (2 / 3 + 1 + 1) / 3})


@pytest.mark.parametrize(
    ("text", "answers", "found"),
    [
        ("Born in 1973, in São Paulo.", ["são paulo"], True),
        ("Born in 1973, in São Paulo.", ["sao paulo"], False),
        ("Born in 1973, in Sa\u0303o Paulo.", ["S\u00e3o"], True),  # one letter or two code points
        ("the 1970s", ["1970"], False),  # whole tokens
        ("about $12 a barrel", ["$12"], True),
        ("the U.S. economy", ["U.S."], True),
        ("the US economy", ["U.S."], False),
        ("anything", ["", " "], False),
        ("anything", [], False),
        ("x", ["y", "X"], True),
    ],
)
def test_an_answer_string_is_found_as_tokens(text: str, answers: list[str], found: bool) -> None:
    assert has_answer(text, answers) == found


def test_the_rank_is_that_of_the_first_text_with_an_answer() -> None:
    assert answer_rank(["a b", "b c", "c"], ["c", "d"]) == 2
    assert answer_rank(["a", "b"], ["c"]) is None
    assert answer_rank([], ["c"]) is None


@pytest.mark.parametrize(
    ("text", "answers", "found"),
    [
        ("in 1973 and 1973s", ["1973"], ["1973"]),  # whole words first
        ("Oil and oil", ["Oil"], ["Oil"]),  # the same letter case first
        ("OIL", ["oil"], ["OIL"]),
        ("the 1970s", ["1970"], ["1970"]),  # then inside of words
        ("a (b) c", ["(b)"], ["(b)"]),  # no pattern, but a string
        ("a b a", ["a", "b"], ["a", "b", "a"]),
        ("a", ["b", " "], []),
    ],
)
def test_answers_are_looked_for_as_whole_words_first(text: str, answers: list[str], found: list[str]) -> None:
    spans = find_answers(text, answers)
    assert [text[start:end] for start, end in spans] == found
    assert list(spans) == sorted(spans)


def squad(**changes: Any) -> dict[str, Any]:
    question = {"id": "q1", "question": "When?", "answers": [{"text": "1973", "answer_start": 3}], **changes}
    paragraphs = [
        {"context": "In 1973.", "qas": [question]},
        {"context": "Never.", "qas": [{"id": "q2", "question": "?", "answers": [], "is_impossible": True}]},
    ]
    return {"version": "v2.0", "data": [{"title": "Oil_crisis", "paragraphs": paragraphs}]}


@pytest.mark.parametrize("form", ["official", "gzip", "lines"])
def test_squad_is_read_in_both_forms(form: str, tmp_path: Path) -> None:
    file = tmp_path / "squad"
    if form == "lines":
        records = [
            {"id": "q1", "title": "Oil crisis", "context": "In 1973.", "question": "When?"}
            | {"answers": {"text": ["1973"], "answer_start": [3]}},
            {"id": "q2", "title": "Oil crisis", "context": "Never.", "question": "?"}
            | {"answers": {"text": [], "answer_start": []}},
        ]
        file.write_text("\n".join(map(json.dumps, records)))
    else:
        content = json.dumps(squad()).encode()
        file.write_bytes(gzip.compress(content) if form == "gzip" else content)
    data = load_squad(file)
    assert list(data.collection.corpus.values()) == [Passage("In 1973.", "Oil crisis"), Passage("Never.", "Oil crisis")]
    first, second = data.questions()
    assert (first.answers, first.spans, first.negatives) == (("1973",), (((3, 7),),), ())
    assert (second.answers, second.positives, second.negatives) == ((), (), (Passage("Never.", "Oil crisis"),))


@pytest.mark.parametrize("without", [{"answers": None}, {"answers": []}, {"is_impossible": True}, {}])
def test_a_question_of_squad_without_answers_has_none(without: dict[str, Any], tmp_path: Path) -> None:
    question = {"id": "q1", "question": "When?", **without}
    article = {"title": "Oil", "paragraphs": [{"context": "In 1973.", "qas": [question]}]}
    (tmp_path / "squad.json").write_text(json.dumps({"data": [article]}))
    (read,) = load_squad(tmp_path / "squad.json").questions()
    assert (read.query, read.answers) == ("When?", ())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            squad(answers=[{"text": "1974", "answer_start": 3}]),
            "question 'q1': its answer '1974' is not at character 3",
        ),
        (squad(answers=[{"text": "1973"}]), "question 'q1': an answer needs a 'text' and an 'answer_start'"),
        (squad(id="q2"), "question 'q2': the id was used before"),
        (squad(question=None), "'question' is missing"),
        ({"data": 3}, "'data' must be a list of JSON objects"),
        ({"data": []}, "no questions"),
        (
            {"id": "q", "context": "x", "question": "?", "answers": {"text": ["x"]}},
            "line 1, question 'q': 'answers' must",
        ),
        ([1], "line 1: expected a JSON object"),
    ],
)
def test_a_bad_squad_file_is_refused_with_its_place(content: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError) as raised:
        load_squad(file)
    assert str(raised.value).startswith(str(file))
    assert message in str(raised.value)


def test_answers_of_a_beir_folder_become_questions_with_places_and_distractors(tmp_path: Path) -> None:
    corpus = {"p1": Passage("It was 1973 or 1974."), "p2": Passage("In winter."), "p3": Passage("In May.")}
    save_collection(tmp_path, corpus, {}, {"train": {"q1": {"p1": 1}, "q2": {"p2": 1}, "q3": {"p3": 1}}})
    lines = [
        {"_id": "q1", "text": "When?", "answers": ["1974", "1973"]},
        {"_id": "q2", "text": "When else?", "answers": ["summer"]},  # not in its passage
        {"_id": "q3", "text": "No answers here"},
    ]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = load_answered_collection(tmp_path, "train")
    (question,) = data.questions({"q1": ["p1", "p3", "p2"]})
    assert question.query_id == "q1"
    assert question.spans == (((7, 11), (15, 19)),)
    assert question.negatives == (corpus["p3"], corpus["p2"])


def test_answers_that_are_no_list_of_strings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "?", "answers": "1973"}\n')
    with pytest.raises(DataError, match="line 1: 'answers' must be a list of strings, not '1973'"):
        read_answers(tmp_path / "queries.jsonl")
