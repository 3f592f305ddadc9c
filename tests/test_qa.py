"""From a store to answers: the pipelines that `rocketqa pipeline` writes, and what `rocketqa evaluate-qa` measures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from haystack import Document, ExtractedAnswer, Pipeline, component
from haystack.components.generators.chat import MockChatGenerator
from haystack.core.serialization import allow_deserialization_module
from made_up_answers import made_up
from made_up_words import WORDS

from rocketqa_haystack import FAISSDocumentStore, RocketQADocumentEmbedder
from rocketqa_haystack.cli.main import main
from rocketqa_haystack.data import Passage, read_qrels, save_collection
from rocketqa_haystack.serving.asking import AskingPipeline

CHATS = "haystack.components.generators.chat"
CHAT = f"{CHATS}.MockChatGenerator"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def write(encoder_folder: Path, ranker_folder: Path, reader_folder: Path, tmp_path: Path) -> Any:
    """Indexes texts and writes a pipeline of a kind over them, which it loads."""

    def write_pipeline(kind: str, texts: list[str], *options: object) -> Pipeline:
        store = tmp_path / "store"
        embedder = RocketQADocumentEmbedder(model=encoder_folder, progress_bar=False)
        documents = [Document(id=str(i), content=text, meta={"title": "baba"}) for i, text in enumerate(texts)]
        with FAISSDocumentStore(path=store) as opened:
            opened.write_documents(embedder.run(documents)["documents"])
        models = ["--retriever", encoder_folder, "--ranker", ranker_folder, "--store", store]
        reader = ["--reader", reader_folder] if kind == "extractive" else []
        assert run("pipeline", "--kind", kind, *models, *reader, *options, tmp_path / "qa" / "pipeline.yaml") == 0
        return Pipeline.loads((tmp_path / "qa" / "pipeline.yaml").read_text())

    return write_pipeline


def texts_of(count: int, seed: int = 1) -> list[str]:
    return [question.positives[0].text for question in made_up(count, seed)]


def test_an_extractive_pipeline_answers_with_a_span_and_its_document(write: Any, tmp_path: Path) -> None:
    texts = [*texts_of(1), "kaka dada", "mimi kiki"]
    pipeline = write("extractive", texts)
    assert set(pipeline.graph.nodes) == {"retriever", "ranker", "reader"}
    first, *others = pipeline.run({"query": "baba dede"})["reader"]["answers"]
    assert first.document.content == texts[0]
    assert first.document.meta["title"] == "baba"
    assert first.data.isdigit()
    assert texts[0][first.document_offset.start : first.document_offset.end] == first.data
    assert first.score > 0.5
    assert sum(answer.data is None for answer in others) == 1
    written = pipeline.to_dict()["components"]["reader"]["init_parameters"]
    assert written["max_batch_size"] is None
    assert "device_map" not in (tmp_path / "qa" / "pipeline.yaml").read_text(), "the machine that loads it chooses"


@pytest.mark.parametrize("options", [[], ["--retriever-weight", 20]])
def test_answers_can_be_weighed_by_their_passages(write: Any, tmp_path: Path, options: list[object]) -> None:
    texts = texts_of(4)
    pipeline = write("extractive", texts, "--answers", 2, "--passage-weight", 1000, *options)
    assert set(pipeline.graph.nodes) == {"retriever", "ranker", "reader", "answer_ranker"}
    result = pipeline.run({"query": "baba dede"}, include_outputs_from={"ranker", "reader"})
    best = result["ranker"]["documents"][0]
    weighed = result["answer_ranker"]["answers"]
    assert sum(answer.data is not None for answer in weighed) == 2
    assert weighed[0].document.id == best.id
    own = [answer.score for answer in result["reader"]["answers"] if answer.document and answer.document.id == best.id]
    assert weighed[0].score == pytest.approx(own[0], abs=1e-6)
    served = AskingPipeline(tmp_path / "qa").ask("baba dede", top_k=1).answers
    assert [answer.passage_id for answer in served if answer.text is not None] == [best.id]


def test_passages_without_the_answer_give_no_answer_first(write: Any) -> None:
    answers = write("extractive", ["kaka dada", "mimi kiki baba"]).run({"query": "baba"})["reader"]["answers"]
    assert answers[0].data is None
    assert answers[0].score > 0.5


def test_an_empty_store_gives_no_answers_and_no_error(write: Any) -> None:
    assert write("extractive", []).run({"query": "baba"})["reader"]["answers"] == []


def test_an_answer_at_the_end_of_a_long_document_is_found_at_its_place(write: Any) -> None:
    text = " ".join([*(WORDS * 20), "7"])
    (first, *_) = write("extractive", [text, "kaka"]).run({"query": "baba"})["reader"]["answers"]
    assert first.data == "7"
    assert first.document_offset.start == text.index("7")


def test_ten_documents_with_the_same_text_give_one_answer(write: Any) -> None:
    texts = texts_of(2)
    pipeline = write("extractive", [texts[0]] * 10 + [texts[1], "", "  "], "--answers", 5)
    result = pipeline.run({"query": "baba"}, include_outputs_from={"ranker"})
    assert sorted(document.content for document in result["ranker"]["documents"]) == sorted(texts)
    best = [answer for answer in result["reader"]["answers"] if answer.score > 0.5]
    assert {answer.document.content for answer in best} == set(texts)
    assert len(best) == 2


@pytest.mark.parametrize("texts", [["\ufeff", "\u200b"], ["baba"]])
@pytest.mark.parametrize("question", ["baba", "\u200b"])
def test_texts_and_questions_that_cannot_be_seen_are_no_error(write: Any, texts: list[str], question: str) -> None:
    answers = write("extractive", texts).run({"query": question})["reader"]["answers"]
    assert {answer.data for answer in answers} == ({"baba", None} if texts == ["baba"] else set())


def test_a_retrieval_pipeline_gives_as_many_passages_as_asked(write: Any) -> None:
    pipeline = write("retrieval", texts_of(6), "--passages", 4, "--retriever-weight", 20)
    assert set(pipeline.graph.nodes) == {"retriever", "ranker"}
    assert len(pipeline.run({"query": "baba"})["ranker"]["documents"]) == 4


def test_a_rag_pipeline_shows_the_passages_to_any_chat_generator(write: Any) -> None:
    """The generator echoes its prompt."""
    texts = texts_of(3)
    pipeline = write("rag", [*texts, texts[0]], "--generator", CHAT)
    (answer,) = pipeline.run({"query": "what is baba?"})["answer_builder"]["answers"]
    assert all(answer.data.count(text) == 1 for text in texts)
    assert "[3] baba: " in answer.data
    assert "[4]" not in answer.data
    assert answer.data.endswith("Question: what is baba?")
    assert {document.content for document in answer.documents} == set(texts)


def test_a_rag_pipeline_marks_the_passages_that_the_answer_names(write: Any) -> None:
    options = json.dumps({"responses": "It is dede [2]."})
    pipeline = write("rag", texts_of(3), "--generator", CHAT, "--generator-options", options)
    (answer,) = pipeline.run({"query": "baba"})["answer_builder"]["answers"]
    assert [document.meta["referenced"] for document in answer.documents] == [False, True, False]


def test_generators_within_a_generator_are_kept(write: Any, encoder_folder: Path) -> None:
    fallback = "haystack.components.generators.chat.FallbackChatGenerator"
    options = json.dumps({"chat_generators": [MockChatGenerator("It is dede.").to_dict()]})
    pipeline = write("rag", texts_of(3), "--generator", fallback, "--generator-options", options)
    (answer,) = pipeline.run({"query": "baba"})["answer_builder"]["answers"]
    assert answer.data == "It is dede."


def test_a_generator_of_ones_own_is_loaded_where_its_module_is_trusted(
    write: Any,
    encoder_folder: Path,
    ranker_folder: Path,
    answered: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "my_generator.py").write_text(
        "from haystack import component\n"
        "from haystack.dataclasses import ChatMessage\n"
        "@component\n"
        "class Mine:\n"
        "    @component.output_types(replies=list[ChatMessage])\n"
        "    def run(self, messages: list[ChatMessage]):\n"
        "        return {'replies': [ChatMessage.from_assistant('mine')]}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    write("retrieval", ["baba"])
    models = ["--retriever", encoder_folder, "--ranker", ranker_folder, "--store", tmp_path / "store"]
    output = tmp_path / "own" / "pipeline.yaml"
    assert run("pipeline", "--kind", "rag", *models, "--generator", "my_generator.Mine", output) == 0
    way = "HAYSTACK_DESERIALIZATION_ALLOWLIST=my_generator"
    assert way in capsys.readouterr().out
    for command in (("evaluate-qa", output, answered), ("serve", output.parent, "--port", 0)):
        assert run(*command) == 2
        error = capsys.readouterr().err
        assert way in error
        assert len(error.splitlines()) == 1
    monkeypatch.setenv(*way.split("="))
    (answer,) = Pipeline.loads(output.read_text()).run({"query": "baba"})["answer_builder"]["answers"]
    assert answer.data == "mine"


def test_a_rag_pipeline_over_an_empty_store_says_so_to_the_generator(write: Any) -> None:
    (answer,) = write("rag", [], "--generator", CHAT).run({"query": "baba"})["answer_builder"]["answers"]
    assert "There are no passages." in answer.data
    assert answer.documents == []


def test_the_yaml_loads_from_another_folder_than_it_was_written_in(
    write: Any, tmp_path: Path, encoder_folder: Path, ranker_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("retrieval", texts_of(1))
    monkeypatch.chdir(encoder_folder.parent)
    models = ["--retriever", encoder_folder.name, "--ranker", ranker_folder.name, "--store", tmp_path / "store"]
    assert run("pipeline", "--kind", "retrieval", *models, tmp_path / "other.yaml") == 0
    monkeypatch.chdir("/")
    pipeline = Pipeline.load((tmp_path / "other.yaml").open())
    assert pipeline.run({"query": "baba"})["ranker"]["documents"]


def test_keys_stay_in_environment_variables(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "very secret")
    key = {"type": "env_var", "env_vars": ["MY_KEY"], "strict": True}
    options = {"api_key": key, "api_base_url": "http://127.0.0.1:1/v1", "generation_kwargs": {"temperature": 0}}
    pipeline = write("rag", [], "--generator-options", json.dumps(options))
    assert pipeline.get_component("generator").api_key.resolve_value() == "very secret"
    assert "very secret" not in (tmp_path / "qa" / "pipeline.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "extractive"], "a pipeline of the kind extractive needs a --reader"),
        (["--kind", "retrieval", "--reader", "READER"], "a pipeline of the kind retrieval has no reader"),
        (["--kind", "guess"], "kind"),
        (["--kind", "retrieval", "--store", "/nowhere"], "/nowhere is no document store"),
        (["--kind", "retrieval", "--ranker", "ENCODER"], "holds a dual encoder, not a cross-encoder"),
        (["--kind", "retrieval", "--retriever", "RANKER"], "holds a cross-encoder, not a dual encoder"),
        (["--kind", "retrieval", "--generator", CHAT], "a pipeline of the kind retrieval has no generator"),
        (["--kind", "retrieval", "--generator-options", '{"model": "x"}'], "of the kind retrieval has no generator"),
        (["--kind", "rag", "--passage-weight", "1"], "of the kind rag has no answers of a reader to weigh"),
        (
            ["--kind", "extractive", "--reader", "READER", "--passage-weight", "-1"],
            "passage_weight must be a number >= 0",
        ),
        (["--kind", "extractive", "--reader", "READER", "--answers", "0"], "answers must be at least 1, but got 0"),
        (["--kind", "rag", "--generator-options", '{"api_key": "sk-1"}'], '{"api_key": {"type": "env_var", "env_vars"'),
        (
            [
                *["--kind", "rag", "--generator", f"{CHATS}.FallbackChatGenerator", "--generator-options"],
                json.dumps(
                    {
                        "chat_generators": [
                            {"type": f"{CHATS}.OpenAIChatGenerator", "init_parameters": {"api_key": "sk-1"}}
                        ]
                    }
                ),
            ],
            "api_key is a secret, which a file should not hold",
        ),
        (["--kind", "extractive", "--reader", "RANKER"], "is no question-answering model"),
        (["--kind", "extractive", "--reader", "/nowhere"], "there is no model folder '/nowhere'"),
        (["--kind", "rag", "--generator", "nothing.Here"], "there is no class 'nothing.Here'"),
        (["--kind", "rag", "--generator", CHAT, "--generator-options", '{"colour": 1}'], "cannot be made with"),
        (["--kind", "rag", "--generator", "haystack.components.builders.AnswerBuilder"], "messages"),
    ],
)
def test_a_pipeline_that_cannot_be_is_one_sentence(
    arguments: list[str],
    message: str,
    write: Any,
    encoder_folder: Path,
    ranker_folder: Path,
    reader_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("retrieval", ["baba"])
    places = {"ENCODER": encoder_folder, "RANKER": ranker_folder, "READER": reader_folder}
    given = {"--retriever": encoder_folder, "--ranker": ranker_folder, "--store": tmp_path / "store"}
    given |= {name: places.get(value, value) for name, value in zip(arguments[::2], arguments[1::2], strict=True)}
    output = tmp_path / "other.yaml"
    capsys.readouterr()
    assert run("pipeline", *(part for pair in given.items() for part in pair), output) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not output.exists()


def test_a_pipeline_that_is_there_is_not_replaced(
    write: Any, tmp_path: Path, encoder_folder: Path, ranker_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("retrieval", ["baba"])
    before = (tmp_path / "qa" / "pipeline.yaml").read_text()
    models = ["--retriever", encoder_folder, "--ranker", ranker_folder, "--store", tmp_path / "store"]
    assert run("pipeline", "--kind", "retrieval", *models, tmp_path / "qa" / "pipeline.yaml") == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "qa" / "pipeline.yaml").read_text() == before


@pytest.fixture
def answered(tmp_path: Path) -> Path:
    """A collection whose passages are those of `made_up`: every question's answer is the number in one of them."""
    questions = made_up(6, seed=1)
    corpus = {question.query_id: question.positives[0] for question in questions} | {"none": Passage("kaka")}
    folder = tmp_path / "answered"
    qrels = {question.query_id: {question.query_id: 1} for question in questions}
    save_collection(folder, corpus, {}, {"test": qrels})
    lines = [{"_id": q.query_id, "text": q.query, "answers": list(q.answers)} for q in questions]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def test_evaluate_qa_measures_answers_recall_and_time(
    write: Any, answered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = texts_of(6)
    write("extractive", [*texts, "kaka"], "--passages", 2)
    files = ["--output", tmp_path / "report.json", "--answers-file", tmp_path / "answers.jsonl"]
    assert run("evaluate-qa", tmp_path / "qa", answered, "--ranks", 1, 2, 7, *files) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    records = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()[1:]]
    gold = {question.query_id: question.answers[0] for question in made_up(6, seed=1)}
    assert report["questions"] == 6
    assert report["EM"] == sum(record["answer"] == gold[record["id"]] for record in records) / 6
    assert report["F1"] >= report["EM"]
    assert report["Success"]["retriever"]["Success@7"] == 1, "seven passages are all"
    assert set(report["Success"]["ranker"]) == {"Success@1", "Success@2"}, "the ranker hands on two"
    assert set(report["seconds"]) == {"retriever", "ranker", "reader", "total"}
    for seconds in (record["seconds"] for record in records):
        assert seconds["retriever"] + seconds["ranker"] + seconds["reader"] <= seconds["total"]
    assert all(0 < seconds["p50"] <= seconds["p95"] for seconds in report["seconds"].values())
    printed = capsys.readouterr().out
    assert f"EM {report['EM']:.4f}, F1 {report['F1']:.4f}" in printed
    assert "p95 ms" in printed


def test_evaluate_qa_measures_the_answers_that_the_pipeline_ends_with(
    write: Any, answered: Path, tmp_path: Path
) -> None:
    pipeline = write("extractive", texts_of(6), "--passage-weight", 1000)
    file = tmp_path / "answers.jsonl"
    assert run("evaluate-qa", tmp_path / "qa", answered, "--answers-file", file) == 0
    records = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    queries = {question.query_id: question.query for question in made_up(6, seed=1)}
    differ = 0
    for record in records:
        result = pipeline.run({"query": queries[record["id"]]}, include_outputs_from={"reader"})
        reader, weighed = (result[stage]["answers"][0].data or "" for stage in ("reader", "answer_ranker"))
        assert record["first"] == weighed
        differ += reader != weighed
    assert differ


def test_evaluate_qa_of_a_pipeline_without_a_reader_measures_recall(write: Any, answered: Path, tmp_path: Path) -> None:
    write("retrieval", texts_of(6))
    output = tmp_path / "report.json"
    assert run("evaluate-qa", tmp_path / "qa" / "pipeline.yaml", answered, "--questions", 3, "--output", output) == 0
    report = json.loads(output.read_text())
    assert report["questions"] == 3
    assert "EM" not in report
    assert "Success@1" in report["Success"]["ranker"]


def test_evaluate_qa_says_how_many_questions_have_no_answers(
    write: Any, answered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("retrieval", texts_of(6))
    shutil.copytree(answered, tmp_path / "without")
    queries = [json.loads(line) for line in (answered / "queries.jsonl").read_text().splitlines()]
    asked = read_qrels(answered / "qrels" / "test.tsv")
    for query in [query for query in queries if query["_id"] in asked][:2]:
        del query["answers"]
    (tmp_path / "without" / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    assert run("evaluate-qa", tmp_path / "qa" / "pipeline.yaml", tmp_path / "without") == 0
    assert "2 of 6 questions are left out: they have no field 'answers'" in capsys.readouterr().out


def test_citations_are_not_part_of_a_generated_answer_and_no_answer_is_none(
    write: Any, answered: Path, tmp_path: Path
) -> None:
    gold = made_up(6, seed=1)[0].answers[0]
    options = json.dumps({"responses": ["warm up", f"{gold} [1][2-3, 5].", "No answer."]})
    write("rag", texts_of(6), "--generator", CHAT, "--generator-options", options)
    lines = [json.loads(line) for line in (answered / "queries.jsonl").read_text().splitlines()]
    lines[3]["answers"] = []  # the second of two questions asked
    (answered / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)))
    output = tmp_path / "report.json"
    assert run("evaluate-qa", tmp_path / "qa", answered, "--questions", 2, "--output", output) == 0
    assert json.loads(output.read_text())["EM"] == 1


@component
class Say:
    """A reader that says the same to everything: first that there is no answer, where it is to say nothing."""

    def __init__(self, text: str) -> None:
        self.text = text

    @component.output_types(answers=list[ExtractedAnswer])
    def run(self, query: str) -> dict[str, Any]:
        answers = [ExtractedAnswer(query=query, score=0.9, data=self.text or None)]
        return {"answers": answers if self.text else [*answers, ExtractedAnswer(query=query, score=0.1, data="x")]}


@component
class Route:
    """Sends questions on by their first letter."""

    @component.output_types(a=str, other=str)
    def run(self, query: str) -> dict[str, Any]:
        return {"a" if query.startswith("a") else "other": query}


@component
class Find:
    """A retriever that finds the question itself."""

    @component.output_types(documents=list[Document])
    def run(self, text: str) -> dict[str, Any]:
        return {"documents": [Document(content=text)]}


@pytest.fixture
def evaluate(tmp_path: Path) -> Any:
    """Evaluates a pipeline of components on questions with answers; gives the report."""
    allow_deserialization_module(__name__)

    def evaluate_pipeline(components: dict[str, Any], edges: dict[str, str], asked: dict[str, str | None]) -> Any:
        pipeline = Pipeline()
        for name, instance in components.items():
            pipeline.add_component(name, instance)
        for sender, receiver in edges.items():
            pipeline.connect(sender, receiver)
        (tmp_path / "pipeline.yaml").write_text(pipeline.dumps())
        qrels = {question: {"p": 1} for question in asked}
        save_collection(tmp_path / "made", {"p": Passage("baba")}, {}, {"test": qrels})
        lines = [
            {"_id": question, "text": question, "answers": [] if answer is None else [answer]}
            for question, answer in asked.items()
        ]
        (tmp_path / "made" / "queries.jsonl").write_text("\n".join(map(json.dumps, lines)))
        output = tmp_path / "report.json"
        assert run("evaluate-qa", tmp_path, tmp_path / "made", "--output", output) == 0
        return json.loads(output.read_text())

    return evaluate_pipeline


def test_questions_without_an_answer_are_not_asked_for_its_passage(evaluate: Any) -> None:
    asked = {"a x": "x", "a y": "y", "a": None, "a z": None}
    report = evaluate({"route": Route(), "finder": Find()}, {"route.a": "finder.text"}, asked)
    assert report["Success"] == {"finder": {"Success@1": 1.0}}


def test_no_answer_counts_wherever_the_split_has_questions_without_one(evaluate: Any, tmp_path: Path) -> None:
    asked = {"first": "x", "second": None}
    assert evaluate({"reader": Say("")}, {}, asked)["EM"] == 0.5
    options = ["--questions", 1, "--output", tmp_path / "one.json"]  # the first alone, which has an answer
    assert run("evaluate-qa", tmp_path, tmp_path / "made", *options) == 0
    assert json.loads((tmp_path / "one.json").read_text())["EM"] == 0


@pytest.mark.parametrize("answer", ["arr[0]", "No answer"])
def test_an_extracted_answer_is_measured_as_it_stands_in_its_passage(evaluate: Any, answer: str) -> None:
    report = evaluate({"reader": Say(answer)}, {}, {"what?": answer})
    assert (report["EM"], report["F1"]) == (1, 1)


def test_a_stage_is_measured_on_the_questions_that_reach_it(evaluate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    components = {"route": Route(), "finder": Find(), "reader": Say("x")}
    report = evaluate(components, {"route.a": "finder.text"}, {"b x": "x", "a x": "x", "a y": "x"})
    assert report["Success"] == {"finder": {"Success@1": 0.5}}
    assert report["reached"] == {"route": 3, "finder": 2, "reader": 3}
    assert report["EM"] == 1
    assert list(report["seconds"])[-1] == "total"
    assert "finder: reached by 2 of 3 questions" in capsys.readouterr().out


@pytest.mark.parametrize("changed", ["questions", "answers", "model", "store"])
def test_answers_are_not_taken_over_from_other_questions_models_or_documents(
    write: Any, answered: Path, ranker_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    write("retrieval", texts_of(2))
    model = tmp_path / "ranker"
    shutil.copytree(ranker_folder, model)
    file = tmp_path / "qa" / "pipeline.yaml"
    file.write_text(file.read_text().replace(str(ranker_folder), str(model)))
    command = ["evaluate-qa", file, answered, "--questions", 1, "--answers-file", tmp_path / "answers.jsonl"]
    assert run(*command) == 0
    assert run(*command) == 0, "nothing changed"
    queries = answered / "queries.jsonl"
    if changed == "questions":
        queries.write_text(queries.read_text().replace('"text": "', '"text": "so '))
    elif changed == "answers":
        queries.write_text(queries.read_text().replace('"answers": ["', '"answers": ["1'))
    elif changed == "model":
        (model / "config.json").write_text((model / "config.json").read_text() + "\n")
    else:
        with FAISSDocumentStore(path=tmp_path / "store") as store:
            store.delete_documents(["1"])
    capsys.readouterr()
    assert run(*command) == 2
    assert "is not of the same models, data and options" in capsys.readouterr().err


def test_an_interrupted_evaluation_goes_on(
    write: Any, answered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("extractive", texts_of(6))
    file = tmp_path / "answers.jsonl"
    assert run("evaluate-qa", tmp_path / "qa", answered, "--answers-file", file) == 0
    whole = file.read_text().splitlines(keepends=True)
    file.write_text("".join(whole[:4]) + whole[4][:20])
    assert run("evaluate-qa", tmp_path / "qa", answered, "--answers-file", file) == 0
    lines = file.read_text().splitlines(keepends=True)
    assert lines[:4] == whole[:4], "what was there is not asked again"
    assert [json.loads(line)["answer"] for line in lines[1:]] == [json.loads(line)["answer"] for line in whole[1:]]
    (tmp_path / "qa" / "pipeline.yaml").write_text((tmp_path / "qa" / "pipeline.yaml").read_text() + "\n")
    capsys.readouterr()
    assert run("evaluate-qa", tmp_path / "qa", answered, "--answers-file", file) == 2
    assert "is not of the same models, data and options" in capsys.readouterr().err


def test_mistakes_in_an_evaluation_are_one_sentence(
    answered: Path, collection_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.yaml").write_text("hello")
    (tmp_path / "empty.yaml").write_text("components: {}\nconnections: []\n")
    (tmp_path / "evil.yaml").write_text("components: {x: {type: os.system, init_parameters: {}}}\nconnections: []\n")
    (tmp_path / "endless.yaml").write_text("components: &c {x: {type: 5, init_parameters: *c}}\n")
    for pipeline, collection, message in (
        ("/nowhere.yaml", answered, "/nowhere.yaml: cannot be read"),
        (tmp_path / "text.yaml", answered, "is no pipeline that can be loaded"),
        (tmp_path / "endless.yaml", answered, "is no pipeline that can be loaded"),
        (tmp_path / "evil.yaml", answered, "has a class of the module os"),
        (tmp_path / "empty.yaml", answered, "no component has an open input `query`"),
        (tmp_path / "empty.yaml", collection_folder, "no question of the split 'test' has 'answers'"),
    ):
        assert run("evaluate-qa", pipeline, collection) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error


def test_a_reader_is_trained_from_squads_form_and_from_a_beir_folder(
    encoder_folder: Path, language_model: Path, answered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paragraphs = []
    for question in made_up(6, seed=1):
        text = question.positives[0].text
        answers = [{"text": question.answers[0], "answer_start": question.spans[0][0][0]}]
        qas = [{"id": question.query_id, "question": question.query, "answers": answers}]
        paragraphs.append({"context": text, "qas": qas})
    squad = tmp_path / "squad.json"
    squad.write_text(json.dumps({"data": [{"title": "x", "paragraphs": paragraphs}]}))
    options = ["--model", language_model, "--retriever", encoder_folder, "--candidates", 4, "--negatives", 1]
    options += ["--batch-size", 3, "--show-progress", "false"]
    output = tmp_path / "from-squad"
    assert run("train-reader", "--data", squad, "--dev", squad, "--output", output, *options) == 0
    printed = capsys.readouterr().out
    assert "6 questions, 6 of them with an answer in a passage\n" in printed
    assert "dev exact match after step 2: " in printed
    (answered / "qrels" / "test.tsv").rename(answered / "qrels" / "train.tsv")
    assert run("train-reader", "--data", answered, "--output", tmp_path / "from-beir", *options) == 0
    assert (tmp_path / "from-beir" / "model.safetensors").is_file()
    capsys.readouterr()
    no_retriever = ["--data", squad, "--model", language_model, "--output", tmp_path / "x"]
    assert run("train-reader", *no_retriever) == 2
    assert "name a retriever" in capsys.readouterr().err
    assert run("train-reader", *no_retriever, "--negatives", 0, "--show-progress", "false") == 0
