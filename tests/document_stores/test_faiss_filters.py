"""Filters compiled to SQL select what Haystack's own matching selects."""

from datetime import datetime, timezone
from typing import Any

import pytest
from haystack import Document
from haystack.dataclasses import ByteStream
from haystack.errors import FilterError
from haystack.utils.filters import document_matches_filter
from hypothesis import given, settings
from hypothesis import strategies as st

from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore
from rocketqa_haystack.document_stores.faiss.filters import Condition

KEYS = ["name", "n", "a b", 'q"uote', "back\\slash", "br[0]", "ünï", "$", "#", "", "it's", "-- ;", "line\nbreak"]
NUMBERS = [0, 1, -1, 2**53, 2**53 + 1, 2**63, 2**63 + 1, 2**70, 0.0, -0.0, 1.0, 0.1, 0.30000000000000004, 1e16, 2.0**63]
STRINGS = ["", "a", "A", "a\0b", "1", "1.0", "true", "null", "ünï", "e\u0301", "é", "%", "a' OR 1=1 --", "line\nbreak"]
DATES = ["2024-01-01", "2024-01-01T00:00:00", "2024-01-01T00:00:00+00:00", "2024-01-01 24:00", "2023-12-31T24:00"]
SCALARS = [None, True, False, *NUMBERS, *STRINGS, *DATES]
scalars = st.sampled_from(SCALARS)
values = st.one_of(
    scalars, st.lists(scalars, max_size=2), st.dictionaries(st.sampled_from(["x", *KEYS]), scalars, max_size=2)
)
metas = st.dictionaries(st.sampled_from(KEYS), values, max_size=5)
contents = st.sampled_from([None, "", "a", "a\0b", "2024-01-01", "é"])

fields = st.one_of(
    st.sampled_from(KEYS).map(lambda key: f"meta.{key}"),
    st.sampled_from(KEYS),
    st.tuples(st.sampled_from(KEYS), st.sampled_from(["x", *KEYS])).map(lambda keys: f"meta.{keys[0]}.{keys[1]}"),
    st.sampled_from(["id", "content", "meta", "score", "embedding", "blob", "sparse_embedding", "content_type"]),
    st.sampled_from(["blob.mime_type", "content.x", "nothing", "no.thing", "meta.", "meta..", ".", "metaphor"]),
)
filter_values = st.one_of(
    values, st.just(datetime(2024, 1, 1)), st.just(datetime(2024, 1, 1, tzinfo=timezone.utc)), st.just("0")
)
comparisons = st.one_of(
    st.fixed_dictionaries(
        {"field": fields, "operator": st.sampled_from(["==", "!=", ">", ">=", "<", "<="]), "value": filter_values}
    ),
    st.fixed_dictionaries(
        {
            "field": fields,
            "operator": st.sampled_from(["in", "not in"]),
            "value": st.lists(st.one_of(scalars, filter_values), max_size=3),
        }
    ),
)
filters = st.recursive(
    comparisons,
    lambda conditions: st.fixed_dictionaries(
        {"operator": st.sampled_from(["AND", "OR", "NOT"]), "conditions": st.lists(conditions, max_size=3)}
    ),
    max_leaves=4,
)


def outcome(select: Any) -> Any:
    try:
        return select()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("field", ["meta.value", "meta.inner.value", "value", "content"])
@pytest.mark.parametrize("operator", ["==", "!=", "in", "not in"])
def test_equality_is_haystacks_for_every_pair_of_values(field: str, operator: str) -> None:
    documents = [
        Document(
            id=str(number),
            content=each if isinstance(each, str) else None,
            meta={"value": each, "inner": {"value": each}},
        )
        for number, each in enumerate([*SCALARS, ["a"], [1], {"a": 1}])
    ]
    with FAISSDocumentStore() as store:
        store.write_documents(documents)
        for value in [*SCALARS, ["a"], datetime(2024, 1, 1)]:
            given_values = [value] if operator in ("==", "!=") else [[value], [value, "a"], [value, 1, None], []]
            for each in given_values:
                filters = {"field": field, "operator": operator, "value": each}
                expected = [document for document in documents if document_matches_filter(filters, document)]
                assert store.filter_documents(filters) == expected


@pytest.mark.parametrize("operator", [">", ">=", "<", "<="])
def test_order_is_haystacks_for_every_pair_of_numbers(operator: str) -> None:
    numbers = [*NUMBERS, True, False, -(2**63), 0.1 + 2**-56, 5e-324, 1e308, -1e308, 1 + 2**-52, 123456789.123456789]
    documents = [Document(id=str(n), meta={"value": each, "in": {"x": each}}) for n, each in enumerate(numbers)]
    documents += [Document(id="none", meta={"value": None, "in": [1]}), Document(id="bare")]
    with FAISSDocumentStore() as store:
        store.write_documents(documents)
        for value in [*numbers, None, float("inf"), float("-inf"), float("nan")]:
            for field in ("value", "meta.value", "meta.in.x"):
                filters = {"field": field, "operator": operator, "value": value}
                expected = [document for document in documents if document_matches_filter(filters, document)]
                assert store.filter_documents(filters) == expected


@given(filters)
def test_no_value_and_no_name_of_a_field_reaches_the_sql(each: Any) -> None:
    def marked(part: Any) -> Any:
        if isinstance(part, dict) and "field" in part:
            return {**part, "field": "meta.MARK'\"", "value": ["MARK"] if isinstance(part["value"], list) else "MARK"}
        return {**part, "conditions": [marked(inner) for inner in part["conditions"]]}

    assert "MARK" not in Condition(marked(each)).sql


@pytest.mark.parametrize("key", KEYS)
def test_a_field_is_found_whatever_its_name(key: str) -> None:
    plain, nested = Document(id="plain", meta={key: "a"}), Document(id="nested", meta={"outer": {key: "a"}})
    with FAISSDocumentStore() as store:
        store.write_documents([plain, nested, Document(id="other", meta={f"{key}x": "a", "outer": ["a"]})])
        for field, expected in ((f"meta.{key}", plain), (key, plain), (f"meta.outer.{key}", nested)):
            assert store.filter_documents({"field": field, "operator": "==", "value": "a"}) == [expected]


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.tuples(contents, metas), min_size=4, max_size=6), st.lists(filters, min_size=4, max_size=6))
def test_a_filter_selects_what_haystack_says_matches(contents_and_metas: Any, many_filters: Any) -> None:
    documents = [
        Document(
            id=str(number),
            content=content,
            meta=meta,
            score=float(number),
            embedding=[float(number)],
            blob=ByteStream(b"a", mime_type="text/plain") if number % 2 else None,
        )
        for number, (content, meta) in enumerate(contents_and_metas)
    ]
    with FAISSDocumentStore() as store:
        store.write_documents(documents)
        for each in many_filters:
            expected = outcome(lambda each=each: [d.id for d in documents if document_matches_filter(each, d)])
            assert outcome(lambda each=each: [d.id for d in store.filter_documents(each)]) == expected
            count = outcome(lambda each=each: store.count_documents_by_filter(each))
            assert count == (len(expected) if isinstance(expected, list) else expected)


@pytest.mark.parametrize("operator", ["AND", "OR", "NOT"])
@pytest.mark.parametrize(("depth", "width"), [(7, 1), (8, 2), (9, 2), (60, 1), (1, 25_000)])
def test_filters_are_as_deep_and_as_wide_as_they_come(operator: str, depth: int, width: int) -> None:
    documents = [Document(id=str(n), meta={"n": n, "word": f"w{n % 3}"}) for n in range(9)]
    each: Any = {"field": "meta.n", "operator": ">", "value": 4}
    for level in range(depth):
        others = [{"field": "meta.word", "operator": "==", "value": f"w{level % 3}"}] * (width > 1)
        conditions = [each] * width if width > 2 else [each, *others]
        each = {"operator": operator if level % 2 else "AND", "conditions": conditions}
    with FAISSDocumentStore() as store:
        store.write_documents(documents)
        assert store.filter_documents(each) == [d for d in documents if document_matches_filter(each, d)]


def test_a_condition_guards_the_ones_after_it() -> None:
    documents = [Document(id=str(n), meta={"kind": "text", "n": "many"}) for n in range(5)]
    documents.append(Document(id="9", meta={"kind": "number", "n": 3}))
    guard = {"field": "meta.kind", "operator": "==", "value": "number"}
    comparison = {"field": "meta.n", "operator": ">", "value": 2}
    with FAISSDocumentStore() as store:
        store.write_documents(documents)
        guarded = {"operator": "AND", "conditions": [guard, comparison]}
        assert [document.id for document in store.filter_documents(guarded)] == ["9"]
        with pytest.raises(FilterError):
            store.filter_documents({"operator": "AND", "conditions": [comparison, guard]})


def test_a_comparison_that_fails_deletes_and_changes_nothing() -> None:
    documents = [Document(id="1", meta={"n": 5}), Document(id="2", meta={"n": "five"})]
    impossible = {"field": "meta.n", "operator": ">", "value": 2}
    with FAISSDocumentStore() as store:
        store.write_documents(documents)
        with pytest.raises(FilterError):
            store.delete_by_filter(impossible)
        with pytest.raises(FilterError):
            store.update_by_filter(impossible, {"seen": True})
        assert store.filter_documents() == documents


@pytest.mark.parametrize(
    "malformed",
    [
        {"field": "meta.n", "operator": "=", "value": 1},
        {"field": "meta.n", "operator": ["=="], "value": 1},
        {"field": "meta.n", "operator": "=="},
        {"field": "meta.n", "value": 1},
        {"field": 3, "operator": "==", "value": 1},
        {"field": "meta.n", "operator": "in", "value": "abc"},
        {"operator": "AND"},
        {"operator": "XOR", "conditions": []},
        {"operator": "AND", "conditions": {"field": "meta.n", "operator": "==", "value": 1}},
        {"operator": "AND", "conditions": ["meta.n == 1"]},
        {"conditions": []},
        ["meta.n == 1"],
    ],
)
def test_a_malformed_filter_is_refused_even_by_an_empty_store(malformed: Any) -> None:
    with FAISSDocumentStore() as store:
        with pytest.raises(FilterError):
            store.filter_documents(malformed)
        with pytest.raises(FilterError):
            store.embedding_retrieval([1.0], filters=malformed)


@pytest.mark.parametrize("empty", [{}, None])
def test_nothing_is_deleted_or_changed_by_an_empty_filter(empty: Any) -> None:
    with FAISSDocumentStore() as store:
        store.write_documents([Document(content="a")])
        with pytest.raises(FilterError):
            store.delete_by_filter(empty)
        with pytest.raises(FilterError):
            store.update_by_filter(empty, {"a": 1})
        assert store.count_documents() == 1
