"use strict";

// Whatever comes from documents is put in as text, never as markup.

const byId = (id) => document.getElementById(id);
const CONTEXT = 400; // characters of a long passage shown on each side of the answer

let fields = [];

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function call(path, body) {
  const headers = {};
  const token = byId("token").value.trim();
  if (token) headers.Authorization = `Bearer ${token}`;
  const options = { headers, cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The service cannot be reached. Is it still running?");
  }
  let content = null;
  try {
    content = await response.json();
  } catch { /* told below */ }
  if (!response.ok || content === null) {
    if (response.status === 401) {
      byId("access").hidden = false;
      throw new Error("Enter the access token of this service, then ask again.");
    }
    const told = content && content.error && content.error.message;
    throw new Error(told ? `Sorry: ${told}.` : `The service answered with an error (${response.status}).`);
  }
  return content;
}

// ---- filters

const OPERATORS = { "==": "is", "!=": "is not", ">=": "at least", "<=": "at most" };
let filterNumber = 0;

function labelled(text, control) {
  const box = element("div");
  const label = element("label", "", text);
  control.id = `filter-${++filterNumber}`;
  label.htmlFor = control.id;
  box.append(label, control);
  return box;
}

function addFilter() {
  const row = element("div", "filter");
  const field = element("select", "field");
  for (const known of fields) field.append(new Option(known.name, known.name));
  const operator = element("select", "operator");
  const value = element("input");
  const list = element("datalist");
  list.id = `values-${++filterNumber}`;
  value.setAttribute("list", list.id);
  const describe = () => {
    const known = fields.find((candidate) => candidate.name === field.value);
    const numeric = ["int", "float"].includes(known.type);
    operator.replaceChildren();
    for (const [code, name] of Object.entries(OPERATORS)) {
      if (numeric || ["==", "!="].includes(code)) operator.append(new Option(name, code));
    }
    value.value = "";
    value.inputMode = numeric ? "decimal" : "text";
    list.replaceChildren(...known.values.map((one) => new Option("", String(one))));
  };
  field.addEventListener("change", describe);
  const remove = element("button", "", "Remove");
  remove.type = "button";
  remove.addEventListener("click", () => {
    row.remove();
    countFilters();
    byId("add-filter").focus();
  });
  const valueBox = labelled("Value", value);
  valueBox.classList.add("value");
  valueBox.append(list);
  row.append(labelled("Field", field), labelled("Condition", operator), valueBox, remove);
  value.className = "filter-value";
  value.addEventListener("input", countFilters);
  describe();
  byId("filters").append(row);
  field.focus();
}

function typed(known, text) {
  // A value from the list keeps its own type; another takes the field's.
  const listed = known.values.find((one) => String(one) === text);
  if (listed !== undefined) return listed;
  if (["int", "float"].includes(known.type)) {
    // "1,000" is a thousand to some and one to others.
    const number = /,\d{3}$/.test(text) ? NaN : Number(text.replace(",", "."));
    if (!Number.isFinite(number)) throw new Error(`The filter on ${known.name} needs a number, such as 1000 or 0.5.`);
    return number;
  }
  if (known.type === "boolean") {
    const said = text.toLowerCase();
    if (!["true", "false"].includes(said)) throw new Error(`The filter on ${known.name} needs true or false.`);
    return said === "true";
  }
  return text;
}

function conditions() {
  const found = [];
  for (const row of document.querySelectorAll(".filter")) {
    const text = row.querySelector(".filter-value").value.trim();
    if (!text) continue;
    const name = row.querySelector(".field").value;
    const known = fields.find((candidate) => candidate.name === name);
    const operator = row.querySelector(".operator").value;
    found.push({ field: `meta.${name}`, operator, value: typed(known, text) });
  }
  return found;
}

function countFilters() {
  const values = [...document.querySelectorAll(".filter-value")].filter((value) => value.value.trim());
  byId("filter-count").textContent = values.length ? `(${values.length})` : "";
}

async function loadFields() {
  const answer = await call("fields");
  fields = answer.fields;
  byId("filtering").hidden = !(answer.filters && fields.length);
}

// ---- answers

function passageText(text, start, end) {
  // Places are counted in code points, as Python does; a string here is made of UTF-16 units.
  const points = Array.from(text);
  const hasSpan = Number.isInteger(start) && Number.isInteger(end) && end > start;
  const from = hasSpan ? Math.max(0, start - CONTEXT) : 0;
  const to = Math.min(points.length, (hasSpan ? end : 0) + (hasSpan ? CONTEXT : 2 * CONTEXT));
  const box = element("div");
  const paragraph = element("p", "passage");
  const fill = (first, last) => {
    const piece = (a, b) => points.slice(a, b).join("");
    paragraph.replaceChildren();
    if (first > 0) paragraph.append("… ");
    if (hasSpan) paragraph.append(piece(first, start), element("mark", "", piece(start, end)), piece(end, last));
    else paragraph.append(piece(first, last));
    if (last < points.length) paragraph.append(" …");
  };
  fill(from, to);
  box.append(paragraph);
  if (from > 0 || to < points.length) {
    const more = element("button", "more", "Show the whole passage");
    more.type = "button";
    more.setAttribute("aria-expanded", "false");
    more.addEventListener("click", () => {
      const open = more.getAttribute("aria-expanded") === "false";
      fill(open ? 0 : from, open ? points.length : to);
      more.setAttribute("aria-expanded", String(open));
      more.textContent = open ? "Show less" : "Show the whole passage";
    });
    box.append(more);
  }
  return box;
}

const number = (value) => (value === null ? "none" : value.toPrecision(3));

// Drawn, because machines without a font for emoji show boxes.
function thumb(vote) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("thumb", vote);
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", "M3 11h4v9H3zM9.5 19.5V11L13.5 4c1.5 0 2.3 1.2 2 2.6L14.8 10H20a1.6 1.6 0 0 1 1.5 2l-2 6.3c-.2.8-1 1.2-1.8 1.2z");
  svg.append(path);
  return svg;
}

function facts(pairs) {
  const list = element("dl", "facts");
  for (const [name, value] of pairs) {
    const pair = element("div");
    pair.append(element("dt", "", name), element("dd", "", value));
    list.append(pair);
  }
  return list;
}

function focusAgain(button) {
  // A button loses its focus while it is disabled. Who has gone elsewhere meanwhile stays there.
  if (document.activeElement === document.body) button.focus();
}

function votes(replyId, passage) {
  const box = element("div", "votes");
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Does this passage answer the question?");
  const said = element("span", "voted");
  said.setAttribute("role", "status");
  const buttons = [["up", "Yes, this answers it"], ["down", "No, this does not answer it"]].map(([vote, label]) => {
    const button = element("button", vote);
    button.append(thumb(vote));
    button.type = "button";
    button.title = label;
    button.setAttribute("aria-label", label);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", async () => {
      for (const one of buttons) one.disabled = true;
      try {
        await call("feedback", { reply_id: replyId, passage_id: passage.id, vote });
        for (const same of document.querySelectorAll(".votes")) {
          if (same.dataset.passage !== passage.id) continue;
          for (const one of same.querySelectorAll("button")) {
            one.setAttribute("aria-pressed", String(one.classList.contains(vote)));
          }
        }
        said.textContent = "Thank you, noted.";
      } catch (error) {
        said.textContent = error.message;
      }
      for (const one of buttons) one.disabled = false;
      focusAgain(button);
    });
    return button;
  });
  box.dataset.passage = passage.id;
  box.append(...buttons, said);
  return box;
}

function card(reply, passage, answer) {
  const item = element("li", "card");
  if (answer) item.append(element("p", "found", answer.text));
  if (passage) {
    if (passage.title) item.append(element("h2", "", passage.title));
    item.append(answer ? passageText(passage.text, answer.start, answer.end) : passageText(passage.text));
    const pairs = Object.entries(passage.scores).map(([stage, score]) => [`score, ${stage}`, number(score)]);
    if (answer && answer.score !== null) pairs.push(["score, answer", number(answer.score)]);
    for (const [name, value] of Object.entries(passage.meta)) {
      const text = typeof value === "object" ? JSON.stringify(value) : String(value);
      pairs.push([name, text.length > 200 ? `${text.slice(0, 200)} …` : text]);
    }
    item.append(facts(pairs), votes(reply.id, passage));
  }
  return item;
}

function show(reply) {
  const passages = new Map(reply.passages.map((passage) => [passage.id, passage]));
  const cards = byId("cards");
  const answerBox = byId("answer");
  cards.replaceChildren();
  answerBox.replaceChildren();
  const shown = new Set();
  for (const answer of reply.answers) {
    const passage = passages.get(answer.passage_id);
    if (answer.text === null) {
      const chance = answer.score === null ? "" : ` (${number(answer.score)})`;
      cards.append(card(reply, null, { text: `Perhaps none of the passages answers this${chance}.` }));
    } else if (passage) {
      cards.append(card(reply, passage, answer));
      shown.add(passage.id);
    } else if (answer.text) {
      answerBox.append(element("span", "caption", "Answer"), answer.text);
    }
  }
  answerBox.hidden = !answerBox.childNodes.length;
  for (const passage of reply.passages) if (!shown.has(passage.id)) cards.append(card(reply, passage));
  byId("seconds").replaceChildren(
    ...Object.entries(reply.seconds).map(([stage, seconds]) => {
      const row = element("tr");
      const name = element("th", "", stage);
      name.scope = "row";
      row.append(name, element("td", "", (1000 * seconds).toFixed(1)));
      return row;
    }),
  );
  byId("timing").hidden = false;
  byId("results").hidden = false;
  const count = cards.childElementCount;
  const time = `${Math.round(1000 * reply.seconds.total)} ms`;
  const nothing = !reply.passages.length && !reply.answers.length;
  byId("status").textContent = nothing
    ? `Nothing found, in ${time}. Other words or fewer filters may help.`
    : `${count} ${count === 1 ? "result" : "results"} in ${time}.`;
}

async function ask(event) {
  event.preventDefault();
  const button = byId("submit");
  if (button.disabled) return;
  button.disabled = true;
  byId("error").hidden = true;
  byId("results").hidden = true;
  byId("status").textContent = "Looking for answers …";
  try {
    if (byId("filtering").hidden && !byId("access").hidden) await loadFields();
    const body = { question: byId("question").value };
    const all = conditions();
    if (all.length) body.filters = { operator: "AND", conditions: all };
    show((await call("ask/run", body)).result);
  } catch (error) {
    byId("status").textContent = "";
    byId("error").textContent = error.message;
    byId("error").hidden = false;
  }
  button.disabled = false;
  focusAgain(button);
}

byId("ask").addEventListener("submit", ask);
byId("add-filter").addEventListener("click", addFilter);
if (document.documentElement.dataset.protected) byId("access").hidden = false;
else loadFields().catch(() => {}); // asking will tell what is wrong
