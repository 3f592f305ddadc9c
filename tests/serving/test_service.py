"""The REST service: questions, filters, feedback, limits, errors, metrics, and its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from haystack import Document, Pipeline, component
from haystack.components.builders import PromptBuilder
from haystack.core.serialization import allow_deserialization_module
from services import Service, WriteFolder, running

from rocketqa_haystack import RocketQARanker
from rocketqa_haystack.cli.main import main
from rocketqa_haystack.cli.serve import _listener
from rocketqa_haystack.data import Collection, Passage, read_groups
from rocketqa_haystack.serving.asking import AskingPipeline, QuestionError
from rocketqa_haystack.serving.batching import BatchSettings, MicroBatcher
from rocketqa_haystack.serving.metrics import Metrics


def question_for(document: Document) -> str:
    # With random weights a passage is nearest to itself.
    return f"{document.meta['title']} {document.content}"


def test_retrieval_gives_passages_with_title_metadata_score_and_time(
    retrieval: Service, documents: list[Document]
) -> None:
    reply = retrieval.ask(question_for(documents[7]))
    assert reply["answers"] == []
    first = reply["passages"][0]
    assert (first["id"], first["title"], first["text"]) == ("p7", documents[7].meta["title"], documents[7].content)
    assert first["meta"] == {"kind": "odd", "year": 2007, "open": False}
    assert list(first["scores"]) == ["retriever"]
    assert list(reply["seconds"]) == ["retriever", "total"]
    assert 0 < reply["seconds"]["retriever"] <= reply["seconds"]["total"]
    assert len(reply["passages"]) == 5
    assert len(retrieval.ask(question_for(documents[7]), top_k=2)["passages"]) == 2


def test_extractive_answers_stand_where_they_say_and_carry_the_scores_of_both_stages(
    extractive: Service, documents: list[Document]
) -> None:
    for document in (documents[3], documents[-1]):  # the last has characters outside the basic plane
        reply = extractive.ask(question_for(document))
        passages = {passage["id"]: passage for passage in reply["passages"]}
        assert list(reply["seconds"]) == ["retriever", "ranker", "reader", "total"]
        assert all(list(passage["scores"]) == ["retriever", "ranker"] for passage in passages.values())
        spans = [answer for answer in reply["answers"] if answer["text"] is not None]
        assert spans
        for answer in spans:
            assert passages[answer["passage_id"]]["text"][answer["start"] : answer["end"]] == answer["text"]
        assert any(answer["text"] is None for answer in reply["answers"])  # the reader's "no answer", with its score


def test_the_service_says_what_the_pipeline_says(extractive: Service, documents: list[Document]) -> None:
    question = question_for(documents[5])
    folder = extractive.feedback.parent
    pipeline = Pipeline.loads((folder / "pipeline.yaml").read_text())
    expected = pipeline.run({name: {"query": question} for name in ("retriever", "ranker", "reader")})
    told = extractive.ask(question)["answers"]
    assert [answer["text"] for answer in told] == [answer.data for answer in expected["reader"]["answers"]]
    assert [answer["score"] for answer in told] == pytest.approx(
        [answer.score for answer in expected["reader"]["answers"]], rel=1e-4
    )


def test_filters_narrow_the_search_and_the_fields_to_filter_on_are_listed(retrieval: Service) -> None:
    filters = {"operator": "AND", "conditions": [{"field": "meta.kind", "operator": "==", "value": "even"}]}
    assert {p["meta"]["kind"] for p in retrieval.ask("bada", filters=filters)["passages"]} == {"even"}
    nothing = {"field": "meta.year", "operator": ">", "value": 3000}
    assert retrieval.ask("bada", filters=nothing)["passages"] == []
    status, content, _ = retrieval.call("/fields")
    assert status == 200
    assert content["filters"]
    fields = {field["name"]: field for field in content["fields"]}
    assert fields["year"]["type"] == "int"
    assert fields["kind"]["values"] == ["<i>odd</i>", "even", "odd"]
    assert not {"tags", "place", "a.b"} & set(fields)  # which no choice of one value filters by
    status, content, _ = retrieval.call("/ask/run", {"question": "bada", "filters": {"operator": "??"}})
    assert (status, content["error"]["status"]) == (422, 422)
    assert "filters make no sense" in content["error"]["message"]


def test_passages_are_kept_for_feedback_as_far_as_there_is_room(
    write_folder: WriteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(write_folder()) as service:

        def can_be_voted_on(reply: dict[str, Any]) -> bool:
            vote = {"reply_id": reply["id"], "passage_id": reply["passages"][0]["id"], "vote": "up"}
            return service.call("/feedback", vote)[0] == 200

        first = service.ask("bada")
        shown = sum(len(passage["title"]) + len(passage["text"]) for passage in first["passages"])
        monkeypatch.setattr("rocketqa_haystack.serving.app.KEPT_CHARACTERS", 2 * shown)
        others = [service.ask("bada") for _ in range(2)]
        assert [can_be_voted_on(reply) for reply in (first, *others)] == [False, True, True]
        monkeypatch.setattr("rocketqa_haystack.serving.app.KEPT_CHARACTERS", 1)
        last = service.ask("bada")
        assert [can_be_voted_on(reply) for reply in (*others, last)] == [False, False, True]


def test_a_listing_of_fields_that_takes_long_is_kept_long(retrieval: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    now, listed = 0.0, []

    def list_fields() -> list[Any]:
        nonlocal now
        listed.append(now)
        now += 10
        return []

    clock = SimpleNamespace(monotonic=lambda: now, perf_counter=time.perf_counter)
    monkeypatch.setattr("rocketqa_haystack.serving.asking.time", clock)
    monkeypatch.setattr(retrieval.asking, "_fields", None)
    monkeypatch.setattr(retrieval.asking, "_list_fields", list_fields)
    for moment in (0.0, 11.0, 209.0, 211.0):
        now = moment
        retrieval.asking.fields()
    assert listed == [0.0, 211.0]


def test_filters_within_filters_have_an_end(retrieval: Service) -> None:
    for levels, expected in ((50, 200), (51, 422), (300, 422)):
        filters: dict[str, Any] = {"field": "meta.kind", "operator": "==", "value": "even"}
        for _ in range(levels - 1):
            filters = {"operator": "NOT", "conditions": [filters]}
        status, content, _ = retrieval.call("/ask/run", {"question": "bada", "filters": filters})
        assert status == expected
    assert content["error"]["message"] == "the filters have more than 50 levels"
    for comparisons, expected in ((100, 200), (101, 422)):
        conditions = [{"field": "meta.kind", "operator": "==", "value": str(n)} for n in range(comparisons)]
        filters = {"operator": "OR", "conditions": conditions}
        status, content, _ = retrieval.call("/ask/run", {"question": "bada", "filters": filters})
        assert status == expected
    assert content["error"]["message"] == "the filters have more than 100 comparisons"


def test_an_empty_store_gives_an_empty_reply(write_folder: WriteFolder) -> None:
    with running(write_folder(ranker=True, reader=True, empty=True)) as service:
        reply = service.ask("bada")
        assert (reply["answers"], reply["passages"]) == ([], [])
        assert service.call("/fields")[1]["fields"] == []


@component
class EchoingGenerator:
    """Stands for a language model."""

    @component.output_types(replies=list[str])
    def run(self, prompt: str) -> dict[str, Any]:
        return {"replies": [f"It says: {prompt}"]}


def test_a_generated_answer_is_shown_with_the_passages_behind_it(write_folder: WriteFolder) -> None:
    allow_deserialization_module(__name__)
    folder = write_folder(ranker=True)
    pipeline = Pipeline.loads((folder / "pipeline.yaml").read_text())
    pipeline.add_component("prompt", PromptBuilder("{{ documents[0].content }} {{ query }}", required_variables="*"))
    pipeline.add_component("llm", EchoingGenerator())
    pipeline.connect("ranker.documents", "prompt.documents")
    pipeline.connect("prompt", "llm")
    (folder / "pipeline.yaml").write_text(pipeline.dumps())
    with running(folder) as service:
        reply = service.ask("bada beki")
    assert reply["answers"][0]["text"] == f"It says: {reply['passages'][0]['text']} bada beki"
    assert len(reply["passages"]) == 3


def test_votes_become_training_groups(extractive: Service, documents: list[Document]) -> None:
    question = question_for(documents[11])
    reply = extractive.ask(question)
    ids = [passage["id"] for passage in reply["passages"]]
    for passage_id, vote in ((ids[0], "down"), (ids[1], "up"), (ids[2], "up"), (ids[2], "down")):
        vote_body = {"reply_id": reply["id"], "passage_id": passage_id, "vote": vote}
        assert extractive.call("/feedback", vote_body)[:2] == (200, {"recorded": vote})
    group = next(group for group in read_groups(extractive.feedback) if group.query == question)
    assert (group.positive_ids, set(group.negative_ids)) == ((ids[1],), {ids[0], ids[2]})
    by_id = {document.id: document for document in documents}
    assert group.positives == (Passage(by_id[ids[1]].content or "", by_id[ids[1]].meta["title"]),)
    metrics = extractive.call("/metrics")[1]
    assert 'rocketqa_votes_total{vote="down"}' in metrics


def test_only_what_was_shown_can_be_voted_on(extractive: Service) -> None:
    reply = extractive.ask("bada")
    for reply_id, passage_id in ((reply["id"], "p999"), ("forged", reply["passages"][0]["id"])):
        status, content, _ = extractive.call(
            "/feedback", {"reply_id": reply_id, "passage_id": passage_id, "vote": "up"}
        )
        assert (status, content["error"]["status"]) == (404, 404)
    assert extractive.call("/feedback", {"reply_id": "x", "passage_id": "y", "vote": "sideways"})[0] == 422


def test_requests_beyond_the_limits_are_refused_in_json(write_folder: WriteFolder) -> None:
    with running(write_folder(), max_question=50, max_body=500) as service:
        refused = [
            (422, "longer than 50 characters", service.call("/ask/run", {"question": "b" * 51})),
            (422, "empty", service.call("/ask/run", {"question": " \n"})),
            (422, "top_k", service.call("/ask/run", {"question": "bada", "top_k": 0})),
            (422, "question", service.call("/ask/run", {})),
            (422, "the body is no JSON: Expecting property name", service.call("/ask/run", b"{")),
            (422, "the body must be a JSON object", service.call("/ask/run", b"null")),
            (422, "the body must be a JSON object", service.call("/ask/run", b"")),
            (422, "surrogate", service.call("/ask/run", b'{"question": "\\ud800"}')),
            (422, "surrogate", service.call("/ask/run", b'{"question": "b", "filters": {"field": "meta.\\ud800"}}')),
            (413, "500 bytes", service.call("/ask/run", {"question": "b", "more": "x" * 500})),
            # Larger than what is under way between two programs: this client sends all of it before it reads.
            (413, "500 bytes", service.call("/ask/run", {"question": "b", "more": "x" * 10_000_000})),
            (404, "Not Found", service.call("/nowhere")),
            (405, "Method Not Allowed", service.call("/ask/run", method="GET")),
            (404, "Not Found", service.call("/deploy_files", {"name": "x", "files": {}})),
            (404, "Not Found", service.call("/docs")),
        ]
        chunked = [b"x" * 300, b"x" * 300]
        connection_status, content = send_chunked(service, chunked)
        refused.append((413, "500 bytes", (connection_status, content, {})))
        for status, words, (got, content, _) in refused:
            assert (got, content["error"]["status"]) == (status, status)
            assert words in content["error"]["message"]
        assert service.call("/ask/run", {"question": "b" * 50})[0] == 200
        assert service.call("/ask/run", b'{"question": "bada"}', headers={"Host": "evil.example"})[0] == 200


def send_chunked(service: Service, chunks: list[bytes]) -> tuple[int, Any]:
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("POST", "/ask/run", iter(chunks), {"Content-Type": "application/json"}, encode_chunked=True)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_other_host_names_are_refused_where_only_this_machine_is_served(write_folder: WriteFolder) -> None:
    with running(write_folder(), hosts=frozenset({"127.0.0.1", "localhost", "::1"})) as service:
        assert service.call("/health", headers={"Host": "localhost:8000"})[0] == 200
        assert service.call("/health", headers={"Host": "[::1]:8000"})[0] == 200
        assert service.call("/health", headers={"Host": "rebound.example:8000"})[0] == 400


def test_a_token_is_asked_for_everywhere_but_on_the_page_and_the_probe(write_folder: WriteFolder) -> None:
    with running(write_folder(), token="s3cret") as service:
        for path, body in (
            ("/ask/run", {"question": "bada"}),
            ("/fields", None),
            ("/metrics", None),
            ("/feedback", {}),
        ):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
                status, content, told = service.call(path, body, headers=headers)
                assert (status, content["error"]["status"]) == (401, 401)
                assert told["www-authenticate"] == "Bearer"
        authorised = {"Authorization": "Bearer s3cret"}
        assert service.call("/ask/run", {"question": "bada"}, headers=authorised)[0] == 200
        assert service.call("/metrics", headers=authorised)[0] == 200
        assert service.call("/")[0] == 200
        assert service.call("/health")[0] == 200
        assert 'data-protected="yes"' in service.call("/")[1]


def test_a_failing_backend_gives_an_error_in_json_without_its_message_or_trace(
    retrieval: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**inputs: Any) -> Any:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(retrieval.asking.pipeline.get_component("retriever"), "run", fail)
    status, content, _ = retrieval.call("/ask/run", {"question": "bada"})
    assert status == 500
    text = json.dumps(content)
    assert "retriever" in text
    assert "hunter2" not in text
    assert "Traceback" not in text
    reference = re.search(r"reference (\w+)", text)
    assert reference is not None
    assert reference[1] in caplog.text  # the log has the rest
    assert "hunter2" in caplog.text
    assert retrieval.call("/health")[0] == 200


class Panic(BaseException):
    """What tokenizers raise where they break is no Exception either."""


@pytest.mark.parametrize("fatal", [Panic, SystemExit, KeyboardInterrupt])
def test_what_is_no_exception_fails_a_question_and_not_the_service(
    retrieval: Service, monkeypatch: pytest.MonkeyPatch, fatal: type[BaseException]
) -> None:
    encoder = retrieval.asking._batched[0]._batcher

    def panic(items: list[Any]) -> Any:
        raise fatal("password=hunter2")

    with monkeypatch.context() as broken:
        broken.setattr(encoder, "_compute", panic)
        status, content, _ = retrieval.call("/ask/run", {"question": "bada"})
    assert (status, content["error"]["status"]) == (500, 500)
    assert "at the stage 'retriever'" in content["error"]["message"]
    assert "hunter2" not in json.dumps(content)
    retrieval.ask("bada")


def test_a_probe_may_ask_for_headers_alone(retrieval: Service) -> None:
    for path in ("/", "/health"):
        status, content, headers = retrieval.call(path, method="HEAD", headers={"Accept": "*/*"})
        assert (status, content) == (200, "")
        assert headers["content-length"] != "0"


def test_a_question_that_takes_too_long_is_given_up_and_too_many_are_turned_away(
    write_folder: WriteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(write_folder(), timeout=0.3, max_waiting=1) as service:
        go_on = threading.Event()
        retriever = service.asking.pipeline.get_component("retriever")
        run = retriever.run

        def slow(**inputs: Any) -> Any:
            go_on.wait(20)
            return run(**inputs)

        monkeypatch.setattr(retriever, "run", slow)
        assert service.call("/ask/run", {"question": "bada"})[0] == 504
        status, content, headers = service.call("/ask/run", {"question": "bada"})  # the first still runs
        assert (status, headers["retry-after"]) == (503, "1")
        assert "again" in content["error"]["message"]
        go_on.set()
        deadline = time.monotonic() + 20
        while service.call("/ask/run", {"question": "bada"})[0] != 200:
            assert time.monotonic() < deadline


def test_32_clients_at_once_are_all_answered_as_each_would_be_alone(
    extractive: Service, documents: list[Document]
) -> None:
    expected = {document.id: extractive.ask(question_for(document)) for document in documents[:8]}

    def client(number: int) -> None:
        for step in range(2):
            document = documents[(number + step) % 8]
            reply = extractive.ask(question_for(document))
            assert [p["id"] for p in reply["passages"]] == [p["id"] for p in expected[document.id]["passages"]]
            for passage, same in zip(reply["passages"], expected[document.id]["passages"], strict=True):
                assert passage["scores"] == pytest.approx(same["scores"], rel=1e-3, abs=1e-4)
            assert [a["text"] for a in reply["answers"]] == [a["text"] for a in expected[document.id]["answers"]]

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(client, range(32)))


def test_questions_that_come_together_are_encoded_together(write_folder: WriteFolder) -> None:
    metrics = Metrics()
    with running(write_folder(), batches=BatchSettings(wait=0.5, observe=metrics.batch)) as service:
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(service.ask, ["bada"] * 64))
    text = metrics.text().decode()
    count, total = (
        float(re.search(rf'batch_requests_{part}{{encoder="dual encoder"}} (\S+)', text)[1])  # type: ignore[index]
        for part in ("count", "sum")
    )
    assert total == 64
    assert count <= 8


def test_metrics_count_requests_by_path_and_status_and_time_the_stages(retrieval: Service) -> None:
    retrieval.ask("bada")
    retrieval.call("/made-up-path")
    status, text, headers = retrieval.call("/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert re.search(r'rocketqa_requests_total{path="/ask/run",status="200"} [1-9]', text)
    assert 'path="other",status="404"' in text
    assert "made-up-path" not in text
    assert 'rocketqa_stage_seconds_count{stage="retriever"}' in text
    assert 'rocketqa_request_seconds_bucket{le="0.005",path="/ask/run"}' in text


def test_a_batch_that_fails_fails_only_those_who_are_to_blame() -> None:
    sizes = []

    def compute(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return [10 // item for item in items]

    batcher = MicroBatcher(compute, size=4, wait=0.2)
    futures = [batcher.submit(item) for item in (1, 0, 5, 2)]
    assert [futures[i].result(10) for i in (0, 2, 3)] == [10, 2, 5]
    assert isinstance(futures[1].exception(10), ZeroDivisionError)
    assert sizes == [4, 1, 1, 1, 1]
    last = batcher.submit(3)
    batcher.close()  # what is queued is still computed
    assert last.result(0) == 3
    with pytest.raises(RuntimeError, match="shutting down"):
        batcher.submit(1)


def test_pairs_of_several_questions_are_scored_together_and_come_back_to_theirs(
    write_folder: WriteFolder, collection: Collection
) -> None:
    asking = AskingPipeline(write_folder(ranker=True), BatchSettings(wait=0.5))
    ranker = asking.pipeline.get_component("ranker")
    assert isinstance(ranker, RocketQARanker)
    pairs = [
        [(query, passage) for passage in list(collection.corpus.values())[: 2 + i]] for i, query in enumerate("abcd")
    ]
    alone = [ranker._encoder.logits(some) for some in pairs]  # type: ignore[union-attr]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ranker._encoder.logits, pairs))  # type: ignore[union-attr]
    for some, same in zip(together, alone, strict=True):
        assert some == pytest.approx(same, abs=1e-5)
    with pytest.raises(QuestionError, match="filters make no sense"):
        asking.ask("a", filters={"operator": "??"})
    asking.close()


def test_the_service_answers_what_it_has_before_it_stops(write_folder: WriteFolder) -> None:
    folder = write_folder()
    command = [sys.executable, "-m", "rocketqa_haystack.cli.main", "serve", str(folder), "--port", "0"]
    # A question waits a second for others, so that it is certainly unanswered when the signal comes.
    command += ["--batch-wait", "1000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = next(int(found[1]) for line in process.stdout if (found := re.search(r"127\.0\.0\.1:(\d+)/", line)))
        service = Service(port, None, folder / "feedback.jsonl")  # type: ignore[arg-type]
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(service.ask, "bada beki")
            time.sleep(0.4)
            os.kill(process.pid, signal.SIGTERM)
            assert len(waiting.result(60)["passages"]) == 5
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "stopped\n")


HANGING = """
from haystack import Document, component
@component
class Hanging:
    @component.output_types(documents=list[Document])
    def run(self, query: str):
        while True:
            __import__("time").sleep(60)
"""


def test_neither_a_stage_that_hangs_nor_a_body_that_does_not_come_keeps_the_service_from_stopping(
    tmp_path: Path,
) -> None:
    (tmp_path / "hangs.py").write_text(HANGING)
    (tmp_path / "pipeline.yaml").write_text("components: {x: {type: hangs.Hanging, init_parameters: {}}}")
    code = "from rocketqa_haystack.cli import main, serve; serve.GRACE = 1; raise SystemExit(main.main())"
    environment = {**os.environ, "HAYSTACK_DESERIALIZATION_ALLOWLIST": "hangs"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    command = [sys.executable, "-c", code, "serve", str(tmp_path), "--port", "0", "--timeout", "0.2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        port = next(int(found[1]) for line in process.stdout if (found := re.search(r"127\.0\.0\.1:(\d+)/", line)))
        service = Service(port, None, tmp_path)  # type: ignore[arg-type]
        assert service.call("/ask/run", {"question": "bada"})[0] == 504  # given up, and still running
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST /ask/run HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{")
            time.sleep(0.3)
            process.terminate()
            _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, errors) == (1, "stopped after 1 seconds, with questions unanswered\n")


@pytest.mark.parametrize("token", ["", " \n", "two words", "with\ttab", "schlüssel"])
def test_a_token_that_cannot_be_sent_is_refused(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if token:  # an empty variable is as good as none
        monkeypatch.setenv("ROCKETQA_SERVE_TOKEN", token)
    assert main(["serve", str(tmp_path), "--port", "0", *([] if token else ["--token", token])]) == 2
    assert "ASCII characters without white space" in capsys.readouterr().err


def test_white_space_around_a_token_is_no_part_of_it_and_an_empty_store_is_told(
    write_folder: WriteFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = []

    def make(asking: Any, feedback: Any, metrics: Any, settings: Any) -> Any:
        given.append(settings.token)
        raise ValueError("enough")

    monkeypatch.setattr("rocketqa_haystack.serving.app.make_app", make)
    monkeypatch.setenv("ROCKETQA_SERVE_TOKEN", " s3cret\n")
    warning = "Warning: the document store is empty"
    for empty in (True, False):
        assert main(["serve", str(write_folder(empty=empty)), "--port", "0"]) == 2
        assert (warning in capsys.readouterr().out) == empty
    assert given == ["s3cret", "s3cret"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no .*pipeline.yaml"),
        ("", "is no pipeline that can be loaded: its `components` must be a mapping"),
        ("- 1", "is no pipeline that can be loaded: its `components` must be a mapping"),
        ("components: 3", "is no pipeline that can be loaded: its `components` must be a mapping"),
        ("components: {a: {type: 5}}", "is no pipeline that can be loaded: its `components` must be a mapping"),
        ("a: &a [*a]", "is no pipeline that can be loaded"),
        ("components: [", "is no pipeline that can be loaded: it is no YAML"),
        ("components: {}\nconnections: []\n", "no input for a question"),
        (
            "components:\n  retriever:\n    type: os.system\n    init_parameters: {}\nconnections: []\n",
            "has a class of the module os, which .* not told to trust",
        ),
    ],
)
def test_a_folder_without_a_pipeline_to_ask_is_refused_in_one_sentence(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "pipeline.yaml").write_text(content)
    assert main(["serve", str(tmp_path), "--port", "0"]) == 2
    error = capsys.readouterr().err
    assert re.match(f"rocketqa serve: error: .*{message}", error)
    assert len(error.splitlines()) == 1


def test_a_store_that_cannot_be_read_is_told_before_anyone_asks(
    write_folder: WriteFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder()
    (folder / "store" / "documents.sqlite").write_bytes(b"no database" * 1000)
    assert main(["serve", str(folder), "--port", "0"]) == 2
    assert "documents.sqlite" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(
    retrieval: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path), "--port", str(retrieval.port)]) == 2
    assert f"cannot listen on 127.0.0.1, port {retrieval.port}" in capsys.readouterr().err


def test_a_port_is_taken_from_the_start_and_not_when_all_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with _listener("127.0.0.1", 0) as loading:
        port = loading.getsockname()[1]
        assert main(["serve", str(tmp_path), "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in capsys.readouterr().err
