"""Answers end to end: BM25, the untuned and the tuned retriever in front of the same re-ranker and the same reader.

    python benchmarks/qa.py COLLECTION [--questions 300] [--folder build/qa] [--retriever F] [--ranker F] [--reader F]

COLLECTION is a folder in BEIR layout whose queries.jsonl has "answers", with the splits train, dev and test. Each
system retrieves 50 passages, the re-ranker re-orders them, and TransformersExtractiveReader reads the best 10. The
re-ranker's logit is added to the retriever's score by a weight chosen for each system on questions of dev. Models that
are not given are trained from all-MiniLM-L6-v2 on the train split. All that was trained, ranked and read stays in the
folder: started again, it goes on where it was, and asks for more --questions reuse what is there.

Prints for each retriever, alone and re-ranked: RR@10 and R@50, the share of questions with an answer string in the
passages read, EM when the best 1, 3 and 10 of them are read, F1 of 10; for re-ranked ones EM and F1 of 10 where
RocketQAAnswerRanker weighs the answers by their passages; and how far the tuned retriever is ahead of the others in EM,
with 95 % intervals by paired bootstrap. A second table has EM where the re-ranker gets fewer of the candidates, and the
reader the best of them: what a retriever is worth to a pipeline that cannot afford to re-rank 50.

On 2 idle CPU cores without bfloat16 the trainings take about two hours for 2,000 questions, and reading and ranking
about four seconds a question; --train-questions and --questions make it shorter.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from haystack import Document, ExtractedAnswer
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader
from tqdm.auto import tqdm
from transformers import AutoTokenizer

from rocketqa_haystack import RocketQAAnswerRanker
from rocketqa_haystack.cli.main import quiet_libraries
from rocketqa_haystack.data import (
    AnsweredCollection,
    Collection,
    Passage,
    groups_from_collection,
    load_answered_collection,
)
from rocketqa_haystack.data.journal import Journal
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder
from rocketqa_haystack.encoders.packaged import small_encoder
from rocketqa_haystack.evaluation import (
    BM25,
    Run,
    answer_rank,
    exact_match,
    f1_score,
    format_table,
    has_answer,
    measure,
    read_run,
    retrieve,
    write_run,
)
from trainers import (
    CrossEncoderTrainer,
    DualEncoderTrainer,
    ReaderTrainer,
    TrainingSettings,
    mine_distractors,
    mine_groups,
)

CANDIDATES = 50
PASSAGES = 10
#: Passages read: the fewer they are, the more depends on the retrieval.
DEPTHS = (1, 3, PASSAGES)
#: Candidates re-ranked: the fewer they are, again.
RERANKED_OF = (1, 3, 5, 10, CANDIDATES)
PASSAGE_LENGTH = 192

#: Weights of the retriever's score, in units of one over its standard deviation within a question's candidates.
WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)

#: What the names of re-ranked systems end with.
RERANKED = " + re-ranker"
WEIGHED = "weighed"


def main() -> None:
    """Trains what is not there, then ranks, reads and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("build/qa"))
    parser.add_argument("--retriever", type=Path)
    parser.add_argument("--ranker", type=Path)
    parser.add_argument("--reader", type=Path)
    parser.add_argument("--questions", type=int, default=300, help="of the test split; 0 for all")
    parser.add_argument("--dev-questions", type=int, default=100, help="on which the weights are chosen")
    parser.add_argument("--train-questions", type=int, default=2_000, help="for each model; 0 for all")
    arguments = parser.parse_args()
    quiet_libraries()
    folder = arguments.folder
    train = part_of(load_answered_collection(arguments.collection, "train"), arguments.train_questions)
    retriever = arguments.retriever or trained_retriever(folder, train)
    ranker = arguments.ranker or trained_ranker(folder, train, retriever)
    reader = arguments.reader or trained_reader(folder, train, retriever)

    dev = part_of(load_answered_collection(arguments.collection, "dev"), arguments.dev_questions)
    test = part_of(load_answered_collection(arguments.collection, "test"), arguments.questions)
    asked = {**dev.collection.queries, **test.collection.queries}
    corpus = test.collection.corpus
    runs = {
        "BM25": BM25(corpus).search(asked, CANDIDATES),
        "untuned retriever": dense_run(folder / "untuned.trec", small_encoder(), corpus, asked),
        "tuned retriever": dense_run(folder / "tuned.trec", retriever, corpus, asked),
    }
    logits = ranked(folder / "ranked.jsonl", ranker, corpus, asked, runs)
    ids = test.collection.queries
    rankings: dict[str, Run] = {}
    best: dict[tuple[str, int], Run] = {}
    for name, run in runs.items():
        weight = best_weight(run, logits, dev.collection)
        print(f"{name}: the retriever's score has the weight {weight:.3g}")
        rankings[name] = {id: dict(top(run[id], CANDIDATES)) for id in ids}
        scores = {id: combined(run[id], logits[id], weight) for id in ids}
        rankings[f"{name}{RERANKED}"] = {id: dict(top(scores[id], CANDIDATES)) for id in ids}
        for k in RERANKED_OF:
            best[name, k] = {id: dict(top({p: scores[id][p] for p, _ in top(run[id], k)}, 1)) for id in ids}
    read = answers(folder / "read.jsonl", reader, corpus, ids, [*rankings.values(), *best.values()])

    rows, matches = {}, {}
    qrels = test.collection.qrels
    for name, ranking in rankings.items():
        found = {
            depth: {id: max(([0.0, ""], *(read[id][p] for p in list(ps)[:depth])))[1] for id, ps in ranking.items()}
            for depth in DEPTHS
        }
        for depth in DEPTHS:
            matches[name, depth] = np.array([exact_match(found[depth][id], test.answers[id]) for id in ids])
        ranks = [answer_rank((corpus[p].text for p in list(ranking[id])[:PASSAGES]), test.answers[id]) for id in ids]
        rows[name] = {
            **measure(ranking, qrels, ["RR@10", "R@50"]),
            "answer read": sum(rank is not None for rank in ranks) / len(ranks),
            **{f"EM of {depth}": float(matches[name, depth].mean()) for depth in DEPTHS},
            "F1": float(np.mean([f1_score(found[PASSAGES][id], test.answers[id]) for id in ids])),
        }
        if name.endswith(RERANKED):
            weighed = {id: weighed_answer(ranking[id], read[id]) for id in ids}
            matches[name, WEIGHED] = np.array([exact_match(weighed[id], test.answers[id]) for id in ids])
            rows[name] |= {
                f"EM {WEIGHED}": float(matches[name, WEIGHED].mean()),
                f"F1 {WEIGHED}": float(np.mean([f1_score(weighed[id], test.answers[id]) for id in ids])),
            }
    print(f"{len(qrels)} test questions, {len(corpus)} passages, {CANDIDATES} re-ranked, {PASSAGES} read")
    print(format_table(rows))
    for (name, k), ranking in best.items():
        found = {id: read[id][p][1] for id, ps in ranking.items() for p in ps}
        matches[name, f"best of {k}"] = np.array([exact_match(found.get(id, ""), test.answers[id]) for id in ids])
    columns = [f"best of {k}" for k in RERANKED_OF]
    print("\nEM where so many candidates are re-ranked and the best one is read")
    print(format_table({name: {kind: float(matches[name, kind].mean()) for kind in columns} for name in runs}))
    *others, last = runs
    for other in others:
        for kind in columns:
            low, mean, high = interval(matches[last, kind] - matches[other, kind])
            print(f"EM, {kind}, {last} less {other}: {mean:+.4f} ({low:+.4f} to {high:+.4f})")
    for stage in ("", RERANKED):
        for other in others:
            for kind in (*DEPTHS, WEIGHED)[: None if stage else -1]:
                low, mean, high = interval(matches[last + stage, kind] - matches[other + stage, kind])
                label = kind if kind == WEIGHED else f"of {kind}"
                print(f"EM {label}, {last}{stage} less {other}{stage}: {mean:+.4f} ({low:+.4f} to {high:+.4f})")


def part_of(data: AnsweredCollection, number: int) -> AnsweredCollection:
    """So many of the questions, from all parts of the split."""
    whole = data.collection
    ids = list(whole.queries)
    if 0 < number < len(ids):
        ids = [ids[i * len(ids) // number] for i in range(number)]
    kept = Collection(whole.corpus, {id: whole.queries[id] for id in ids}, {id: whole.qrels[id] for id in ids})
    return AnsweredCollection(kept, data.answers, data.spans)


def trained_retriever(folder: Path, train: AnsweredCollection) -> Path:
    """The retriever, trained with one of BM25's hard negatives for each question."""
    output = folder / "retriever"
    if not output.is_dir():
        found = BM25(train.collection.corpus).search(train.collection.queries, 20)
        without = {q: [p for p in ps if not answers_in(train, p, q)] for q, ps in found.items()}
        DualEncoderTrainer(
            small_encoder(),
            groups_from_collection(train.collection, without),
            hard_negatives=1,
            settings=TrainingSettings(epochs=2, learning_rate=5e-5),
            passage_max_length=PASSAGE_LENGTH,
        ).train(output)
    return output


def trained_ranker(folder: Path, train: AnsweredCollection, retriever: Path) -> Path:
    """The re-ranker, trained on what the retriever finds."""
    output = folder / "ranker"
    if not output.is_dir():
        groups = mine_groups(DualEncoder.from_pretrained(retriever), train.collection, CANDIDATES, show_progress=True)
        settings = TrainingSettings(batch_size=8, learning_rate=1e-4)
        CrossEncoderTrainer(
            small_encoder(), groups, loss="listwise", settings=settings, max_length=PASSAGE_LENGTH + 32
        ).train(output)
    return output


def trained_reader(folder: Path, train: AnsweredCollection, retriever: Path) -> Path:
    """The reader, trained on the answers with distractors that the retriever finds."""
    output = folder / "reader"
    if not output.is_dir():
        distractors = mine_distractors(DualEncoder.from_pretrained(retriever), train, CANDIDATES, show_progress=True)
        settings = TrainingSettings(epochs=3, batch_size=8, learning_rate=2e-4)
        ReaderTrainer(small_encoder(), train.questions(distractors), settings=settings, negatives=2).train(output)
    return output


def answers_in(data: AnsweredCollection, passage: str, query: str) -> bool:
    """Whether a passage holds an answer string of a question."""
    return has_answer(data.collection.corpus[passage].text, data.answers.get(query, ()))


def dense_run(file: Path, model: Path, corpus: dict[str, Passage], queries: dict[str, str]) -> Run:
    """A dual encoder's candidates, kept as a run file."""
    run = read_run(file) if file.is_file() else {}
    if missing := {id: text for id, text in queries.items() if id not in run}:
        encoder = DualEncoder.from_pretrained(model)
        run |= retrieve(encoder, corpus, missing, CANDIDATES, show_progress=True)
        write_run(file, run)
    return {id: run[id] for id in queries}


def ranked(file: Path, model: Path, corpus: dict[str, Passage], queries: dict[str, str], runs: dict[str, Run]) -> Run:
    """The re-ranker's logits of all candidates of all runs."""
    journal = Journal(file, {"ranker": str(model.resolve())})
    encoder = None
    for query_id in tqdm([id for id in queries if id not in journal.records], desc="Re-ranking", unit="question"):
        encoder = encoder or CrossEncoder.from_pretrained(model)
        ids = list(dict.fromkeys(id for run in runs.values() for id in run[query_id]))
        scores = encoder.logits([(queries[query_id], corpus[id]) for id in ids]).tolist()
        journal.append({"id": query_id, "logits": dict(zip(ids, scores, strict=True))})
    return {id: journal.records[id]["logits"] for id in queries}


def combined(scores: dict[str, float], logits: dict[str, float], weight: float) -> dict[str, float]:
    """What RocketQARanker ranks by with `retriever_weight`."""
    return {id: logits[id] + weight * score for id, score in scores.items()}


def best_weight(run: Run, logits: Run, dev: Collection) -> float:
    """The weight of the retriever's score with the best RR@10 on dev."""
    unit = 1 / np.mean([np.std(list(run[id].values())) for id in dev.queries])

    def quality(weight: float) -> float:
        return measure({id: combined(run[id], logits[id], weight) for id in dev.queries}, dev.qrels, ["RR@10"])["RR@10"]

    return float(max((weight * unit for weight in WEIGHTS), key=quality))


def top(scores: dict[str, float], k: int) -> Iterable[tuple[str, float]]:
    """The best k of them."""
    return sorted(scores.items(), key=lambda item: item[1], reverse=True)[:k]


def answers(
    file: Path,
    model: Path,
    corpus: dict[str, Passage],
    queries: dict[str, str],
    rankings: Sequence[Run],
) -> dict[str, dict[str, list]]:
    """The score of the best answer in each passage that one of the rankings hands to the reader, and the answer.

    The reader scores every span on its own: the answer of a system is the best of its passages' best.
    """
    journal = Journal(file, {"reader": str(model.resolve())})
    length = min(384, AutoTokenizer.from_pretrained(model).model_max_length)
    reader = TransformersExtractiveReader(
        model, max_seq_length=length, stride=length // 3, no_answer=False, answers_per_seq=1
    )
    for query_id in tqdm(queries, desc="Reading", unit="question"):
        known = journal.records.get(query_id, {"answers": {}})["answers"]
        ids = {id for ranking in rankings for id in list(ranking[query_id])[:PASSAGES]} - known.keys()
        if ids:
            documents = [Document(id=id, content=corpus[id].text) for id in sorted(ids)]
            found = {id: [0.0, ""] for id in ids}
            for answer in reader.run(queries[query_id], documents, top_k=10_000)["answers"]:
                found[answer.document.id] = max(found[answer.document.id], [answer.score, answer.data])
            journal.append({"id": query_id, "answers": {**known, **found}})
    return {id: journal.records.get(id, {"answers": {}})["answers"] for id in queries}


def weighed_answer(ranking: dict[str, float], read: dict[str, list]) -> str:
    """The best answer of the passages read, by the reader and by their logits."""
    found = [
        ExtractedAnswer(query="", score=read[p][0], data=read[p][1], document=Document(id=p, score=logit))
        for p, logit in list(ranking.items())[:PASSAGES]
        if read[p][1]
    ]
    ranked = RocketQAAnswerRanker(scaled_scores=False).run(found)["answers"]
    return ranked[0].data or "" if ranked else ""


def interval(differences: np.ndarray, samples: int = 10_000) -> tuple[float, float, float]:
    """Their mean between the 2.5 and the 97.5 percentile of the means of samples drawn with replacement."""
    generator = np.random.default_rng(0)
    means = [differences[generator.integers(len(differences), size=len(differences))].mean() for _ in range(samples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(differences.mean()), float(high)


if __name__ == "__main__":
    main()
