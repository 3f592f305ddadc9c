"""`rocketqa evaluate`: measures of a retriever and a re-ranker beside BM25."""

from __future__ import annotations

import time
from pathlib import Path


def evaluate(
    collection: Path,
    model: str,
    ranker: str | None = None,
    split: str = "test",
    candidates: int = 50,
    retriever_weight: float = 0.0,
    measures: list[str] = ["RR@10", "R@10", "R@50", "nDCG@10"],  # noqa: B006 (the parser copies it)
    bm25: bool = True,
    run_file: Path | None = None,
    dtype: str = "auto",
    device: str | None = None,
) -> None:
    """Measure BM25, a retriever, and the retriever with a re-ranker on a collection with judgements.

    Prints a table of measures and seconds; a system's seconds are from the texts to its ranking of all questions, the
    encoding of the passages included, and for the re-ranker the re-ranking alone.

    Args:
        collection: A BEIR folder: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv.
        model: The dual encoder: a model folder, an official RocketQA name (`rocketqa models`) or a Hugging Face id.
        ranker: A cross-encoder that re-orders the retriever's candidates.
        split: The split whose questions are asked.
        candidates: Passages that the retriever returns for each question and the ranker re-orders.
        retriever_weight: Weight of the retriever's score, added to the ranker's logit; 0 goes by the ranker alone.
        measures: Names that ir-measures knows, such as RR@10, R@50, nDCG@10, Success@5.
        bm25: Whether to measure BM25 (English stemming) too.
        run_file: Write each system's ranking as a TREC run; NAME.trec gives NAME.bm25.trec and so on.
        dtype: Precision: auto (bfloat16 where it is computed natively), float32, bfloat16 or float16.
        device: Such as cpu or cuda:0; the best there is by default.
    """
    from rocketqa_haystack.data import load_collection
    from rocketqa_haystack.encoders import CrossEncoder, DualEncoder
    from rocketqa_haystack.evaluation import BM25, Run, format_table, measure, rerank, retrieve, write_run

    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, but got {candidates}")
    data = load_collection(collection, split)
    measure({}, data.qrels, measures)  # an unknown measure stops here, not after the work
    if run_file is not None:  # and so does a place that nothing can be written to
        run_file.with_name(run_file.name).parent.mkdir(parents=True, exist_ok=True)
    retriever = DualEncoder.from_pretrained(model, dtype=dtype, device=device)
    reranker = CrossEncoder.from_pretrained(ranker, dtype=dtype, device=device) if ranker is not None else None

    runs: dict[str, Run] = {}
    seconds: dict[str, float] = {}
    if bm25:
        start = time.perf_counter()
        runs["bm25"] = BM25(data.corpus).search(data.queries, candidates)
        seconds["bm25"] = time.perf_counter() - start
    start = time.perf_counter()
    runs["retriever"] = retrieve(retriever, data.corpus, data.queries, candidates, show_progress=True)
    seconds["retriever"] = time.perf_counter() - start
    if reranker is not None:
        start = time.perf_counter()
        runs["retriever + re-ranker"] = rerank(
            reranker,
            data.corpus,
            data.queries,
            runs["retriever"],
            candidates,
            retriever_weight=retriever_weight,
            show_progress=True,
        )
        seconds["retriever + re-ranker"] = time.perf_counter() - start

    rows = {name: {**measure(run, data.qrels, measures), "seconds": seconds[name]} for name, run in runs.items()}
    print(f"{len(data.queries)} questions ({split}), {len(data.corpus)} passages, {candidates} candidates")
    print(format_table(rows))
    if run_file is not None:
        for name, run in runs.items():
            path = run_file.with_name(f"{run_file.stem}.{name.replace(' + ', '-')}{run_file.suffix or '.trec'}")
            write_run(path, run, tag=name.replace(" + ", "-"))
            print(f"written: {path}")
