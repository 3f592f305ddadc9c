"""What the document store keeps, finds and refuses."""

import asyncio
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from haystack import Document
from haystack.dataclasses import ByteStream, SparseEmbedding
from haystack.document_stores.errors import DocumentStoreError, DuplicateDocumentError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from hypothesis import given, settings
from hypothesis import strategies as st

from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore
from rocketqa_haystack.document_stores.faiss import filters as filters_module
from rocketqa_haystack.document_stores.faiss.database import Database

text = st.text(max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)
metas = st.dictionaries(text, json_values, max_size=3)
documents = st.builds(
    Document,
    content=st.none() | text,
    meta=metas,
    score=st.none() | st.floats(allow_nan=False),
    embedding=st.none() | st.lists(st.floats(-(2.0**62), 2.0**62, width=32), min_size=3, max_size=3),
    blob=st.none() | st.builds(ByteStream, st.binary(max_size=4), metas, st.none() | text),
    sparse_embedding=st.none()
    | st.lists(st.tuples(st.integers(0, 9), st.floats(-1, 1)), max_size=2).map(
        lambda pairs: SparseEmbedding([index for index, _ in pairs], [value for _, value in pairs])
    ),
)


def random_vectors(count: int, dimension: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)


def plain_documents(count: int) -> list[Document]:
    return [Document(id=str(number), meta={"number": number}) for number in range(count)]


class Kind(str, Enum):
    NOTE = "note"


def test_texts_and_bytes_of_other_types_come_back_as_what_they_are_equal_to() -> None:
    blob = ByteStream(bytearray(b"\x00\x01"))  # type: ignore[arg-type]
    with FAISSDocumentStore() as store:
        store.write_documents(
            [
                Document(id=np.str_("a"), content=Kind.NOTE),
                Document(id="b", content=np.str_("text")),
                Document(id="c", blob=blob),
            ]
        )
        found = store.filter_documents()
    assert [(d.id, d.content) for d in found] == [("a", "note"), ("b", "text"), ("c", None)]
    assert {type(d.content) for d in found[:2]} == {str}
    assert found[2].blob is not None
    assert found[2].blob.data == b"\x00\x01"


@settings(max_examples=100, deadline=None)
@given(st.lists(documents, max_size=4, unique_by=lambda document: document.id))
def test_documents_come_back_as_they_were_in_the_order_of_writing(originals: list[Document]) -> None:
    with FAISSDocumentStore() as store:
        assert store.write_documents(originals) == len(originals)
        assert store.filter_documents(return_embedding=True) == originals


def test_documents_are_there_when_the_folder_is_opened_again(tmp_path: Path) -> None:
    originals = [Document(content="a", embedding=[1.0, 2.0]), Document(content="b", meta={"a": {"b": [1, None]}})]
    path = tmp_path / "not" / "yet"
    with FAISSDocumentStore(path=path, return_embedding=True) as store:
        store.write_documents(originals)
    assert store.filter_documents() == originals  # opened again by its use
    store.close()
    with FAISSDocumentStore(path=path) as store:
        assert store.filter_documents(return_embedding=True) == originals
    names = {file.name for file in path.iterdir()} - {"index.lock"}
    assert names == {"documents.sqlite", "index.faiss", "index.json"}


@pytest.mark.parametrize(
    ("meta", "key"),
    [
        ({"fine": 1, "date": datetime(2024, 1, 1)}, "date"),
        ({"pair": (1, 2)}, "pair"),
        ({"a": {"b": float("nan")}}, "a"),
        ({"a": [float("inf")]}, "a"),
        ({"numbers": {1: "one"}}, "numbers"),
        ({1: "one"}, "1"),
        ({"raw": b"bytes"}, "raw"),
        ({"array": np.zeros(2)}, "array"),
        ({"half": "\ud800"}, "half"),
    ],
)
def test_metadata_that_would_come_back_different_is_refused(meta: Any, key: str) -> None:
    with FAISSDocumentStore() as store:
        with pytest.raises(ValueError, match=rf"document 'd': meta\['?{key}'?\]"):
            store.write_documents([Document(id="fine"), Document(id="d", meta=meta)])
        assert store.count_documents() == 0
        store.write_documents([Document(id="d")])
        if key != "1":
            with pytest.raises(ValueError, match=rf"meta\['{key}'\]"):
                store.update_by_filter({"field": "id", "operator": "==", "value": "d"}, meta)
            assert store.filter_documents() == [Document(id="d")]


@pytest.mark.parametrize(
    "unfit",
    [
        Document(id="d", content="\ud800"),
        Document(id="d", score=float("nan")),
        Document(id="d", sparse_embedding=SparseEmbedding([0], [float("nan")])),
        Document(id="d", blob=ByteStream(b"", meta={"when": datetime(2024, 1, 1)})),
        Document(id="d", embedding=[0.0, float("nan")]),
        Document(id="d", embedding=[0.0, float("-inf")]),
        Document(id="d", embedding=[0.0, 1e300]),
        Document(id="d", embedding=[]),
        Document(id="d", embedding=[[0.0, 1.0]]),  # type: ignore[list-item]
        Document(id="d", embedding=["zero", "one"]),  # type: ignore[list-item]
        Document(id="d", embedding=[1.0, 2.0, 3.0]),
    ],
)
def test_a_batch_with_an_unfit_document_is_refused_whole_and_names_it(unfit: Document) -> None:
    with FAISSDocumentStore() as store:
        store.write_documents([Document(id="old", embedding=[1.0, 2.0])])
        with pytest.raises(ValueError, match="document 'd'"):
            store.write_documents([Document(id="old"), unfit], policy=DuplicatePolicy.OVERWRITE)
        assert store.filter_documents(return_embedding=True) == [Document(id="old", embedding=[1.0, 2.0])]


def test_an_id_that_comes_twice_is_handled_by_the_policy() -> None:
    first, second = Document(id="a", content="first"), Document(id="a", content="second")
    with FAISSDocumentStore() as store:
        for policy in (DuplicatePolicy.FAIL, DuplicatePolicy.NONE):
            with pytest.raises(DuplicateDocumentError, match="'a'"):
                store.write_documents([first, second], policy=policy)
            assert store.count_documents() == 0
        assert store.write_documents([first, second], policy=DuplicatePolicy.SKIP) == 1
        assert store.filter_documents() == [first]
        assert store.write_documents([first, second], policy=DuplicatePolicy.OVERWRITE) == 2
        assert store.filter_documents() == [second]


def test_an_overwritten_document_moves_to_the_end_as_it_does_in_memory() -> None:
    for store in (FAISSDocumentStore(), InMemoryDocumentStore(shared=False)):
        store.write_documents(plain_documents(3))
        store.write_documents([Document(id="0")], policy=DuplicatePolicy.OVERWRITE)
        assert [document.id for document in store.filter_documents()] == ["1", "2", "0"]


def test_what_is_no_list_of_documents_is_refused() -> None:
    with FAISSDocumentStore() as store:
        with pytest.raises(ValueError, match="must be a list of Documents, but got Document"):
            store.write_documents(Document(content="a"))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="but it holds 'a'"):
            store.write_vectors([Document(content="a"), "a"], np.zeros((2, 2)))  # type: ignore[list-item]


def test_vectors_given_as_an_array_are_stored_like_embeddings(tmp_path: Path) -> None:
    vectors = random_vectors(20)
    as_lists = [
        Document(id=document.id, meta=document.meta, embedding=vector.tolist())
        for document, vector in zip(plain_documents(20), vectors, strict=True)
    ]
    with FAISSDocumentStore() as store:
        assert store.write_vectors(plain_documents(20), vectors) == 20
        assert store.filter_documents(return_embedding=True) == as_lists
        assert asyncio.run(store.write_vectors_async(plain_documents(20), vectors, DuplicatePolicy.SKIP)) == 0


def test_vectors_too_long_to_be_compared_are_refused_without_a_warning() -> None:
    store = FAISSDocumentStore(similarity="l2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.write_documents(
            [Document(id="there", embedding=[6e18, -6e18]), Document(id="opposite", embedding=[-6e18, 6e18])]
        )
        assert len(store.embedding_retrieval([6e18, -6e18])) == 2
        with pytest.raises(ValueError, match="of document 'large' is too long"):
            store.write_documents([Document(id="large", embedding=[1e20] * 2)])
        with pytest.raises(ValueError, match="of document 'larger' is too long"):
            store.write_vectors([Document(id="larger")], np.full((1, 2), 3e38, dtype=np.float32))
        with pytest.raises(ValueError, match="must be finite"):
            store.write_documents([Document(id="largest", embedding=[1e20, float("inf")])])
        assert store.count_documents() == 2


@pytest.mark.parametrize("vectors", [np.zeros((2, 3)), np.zeros(1), np.zeros((1, 2, 2)), [[0.0, 1.0]]])
def test_vectors_that_are_not_one_for_each_document_are_refused(vectors: Any) -> None:
    with FAISSDocumentStore() as store, pytest.raises(ValueError, match=r"shape \[1, dim\]"):
        store.write_vectors([Document(content="a")], vectors)


def test_a_vector_of_another_dimension_is_refused_until_the_index_is_recreated() -> None:
    with FAISSDocumentStore() as store:
        store.write_vectors(plain_documents(2), random_vectors(2, dimension=4))
        assert len(store.embedding_retrieval([1.0] * 4)) == 2
        with pytest.raises(
            ValueError, match="document 'new' has 3 dimensions, but the embeddings in this store have 4"
        ):
            store.write_documents([Document(id="new", embedding=[1.0] * 3)])
        store.delete_all_documents()
        with pytest.raises(ValueError, match="has 3 dimensions"):
            store.write_documents([Document(id="new", embedding=[1.0] * 3)])
        store.delete_all_documents(recreate_index=True)
        store.write_documents([Document(id="new", embedding=[1.0] * 3)])
        assert [document.id for document in store.embedding_retrieval([1.0] * 3)] == ["new"]


@pytest.mark.parametrize("similarity", ["inner_product", "cosine"])
@pytest.mark.parametrize("filtered", [False, True])
def test_a_search_finds_the_true_top_k(similarity: Any, filtered: bool) -> None:
    vectors, queries = random_vectors(300), random_vectors(5, seed=1)
    vectors[100:110] = vectors[50]
    chosen = [number for number in range(300) if not filtered or number % 3 == 0]
    filters = {"field": "meta.third", "operator": "==", "value": 0} if filtered else None
    rows = [Document(id=str(number), meta={"third": number % 3}) for number in range(300)]
    with FAISSDocumentStore(similarity=similarity) as store:
        store.write_documents([Document(id="bare", meta={"third": 0})])
        store.write_vectors(rows, vectors)
        nothing = {"field": "meta.third", "operator": "==", "value": 3}
        assert store.embedding_retrieval(queries[0], filters=nothing) == []
        for query in [*queries, vectors[50]]:
            scores = vectors.astype(float) @ query.astype(float)
            if similarity == "cosine":
                scores /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
            best = sorted(chosen, key=lambda number: (-scores[number].round(9), number))
            for top_k in (1, 4, 299, 1000):
                found = store.embedding_retrieval(query, filters=filters, top_k=top_k)
                assert [int(document.id) for document in found] == best[:top_k]
                assert np.allclose([document.score or 0 for document in found], scores[best[:top_k]], atol=1e-5)
                assert all(type(document.score) is float for document in found)


@pytest.mark.parametrize("index", ["Flat", "HNSW32", "IVF4,Flat", "SQfp16"])
def test_of_equal_scores_the_document_written_first_comes_first(index: str) -> None:
    vectors = np.random.default_rng(0).integers(0, 3, (200, 2)).astype(np.float32)
    best = sorted(range(200), key=lambda number: (-vectors[number, 0], number))
    with FAISSDocumentStore(index=index) as store:
        store.write_vectors(plain_documents(200), vectors)
        everything = {"field": "meta.number", "operator": ">=", "value": 0}
        for top_k in (1, 5, 20, 90, 120, 150):
            for filters in (None, everything) if index == "Flat" else (everything,):
                found = store.embedding_retrieval([1.0, 0.0], top_k=top_k, filters=filters)
                assert [int(document.id) for document in found] == best[:top_k]


def test_of_equal_distances_by_rounding_the_document_written_first_comes_first() -> None:
    # The roots of float32's squares are closer to each other than float32's numbers: many share one.
    vectors = np.random.default_rng(0).standard_normal((3_000, 3))
    vectors = (1.3 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    with FAISSDocumentStore(similarity="l2") as store:
        store.write_vectors(plain_documents(3_000), vectors)
        ranked = [(-(each.score or 0), int(each.id)) for each in store.embedding_retrieval([0.0] * 3, top_k=3_000)]
        for top_k in range(1, 400, 7):
            found = [int(document.id) for document in store.embedding_retrieval([0.0] * 3, top_k=top_k)]
            assert found == [number for _, number in sorted(ranked)[:top_k]]


@pytest.mark.parametrize("index", ["Flat", "SQfp16"])
def test_many_queries_at_once_tell_close_vectors_apart(index: str) -> None:
    vectors = 1 + 0.005 * random_vectors(300, dimension=768)
    queries = 1 + 0.005 * random_vectors(200, dimension=768, seed=1)
    everything = {"field": "meta.number", "operator": ">=", "value": 0}
    with FAISSDocumentStore(similarity="l2", index=index) as store:
        store.write_vectors(plain_documents(300), vectors)
        for filters in (None, everything) if index == "Flat" else (everything,):
            together = store.embedding_retrieval_batch(queries, filters=filters)
            for query, documents in zip(queries[:20], together, strict=False):
                distances = np.linalg.norm(vectors.astype(float) - query, axis=1)
                assert np.allclose([-(each.score or 0) for each in documents], np.sort(distances)[:10], rtol=1e-4)


def test_a_search_follows_every_change() -> None:
    with FAISSDocumentStore() as store:

        def found() -> list[str]:
            return [document.id for document in store.embedding_retrieval([1.0, 0.0])]

        assert found() == []
        store.write_documents([Document(id=str(n), embedding=[float(n), 0.0], meta={"n": n}) for n in range(5)])
        assert found() == ["4", "3", "2", "1", "0"]
        store.delete_documents(["3", "absent"])
        store.write_documents([Document(id="0", embedding=[9.0, 0.0])], policy=DuplicatePolicy.OVERWRITE)
        assert found() == ["0", "4", "2", "1"]
        store.write_documents([Document(id="4")], policy=DuplicatePolicy.OVERWRITE)
        assert found() == ["0", "2", "1"]
        assert store.delete_by_filter({"field": "meta.n", "operator": "<", "value": 2}) == 1
        assert found() == ["0", "2"]
        store.write_documents([Document(id="last", embedding=[1.0, 0.0])])
        assert found() == ["0", "2", "last"]
        store.delete_documents(["last"])
        store.write_documents([Document(id="in its stead", embedding=[8.0, 0.0])])
        assert found() == ["0", "in its stead", "2"]
        store.delete_all_documents()
        assert found() == []
        store.write_documents([Document(id="7", embedding=[1.0, 1.0])])
        assert found() == ["7"]


@pytest.mark.parametrize("index", ["Flat", "SQfp16"])
def test_a_filter_asked_again_is_remembered_until_something_changes(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    numbers = Database.numbers
    monkeypatch.setattr(
        Database, "numbers", lambda database, condition: asked.append(condition) or numbers(database, condition)
    )
    even = {"field": "meta.even", "operator": "==", "value": True}
    with FAISSDocumentStore(path=tmp_path, index=index) as store, FAISSDocumentStore(path=tmp_path) as other:

        def found(filters: dict[str, Any] = even) -> list[str]:
            return [document.id for document in store.embedding_retrieval([1.0, 0.0], filters=filters)]

        rows = [Document(id=str(n), embedding=[n, 0], meta={"even": n % 2 == 0}) for n in range(5)]
        store.write_documents(rows)
        assert found() == found() == ["4", "2", "0"]
        assert found({**even, "value": False}) == found({**even, "value": False}) == ["3", "1"]
        assert found({**even, "value": 1}) == ["4", "2", "0"]
        assert found({**even, "value": "True"}) == []
        assert len(asked) == 4
        store.update_by_filter({"field": "id", "operator": "==", "value": "2"}, {"even": False})
        assert found() == found() == ["4", "0"]
        other.write_documents([Document(id="6", embedding=[6, 0], meta={"even": True})])
        assert found() == found() == ["6", "4", "0"]
        other.delete_documents(["4"])
        assert found() == found() == ["6", "0"]
        for number in range(100):
            assert found({"field": "meta.even", "operator": "in", "value": [True, number + 2]}) == ["6", "0"]
        asked.clear()
        assert found() == found() == ["6", "0"]
        assert len(asked) == 1, "only so many are kept"
        monkeypatch.setattr(filters_module, "date", SimpleNamespace(today=lambda: "tomorrow"))
        assert found() == found() == ["6", "0"]
        assert len(asked) == 2, "what Haystack reads as a date may be another one"
        store.rebuild("HNSW32")
        assert found() == found() == ["6", "0"]


class Hidden(str):
    def __repr__(self) -> str:
        return "'***'"


def test_a_remembered_filter_is_not_taken_for_another() -> None:
    with FAISSDocumentStore() as store:
        for number, value in enumerate(["a", "b", 1, {"1": 2}]):
            store.write_documents([Document(id=str(number), embedding=[1.0], meta={"value": value})])

        def found(filters: dict[str, Any]) -> list[str]:
            return [document.id for document in store.embedding_retrieval([1.0], filters=filters)]

        filters = {"field": "meta.value", "operator": "==", "value": "a"}
        assert found(filters) == ["0"]
        filters["value"] = "b"
        assert found(filters) == ["1"]
        for value, expected in [("1", []), (1, ["2"]), ({1: 2}, []), ({"1": 2}, ["3"]), (["a"], []), (("a",), [])]:
            for _ in range(2):
                assert found({**filters, "value": value}) == expected
        for value, expected in [(Hidden("a"), ["0"]), (Hidden("b"), ["1"]), (Kind.NOTE, [])]:
            assert found({**filters, "value": value}) == expected


def test_a_filter_changed_while_it_is_in_use_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    filters = {"field": "meta.value", "operator": "==", "value": "a"}
    numbers = Database.numbers

    def meanwhile(database: Database, condition: Any) -> Any:
        filters["value"] = "b"
        return numbers(database, condition)

    monkeypatch.setattr(Database, "numbers", meanwhile)
    with FAISSDocumentStore() as store:
        store.write_documents([Document(id=value, embedding=[1.0], meta={"value": value}) for value in "ab"])
        for _ in range(2):
            found = store.embedding_retrieval([1.0], filters=filters)
            assert [document.id for document in found] == ["a"]
            filters["value"] = "a"


def test_scores_are_scaled_as_haystacks_own_store_scales_them() -> None:
    originals = [Document(id=str(n), embedding=vector.tolist()) for n, vector in enumerate(random_vectors(5) * 50)]
    query = random_vectors(1, seed=1)[0].tolist()
    for ours, theirs in (("inner_product", "dot_product"), ("cosine", "cosine")):
        reference = InMemoryDocumentStore(embedding_similarity_function=theirs, shared=False)  # type: ignore[arg-type]
        reference.write_documents(originals)
        with FAISSDocumentStore(similarity=ours) as store:  # type: ignore[arg-type]
            store.write_documents(originals)
            for found, expected in zip(
                store.embedding_retrieval(query, scale_score=True),
                reference.embedding_retrieval(query, scale_score=True),
                strict=True,
            ):
                assert found.id == expected.id
                assert found.score == pytest.approx(expected.score, abs=1e-6)
    with FAISSDocumentStore() as store:
        store.write_documents([Document(embedding=[-4e18]), Document(embedding=[4e18])])
        assert [document.score for document in store.embedding_retrieval([1.0], scale_score=True)] == [1.0, 0.0]


def test_documents_are_searched_without_their_embeddings_unless_asked_for() -> None:
    with FAISSDocumentStore() as store:
        store.write_documents([Document(id="a", embedding=[0.5, 0.25])])
        assert store.embedding_retrieval([1.0, 1.0])[0].embedding is None
        assert store.embedding_retrieval([1.0, 1.0], return_embedding=True)[0].embedding == [0.5, 0.25]


def test_what_is_no_list_of_ids_and_no_policy_changes_nothing() -> None:
    with FAISSDocumentStore() as store:
        store.write_documents([Document(id="a"), Document(id="b")])
        for ids in ("ab", [None], b"ab"):
            with pytest.raises(ValueError, match="document_ids must be a list of strings"):
                store.delete_documents(ids)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="policy must be a DuplicatePolicy, but got 'skip'"):
            store.write_documents([Document(id="a")], policy="skip")  # type: ignore[arg-type]
        assert store.count_documents() == 2


def test_a_query_that_cannot_be_answered_is_refused() -> None:
    with FAISSDocumentStore() as store:
        assert store.embedding_retrieval([1.0, 0.0]) == []
        store.write_documents([Document(id="bare")])
        with pytest.raises(DocumentStoreError, match="1 documents, but no document has an embedding"):
            store.embedding_retrieval([1.0, 0.0])
        store.write_documents([Document(id="a", embedding=[1.0, 0.0])])
        for top_k in (0, -1, 2.5, True, "3"):
            with pytest.raises(ValueError, match=f"top_k must be a whole number > 0, but got {top_k!r}"):
                store.embedding_retrieval([1.0, 0.0], top_k=top_k)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="query has 3 dimensions, but the embeddings in this store have 2"):
            store.embedding_retrieval([1.0, 0.0, 0.0])
        for query in ([], [1.0, float("nan")], [1.0, float("inf")], ["a", "b"], [[1.0, 0.0]], None):
            with pytest.raises(ValueError, match="embedding of the query"):
                store.embedding_retrieval(query)  # type: ignore[arg-type]


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match=r"must be a folder, but '.*file' is a file"):
        FAISSDocumentStore(path=file)
    with pytest.raises(ValueError, match="similarity must be one of inner_product, cosine, l2, but got 'manhattan'"):
        FAISSDocumentStore(similarity="manhattan")  # type: ignore[arg-type]


def not_sqlite(file: Path) -> None:
    file.write_bytes(b"something else " * 100)


def not_ours(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE documents (id)")
    connection.close()


def newer(file: Path) -> None:
    FAISSDocumentStore(path=file.parent).write_documents([])
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def damaged(file: Path) -> None:
    with FAISSDocumentStore(path=file.parent) as store:
        store.write_documents(plain_documents(500))
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    file.write_bytes(content)


@pytest.mark.parametrize("spoil", [not_sqlite, not_ours, newer, damaged])
def test_a_file_that_is_not_a_whole_store_of_ours_is_named_and_left_alone(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    file = tmp_path / "documents.sqlite"
    spoil(file)
    before = file.read_bytes()
    with pytest.raises(DocumentStoreError, match=r"documents\.sqlite"):
        FAISSDocumentStore(path=tmp_path).filter_documents()
    assert file.read_bytes() == before


def test_without_faiss_the_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"rocketqa-haystack\[cpu\], or rocketqa-haystack\[gpu\]"):
        FAISSDocumentStore().count_documents()


def test_metadata_statistics_tell_types_apart() -> None:
    with FAISSDocumentStore() as store:
        store.write_documents(
            [
                Document(content="1", meta={"a": 1, "b": True, "c": "x", "d": None, "e": 1, "f": [1]}),
                Document(content="2", meta={"a": 2, "b": False, "c": 1, "d": None, "e": 0.5, "f": [1.0]}),
            ]
        )
        kinds = {"a": "int", "b": "boolean", "c": "keyword", "e": "float", "f": "keyword"}
        assert store.get_metadata_fields_info() == {key: {"type": kind} for key, kind in kinds.items()}
        assert store.get_metadata_field_min_max("e") == {"min": 0.5, "max": 1}
        assert store.get_metadata_field_min_max("c") == {"min": None, "max": None}
        assert store.count_unique_metadata_by_filter({}, ["meta.f", "d"]) == {"f": 2, "d": 0}


def test_threads_find_one_committed_state_each(tmp_path: Path) -> None:
    vectors, until, searches = random_vectors(20), time.monotonic() + 1, []

    def version(number: int) -> list[Document]:
        return [Document(id=str(n), meta={"version": number}) for n in range(20)]

    with FAISSDocumentStore(path=tmp_path) as store, FAISSDocumentStore(path=tmp_path) as other:
        store.write_vectors(version(0), vectors)

        def search(searched: FAISSDocumentStore) -> None:
            while time.monotonic() < until:
                found = searched.embedding_retrieval(vectors[0], top_k=20)
                searches.append((len(found), len({document.meta["version"] for document in found})))

        readers = [threading.Thread(target=search, args=(each,)) for each in (store, store, other)]
        for reader in readers:
            reader.start()
        written = 0
        while time.monotonic() < until:
            written += 1
            store.write_vectors(version(written), vectors, policy=DuplicatePolicy.OVERWRITE)
        for reader in readers:
            reader.join()
    assert written > 5
    assert len(searches) > 20
    assert set(searches) == {(20, 1)}


@pytest.mark.asyncio
async def test_the_event_loop_goes_on_during_a_write() -> None:
    with FAISSDocumentStore() as store:
        writing = asyncio.create_task(store.write_vectors_async(plain_documents(5000), random_vectors(5000)))
        turns = 0
        while not writing.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert await writing == 5000
        assert turns > 3
