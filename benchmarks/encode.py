"""Encoding passages: RocketQADocumentEmbedder beside Haystack's SentenceTransformersDocumentEmbedder.

    python benchmarks/encode.py COLLECTION [--rounds 3]

COLLECTION is a folder in BEIR layout. Both sides run in this process, on the same texts (title and text joined by a
space) and the same weights (all-MiniLM-L6-v2). Takes about two minutes a round for 2,000 paragraphs on 2 CPU cores.
"""

from __future__ import annotations

import argparse

import numpy as np
from haystack import Document
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentEmbedder
from sides import compare

from rocketqa_haystack import DualEncoder, RocketQADocumentEmbedder
from rocketqa_haystack.cli.main import quiet_libraries
from rocketqa_haystack.data import load_collection
from rocketqa_haystack.encoders.packaged import small_encoder
from rocketqa_haystack.encoders.search import exact_search
from rocketqa_haystack.evaluation import measure


def main() -> None:
    """Prints rates and ratios, then how near the vectors are to those in float32."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    quiet_libraries()
    collection = load_collection(arguments.collection)
    model = str(small_encoder())
    documents = [
        Document(id=id, content=passage.text, meta={"title": passage.title})
        for id, passage in collection.corpus.items()
    ]
    options = {"model": model, "meta_fields_to_embed": ["title"], "embedding_separator": " ", "progress_bar": False}
    sides = {
        "Haystack, defaults": SentenceTransformersDocumentEmbedder(**options),
        "Haystack, bfloat16 weights": SentenceTransformersDocumentEmbedder(
            **options, model_kwargs={"torch_dtype": "bfloat16"}
        ),
        "rocketqa-haystack": RocketQADocumentEmbedder(model=model, progress_bar=False),
    }
    for embedder in sides.values():
        embedder.run(documents[:64])  # warm
    results = compare(
        {name: lambda e=embedder: e.run(documents)["documents"] for name, embedder in sides.items()},
        len(documents),
        "documents",
        arguments.rounds,
    )

    vectors = {name: np.asarray([d.embedding for d in result], dtype=np.float32) for name, result in results.items()}
    exact = vectors["Haystack, defaults"]
    ids, queries = list(collection.corpus), list(collection.queries.values())
    query_vectors = {
        "Haystack, defaults": DualEncoder.from_pretrained(model, dtype="float32").encode_queries(queries),
        "rocketqa-haystack": DualEncoder.from_pretrained(model).encode_queries(queries),
    }
    ours = vectors["rocketqa-haystack"]
    cosines = (ours * exact).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(exact, axis=1)
    print(f"\nmean cosine to the float32 vectors: {cosines.mean():.6f} (lowest {cosines.min():.6f})")
    for name, encoded in query_vectors.items():
        scores, positions = exact_search(encoded, vectors[name], 10)
        run = {
            query_id: {ids[p]: float(s) for p, s in zip(row, values, strict=True)}
            for query_id, row, values in zip(collection.queries, positions, scores, strict=True)
        }
        precision = "float32" if name == "Haystack, defaults" else "ours"
        value = measure(run, collection.qrels, ["RR@10"])["RR@10"]
        print(f"RR@10 over {len(queries)} questions, {precision}: {value:.4f}")


if __name__ == "__main__":
    main()
