"""The page in headless Chromium, as a person uses it.

Skipped where Playwright or a Chromium is missing: `pip install playwright` and, on Debian, `apt-get install chromium`;
CHROMIUM names another one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from haystack import Document
from services import HOSTILE, Service, WriteFolder, running

from rocketqa_haystack.data import read_groups

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium, or CHROMIUM=PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser
        browser.close()


class Page:
    """A page, and what it asked of the network and complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)

    def ask(self, question: str) -> Any:
        self.page.get_by_label("Your question").fill(question)
        self.page.get_by_role("button", name="Ask", exact=True).click()
        self.page.locator("#submit:enabled").wait_for()
        return self.page


def reached_by_tab(page: Any) -> list[str]:
    """What a person with a keyboard comes by, from the page's start."""
    page.evaluate("document.activeElement.blur()")
    found = []
    for _ in range(4):
        page.keyboard.press("Tab")
        found.append(page.evaluate("document.activeElement.textContent || document.activeElement.id"))
    return found


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    contexts = []

    def open(service: Service, **options: Any) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = Page(context.new_page())
        page.page.goto(service.url)
        page.page.wait_for_load_state("networkidle")
        return page

    yield open
    for context in contexts:
        context.close()


def question_for(document: Document) -> str:
    return f"{document.meta['title']} {document.content}"


def test_answers_are_highlighted_in_their_passages_with_titles_scores_and_times(
    extractive: Service, open_page: Any, documents: list[Document]
) -> None:
    opened = open_page(extractive)
    with opened.page.expect_response("**/ask/run") as response:
        page = opened.ask(question_for(documents[3]))
    reply = response.value.json()["result"]
    passages = {passage["id"]: passage for passage in reply["passages"]}
    cards = page.locator(".card").filter(has=page.locator("mark"))
    answers = [answer for answer in reply["answers"] if answer["text"] is not None]
    assert cards.count() == len(answers) > 0
    for index, answer in enumerate(answers):
        card, passage = cards.nth(index), passages[answer["passage_id"]]
        assert card.locator("mark").text_content() == answer["text"]
        assert card.locator(".found").text_content() == answer["text"]
        assert card.locator(".passage").text_content() == passage["text"]
        before = card.locator(".passage").evaluate("p => p.firstChild.textContent")
        assert before == passage["text"][: answer["start"]]
        assert card.get_by_role("heading").text_content() == passage["title"]
        facts = card.locator(".facts").text_content()
        for label in ("score, retriever", "score, ranker", "score, answer", "kind", "year"):
            assert label in facts
    assert "results in" in page.get_by_role("status").first.text_content()
    page.get_by_text("Time per stage").click()
    stages = page.locator("#seconds th").all_text_contents()
    assert stages == ["retriever", "ranker", "reader", "total"]
    assert opened.complaints == []
    assert all(url.startswith(extractive.url) for url in opened.requests)


def test_what_documents_hold_is_shown_as_text_and_never_run(
    extractive: Service, retrieval: Service, open_page: Any
) -> None:
    for service in (extractive, retrieval):
        opened = open_page(service)
        opened.page.get_by_text("Filters").click()
        opened.page.get_by_role("button", name="Add a filter").click()
        opened.page.get_by_label("Value").fill("<i>odd</i>")  # the first field is its kind
        page = opened.ask("bada")
        card = page.locator(".card").filter(has=page.get_by_role("heading")).first
        assert card.get_by_role("heading").text_content() == HOSTILE.meta["title"]
        assert card.locator(".passage").text_content() == HOSTILE.content
        assert "<i>odd</i>" in card.locator(".facts").text_content()
        assert page.locator("#results script, #results img, #results b, #results i").count() == 0
        assert page.title() == "Ask"
        assert opened.complaints == []


def test_a_span_behind_characters_of_two_units_is_marked_where_it_is(retrieval: Service, open_page: Any) -> None:
    opened = open_page(retrieval)
    passage = {"id": "x", "title": "", "text": "😀😀 the answer 😀 ends", "meta": {}, "scores": {}}
    answer = {"text": "answer", "score": 0.5, "passage_id": "x", "start": 7, "end": 13}
    reply = {"id": "r", "question": "q", "answers": [answer], "passages": [passage], "seconds": {"total": 0.1}}
    body = json.dumps({"result": reply})
    opened.page.route("**/ask/run", lambda route: route.fulfill(body=body, content_type="application/json"))
    page = opened.ask("q")
    assert page.locator("mark").text_content() == "answer"
    assert page.locator(".passage").text_content() == passage["text"]


def test_a_long_passage_is_shown_around_the_answer_and_opens_on_demand(retrieval: Service, open_page: Any) -> None:
    opened = open_page(retrieval)
    text = "a" * 3000 + "ANSWER" + "b" * 3000
    passage = {"id": "x", "title": "Long", "text": text, "meta": {}, "scores": {}}
    answer = {"text": "ANSWER", "score": 0.5, "passage_id": "x", "start": 3000, "end": 3006}
    reply = {"id": "r", "question": "q", "answers": [answer], "passages": [passage], "seconds": {"total": 0.1}}
    body = json.dumps({"result": reply})
    opened.page.route("**/ask/run", lambda route: route.fulfill(body=body, content_type="application/json"))
    page = opened.ask("q")
    assert len(page.locator(".passage").text_content()) < 1000
    assert page.locator("mark").text_content() == "ANSWER"
    page.get_by_role("button", name="Show the whole passage").click()
    assert page.locator(".passage").text_content() == text
    assert page.locator("mark").text_content() == "ANSWER"


def test_filters_narrow_the_answers(retrieval: Service, open_page: Any) -> None:
    page = open_page(retrieval).page
    page.get_by_text("Filters").click()
    page.get_by_role("button", name="Add a filter").click()
    page.get_by_label("Field").select_option("kind")
    page.get_by_label("Value").fill("even")
    page.get_by_role("button", name="Add a filter").click()
    page.get_by_label("Field").last.select_option("year")
    page.get_by_label("Condition").last.select_option("at least")
    page.get_by_label("Value").last.fill("2030")
    page.get_by_label("Your question").fill("bada")
    with page.expect_response("**/ask/run") as response:
        page.get_by_role("button", name="Ask", exact=True).click()
    metas = [passage["meta"] for passage in response.value.json()["result"]["passages"]]
    assert len(metas) == 5
    assert all(meta["kind"] == "even" and meta["year"] >= 2030 for meta in metas)
    assert page.locator("#filter-count").text_content() == "(2)"
    page.get_by_label("Value").last.fill("4000")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("Nothing found").wait_for()
    assert page.locator(".card").count() == 0
    page.get_by_role("button", name="Remove").last.click()
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".card").first.wait_for()


def test_a_filter_that_makes_no_sense_is_told_and_not_guessed(retrieval: Service, open_page: Any) -> None:
    opened = open_page(retrieval)
    page = opened.page
    page.get_by_text("Filters").click()
    page.get_by_role("button", name="Add a filter").click()
    for field, value, said in (
        ("open", "yes", "needs true or false"),
        ("year", "1,000", "needs a number"),
        ("year", "soon", "needs a number"),
    ):
        page.get_by_label("Field").select_option(field)
        page.get_by_label("Value").fill(value)
        assert said in opened.ask("bada").get_by_role("alert").text_content()
    page.get_by_label("Field").select_option("open")
    page.get_by_label("Value").fill("True")
    with page.expect_response("**/ask/run") as response:
        opened.ask("bada")
    passages = response.value.json()["result"]["passages"]
    assert passages
    assert all(passage["meta"]["open"] for passage in passages)


def test_the_keyboard_stays_where_a_person_has_gone(retrieval: Service, open_page: Any) -> None:
    opened = open_page(retrieval)
    page = opened.page
    page.get_by_label("Your question").fill("bada")
    page.locator("#submit").focus()
    page.keyboard.press("Enter")
    page.locator(".card").first.wait_for()
    page.locator("#submit:enabled").wait_for()
    assert page.evaluate("document.activeElement.id") == "submit"
    held: list[Any] = []
    page.route("**/feedback", lambda route: held.append(route))
    thumb = page.get_by_role("button", name="Yes, this answers it").first
    for elsewhere in (True, False):
        thumb.focus()
        page.keyboard.press("Enter")
        playwright.expect(thumb).to_be_disabled()
        if elsewhere:
            page.get_by_label("Your question").focus()
        while not held:
            page.wait_for_timeout(10)
        held.pop().fulfill(body='{"recorded": true}', content_type="application/json")
        playwright.expect(thumb).to_be_enabled()
        active = page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')")
        assert active == ("question" if elsewhere else "Yes, this answers it")


def test_thumbs_are_written_down_and_shown_as_pressed(
    retrieval: Service, open_page: Any, documents: list[Document]
) -> None:
    question = question_for(documents[20])
    page = open_page(retrieval).ask(question)
    first, second = page.locator(".card").nth(0), page.locator(".card").nth(1)
    first.get_by_role("button", name="Yes, this answers it").click()
    first.get_by_text("Thank you").wait_for()
    second.get_by_role("button", name="No, this does not answer it").click()
    second.get_by_text("Thank you").wait_for()
    assert first.get_by_role("button", name="Yes").get_attribute("aria-pressed") == "true"
    assert first.get_by_role("button", name="No").get_attribute("aria-pressed") == "false"
    group = next(group for group in read_groups(retrieval.feedback) if group.query == question)
    assert group.positive_ids == ("p20",)
    assert len(group.negative_ids) == 1


def test_an_empty_store_is_told_in_words(write_folder: WriteFolder, open_page: Any) -> None:
    with running(write_folder(ranker=True, reader=True, empty=True)) as service:
        page = open_page(service).ask("bada")
        assert "Nothing found" in page.get_by_role("status").text_content()
        assert page.get_by_role("alert").is_hidden()


def test_a_failing_backend_and_one_that_is_gone_are_told_in_words(
    write_folder: WriteFolder, open_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**inputs: Any) -> Any:
        raise RuntimeError("hunter2")

    with running(write_folder()) as service:
        opened = open_page(service)
        with monkeypatch.context() as patch:
            patch.setattr(service.asking.pipeline.get_component("retriever"), "run", fail)
            page = opened.ask("bada")
        alert = page.get_by_role("alert")
        assert "the question failed at the stage 'retriever'" in alert.text_content()
        assert "hunter2" not in page.content()
        assert page.locator("#results").is_hidden()
        assert opened.ask("bada").locator(".card").count() == 5  # and works again
        assert alert.is_hidden()
    assert "cannot be reached" in opened.ask("bada").get_by_role("alert").text_content()


def test_a_protected_service_asks_for_its_token(write_folder: WriteFolder, open_page: Any) -> None:
    with running(write_folder(), token="s3cret") as service:
        opened = open_page(service)
        page = opened.ask("bada")
        assert "access token" in page.get_by_role("alert").text_content()
        page.get_by_label("Access token").fill("s3cret")
        assert opened.ask("bada").locator(".card").count() == 5


def test_everything_can_be_done_with_the_keyboard_and_has_a_name(retrieval: Service, open_page: Any) -> None:
    page = open_page(retrieval).page
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("bada")
    page.keyboard.press("Enter")
    page.locator(".card").first.wait_for()
    page.get_by_text("Filters").press("Enter")
    page.get_by_role("button", name="Add a filter").press("Enter")
    assert page.evaluate("document.activeElement.className") == "field"  # where one goes on
    reached = set()
    page.get_by_label("Your question").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.id"))
    assert {"submit", "add-filter", "Yes, this answers it", "No, this does not answer it"} <= reached
    nameless = page.evaluate(
        """[...document.querySelectorAll('input, select, button')].filter(control =>
            !(control.labels && control.labels.length) && !control.getAttribute('aria-label')
            && !control.textContent.trim()).length"""
    )
    assert nameless == 0


def test_the_link_to_the_answers_is_there_when_they_are(retrieval: Service, open_page: Any) -> None:
    page = open_page(retrieval)
    link = "To the answers"
    assert link not in reached_by_tab(page.page)
    page.ask("bada")
    page.page.get_by_role("link", name=link).focus()
    page.page.keyboard.press("Enter")
    assert page.page.evaluate("document.activeElement.id") == "results"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_in_both_colour_schemes(
    scheme: str, extractive: Service, open_page: Any, documents: list[Document]
) -> None:
    opened = open_page(extractive, color_scheme=scheme)
    page = opened.ask(question_for(documents[3]))
    page.locator(".card button.up").first.click()
    page.get_by_text("Thank you").first.wait_for()
    found = page.evaluate(CONTRASTS)
    assert len(found) > 10
    assert {text: ratio for text, ratio in found if ratio < 4.5} == {}
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 150) == (scheme == "dark")


#: The contrast (WCAG 2.2) of every text on the page with what is behind it.
CONTRASTS = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => {
    const [r, g, b] = parse(color).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      if (parse(color).length === 3 || parse(color)[3] === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim().slice(0, 40);
    if (!text || !element.checkVisibility() || element.closest("noscript, .skip")) continue;
    const [a, b] = [luminance(getComputedStyle(element).color), luminance(behind(element))];
    found.push([text, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found;
}"""
