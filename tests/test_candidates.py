"""Sampling from candidates, calibration, pseudo-labels, generated questions: what may never happen, and what must."""

# ruff: noqa: RUF001 - Chinese has punctuation of its own

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import expit
from torch.nn import Identity

from rocketqa_haystack import CrossEncoder, Passage
from rocketqa_haystack.data import TrainingGroup
from trainers.augmentation import (
    GeneratedQuestion,
    WordFrequencies,
    different_questions,
    llm_questions,
    pseudo_label,
    question_key,
    round_trip,
    salient_questions,
)
from trainers.calibration import fit_temperature, probabilities
from trainers.sampling import (
    Thresholds,
    candidate_list,
    denoised_negatives,
    denoised_positives,
    epoch_generator,
    hybrid_lists,
    query_seed,
    random_negatives,
    undenoised_negatives,
)

IDS = [f"p{number}" for number in range(60)]
rankings = st.lists(st.sampled_from(IDS), max_size=40)
known_ids = st.sets(st.sampled_from(IDS), max_size=12)
scores = st.fixed_dictionaries({id: st.floats(0, 1) for id in IDS})
some_scores = st.dictionaries(st.sampled_from(IDS), st.floats(0, 1))
seeds = st.integers(0, 2**64 - 1)
counts, ranks = st.integers(-20, 30), st.integers(1, 50)  # a stage may ask for fewer than none


@example(set(IDS[:10]), -2, 0, IDS[:20])
@given(known_ids, counts, seeds, st.sampled_from([IDS, IDS[:20], [f"x{n}" for n in range(500)]]))
def test_random_negatives_are_new_different_and_as_many_as_asked(
    known: set[str], count: int, seed: int, corpus: list[str]
) -> None:
    drawn = random_negatives(corpus, known, count, seed)
    assert len(drawn) == len(set(drawn)) == min(max(0, count), len(set(corpus) - known))
    assert set(drawn) <= set(corpus) - known
    assert drawn == random_negatives(corpus, known, count, seed)


@given(rankings, known_ids, counts, ranks, seeds)
def test_undenoised_negatives_are_of_the_top_k_and_no_known_positive(
    ranked: list[str], known: set[str], count: int, k: int, seed: int
) -> None:
    drawn = undenoised_negatives(ranked, known, count, k, seed)
    assert len(drawn) == len(set(drawn)) == min(max(0, count), len(set(ranked[:k]) - known))
    assert set(drawn) <= set(ranked[:k]) - known
    assert drawn == undenoised_negatives(ranked, known, count, k, seed)


@given(rankings, some_scores, known_ids, counts, ranks, seeds, st.floats(0, 1))
def test_denoised_negatives_are_below_the_threshold_or_from_beyond_rank_k(
    ranked: list[str], sure: Mapping[str, float], known: set[str], count: int, k: int, seed: int, below: float
) -> None:
    thresholds = Thresholds(below, 1.0)
    drawn = denoised_negatives(ranked, sure, known, count, k, seed, thresholds=thresholds, beyond=IDS)
    top = set(ranked[:k])
    eligible = {id for id in top - known if sure.get(id, 1.0) < below}
    assert len(drawn) == len(set(drawn))
    assert not set(drawn) & known
    assert set(drawn) & top <= eligible
    assert len(set(drawn) & top) == min(max(0, count), len(eligible))
    assert len(drawn) == min(max(0, count), len(eligible) + len(set(IDS) - top - known))
    assert drawn == denoised_negatives(ranked, sure, known, count, k, seed, thresholds=thresholds, beyond=IDS)


@given(rankings, some_scores, known_ids, known_ids, counts, ranks, seeds)
def test_what_a_person_has_judged_wrong_is_a_negative_before_all_others(
    ranked: list[str], sure: Mapping[str, float], judged: set[str], known: set[str], count: int, k: int, seed: int
) -> None:
    drawn = denoised_negatives(ranked, sure, known, count, k, seed, judged=sorted(judged), beyond=IDS)
    assert len(drawn) == len(set(drawn))
    assert not set(drawn) & known
    assert set(drawn[: len(judged - known)]) <= judged
    assert len(set(drawn) & judged) == min(max(0, count), len(judged - known))
    others = denoised_negatives(ranked, sure, {*known, *judged}, count, k, seed)
    assert len(drawn) >= min(max(0, count), len(judged - known) + len(others))


@given(rankings, scores, known_ids, counts, ranks, seeds, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_only_adds_denoised_negatives(
    ranked: list[str], sure: Mapping[str, float], known: set[str], count: int, k: int, seed: int, one: float, two: float
) -> None:
    def drawn(below: float, count: int) -> list[str]:
        return denoised_negatives(ranked, sure, known, count, k, seed, thresholds=Thresholds(below, 1.0))

    low, high = sorted((one, two))
    assert set(drawn(low, len(IDS))) <= set(drawn(high, len(IDS)))
    assert len(drawn(low, count)) <= len(drawn(high, count))
    # What was drawn under both thresholds is drawn in the same order.
    both = [id for id in drawn(high, count) if sure[id] < low]
    assert drawn(low, count)[: len(both)] == both


@given(rankings, scores, ranks, st.floats(0, 1), st.floats(0, 1))
def test_a_lower_threshold_only_adds_denoised_positives(
    ranked: list[str], sure: Mapping[str, float], k: int, one: float, two: float
) -> None:
    low, high = sorted((one, two))
    more = denoised_positives(ranked, sure, k, thresholds=Thresholds(0.0, low))
    fewer = denoised_positives(ranked, sure, k, thresholds=Thresholds(0.0, high))
    assert more[: len(fewer)] == fewer
    assert set(more) == {id for id in ranked[:k] if sure[id] > low}
    assert len(more) == len(set(more))


@pytest.mark.parametrize(("below", "above"), [(0.9, 0.1), (-0.1, 0.9), (0.1, 1.1), (float("nan"), 0.9)])
def test_thresholds_that_make_no_sense_are_refused(below: float, above: float) -> None:
    with pytest.raises(ValueError, match="thresholds must satisfy"):
        Thresholds(below, above)


def test_a_query_has_a_seed_of_its_own() -> None:
    assert query_seed(0, "q1") == query_seed(0, "q1") != query_seed(0, "q2") != query_seed(1, "q1")


def group_of(query: str, size: int, start: int) -> TrainingGroup:
    positive, negatives = Passage(f"right {query}"), tuple(Passage(f"n{start + n}") for n in range(size))
    return TrainingGroup(query, query, ("p",), (positive,), tuple("n" * size), negatives)


@given(st.integers(1, 6), st.integers(2, 8), st.integers(0, 50))
def test_hybrid_lists_are_of_both_kinds_exactly_as_long_as_asked_and_new_in_every_epoch(
    queries: int, length: int, seed: int
) -> None:
    undenoised = [group_of(f"q{n}", 12, 0) for n in range(queries)]
    denoised = [group_of(f"q{n}", 12, 100) for n in range(queries)]
    epochs = [hybrid_lists(undenoised, denoised, length, seed, epoch) for epoch in range(3)]
    assert epochs[0] == hybrid_lists(undenoised, denoised, length, seed, 0)
    assert len({str(lists) for lists in epochs}) == 3
    for lists in epochs:
        assert sorted(query for query, _ in lists) == sorted([f"q{n}" for n in range(queries)] * 2)
        for query, passages in lists:
            assert len(passages) == len(set(passages)) == length
            assert passages[0] == Passage(f"right {query}")
            assert Passage(f"right {query}") not in passages[1:]
        from_denoised = [int(passages[1].text[1:]) >= 100 for _, passages in lists]
        assert sum(from_denoised) == queries


def test_a_list_from_a_small_pool_is_shorter() -> None:
    assert len(candidate_list(group_of("q", 3, 0), 8, epoch_generator(0, 0))) == 4


def test_re_rankers_of_one_and_of_two_outputs_give_probabilities_by_one_rule(
    ranker_folder: object, two_way_ranker_folder: object
) -> None:
    pairs = [("mama dada", Passage("kaka", "tata")), ("baba", Passage("mimi"))]
    for folder in (ranker_folder, two_way_ranker_folder):
        encoder = CrossEncoder.from_pretrained(str(folder), device="cpu", dtype="float32")
        logits = dict(zip("ab", encoder.logits(pairs).tolist(), strict=True))
        outputs = encoder.model.predict([("mama dada", "tata kaka"), ("baba", "mimi")], activation_fn=Identity())
        two = encoder.model.num_labels == 2
        expected = np.exp(outputs[:, 1]) / np.exp(outputs).sum(axis=1) if two else 1 / (1 + np.exp(-outputs))
        np.testing.assert_allclose(list(probabilities(logits).values()), expected, atol=1e-5)


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_fitted_temperature_is_the_one_that_the_logits_were_heated_by(true: float) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=20_000) * 2
    labels = generator.random(20_000) < expit(logits)
    run = {"q": {str(place): float(logit * true) for place, logit in enumerate(logits)}}
    qrels = {"q": {str(place): 1 for place in np.flatnonzero(labels)}}
    assert fit_temperature(run, qrels) == pytest.approx(true, rel=0.1)


@pytest.mark.parametrize(("run", "qrels"), [({}, {}), ({"q": {"a": 3.0}}, {}), ({"q": {"a": 3.0}}, {"q": {"a": 1}})])
def test_without_both_kinds_of_passages_nothing_is_heated(
    run: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]]
) -> None:
    assert fit_temperature(run, qrels) == 1.0


@given(rankings, scores, ranks, st.floats(0, 0.5), st.floats(0.5, 1))
def test_a_pseudo_label_is_the_best_sure_passage_and_the_sure_negatives(
    ranked: list[str], sure: Mapping[str, float], k: int, below: float, above: float
) -> None:
    labels = pseudo_label(ranked, sure, k, thresholds=Thresholds(below, above))
    right = [id for id in ranked[:k] if sure[id] > above]
    if not right:
        assert labels is None
        return
    assert labels is not None
    assert sure[labels.positive] == max(sure[id] for id in right)
    assert set(labels.negatives) == {id for id in ranked[:k] if sure[id] < below}
    assert len(labels.negatives) == len(set(labels.negatives))
    assert labels.positive not in labels.negatives


def test_questions_come_from_any_chat_generator_one_on_a_line() -> None:
    generator = MockChatGenerator('1. Who wrote it?\n\n- When was it "written"?\n3) Why?\n4) More?')
    (made,) = llm_questions(generator, 3)([Passage("text", "title")])
    assert made.questions == ["Who wrote it?", 'When was it "written"?', "Why?"]
    assert made.dropped == {"more than were asked for": 1}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("How do I  reset it?", "how do I reset it", True),
        ("\uff37\uff28\uff39\uff1f", "why ?!", True),
        ("如何重置？", "如何重置。", True),
        ("What is C#?", "What is C?", False),
        ("What is C++?", "What is C?", False),
        ("where", "here", False),
    ],
)
def test_questions_are_the_same_whatever_their_case_spaces_and_ends(one: str, other: str, same: bool) -> None:
    assert (question_key(one) == question_key(other)) == same


@pytest.mark.parametrize(
    ("reply", "questions", "dropped"),
    [
        ("Sure! Here are 2 questions:\n\n1. What is X?\n2. How is X made?\nMore?", ["What is X?", "How is X made?"],
         {"no question in form": 1, "more than were asked for": 1}),
        ("Here you go.\n* **What is X?**", ["What is X?"], {"no question in form": 1}),
        ("好的，以下是问题：\n1. 如何重置我的密码？\n2. 手机无法开机？", ["如何重置我的密码？", "手机无法开机？"],
         {"no question in form": 1}),
        ("Queries:\nreset password\nforgotten password", ["reset password", "forgotten password"],
         {"no question in form": 1}),
        ("2.4 GHz wifi: how is it enabled?\n-40 degrees: does it work?", ["2.4 GHz wifi: how is it enabled?",
         "-40 degrees: does it work?"], {}),
        ("10:30 alarm, how is it set?", ["10:30 alarm, how is it set?"], {}),
        (" \n", [], {"no answer by the generator": 1}),
        (None, [], {"no answer by the generator": 1}),
    ],
)  # fmt: skip
def test_of_an_answer_its_questions_are_taken_as_they_are_and_the_rest_is_counted(
    reply: str | None, questions: list[str], dropped: dict[str, int]
) -> None:
    class Generator:
        def run(self, messages: list[ChatMessage]) -> dict[str, list[ChatMessage]]:
            return {"replies": [] if reply is None else [ChatMessage.from_assistant(reply)]}

    (made,) = llm_questions(Generator(), 2)([Passage("text")])  # type: ignore[arg-type]
    assert made.questions == questions
    assert made.dropped == dropped


def test_questions_without_a_language_model_are_the_title_and_the_words_that_tell_most() -> None:
    corpus = [
        Passage(
            "The remote has a battery. Replace the alkaline battery of the remote every year.", "Replacing batteries"
        ),
        Passage("The remote can be paired. The remote has a button.", "Pairing"),
        Passage("The remote has a warranty. The remote is small.", ""),
        Passage("", ""),
    ]
    maker = salient_questions(WordFrequencies.of(corpus), 2)
    made = [one.questions for one in maker(corpus)]
    assert made[0][0] == "Replacing batteries"
    assert {"alkaline", "battery", "replace"} <= set(made[0][1].split())
    assert all(len(queries) <= 2 for queries in made)
    assert made[3] == []
    assert made == [one.questions for one in maker(corpus)]


def test_questions_without_a_language_model_are_made_of_scripts_without_spaces_too() -> None:
    corpus = [
        Passage("长按电源键十秒可以重新启动手机。如果仍然无法开机，请连接充电器。", "重新启动"),
        Passage("手机可以连接充电器。手机可以开机。", ""),
    ]
    (first, second) = (made.questions for made in salient_questions(WordFrequencies.of(corpus), 3)(corpus))
    assert first[0] == "重新启动"
    assert len(first) == 3, "the title and each of the two sentences"
    for query in first[1:]:
        assert len(query.split()) <= 2, "characters of the title and of the sentence, without spaces in them"
        assert set(query) - {" "} <= set(corpus[0].title + corpus[0].text)
    assert second
    asked = [GeneratedQuestion("a", "如何重置我的密码？", "p1"), GeneratedQuestion("b", "パスワードは？", "p2")]
    assert different_questions(asked)[0] == asked


def test_only_questions_that_find_their_way_back_are_kept_and_the_others_are_counted() -> None:
    texts = ["a b", "c d", "e f", "g", "i j", "I  J?", "A B.", "k l"]
    passages = ["p0", "p1", "p2", "p3", "p4", "p5", "p0", "p7"]
    asked = [GeneratedQuestion(f"g{n}", text, id) for n, (text, id) in enumerate(zip(texts, passages, strict=True))]
    different, kept = different_questions(asked)
    assert [question.id for question in different] == ["g0", "g1", "g2", "g7"]
    assert kept.as_dict() == {
        "kept": 4,
        "dropped": {
            "too short": 1,
            "the same question for several passages": 2,
            "the same question again for its passage": 1,
        },
    }
    run = {"g0": {"p0": 3.0, "p9": 2.0}, "g1": {"p9": 3.0, "p8": 2.0, "p1": 1.0}, "g2": {"p2": 1.0}, "g7": {"p7": 1.0}}
    sure = {"g0": {"p0": 0.8}, "g1": {"p1": 0.9}, "g2": {"p2": 0.2}, "g7": {"p7": 0.9}}
    held_out = {question_key("K  L?")}
    questions, kept = round_trip(different, run, sure, rank=2, above=0.5, held_out=held_out)
    assert [question.id for question in questions] == ["g0"]
    assert kept.kept == 1
    assert sorted(kept.dropped.values()) == [1, 1, 1]
    assert kept.dropped["the same as a question of dev or test"] == 1
    assert "1 dropped: the re-ranker gives the passage less than 0.5" in str(kept)
    assert [q.id for q in round_trip(different, run, None, rank=2, above=0.5)[0]] == ["g0", "g2", "g7"]
