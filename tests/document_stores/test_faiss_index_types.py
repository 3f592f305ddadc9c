"""Every type of index that the store takes, and what its searches find."""

import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.document_stores.types import DuplicatePolicy

from rocketqa_haystack.document_stores.faiss import FAISSDocumentStore, FAISSEmbeddingRetriever
from rocketqa_haystack.document_stores.faiss import index as index_module

COUNT, DIMENSION = 600, 16
VECTORS = np.random.default_rng(0).standard_normal((COUNT + 100, DIMENSION), dtype=np.float32)
QUERIES = np.random.default_rng(1).standard_normal((8, DIMENSION), dtype=np.float32)
EVEN = {"field": "meta.odd", "operator": "==", "value": 0}

#: Factory strings, with search parameters that make the type exact or nearly so, and the recall@10 to expect.
TYPES: dict[str, tuple[dict[str, Any], float]] = {
    "Flat": ({}, 1.0),
    "HNSW32": ({"efSearch": 200}, 0.99),
    "IVF8,Flat": ({"nprobe": 8}, 1.0),
    "SQfp16": ({}, 0.95),
    "IVF8_HNSW32,Flat": ({"nprobe": 8, "quantizer_efSearch": 8}, 1.0),
    "IVF8,SQ8": ({"nprobe": 8}, 0.9),
    "IVF8,PQ8x4": ({"nprobe": 8}, 0.3),
    "OPQ8,IVF8,PQ8x4": ({"nprobe": 8}, 0.3),
    "IVF8,PQ8x4,RFlat": ({"nprobe": 8, "k_factor": 20.0}, 0.9),
    "PCA8,Flat": ({}, 0.2),
    # Without selectors:
    "PQ8x4": ({}, 0.3),
    "IVF8,PQ8x4fs": ({"nprobe": 8}, 0.3),
    "RQ4x4": ({}, 0.1),
}
SIMILARITIES = ["inner_product", "cosine", "l2"]


@pytest.fixture(autouse=True)
def few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on few vectors."""
    for name in ("ENOUGH_POINTS", "TRAINING_POINTS"):
        monkeypatch.setattr(index_module, name, 2)


def documents(numbers: range) -> list[Document]:
    return [Document(id=str(n), meta={"n": n, "odd": n % 2}) for n in numbers]


def best(vectors: np.ndarray, query: np.ndarray, similarity: str, numbers: Any, top_k: int = 10) -> list[int]:
    vectors, query = vectors.astype(np.float64), query.astype(np.float64)
    if similarity == "l2":
        scores = -np.linalg.norm(vectors - query, axis=1)
    else:
        scores = vectors @ query / (np.linalg.norm(vectors, axis=1) if similarity == "cosine" else 1)
    return sorted(numbers, key=lambda n: -scores[n])[:top_k]


def found(store: FAISSDocumentStore, query: np.ndarray, **options: Any) -> list[int]:
    return [document.meta["n"] for document in store.embedding_retrieval(query, **options)]


def recall(store: FAISSDocumentStore, similarity: str, numbers: Any, **options: Any) -> float:
    hits = sum(
        len(set(found(store, query, **options)) & set(best(VECTORS, query, similarity, numbers))) for query in QUERIES
    )
    return hits / (10 * len(QUERIES))


@pytest.mark.parametrize(
    ("factory", "similarity"),
    [(factory, each) for place, factory in enumerate(TYPES) for each in SIMILARITIES[: 3 if place < 4 else 1]],
)
def test_each_type_finds_what_it_should_filtered_or_not_before_and_after_changes(
    factory: str, similarity: Any, tmp_path: Path
) -> None:
    parameters, expected = TYPES[factory]
    with FAISSDocumentStore(path=tmp_path, similarity=similarity, index=factory, search_parameters=parameters) as store:
        store.write_vectors(documents(range(COUNT)), VECTORS[:COUNT])
        assert recall(store, similarity, range(COUNT)) >= expected
        assert recall(store, similarity, range(0, COUNT, 2), filters=EVEN) == 1
        few = {"field": "meta.n", "operator": "<", "value": 20}
        assert recall(store, similarity, range(20), filters=few) == 1

        store.delete_documents([str(n) for n in range(100)])
        store.write_vectors(documents(range(COUNT, COUNT + 100)), VECTORS[COUNT:])
        left = range(100, COUNT + 100)
        assert recall(store, similarity, left) >= expected
        assert recall(store, similarity, left[::2], filters=EVEN) == 1
        for query in QUERIES:
            assert len(found(store, query, filters=EVEN, top_k=280)) == 280
    with FAISSDocumentStore(path=tmp_path, similarity=similarity, search_parameters=parameters) as store:
        assert recall(store, similarity, left) >= expected  # from the snapshot, its type remembered by the folder
        assert faiss.read_index(str(tmp_path / "index.faiss")).ntotal == COUNT + 100


@pytest.mark.parametrize("factory", ["HNSW32", "IVF8,Flat"])
def test_deleted_documents_are_dropped_from_the_index_once_they_outnumber_the_others(
    factory: str, tmp_path: Path
) -> None:
    with FAISSDocumentStore(path=tmp_path, index=factory, search_parameters={"efSearch": 200, "nprobe": 8}) as store:
        store.write_vectors(documents(range(COUNT)), VECTORS[:COUNT])
        found(store, QUERIES[0])
        store.delete_documents([str(n) for n in range(400)])
        assert recall(store, "inner_product", range(400, COUNT)) >= 0.99
        store.save_index()
        assert faiss.read_index(str(tmp_path / "index.faiss")).ntotal == COUNT - 400


def test_an_index_is_exact_until_there_are_enough_vectors_to_train_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "ENOUGH_POINTS", 39)
    store = FAISSDocumentStore(path=tmp_path, index="IVF16,SQ8")  # 39 times 256: those of its scalar quantizer
    vectors = np.random.default_rng(2).standard_normal((39 * 256, 4), dtype=np.float32)
    store.write_vectors(documents(range(39 * 256 - 1)), vectors[:-1])
    assert found(store, vectors[7]) == best(vectors[:-1], vectors[7], "inner_product", range(39 * 256 - 1))
    store.close()
    assert saved_type(tmp_path) is faiss.IndexFlatIP
    store.write_vectors(documents(range(39 * 256 - 1, 39 * 256)), vectors[-1:])
    store.close()
    assert saved_type(tmp_path) is faiss.IndexIVFScalarQuantizer


def saved_type(folder: Path) -> type:
    index = faiss.read_index(str(folder / "index.faiss"))
    return type(faiss.downcast_index(index.index))


def test_search_parameters_are_taken_from_the_query_before_the_retriever_before_the_store() -> None:
    with FAISSDocumentStore(index="IVF64,Flat", search_parameters={"nprobe": 1}) as store:
        store.write_vectors(documents(range(COUNT)), VECTORS[:COUNT])
        rough = recall(store, "inner_product", range(COUNT))
        assert rough < 0.9
        assert recall(store, "inner_product", range(COUNT), search_parameters={"nprobe": 64}) == 1
        retriever = FAISSEmbeddingRetriever(document_store=store, search_parameters={"nprobe": 64}, top_k=10)
        for query in QUERIES:
            exact = best(VECTORS[:COUNT], query, "inner_product", range(COUNT))
            assert [d.meta["n"] for d in retriever.run(query.tolist())["documents"]] == exact
            again = retriever.run(query.tolist(), search_parameters={"nprobe": 1})["documents"]
            assert [d.meta["n"] for d in again] == found(store, query)
        with pytest.raises(ValueError, match=r"search parameters are nprobe, .* but got 'n_probe'"):
            store.embedding_retrieval(QUERIES[0], search_parameters={"n_probe": 1})
        with pytest.raises(ValueError, match="nprobe must be a whole number from 1 on, but got 0"):
            FAISSDocumentStore(search_parameters={"nprobe": 0})


def test_a_search_while_there_was_little_does_not_narrow_later_ones() -> None:
    store = FAISSDocumentStore(index="HNSW32", search_parameters={"efSearch": 200})
    store.write_vectors(documents(range(10)), VECTORS[:10])
    store.embedding_retrieval(QUERIES[0])
    store.write_vectors(documents(range(10, COUNT)), VECTORS[10:COUNT])
    assert recall(store, "inner_product", range(COUNT)) >= 0.99


def test_settings_go_through_yaml(tmp_path: Path) -> None:
    store = FAISSDocumentStore(
        path=tmp_path, similarity="l2", index="IVF64,Flat", search_parameters={"nprobe": 8}, return_embedding=True
    )
    pipeline = Pipeline()
    pipeline.add_component("retriever", FAISSEmbeddingRetriever(document_store=store, search_parameters={"nprobe": 4}))
    again = Pipeline.loads(pipeline.dumps()).get_component("retriever")
    assert again.to_dict() == pipeline.get_component("retriever").to_dict()
    assert again.document_store.search_parameters == {"nprobe": 8}


@pytest.mark.parametrize("index", ["Flat", "IVF8,Flat", "HNSW32"])
@pytest.mark.parametrize("filters", [None, EVEN])
def test_many_queries_at_once_find_what_each_finds_alone(index: str, filters: Any) -> None:
    with FAISSDocumentStore(index=index, search_parameters={"nprobe": 8, "efSearch": 100}) as store:
        store.write_vectors(documents(range(COUNT)), VECTORS[:COUNT])
        together = store.embedding_retrieval_batch(QUERIES, filters=filters, top_k=7)
        assert [[d.meta["n"] for d in each] for each in together] == [
            found(store, query, filters=filters, top_k=7) for query in QUERIES
        ]
        assert store.embedding_retrieval_batch([], filters=filters) == []
        with pytest.raises(ValueError, match="differ in dimension"):
            store.embedding_retrieval_batch([[1.0], [1.0, 2.0]])


def test_a_document_found_by_two_queries_is_two_documents() -> None:
    with FAISSDocumentStore() as store:
        store.write_documents([Document(id="a", embedding=[1.0, 2.0], meta={"n": 0})])
        (first,), (second,) = store.embedding_retrieval_batch([[1.0, 0.0], [0.0, 1.0]])
        assert (first.score, second.score) == (1.0, 2.0)
        first.meta["n"] = 1
        assert second.meta["n"] == 0


def test_l2_scores_are_negated_distances() -> None:
    with FAISSDocumentStore(similarity="l2") as store:
        store.write_documents([Document(id="far", embedding=[3.0, 4.0]), Document(id="near", embedding=[0.0, 1.0])])
        assert [(d.id, d.score) for d in store.embedding_retrieval([0.0, 0.0])] == [("near", -1.0), ("far", -5.0)]
        scaled = store.embedding_retrieval([0.0, 0.0], scale_score=True)
        assert [document.score for document in scaled] == [1 / 2, 1 / 6]


def test_a_live_store_is_rebuilt_as_another_type_which_others_take_over(tmp_path: Path) -> None:
    with FAISSDocumentStore(path=tmp_path) as store, FAISSDocumentStore(path=tmp_path) as other:
        store.write_vectors(documents(range(COUNT)), VECTORS[:COUNT])
        assert found(other, QUERIES[0]) == best(VECTORS, QUERIES[0], "inner_product", range(COUNT))
        store.rebuild("IVF64,Flat")
        assert saved_type(tmp_path) is faiss.IndexIVFFlat
        for each in (store, other):
            assert recall(each, "inner_product", range(COUNT)) < 0.9  # one of 64 cells
            assert recall(each, "inner_product", range(COUNT), search_parameters={"nprobe": 64}) == 1
        store.write_vectors(documents(range(COUNT, COUNT + 100)), VECTORS[COUNT:])
        for each in (store, other):
            assert recall(each, "inner_product", range(COUNT + 100), search_parameters={"nprobe": 64}) == 1
        with pytest.raises(ValueError, match="FAISS cannot make an index 'Flatt' for inner_product of 16 dimensions"):
            store.rebuild("Flatt")
        store.rebuild()
        assert saved_type(tmp_path) is faiss.IndexIVFFlat
    with FAISSDocumentStore(path=tmp_path, index="Flat") as store:
        assert recall(store, "inner_product", range(COUNT + 100)) == 1


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("Flatt", "FAISS cannot make an index 'Flatt'"),
        ("IVF8,PQ5", "FAISS cannot make an index 'IVF8,PQ5'"),
        ("IDMap,Flat", "leave out the IDMap"),
        ("NSG32", "HNSW32 is its like"),
        ("LSH", "LSH"),
        ("IVF2,FlatDedup", "Flat is its like"),
    ],
)
def test_an_index_that_cannot_be_is_refused_at_the_first_vector_and_nothing_is_written(index: str, reason: str) -> None:
    with FAISSDocumentStore(index=index, similarity="l2") as store:
        store.write_documents([Document(id="bare")])
        with pytest.raises(ValueError, match=reason):
            store.write_vectors(documents(range(3)), VECTORS[:3])
        assert store.count_documents() == 1
    with pytest.raises(ValueError, match="index must be a FAISS factory string such as 'HNSW32', but got 7"):
        FAISSDocumentStore(index=7)  # type: ignore[arg-type]


def test_overwriting_a_document_leaves_its_old_vector_behind() -> None:
    with FAISSDocumentStore(index="HNSW32") as store:
        store.write_documents([Document(id=str(n), embedding=[float(n), 1.0]) for n in range(10)])
        store.embedding_retrieval([1.0, 0.0])
        changed = [Document(id="9", embedding=[-9.0, 1.0])]
        store.write_documents(changed, policy=DuplicatePolicy.OVERWRITE)
        assert [document.id for document in store.embedding_retrieval([1.0, 0.0])] == [*"876543210", "9"]


def test_a_gpu_is_asked_for_by_name() -> None:
    with pytest.raises(ImportError, match=r"rocketqa-haystack\[gpu\] in place of rocketqa-haystack\[cpu\]"):
        FAISSDocumentStore(gpu=True).count_documents()


def test_searches_go_to_the_gpu_where_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU made of the CPU: what goes there and what does not."""
    searches: list[int] = []

    class Copy:
        def __init__(self, index: Any) -> None:
            self.index, self.ntotal = index, index.ntotal

        def search(self, queries: np.ndarray, top_k: int, params: Any) -> Any:
            assert top_k <= 2048
            assert params is None or (params.sel is None and params.max_codes == 0 and params.nprobe <= 2048)
            searches.append(len(queries))
            found = self.index.search(queries, self.ntotal, params=params)
            order = np.lexsort((-found[1], -found[0]))[:, :top_k]  # of equal scores the last ones
            return tuple(np.take_along_axis(each, order, 1) for each in found)

    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda resources, number, index: Copy(index), raising=False)
    with FAISSDocumentStore(gpu=True) as store:
        store.write_vectors(documents(range(COUNT)), VECTORS[:COUNT])
        assert recall(store, "inner_product", range(COUNT)) == 1
        assert searches == [1] * len(QUERIES)
        assert recall(store, "inner_product", range(0, COUNT, 2), filters=EVEN) == 1
        store.delete_documents(["0"])
        store.embedding_retrieval(QUERIES[0])
        searches.clear()
        assert recall(store, "inner_product", range(1, COUNT)) == 1
        assert not searches
    with FAISSDocumentStore(gpu=True) as store:  # of equal scores the vector written first comes first
        store.write_vectors(documents(range(COUNT)), np.repeat(VECTORS[:1], COUNT, axis=0))
        assert [found.id for found in store.embedding_retrieval(VECTORS[0], top_k=3)] == ["0", "1", "2"]
        assert searches
    near = 1 + 1e-4 * VECTORS[:COUNT]  # lost in |q|² - 2qv + |v|²
    with FAISSDocumentStore(gpu=True, similarity="l2") as store:
        store.write_vectors(documents(range(COUNT)), near)
        assert [store.embedding_retrieval(vector, top_k=1)[0].id for vector in near[:9]] == [str(n) for n in range(9)]
    with FAISSDocumentStore(gpu=True, index="IVF4,Flat") as store:
        store.write_vectors(documents(range(COUNT)), VECTORS[:COUNT])
        for parameters in ({"nprobe": 4}, {"nprobe": 4_096}, {"max_codes": 10}):
            store.embedding_retrieval(QUERIES[0], search_parameters=parameters)


def test_without_faiss_the_extras_are_named_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"rocketqa-haystack\[cpu\], or rocketqa-haystack\[gpu\]"):
        FAISSDocumentStore(path=tmp_path / "store").count_documents()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_what_is_left_is_found_where_all_that_is_near_was_deleted(similarity: Any) -> None:
    near, far = VECTORS[:400] * 0.1 + 5, VECTORS[:400] * 0.1 - 5
    with FAISSDocumentStore(similarity=similarity, index="HNSW32") as store:
        store.write_vectors(documents(range(800)), np.concatenate([near, far]))
        store.delete_documents([str(n) for n in range(400)])
        assert len(store.embedding_retrieval(near[0])) == 10
