"""Mining: the top k of every query, the candidates from which hard negatives and pseudo-labels come.

A corpus is encoded into files of vectors, some thousand passages each (`encode_corpus`), and searched file by file for
some hundred queries at a time (`mine` with `dense_search`): of the vectors one file is in memory, whatever their
number, of the runs a few hundred queries. The work is shared among the processes of `accelerate launch`, goes on after
an interruption where it was, and gives the same with any number of processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

from rocketqa_haystack.data import (
    AnsweredCollection,
    Collection,
    DataError,
    Passage,
    TrainingGroup,
    groups_from_collection,
)
from rocketqa_haystack.data.files import write_json
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder
from rocketqa_haystack.encoders.search import exact_search
from rocketqa_haystack.evaluation import BM25, Run, RunFile, best, fuse, has_answer, retrieve, run_lines
from trainers import fingerprints
from trainers.parts import join_parts, make_parts

#: Passages of a file of vectors, and queries of a part of a run.
PASSAGES, QUERIES = 4_096, 512

#: Scores of candidates, best first, for some queries by id.
Search = Callable[[Mapping[str, str]], Run]


def encode_corpus(
    encoder: DualEncoder,
    corpus: Mapping[str, Passage],
    folder: Path,
    *,
    accelerator: Accelerator,
    show_progress: bool = False,
) -> None:
    """Writes the vectors of a corpus into a folder: float32 arrays [at most 4,096, dimension], in its order.

    Args:
        encoder: The retriever (RocketQA's M_D).
        corpus: Passages by id; a `CorpusFile` leaves them on disk.
        folder: What it has already is kept; `vectors.json` in it says what that is of.
        accelerator: The processes that share the work.
        show_progress: Whether to show a progress bar.

    Raises:
        DataError: The folder has vectors of another corpus or model, or of the model in another precision.
    """
    ids = list(corpus)
    _check_vectors(folder, encoder, corpus, accelerator)

    def make(number: int, path: Path) -> None:
        chunk = ids[number * PASSAGES : (number + 1) * PASSAGES]
        with path.open("wb") as file:
            np.save(file, encoder.encode_passages([corpus[id] for id in chunk]), allow_pickle=False)

    count = -(-len(ids) // PASSAGES)
    make_parts(
        folder,
        count,
        make,
        suffix=".npy",
        accelerator=accelerator,
        description="Encoding passages",
        show_progress=show_progress,
    )


def _check_vectors(folder: Path, encoder: DualEncoder, corpus: Mapping[str, Passage], accelerator: Accelerator) -> None:
    file = folder / "vectors.json"
    made_of = {
        "passages": fingerprints.of_passages(corpus),
        "model": fingerprints.of_weights(encoder.model),
        "settings": asdict(encoder.settings),
    }
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if known != made_of and (known is not None or any(folder.glob("*.npy"))):
        raise DataError(
            f"{folder} has vectors of another corpus or model, or of the model in another precision; remove it or "
            "name another folder"
        )
    accelerator.wait_for_everyone()  # so that every process has looked before one of them writes
    if accelerator.is_main_process:
        write_json(file, made_of)
    accelerator.wait_for_everyone()


def read_vectors(folder: Path, passages: int) -> Iterator[NDArray[np.float32]]:
    """The arrays that `encode_corpus` wrote, in order.

    Args:
        folder: Its folder.
        passages: How many the corpus has.

    Raises:
        DataError: There are not as many vectors.
    """
    found = 0
    for path in sorted(folder.glob("*.npy")):
        yield (part := np.load(path, allow_pickle=False))
        found += len(part)
    if found != passages:
        raise DataError(
            f"{folder} has {found:,} vectors for {passages:,} passages; remove {folder.parent} to encode again"
        )


def dense_search(encoder: DualEncoder, vectors: Path, ids: Sequence[str], k: int) -> Search:
    """Exact search by a retriever.

    Args:
        encoder: The retriever that the vectors are of.
        vectors: The folder of `encode_corpus`.
        ids: The passages' ids, in the order of the vectors.
        k: Passages for each query.
    """

    def search(queries: Mapping[str, str]) -> Run:
        query_vectors = encoder.encode_queries(list(queries.values()))
        scores = np.empty((len(queries), 0), dtype=np.float32)
        places = np.empty((len(queries), 0), dtype=np.int64)
        start = 0
        for part in read_vectors(vectors, len(ids)):
            found, positions = exact_search(
                query_vectors, part, k, similarity=encoder.similarity, device=encoder.model.device
            )
            scores, places = np.hstack([scores, found]), np.hstack([places, positions + start])
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, places = np.take_along_axis(scores, best, 1), np.take_along_axis(places, best, 1)
            start += len(part)
        return {
            query_id: {ids[place]: value for place, value in zip(row, values, strict=True)}
            for query_id, row, values in zip(queries, places.tolist(), scores.tolist(), strict=True)
        }

    return search


def lexical_search(bm25: BM25, k: int) -> Search:
    """Search by BM25."""
    return lambda queries: bm25.search(queries, k)


def run_search(path: Path, corpus: Container[str], k: int) -> Search:
    """The top k of another system, by its TREC run, which stays on disk; none for a query that it lacks.

    Args:
        path: The run.
        corpus: The ids of all passages.
        k: Passages for each query.

    Raises:
        DataError: The file is no TREC run, or, when searched, has a passage that is not in the corpus.
    """
    run = RunFile(path)

    def search(queries: Mapping[str, str]) -> Run:
        found = {id: best(run.get(id, {}), k) for id in queries}
        for query_id, scores in found.items():
            if (unknown := next((id for id in scores if id not in corpus), None)) is not None:
                raise DataError(f"{path}: passage {unknown!r}, found for query {query_id!r}, is not in the corpus")
        return found

    return search


def mine(
    searches: Sequence[Search],
    queries: Mapping[str, str],
    output: Path,
    *,
    accelerator: Accelerator,
    show_progress: bool = False,
) -> None:
    """Writes the candidates of every query as a TREC run; a run that is there stays as it is.

    Args:
        searches: Where candidates come from. With one, scores are its own; several are joined by reciprocal rank
            fusion, and a query has all that any of them found.
        queries: Questions by id.
        output: The run. What it is made of lies in a folder beside it meanwhile.
        accelerator: The processes that share the work.
        show_progress: Whether to show a progress bar.
    """
    if output.is_file():
        return
    ids = list(queries)

    def make(number: int, path: Path) -> None:
        chunk = {id: queries[id] for id in ids[number * QUERIES : (number + 1) * QUERIES]}
        found = [search(chunk) for search in searches]
        rows = found[0] if len(found) == 1 else {id: fuse([run.get(id, {}) for run in found]) for id in chunk}
        with path.open("w", encoding="utf-8") as file:
            file.writelines(run_lines(output, rows.items()))

    parts = make_parts(
        output.with_name(f"{output.name}.parts"),
        -(-len(ids) // QUERIES),
        make,
        suffix=".trec",
        accelerator=accelerator,
        description="Mining",
        show_progress=show_progress,
    )
    join_parts(parts, output, accelerator)


def score_candidates(
    reranker: CrossEncoder,
    corpus: Mapping[str, Passage],
    queries: Mapping[str, str],
    candidates: Path,
    output: Path,
    *,
    accelerator: Accelerator,
    show_progress: bool = False,
) -> None:
    """Writes the re-ranker's logits of a run's candidates as a run; one that is there stays as it is.

    The sigmoid of a logit is the re-ranker's probability that the passage answers the query, for models with one output
    and with two (see `CrossEncoder.logits`).

    Args:
        reranker: The cross-encoder (RocketQA's M_C).
        corpus: Passages by id.
        queries: Questions by id.
        candidates: The TREC run whose passages are scored.
        output: The run of logits.
        accelerator: The processes that share the work.
        show_progress: Whether to show a progress bar.
    """
    if output.is_file():
        return
    run = RunFile(candidates)
    ids = list(run)
    size = QUERIES // 8  # a candidate costs as much as a query

    def make(number: int, path: Path) -> None:
        chunk = {id: list(run[id]) for id in ids[number * size : (number + 1) * size]}
        logits = iter(
            reranker.logits([(queries[q], corpus[id]) for q, found in chunk.items() for id in found]).tolist()
        )
        with path.open("w", encoding="utf-8") as file:
            rows = ((q, {id: next(logits) for id in found}) for q, found in chunk.items())
            file.writelines(run_lines(output, rows))

    parts = make_parts(
        output.with_name(f"{output.name}.parts"),
        -(-len(ids) // size),
        make,
        suffix=".trec",
        accelerator=accelerator,
        description="Scoring candidates",
        show_progress=show_progress,
    )
    join_parts(parts, output, accelerator)


def mine_groups(
    encoder: DualEncoder,
    collection: Collection,
    k: int = 50,
    *,
    vectors: NDArray[np.float32] | None = None,
    show_progress: bool = False,
) -> list[TrainingGroup]:
    """Training groups whose negatives are the retriever's top k less the judged positives, best first.

    For collections that fit in memory; `mine` is for all.

    Args:
        encoder: The retriever (RocketQA's M_D).
        collection: Passages, questions and judgements.
        k: Passages to retrieve for each query.
        vectors: The passages' vectors in the order of the corpus, where they are at hand; else they are computed.
        show_progress: Whether to show progress bars.
    """
    run = retrieve(encoder, collection.corpus, collection.queries, k, vectors=vectors, show_progress=show_progress)
    return groups_from_collection(collection, run)


def mine_distractors(
    encoder: DualEncoder, data: AnsweredCollection, k: int = 50, *, show_progress: bool = False
) -> dict[str, list[str]]:
    """The retriever's top k for every question less those passages that hold an answer string, best first.

    They are what a reader will see beside the answer (DPR, section 6.1).

    Args:
        encoder: The retriever.
        data: Passages, questions and answers.
        k: Passages to retrieve for each question.
        show_progress: Whether to show progress bars.
    """
    corpus = data.collection.corpus
    run = retrieve(encoder, corpus, data.collection.queries, k, show_progress=show_progress)
    return {
        query_id: [id for id in scores if not has_answer(corpus[id].text, data.answers.get(query_id, ()))]
        for query_id, scores in run.items()
    }
