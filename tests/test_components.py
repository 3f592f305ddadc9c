"""The Haystack components: sync and async, through YAML, over any store, and clear about bad input."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers import MultiQueryTextRetriever, MultiRetriever
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.core.errors import DeserializationError
from haystack.document_stores.errors import DocumentStoreError
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import FilterPolicy
from haystack.utils import ComponentDevice, Secret
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from rocketqa_haystack import (
    CrossEncoder,
    DualEncoder,
    FAISSDocumentStore,
    FAISSEmbeddingRetriever,
    RocketQAAnswerRanker,
    RocketQADocumentEmbedder,
    RocketQARanker,
    RocketQARetriever,
    RocketQATextEmbedder,
)
from rocketqa_haystack.data import Collection, Passage
from rocketqa_haystack.encoders import ModelError

CPU = ComponentDevice.from_str("cpu")


@pytest.fixture(scope="module")
def documents(collection: Collection) -> list[Document]:
    return [
        Document(id=id, content=p.text, meta={"title": p.title, "number": number, "parity": number % 2})
        for number, (id, p) in enumerate(collection.corpus.items())
    ]


@pytest.fixture(scope="module")
def embedded(encoder_folder: Path, documents: list[Document]) -> list[Document]:
    embedder = RocketQADocumentEmbedder(model=encoder_folder, device=CPU, dtype="float32", progress_bar=False)
    return embedder.run(documents)["documents"]


@pytest.fixture
def store(embedded: list[Document]) -> FAISSDocumentStore:
    store = FAISSDocumentStore()
    store.write_documents(embedded)
    return store


def test_embedders_give_the_encoders_vectors(
    encoder_folder: Path, documents: list[Document], embedded: list[Document], collection: Collection
) -> None:
    encoder = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="float32")
    vectors = encoder.encode_passages(list(collection.corpus.values()))
    np.testing.assert_array_equal(np.float32([d.embedding for d in embedded]), vectors)
    assert all(document.embedding is None for document in documents), "the input was changed"
    embedding = RocketQATextEmbedder(model=encoder_folder, device=CPU, dtype="float32").run(text="mama")["embedding"]
    assert all(isinstance(value, float) for value in embedding)
    np.testing.assert_array_equal(np.float32(embedding), encoder.encode_queries(["mama"])[0])


def test_metadata_fields_make_up_the_title(encoder_folder: Path) -> None:
    document = Document(content="dada", meta={"title": "mama", "chapter": 3, "empty": None})
    encoder = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="float32")
    for fields, title in ((None, "mama"), ([], ""), (["chapter", "title"], "3 mama"), (["empty", "missing"], "")):
        embedder = RocketQADocumentEmbedder(
            model=encoder_folder, device=CPU, dtype="float32", meta_fields_to_embed=fields, progress_bar=False
        )
        result = embedder.run([document])["documents"][0].embedding
        np.testing.assert_allclose(result, encoder.encode_passages([Passage("dada", title)])[0], atol=1e-6)


def test_a_document_without_content_is_embedded_by_its_title(encoder_folder: Path) -> None:
    embedder = RocketQADocumentEmbedder(model=encoder_folder, device=CPU, dtype="float32", progress_bar=False)
    with_title, empty = Document(content=None, meta={"title": "mama"}), Document(content="")
    assert len(embedder.run([with_title, empty])["documents"][0].embedding) == 32
    assert embedder.run([])["documents"] == []


def test_the_retriever_finds_what_exact_search_finds(
    encoder_folder: Path, store: FAISSDocumentStore, embedded: list[Document], collection: Collection
) -> None:
    retriever = RocketQARetriever(model=encoder_folder, document_store=store, device=CPU, dtype="float32", top_k=5)
    encoder = DualEncoder.from_pretrained(encoder_folder, device="cpu", dtype="float32")
    vectors = np.float32([document.embedding for document in embedded])
    for query in list(collection.queries.values())[:5]:
        similarities = vectors @ encoder.encode_queries([query])[0]
        best = np.argsort(-similarities)[:5]
        found = retriever.run(query=query)["documents"]
        assert [document.id for document in found] == [embedded[i].id for i in best]
        np.testing.assert_allclose([document.score for document in found], similarities[best], rtol=1e-5)


def test_the_retriever_works_over_another_stores_embedding_retriever(
    encoder_folder: Path, store: FAISSDocumentStore, embedded: list[Document]
) -> None:
    memory = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    memory.write_documents(embedded)
    over_memory = RocketQARetriever(
        model=encoder_folder, retriever=InMemoryEmbeddingRetriever(memory), device=CPU, dtype="float32"
    )
    over_ours = RocketQARetriever(model=encoder_folder, document_store=store, device=CPU, dtype="float32")
    ours = [d.id for d in over_ours.run(query="mama dada", top_k=7)["documents"]]
    assert [d.id for d in over_memory.run(query="mama dada", top_k=7)["documents"]] == ours
    loaded = RocketQARetriever.from_dict(over_memory.to_dict())
    assert isinstance(loaded.retriever, InMemoryEmbeddingRetriever)


def test_filters_narrow_the_search_by_the_policy(encoder_folder: Path, store: FAISSDocumentStore) -> None:
    low = {"field": "meta.number", "operator": "<", "value": 20}
    even = {"field": "meta.parity", "operator": "==", "value": 0}

    def numbers(policy: FilterPolicy, filters: dict[str, Any] | None) -> set[int]:
        retriever = RocketQARetriever(
            model=encoder_folder, document_store=store, device=CPU, filters=low, filter_policy=policy, top_k=48
        )
        return {document.meta["number"] for document in retriever.run(query="mama", filters=filters)["documents"]}

    assert numbers(FilterPolicy.REPLACE, None) == set(range(20))
    assert numbers(FilterPolicy.REPLACE, even) == set(range(0, 48, 2))
    assert numbers(FilterPolicy.MERGE, even) == set(range(0, 20, 2))


def test_multi_retrievers_accept_the_retriever(
    encoder_folder: Path, store: FAISSDocumentStore, documents: list[Document]
) -> None:
    memory = InMemoryDocumentStore()
    memory.write_documents(documents)
    retriever = RocketQARetriever(model=encoder_folder, document_store=store, device=CPU, top_k=5)
    both = MultiRetriever(retrievers={"dense": retriever, "bm25": InMemoryBM25Retriever(memory)}, top_k=6)
    assert len(both.run(query=documents[3].meta["title"])["documents"]) == 6
    several = MultiQueryTextRetriever(retriever=retriever, max_workers=4)
    queries = [document.meta["title"] for document in documents[:16]]
    found = {document.id for document in several.run(queries=queries)["documents"]}
    for query in queries:
        assert {document.id for document in retriever.run(query=query)["documents"]} <= found


def test_the_ranker_orders_by_the_cross_encoders_logits(ranker_folder: Path, documents: list[Document]) -> None:
    encoder = CrossEncoder.from_pretrained(ranker_folder, device="cpu", dtype="float32")
    logits = encoder.logits([("mama", Passage(d.content or "", d.meta["title"])) for d in documents])
    order = np.argsort(-logits, kind="stable")
    ranker = RocketQARanker(model=ranker_folder, device=CPU, dtype="float32", top_k=48, scale_score=False)
    ranked = ranker.run(query="mama", documents=documents)["documents"]
    assert [document.id for document in ranked] == [documents[i].id for i in order]
    np.testing.assert_allclose([document.score for document in ranked], logits[order], atol=1e-6)
    scaled = ranker.run(query="mama", documents=documents, scale_score=True, top_k=3)["documents"]
    np.testing.assert_allclose([d.score for d in scaled], 1 / (1 + np.exp(-logits[order][:3])), rtol=1e-5)
    threshold = float(np.median(logits))
    above = ranker.run(query="mama", documents=documents, score_threshold=threshold)["documents"]
    assert {document.id for document in above} == {documents[i].id for i in range(48) if logits[i] >= threshold}
    assert all(document.score is None for document in documents), "the input was changed"


def test_of_repeated_documents_the_one_with_the_highest_score_is_kept(ranker_folder: Path) -> None:
    repeated = [Document(id="a", content="mama", score=score) for score in (-0.5, 0.0, None)]
    ranked = RocketQARanker(model=ranker_folder, device=CPU).run(query="x", documents=repeated)["documents"]
    assert [document.id for document in ranked] == ["a"]
    assert RocketQARanker(model=ranker_folder, device=CPU).run(query="x", documents=[])["documents"] == []


@pytest.mark.asyncio
async def test_async_gives_the_same_and_leaves_the_event_loop_free(
    encoder_folder: Path, ranker_folder: Path, store: FAISSDocumentStore, documents: list[Document]
) -> None:
    retriever = RocketQARetriever(model=encoder_folder, document_store=store, device=CPU)
    ranker = RocketQARanker(model=ranker_folder, device=CPU)
    text_embedder = RocketQATextEmbedder(model=encoder_folder, device=CPU)
    document_embedder = RocketQADocumentEmbedder(model=encoder_folder, device=CPU, progress_bar=False)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    found = await retriever.run_async(query="mama")
    ranked = await ranker.run_async(query="mama", documents=found["documents"])
    vector = await text_embedder.run_async(text="mama")
    vectors = await document_embedder.run_async(documents=documents * 20)
    ticking.cancel()
    assert ticks > 20
    assert found == retriever.run(query="mama")
    assert ranked == ranker.run(query="mama", documents=found["documents"])
    assert vector == text_embedder.run(text="mama")
    assert len(vectors["documents"]) == 20 * len(documents)


@pytest.mark.asyncio
async def test_an_async_retriever_over_a_retriever_without_run_async(encoder_folder: Path) -> None:
    class Plain:
        def run(self, query_embedding: list[float], filters: object = None, top_k: object = None) -> dict[str, Any]:
            return {"documents": [Document(content=f"{len(query_embedding)} {top_k}")]}

    retriever = RocketQARetriever(model=encoder_folder, retriever=Plain(), device=CPU, top_k=3)
    assert (await retriever.run_async(query="mama"))["documents"][0].content == "32 3"


def test_halves_of_surrogate_pairs_are_passed_over(encoder_folder: Path) -> None:
    embedder = RocketQATextEmbedder(model=encoder_folder, device=CPU)
    assert embedder.run(text="ma\ud800ma") == embedder.run(text="mama")


def test_bad_input_is_refused_with_haystacks_kind_of_error(
    encoder_folder: Path, ranker_folder: Path, store: FAISSDocumentStore, tmp_path: Path
) -> None:
    retriever = RocketQARetriever(model=encoder_folder, document_store=store, device=CPU)
    ranker = RocketQARanker(model=ranker_folder, device=CPU)
    embedder = RocketQADocumentEmbedder(model=encoder_folder, device=CPU, progress_bar=False)
    with pytest.raises(ValueError, match="top_k must be a whole number > 0, but got 0"):
        RocketQARetriever(model=encoder_folder, document_store=store, top_k=0)
    with pytest.raises(ValueError, match="top_k must be a whole number > 0, but got -1"):
        retriever.run(query="x", top_k=-1)
    with pytest.raises(ValueError, match="top_k must be a whole number > 0, but got 0"):
        RocketQARanker(model=ranker_folder, top_k=0)
    with pytest.raises(ValueError, match="top_k must be a whole number > 0, but got 0"):
        ranker.run(query="x", documents=[Document(content="y")], top_k=0)
    with pytest.raises(TypeError, match="expects a string as the query, but got int"):
        retriever.run(query=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expects a string as the query, but got list"):
        RocketQATextEmbedder(model=encoder_folder, device=CPU).run(text=["x"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expects a list of Documents, but got str"):
        embedder.run("x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="the list has a str"):
        ranker.run(query="x", documents=[Document(content="y"), "z"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="either a document_store or a retriever"):
        RocketQARetriever(model=encoder_folder)
    with pytest.raises(TypeError, match="document_store must be a FAISSDocumentStore, but got InMemoryDocumentStore"):
        RocketQARetriever(model=encoder_folder, document_store=InMemoryDocumentStore())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="meta_fields_to_embed must be a list of names, but got 'title'"):
        RocketQADocumentEmbedder(model=encoder_folder, meta_fields_to_embed="title")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="meta_fields_to_embed must be a list of names, but got 5"):
        RocketQARanker(model=ranker_folder, meta_fields_to_embed=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="retriever_weight must be a finite number, but got nan"):
        RocketQARanker(model=ranker_folder, retriever_weight=float("nan"))
    with pytest.raises(ValueError, match=r"score_threshold must be a finite number, but got '0\.5'"):
        RocketQARanker(model=ranker_folder, score_threshold="0.5")  # type: ignore[arg-type]
    weighing = RocketQARanker(model=ranker_folder, device=CPU, retriever_weight=1.0)
    with pytest.raises(ValueError, match="the score of document 'a' is nan"):
        weighing.run(query="x", documents=[Document(id="a", content="y", score=float("nan"))])
    with pytest.raises(TypeError, match="model must be a folder or a name"):
        RocketQATextEmbedder(model=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype must be one of"):
        RocketQATextEmbedder(model=encoder_folder, dtype="double")
    with pytest.raises(ModelError, match="is no model folder"):
        RocketQATextEmbedder(model=tmp_path, device=CPU).warm_up()
    other = FAISSDocumentStore()
    other.write_documents([Document(content="x", embedding=[0.0, 1.0])])
    with pytest.raises(ValueError, match="32"):
        RocketQARetriever(model=encoder_folder, document_store=other, device=CPU).run(query="x")
    bare = FAISSDocumentStore()
    bare.write_documents([Document(content="x")])
    with pytest.raises(DocumentStoreError, match="embedding"):
        RocketQARetriever(model=encoder_folder, document_store=bare, device=CPU).run(query="x")


def test_every_component_round_trips_through_its_dictionary(encoder_folder: Path, ranker_folder: Path) -> None:
    options = {"device": CPU, "token": Secret.from_env_var("MY_TOKEN"), "dtype": "bfloat16", "revision": "main"}
    components = [
        RocketQATextEmbedder(model=encoder_folder, **options),
        RocketQADocumentEmbedder(model=encoder_folder, meta_fields_to_embed=["a"], embedding_separator="|", **options),
        RocketQARetriever(model=encoder_folder, document_store=FAISSDocumentStore(), filters={"a": 1}, **options),
        RocketQARanker(model=ranker_folder, score_threshold=0.5, scale_score=False, top_k=3, **options),
        RocketQAAnswerRanker(passage_weight=0.5, scaled_scores=False, top_k=2),
        FAISSEmbeddingRetriever(document_store=FAISSDocumentStore(), top_k=3),
    ]
    for component in components:
        data = component.to_dict()
        assert type(component).from_dict(data).to_dict() == component.to_dict()
        assert "MY_TOKEN" not in str(data) or "env_vars" in str(data)


def build_pipelines(encoder: Path, ranker: Path, store_folder: Path) -> tuple[Pipeline, Pipeline]:
    store = FAISSDocumentStore(path=str(store_folder))
    index = Pipeline()
    index.add_component("embedder", RocketQADocumentEmbedder(model=encoder, device=CPU, progress_bar=False))
    index.add_component("writer", DocumentWriter(store))
    index.connect("embedder", "writer")
    query = Pipeline()
    query.add_component("retriever", RocketQARetriever(model=encoder, document_store=store, device=CPU, top_k=20))
    query.add_component("joiner", DocumentJoiner())
    query.add_component("ranker", RocketQARanker(model=ranker, device=CPU, top_k=5))
    query.connect("retriever.documents", "joiner.documents")
    query.connect("joiner.documents", "ranker.documents")
    return index, query


LOADER = """
import json, sys
from pathlib import Path
import rocketqa_haystack
from haystack import Document, Pipeline
index = Pipeline.loads(Path(sys.argv[1], "index.yaml").read_text())
query = Pipeline.loads(Path(sys.argv[1], "query.yaml").read_text())
documents = [Document.from_dict(d) for d in json.loads(Path(sys.argv[1], "documents.json").read_text())]
index.run({"embedder": {"documents": documents}})
result = query.run({"retriever": {"query": "mama dada"}, "ranker": {"query": "mama dada"}})
print(json.dumps([[d.id, d.score] for d in result["ranker"]["documents"]]))
"""


def test_pipelines_loaded_from_yaml_in_a_new_process_give_the_same_answers(
    encoder_folder: Path, ranker_folder: Path, documents: list[Document], tmp_path: Path
) -> None:
    import json

    here, there = tmp_path / "here", tmp_path / "there"
    index, query = build_pipelines(encoder_folder, ranker_folder, here)
    index.run({"embedder": {"documents": documents}})
    expected = query.run({"retriever": {"query": "mama dada"}, "ranker": {"query": "mama dada"}})["ranker"]["documents"]
    index, query = build_pipelines(encoder_folder, ranker_folder, there)
    (tmp_path / "index.yaml").write_text(index.dumps())
    (tmp_path / "query.yaml").write_text(query.dumps())
    (tmp_path / "documents.json").write_text(json.dumps([d.to_dict(flatten=False) for d in documents]))
    command = [sys.executable, "-c", LOADER, str(tmp_path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    answers = json.loads(output.strip().splitlines()[-1])
    assert [id for id, _ in answers] == [document.id for document in expected]
    np.testing.assert_allclose([score for _, score in answers], [document.score for document in expected], atol=1e-6)


def test_a_store_that_compares_otherwise_than_the_model_is_pointed_out(
    language_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for similarity in ("cosine", "euclidean", "manhattan"):
        modules = [Transformer(str(language_model)), Pooling(32, "mean")]
        model = SentenceTransformer(modules=modules, device="cpu", similarity_fn_name=similarity)
        model.save_pretrained(str(tmp_path / similarity))
    RocketQARetriever(model=tmp_path / "cosine", document_store=FAISSDocumentStore(), device=CPU).warm_up()
    assert "make it with similarity='cosine'" in caplog.text
    RocketQARetriever(model=tmp_path / "euclidean", document_store=FAISSDocumentStore(), device=CPU).warm_up()
    assert "make it with similarity='l2'" in caplog.text
    retriever = RocketQARetriever(model=tmp_path / "manhattan", document_store=FAISSDocumentStore(), device=CPU)
    with pytest.raises(ModelError, match="compares by manhattan"):
        retriever.warm_up()
    with pytest.raises(ModelError, match="compares by manhattan"):
        retriever.run("mama")  # and not the answers of another similarity


def test_without_the_import_haystacks_own_refusal_stands(encoder_folder: Path, tmp_path: Path) -> None:
    pipeline = Pipeline()
    pipeline.add_component("embedder", RocketQATextEmbedder(model=encoder_folder))
    (tmp_path / "pipeline.yaml").write_text(pipeline.dumps())
    program = "import sys; from haystack import Pipeline; Pipeline.load(open(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "pipeline.yaml")], capture_output=True, text=True
    )
    assert result.returncode != 0
    assert "rocketqa_haystack.components.text_embedder" in result.stderr


def test_only_the_components_and_the_store_are_allowed() -> None:
    smuggled = {
        "components": {"x": {"type": "rocketqa_haystack.encoders.dual_encoder.DualEncoder", "init_parameters": {}}},
        "connections": [],
    }
    with pytest.raises(DeserializationError):
        Pipeline.from_dict(smuggled)
