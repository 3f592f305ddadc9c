"""End-to-end question answering: retrieve passages, and let a reader find the answer in them.

Shows: retriever and Haystack's TransformersExtractiveReader in one pipeline, the answer with the passage that it stands
in, and exact match against the right answers. A reader is trained on the collection's questions (queries.jsonl with
"answers") where none is given.

Takes: about two minutes on 2 CPU cores, nearly all of it the training; seconds with --reader.

Expect: for the test questions the answer found, the passage that it is from, and a star where it is right.
A reader trained on four dozen questions is often wrong: one trained on SQuAD (`--reader`) is what you would use.

From the repository's root:

    python examples/read_answers.py
    python examples/read_answers.py --reader my-reader
"""

from __future__ import annotations

import argparse
from pathlib import Path

from haystack import Document, Pipeline
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader

from rocketqa_haystack import DualEncoder, FAISSDocumentStore, RocketQARetriever
from rocketqa_haystack.data import Collection, load_answered_collection
from rocketqa_haystack.encoders.packaged import small_encoder
from rocketqa_haystack.evaluation import exact_match
from trainers import ReaderTrainer, TrainingSettings, mine_distractors


def main() -> None:
    """Asks all test questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collection", type=Path, default=Path("examples/handbook"), help="a folder in BEIR layout")
    parser.add_argument("--model", type=Path, help="retriever, and start of the reader; all-MiniLM-L6-v2 by default")
    parser.add_argument("--reader", help="a question-answering model; trained here by default")
    parser.add_argument("--output", type=Path, default=Path("build/examples/reader"), help="where a trained one goes")
    parser.add_argument("--epochs", type=int, default=20, help="of its training")
    arguments = parser.parse_args()
    model = arguments.model or small_encoder()
    if arguments.reader is None:  # one that was trained so before is not trained again
        train_reader(arguments.collection, model, arguments.output, arguments.epochs)
    reader = arguments.reader or str(arguments.output)

    test = load_answered_collection(arguments.collection, "test")
    pipeline = compose(test.collection, model, reader)
    right = 0.0
    for query_id, question in test.collection.queries.items():
        result = pipeline.run({"retriever": {"query": question}, "reader": {"query": question}})
        best = result["reader"]["answers"][0]
        is_right = exact_match(best.data, test.answers[query_id])
        right += is_right
        print(
            f"{'*' if is_right else ' '} {question}\n    {best.data}  ({best.document.meta['title']}, {best.score:.2f})"
        )
    print(f"\nexact match: {right:.0f} of {len(test.collection.queries)} questions")


def train_reader(collection: Path, model: Path, output: Path, epochs: int) -> None:
    """Trains a reader on the answers of the train split, with passages that the retriever finds as distractors."""
    train = load_answered_collection(collection, "train")
    questions = train.questions(mine_distractors(DualEncoder.from_pretrained(model), train))
    settings = TrainingSettings(epochs=epochs, batch_size=16, learning_rate=1e-4)
    ReaderTrainer(model, questions, settings=settings, max_length=64).train(output)


def compose(collection: Collection, model: Path, reader: str) -> Pipeline:
    """The pipeline over a collection's passages."""
    encoder = DualEncoder.from_pretrained(model)
    store = FAISSDocumentStore(similarity=encoder.store_similarity)
    documents = [Document(id=id, content=p.text, meta={"title": p.title}) for id, p in collection.corpus.items()]
    store.write_vectors(documents, encoder.encode_passages(list(collection.corpus.values())))
    pipeline = Pipeline()
    pipeline.add_component("retriever", RocketQARetriever(model=model, document_store=store, top_k=5))
    pipeline.add_component(
        "reader",
        TransformersExtractiveReader(model=reader, top_k=1, no_answer=False, max_seq_length=64, stride=16),
    )
    pipeline.connect("retriever.documents", "reader.documents")
    return pipeline


if __name__ == "__main__":
    main()
