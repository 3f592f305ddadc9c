"""Re-ranking: RocketQARanker beside Haystack's SentenceTransformersSimilarityRanker.

    python benchmarks/rank.py COLLECTION [--ranker FOLDER] [--rounds 3]

COLLECTION is a folder in BEIR layout. Both sides run in this process, on the same candidates (50 a query, found by
all-MiniLM-L6-v2) and the same cross-encoder; without --ranker one is trained on the collection's train split first and
kept in build/. Takes about three minutes a round on 2 CPU cores, the training some fifteen, the comparison of rankings
at the end about ten.
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

from haystack import Document
from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker
from sides import compare

from rocketqa_haystack import CrossEncoder, DualEncoder, RocketQARanker
from rocketqa_haystack.cli.main import quiet_libraries
from rocketqa_haystack.data import Collection, load_collection
from rocketqa_haystack.encoders.packaged import small_encoder
from rocketqa_haystack.evaluation import measure, rerank, retrieve
from trainers import CrossEncoderTrainer, TrainingSettings, mine_groups

CANDIDATES = 50


def main() -> None:
    """Prints rates and ratios, then RR@10 of the rankings in float32 and in ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("--ranker", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=40, help="timed in a round")
    parser.add_argument("--judged-queries", type=int, default=250, help="over which RR@10 is compared")
    arguments = parser.parse_args()
    quiet_libraries()
    test = load_collection(arguments.collection)
    retriever = DualEncoder.from_pretrained(small_encoder())
    ranker = arguments.ranker or trained_ranker(retriever, arguments.collection)
    # Every so many-th question, so that all parts of the collection are there.
    judged = dict(islice(test.queries.items(), 0, None, max(1, len(test.queries) // arguments.judged_queries)))
    candidates = retrieve(retriever, test.corpus, judged, CANDIDATES)

    documents = {id: Document(id=id, content=p.text, meta={"title": p.title}) for id, p in test.corpus.items()}
    timed = list(islice(judged.items(), 0, None, max(1, len(judged) // arguments.queries)))[: arguments.queries]
    options = {"model": str(ranker), "meta_fields_to_embed": ["title"], "embedding_separator": " ", "top_k": CANDIDATES}
    sides = {
        "Haystack, defaults": SentenceTransformersSimilarityRanker(**options),
        "Haystack, bfloat16 weights": SentenceTransformersSimilarityRanker(
            **options, model_kwargs={"torch_dtype": "bfloat16"}
        ),
        "rocketqa-haystack": RocketQARanker(**options),
    }
    # Both sides meet most sizes of matrices for the first time here, for which oneDNN makes code once.
    for side in sides.values():
        for start in range(0, 10 * CANDIDATES, CANDIDATES):
            side.run(query="warm", documents=list(documents.values())[start : start + CANDIDATES])

    def rank(side: SentenceTransformersSimilarityRanker | RocketQARanker) -> None:
        for query_id, query in timed:
            side.run(query=query, documents=[documents[id] for id in candidates[query_id]])

    compare(
        {name: lambda s=side: rank(s) for name, side in sides.items()},
        len(timed) * CANDIDATES,
        "pairs",
        arguments.rounds,
    )
    print()
    for name, dtype in (("float32", "float32"), ("ours", "auto")):
        encoder = CrossEncoder.from_pretrained(ranker, dtype=dtype)
        run = rerank(encoder, test.corpus, judged, candidates, CANDIDATES)
        value = measure(run, {query_id: test.qrels[query_id] for query_id in judged}, ["RR@10"])["RR@10"]
        print(f"RR@10 over {len(judged)} questions, {name}: {value:.4f}", flush=True)


def trained_ranker(retriever: DualEncoder, folder: str, questions: int = 3_000) -> Path:
    """A cross-encoder trained on some of the collection's questions, kept from one run to the next."""
    output = Path("build") / "benchmark-ranker"
    if not output.is_dir():
        train = load_collection(folder, "train")
        chosen = dict(islice(train.queries.items(), 0, None, max(1, len(train.queries) // questions)))
        groups = mine_groups(retriever, Collection(train.corpus, chosen, train.qrels), CANDIDATES)
        settings = TrainingSettings(batch_size=8, learning_rate=1e-4)
        trainer = CrossEncoderTrainer(small_encoder(), groups, settings=settings, loss="listwise", max_length=192)
        trainer.train(output)
    return output


if __name__ == "__main__":
    main()
