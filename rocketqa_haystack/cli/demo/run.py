"""`rocketqa demo`: the whole way, from a corpus to a tuned question-answering pipeline."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from haystack import Document, Pipeline
from numpy.typing import NDArray

from rocketqa_haystack import FAISSDocumentStore, RocketQARanker, RocketQARetriever
from rocketqa_haystack.cli.demo.questions import demo_collections
from rocketqa_haystack.cli.search import print_passages
from rocketqa_haystack.data import Collection, Passage, groups_from_collection
from rocketqa_haystack.data.files import atomic_write
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder
from rocketqa_haystack.encoders.packaged import small_encoder
from rocketqa_haystack.evaluation import BM25, DEFAULT_MEASURES, Run, format_table, measure, rerank, retrieve
from trainers import CrossEncoderTrainer, DualEncoderTrainer, TrainingSettings

#: Settings of the two trainings.
RETRIEVER = {"epochs": 5, "batch_size": 32, "learning_rate": 5e-5, "evaluations": 0}
RANKER = {"epochs": 2, "batch_size": 32, "learning_rate": 1e-4, "evaluations": 0}
PASSAGE_LENGTH = 96
PAIR_LENGTH = 64
NEGATIVES = 3

#: Passages that the retriever returns and the re-ranker re-orders.
CANDIDATES = 50

#: Of the retriever's score beside the re-ranker's logit. Cross-validated on the training questions: a re-ranker of 400
#: questions knows little, and where it has more of a say than this it helps on one part of them and harms on another.
RETRIEVER_WEIGHT = 80.0

#: Marks a folder that a demo began and has not ended; nothing but such a folder is ever removed.
UNFINISHED = ".unfinished-demo"

SAMPLE_QUESTIONS = (
    "how do I find out how much space is left on a disk?",
    "give me every pair of items from a list, without repeats",
    "my script should delete a folder and everything in it",
    "how can I stop a program that I started when it takes too long?",
    "what day of the week was a given date?",
)


def demo(output: Path = Path("rocketqa-demo"), ask: bool = False, seed: int = 0) -> None:
    """Ask Python's standard library: train a retriever and a re-ranker on its documentation, and put them to work.

    Builds a corpus from the docstrings of the running Python, measures BM25 and a small untuned encoder on 150
    questions, trains the retriever on 400 others, mines candidates with it, trains the re-ranker on them, measures
    both, and writes a folder with the two models, a document store, and pipeline.yaml, which haystack.Pipeline.load
    takes. It needs the extras cpu and demo, and takes less than ten minutes on 2 CPU cores, fewer where
    they compute in bfloat16.

    Args:
        output: The folder to write. Where a demo is there already, it is not made again.
        ask: Open a prompt for your own questions at the end.
        seed: Of the training.
    """
    if not (output / "pipeline.yaml").is_file():
        build(output, demo_collections(), small_encoder(), seed)
    pipeline = Pipeline.loads((output / "pipeline.yaml").read_text(encoding="utf-8"))
    for question in SAMPLE_QUESTIONS:
        answer(pipeline, question)
    if not ask:
        print(f"\nThe pipeline is {output / 'pipeline.yaml'}. Ask it more: rocketqa demo --output {output} --ask")
        return
    for question in typed_questions():
        answer(pipeline, question)


def build(output: Path, collections: Mapping[str, Collection], encoder: Path, seed: int) -> None:
    """Trains, measures and writes the demo's folder; `pipeline.yaml`, written last, says that it is whole.

    What an interrupted demo left behind is made anew.

    Raises:
        FileExistsError: The folder holds anything else.
    """
    unfinished = output / UNFINISHED
    if unfinished.is_file():
        shutil.rmtree(output)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} is there already and holds other things than a demo; choose another folder")
    output.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    begin = time.perf_counter()
    corpus, train = collections["train"].corpus, collections["train"]
    asked = {**collections["dev"].queries, **collections["test"].queries}
    sizes = ", ".join(f"{len(collection.queries)} {split}" for split, collection in collections.items())
    print(f"{len(corpus)} passages from Python's documentation; questions: {sizes}", flush=True)
    runs: dict[str, Run] = {}
    seconds: dict[str, float] = {}

    def record(name: str, run: Run, start: float) -> None:
        runs[name], seconds[name] = run, time.perf_counter() - start

    start = time.perf_counter()
    record("BM25", BM25(corpus).search(asked, CANDIDATES), start)
    start = time.perf_counter()
    untuned = DualEncoder.from_pretrained(encoder)
    record("untuned encoder", retrieve(untuned, corpus, asked, CANDIDATES, show_progress=True), start)

    DualEncoderTrainer(
        encoder,
        groups_from_collection(train),
        settings=TrainingSettings(seed=seed, **RETRIEVER),  # type: ignore[arg-type]
        passage_max_length=PASSAGE_LENGTH,
    ).train(output / "retriever")
    start = time.perf_counter()
    retriever = DualEncoder.from_pretrained(output / "retriever")
    vectors = retriever.encode_passages(list(corpus.values()), show_progress=True)
    record("tuned retriever", retrieve(retriever, corpus, asked, CANDIDATES, vectors=vectors), start)

    mined = retrieve(retriever, corpus, train.queries, CANDIDATES, vectors=vectors, show_progress=True)
    CrossEncoderTrainer(
        encoder,
        groups_from_collection(train, mined),
        settings=TrainingSettings(seed=seed, **RANKER),  # type: ignore[arg-type]
        negatives=NEGATIVES,
        max_length=PAIR_LENGTH,
    ).train(output / "ranker")
    start = time.perf_counter()
    ranker = CrossEncoder.from_pretrained(output / "ranker")
    reranked = rerank(
        ranker,
        corpus,
        asked,
        runs["tuned retriever"],
        CANDIDATES,
        retriever_weight=RETRIEVER_WEIGHT,
        show_progress=True,
    )
    record("tuned retriever + re-ranker", reranked, start)

    write_pipeline(output, corpus, vectors, retriever.store_similarity)
    unfinished.unlink()
    for split in ("dev", "test"):
        qrels = collections[split].qrels
        rows = {name: measure({id: run[id] for id in qrels}, qrels, DEFAULT_MEASURES) for name, run in runs.items()}
        print(f"\n{split}, {len(qrels)} questions\n{format_table(rows)}")
    print(f"\nFrom the texts to the ranking of all {len(asked)} questions, in seconds: ", end="")
    print(", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    print(f"\nDone in {time.perf_counter() - begin:.0f} seconds.", flush=True)


def write_pipeline(output: Path, corpus: Mapping[str, Passage], vectors: NDArray[np.float32], similarity: str) -> None:
    """Indexes the passages and writes the query pipeline: retrieve, then re-rank."""
    store = FAISSDocumentStore(path=output.resolve() / "store", similarity=similarity)  # type: ignore[arg-type]
    documents = [Document(id=id, content=p.text, meta={"title": p.title}) for id, p in corpus.items()]
    with store:
        store.write_vectors(documents, vectors)
    pipeline = Pipeline()
    pipeline.add_component(
        "retriever",
        RocketQARetriever(model=output.resolve() / "retriever", document_store=store, top_k=CANDIDATES),
    )
    pipeline.add_component(
        "ranker",
        RocketQARanker(
            model=output.resolve() / "ranker", top_k=3, scale_score=False, retriever_weight=RETRIEVER_WEIGHT
        ),
    )
    pipeline.connect("retriever.documents", "ranker.documents")
    with atomic_write(output / "pipeline.yaml") as file:
        file.write(pipeline.dumps())


def answer(pipeline: Pipeline, question: str) -> None:
    """Prints a question and the passages that answer it."""
    result = pipeline.run({"retriever": {"query": question}, "ranker": {"query": question}})
    print(f"\n{question}")
    print_passages(result["ranker"]["documents"])


def typed_questions() -> Iterator[str]:
    """Questions typed at a prompt, until an empty line or the end of the input."""
    print("\nYour question (an empty line ends):")
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            return
        if not question:
            return
        yield question
