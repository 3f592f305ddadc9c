"""The retriever as a Haystack component."""

from pathlib import Path
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.core.serialization import allow_deserialization_module
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import FilterPolicy

from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore, FAISSEmbeddingRetriever

DOCUMENTS = [
    Document(id="a", content="a", embedding=[1.0, 0.0], meta={"floor": 0, "wing": "east"}),
    Document(id="b", content="b", embedding=[0.8, 0.2], meta={"floor": 1, "wing": "east"}),
    Document(id="c", content="c", embedding=[0.0, 1.0], meta={"floor": 1, "wing": "west"}),
]
FLOOR_1 = {"field": "meta.floor", "operator": "==", "value": 1}
EAST = {"field": "meta.wing", "operator": "==", "value": "east"}


@pytest.fixture
def store() -> FAISSDocumentStore:
    store = FAISSDocumentStore()
    store.write_documents(DOCUMENTS)
    return store


def ids(result: dict[str, Any]) -> list[str]:
    return [document.id for document in result["documents"]]


def test_what_is_given_at_run_time_goes_before_what_was_given_at_construction(store: FAISSDocumentStore) -> None:
    retriever = FAISSEmbeddingRetriever(document_store=store, filters=FLOOR_1, top_k=2)
    assert ids(retriever.run([1.0, 0.0])) == ["b", "c"]
    assert ids(retriever.run([1.0, 0.0], top_k=1)) == ["b"]
    assert ids(retriever.run([1.0, 0.0], filters=EAST)) == ["a", "b"]
    assert retriever.run([1.0, 0.0])["documents"][0].embedding is None
    assert retriever.run([1.0, 0.0], return_embedding=True)["documents"][1].embedding == [0.0, 1.0]
    assert retriever.run([1.0, 0.0], scale_score=True)["documents"][1].score == 0.5


def test_filters_are_merged_when_the_policy_says_so(store: FAISSDocumentStore) -> None:
    retriever = FAISSEmbeddingRetriever(document_store=store, filters=FLOOR_1, filter_policy=FilterPolicy.MERGE)
    assert ids(retriever.run([1.0, 0.0], filters=EAST)) == ["b"]


@pytest.mark.asyncio
async def test_it_finds_the_same_when_run_async(store: FAISSDocumentStore) -> None:
    retriever = FAISSEmbeddingRetriever(document_store=store, filters=EAST, return_embedding=True)
    assert await retriever.run_async([1.0, 0.0]) == retriever.run([1.0, 0.0])


def test_a_pipeline_finds_the_same_after_a_round_trip_through_yaml(tmp_path: Path) -> None:
    store = FAISSDocumentStore(path=tmp_path / "store", similarity="cosine")
    store.write_documents(DOCUMENTS)
    pipeline = Pipeline()
    pipeline.add_component(
        "retriever",
        FAISSEmbeddingRetriever(
            document_store=store, filters=FLOOR_1, top_k=1, scale_score=True, filter_policy=FilterPolicy.MERGE
        ),
    )
    allow_deserialization_module(FAISSDocumentStore.__module__)
    allow_deserialization_module(FAISSEmbeddingRetriever.__module__)
    loaded = Pipeline.loads(pipeline.dumps())
    assert loaded.to_dict() == pipeline.to_dict()
    query = {"retriever": {"query_embedding": [1.0, 0.0]}}
    assert ids(loaded.run(query)["retriever"]) == ids(pipeline.run(query)["retriever"]) == ["b"]


def test_loading_a_pipeline_does_not_touch_the_folder_of_its_store(tmp_path: Path) -> None:
    retriever = FAISSEmbeddingRetriever(document_store=FAISSDocumentStore(path=tmp_path / "store"))
    FAISSEmbeddingRetriever.from_dict(retriever.to_dict())
    assert not list(tmp_path.iterdir())


def test_mistakes_are_named(store: FAISSDocumentStore) -> None:
    with pytest.raises(TypeError, match="must be a FAISSDocumentStore, but got InMemoryDocumentStore"):
        FAISSEmbeddingRetriever(document_store=InMemoryDocumentStore())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="top_k must be a whole number > 0, but got 0"):
        FAISSEmbeddingRetriever(document_store=store, top_k=0)
    with pytest.raises(ValueError, match="top_k must be a whole number > 0, but got -1"):
        FAISSEmbeddingRetriever(document_store=store).run([1.0, 0.0], top_k=-1)
