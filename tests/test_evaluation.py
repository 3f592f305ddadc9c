"""Runs of BM25 and the encoders, their measures, and the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocketqa_haystack import CrossEncoder, DualEncoder, Passage
from rocketqa_haystack.data import Collection
from rocketqa_haystack.evaluation import BM25, format_table, measure, measure_queries, rerank, retrieve

QRELS = {"q1": {"a": 1}, "q2": {"b": 1, "c": 1}, "q3": {"d": 1}}
RUN = {"q1": {"x": 3.0, "a": 2.0, "y": 1.0}, "q2": {"b": 2.0, "x": 1.0}}


def test_measures_equal_those_worked_out_by_hand() -> None:
    # q1: found at rank 2; q2: at rank 1, one of two found; q3: not in the run, which counts as nothing found.
    values = measure(RUN, QRELS, ["RR@10", "R@2", "Success@1"])
    assert values == pytest.approx({"RR@10": (0.5 + 1 + 0) / 3, "R@2": (1 + 0.5 + 0) / 3, "Success@1": 1 / 3})


def test_an_unknown_measure_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown measure 'MRR\?10'"):
        measure(RUN, QRELS, ["MRR?10"])


def test_two_names_of_one_measure_have_one_value() -> None:
    names = ["RR@10", "MRR@10"]
    assert len(set(measure(RUN, QRELS, names).values())) == 1
    by_query = measure_queries(RUN, QRELS, names)
    assert by_query["RR@10"] == by_query["MRR@10"]
    assert sum(by_query["RR@10"].values()) > 0


def test_a_measure_that_cannot_be_computed_is_named() -> None:
    with pytest.raises(ValueError, match="the measure 'P' cannot be computed here"):
        measure(RUN, QRELS, ["P"])


def test_bm25_stems_and_ranks_by_rare_words() -> None:
    corpus = {
        "a": Passage("the cat sat on the mat", title="Cats"),
        "b": Passage("dogs chase the cats in the park"),
        "c": Passage("a treaty on whaling"),
    }
    run = BM25(corpus).search({"q1": "chasing dog", "q2": "whale treaties", "q3": "the"}, k=3)
    assert list(run["q1"]) == ["b"]
    assert max(run["q2"], key=run["q2"].__getitem__) == "c"
    assert run["q3"] == {}


@pytest.mark.parametrize("corpus", [{}, {"a": Passage("")}, {"a": Passage("the of"), "b": Passage("", "And")}])
def test_bm25_finds_nothing_in_a_corpus_without_words(corpus: dict[str, Passage]) -> None:
    assert BM25(corpus).search({"q1": "the", "q2": "cat"}, k=3) == {"q1": {}, "q2": {}}


def test_bm25_finds_the_passages_whose_words_are_asked_for(collection: Collection) -> None:
    run = BM25(collection.corpus).search(collection.queries, k=10)
    assert measure(run, collection.qrels, ["RR@10"])["RR@10"] > 0.8


def test_a_retrievers_run_has_the_best_k_and_a_rerank_keeps_to_them(
    encoder_folder: Path, ranker_folder: Path, collection: Collection
) -> None:
    queries = dict(list(collection.queries.items())[:6])
    encoder = DualEncoder.from_pretrained(encoder_folder, device="cpu")
    whole = retrieve(encoder, collection.corpus, queries, k=48)
    top = retrieve(encoder, collection.corpus, queries, k=5)
    for query_id in queries:
        assert list(top[query_id]) == list(whole[query_id])[:5]
    ranker = CrossEncoder.from_pretrained(ranker_folder, device="cpu")
    reranked = rerank(ranker, collection.corpus, queries, whole, k=5)
    for query_id in queries:
        assert set(reranked[query_id]) == set(top[query_id])
        pairs = [(queries[query_id], collection.corpus[id]) for id in reranked[query_id]]
        assert list(reranked[query_id].values()) == pytest.approx(ranker.logits(pairs).tolist(), abs=2e-2)


def test_the_table_is_aligned() -> None:
    table = format_table({"BM25": {"RR@10": 0.5, "seconds": 1.26}, "retriever": {"RR@10": 0.25, "seconds": 100}})
    assert table.splitlines() == [
        "system        RR@10   seconds",
        "-----------------------------",
        "BM25         0.5000       1.3",
        "retriever    0.2500     100.0",
    ]
