"""Words over a FAISSDocumentStore: found, filtered, serialised."""

from __future__ import annotations

import asyncio

import pytest
from haystack import Document, Pipeline

from rocketqa_haystack import FAISSBM25Retriever, FAISSDocumentStore


@pytest.fixture
def store() -> FAISSDocumentStore:
    store = FAISSDocumentStore()
    store.write_documents(
        [
            Document(id="pool", content="The pool opens at seven.", meta={"floor": 0}),
            Document(id="bar", content="The bar opens at nine, the pool bar at ten.", meta={"floor": 1}),
            Document(id="spa", content="Massages by appointment.", meta={"floor": 1, "title": "Opening of the spa"}),
        ]
    )
    return store


def ids(result: dict[str, list[Document]]) -> list[str]:
    return [document.id for document in result["documents"]]


def test_documents_are_found_by_stems_of_their_words_title_included(store: FAISSDocumentStore) -> None:
    retriever = FAISSBM25Retriever(document_store=store)
    found = retriever.run("when is the pool opening?")
    assert set(ids(found)) == {"pool", "bar", "spa"}
    assert ids(found)[0] == "pool"
    scores = [document.score for document in found["documents"]]
    assert scores == sorted(scores, reverse=True)
    assert ids(retriever.run("breakfast")) == []
    assert ids(retriever.run("pool", top_k=1)) == ["pool"]
    assert asyncio.run(retriever.run_async("pool")) == retriever.run("pool")


def test_a_filter_leaves_the_best_of_those_that_match(store: FAISSDocumentStore) -> None:
    upstairs = {"field": "meta.floor", "operator": "==", "value": 1}
    retriever = FAISSBM25Retriever(document_store=store, top_k=1)
    assert ids(retriever.run("pool", filters=upstairs)) == ["bar"]
    assert ids(FAISSBM25Retriever(document_store=store, top_k=1, filters=upstairs).run("pool")) == ["bar"]


def test_nothing_is_found_in_a_store_without_words() -> None:
    store = FAISSDocumentStore()
    store.write_documents([Document(content="the of"), Document(content="")])
    assert ids(FAISSBM25Retriever(document_store=store).run("the pool")) == []


def test_documents_written_later_are_found_after_a_refresh(store: FAISSDocumentStore) -> None:
    empty = FAISSDocumentStore()
    retriever = FAISSBM25Retriever(document_store=empty)
    assert ids(retriever.run("pool")) == []
    empty.write_documents(store.filter_documents())
    retriever.refresh()
    assert "pool" in ids(retriever.run("pool"))


def test_it_goes_through_yaml(store: FAISSDocumentStore) -> None:
    pipeline = Pipeline()
    pipeline.add_component("bm25", FAISSBM25Retriever(document_store=store, top_k=7, filter_policy="merge"))
    loaded = Pipeline.loads(pipeline.dumps()).get_component("bm25")
    assert loaded.to_dict() == pipeline.get_component("bm25").to_dict()
    assert loaded.top_k == 7


def test_what_makes_no_sense_is_refused(store: FAISSDocumentStore) -> None:
    with pytest.raises(TypeError, match="must be a FAISSDocumentStore, but got str"):
        FAISSBM25Retriever(document_store="store")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="top_k must be a whole number > 0, but got 0"):
        FAISSBM25Retriever(document_store=store, top_k=0)
    with pytest.raises(TypeError, match="expects a string as query, but got int"):
        FAISSBM25Retriever(document_store=store).run(7)  # type: ignore[arg-type]
