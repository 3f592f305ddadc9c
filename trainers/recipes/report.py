"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rocketqa_haystack.data.files import atomic_write, read_jsonl
from rocketqa_haystack.evaluation import Interval, bootstrap, bootstrap_gain, measure_queries, read_run
from trainers.recipes.corrections import Judgement
from trainers.recipes.plan import ordered
from trainers.recipes.questions import known_by_query
from trainers.recipes.run import Run, plain, read_record
from trainers.run_folder import LOG

if TYPE_CHECKING:
    from trainers.recipes.deliver import Deliver

REPORT = "report.html"

#: Training questions whose scores the histogram shows.
SCORED = 2000


def write_report(last: Deliver, run: Run, doubts: dict[str, Any], shown: Sequence[Judgement]) -> dict[str, Any]:
    """Writes the report into the run folder.

    Args:
        last: The end of the run.
        run: The run.
        doubts: Which file has the doubtful judgements, and how many of each kind.
        shown: Those that the page shows.

    Returns:
        The measures in it, by set, system and name: the mean and its interval.
    """
    from jinja2 import Environment, PackageLoader

    measures = {name: _systems(last, run, name) for name in last.asked.sets(run)}
    stages = [read_record(run.of(stage)) for stage in ordered(last)[:-1]]
    environment = Environment(loader=PackageLoader("trainers.recipes"), autoescape=True, trim_blocks=True)
    page = environment.get_template("report.html.jinja").render(
        recipe=run.recipe,
        settings=yaml.safe_dump(plain(run.recipe), sort_keys=False, allow_unicode=True),
        questions=run.outcome(last.data)["said"],
        measures=measures,
        names=last.measures,
        counts={name: len(queries) for name, queries in last.asked.sets(run).items()},
        curves=[(stage.name, curve) for stage in ordered(last) if (curve := _curve(run.of(stage) / "model"))],
        distribution=_distribution(last, run),
        stages=stages,
        gpu=any("peak_gpu_bytes" in stage for stage in stages),
        total=sum(stage["seconds"] for stage in stages),
        doubts=doubts,
        shown=shown,
    )  # fmt: skip
    with atomic_write(run.folder / REPORT) as file:
        file.write(page)
    return {
        name: {system["title"]: {m: list(value) for m, value in system["values"].items()} for system in systems}
        for name, systems in measures.items()
    }


def _systems(last: Deliver, run: Run, name: str) -> list[dict[str, Any]]:
    """Each system's measures on one set of questions, and its gains in the first one above BM25 and the start."""
    qrels = last.asked.judged(run)[name]
    values = {
        title: measure_queries(read_run(runs.file(run, name)), qrels, last.measures) for title, runs in last.systems
    }
    first = last.measures[0]
    titles = list(values)
    baselines = [title for title in titles if title == "BM25" or title.startswith("untouched")]
    systems = []
    for title in titles:
        gains: dict[str, Interval] = {}
        if title not in baselines:
            gains = {base: bootstrap_gain(values[title][first], values[base][first]) for base in baselines}
        systems.append(
            {
                "title": title,
                "baseline": title in baselines,
                "values": {measure: bootstrap(values[title][measure]) for measure in last.measures},
                "gains": gains,
            }
        )
    return systems


def _curve(model: Path) -> str:
    """The losses and dev measures of a training, as SVG; nothing where its log is not there."""
    if not (model / LOG).is_file():
        return ""
    records = [record for _, record in read_jsonl(model / LOG)]
    losses = [(record["step"], record["loss"]) for record in records if "loss" in record]
    measured = [(record["step"], value) for record in records for value in record.get("dev", {}).values()]
    figure, axes = _figure()
    if losses:
        axes.plot(*zip(*losses, strict=True), color="#999999", linewidth=0.8, label="loss")
        axes.plot(*zip(*_smooth(losses), strict=True), color="#1f6feb", label="loss, smoothed")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    if measured:
        right = axes.twinx()
        right.plot(*zip(*measured, strict=True), color="#d1242f", marker="o", label="dev")
        right.set_ylabel("dev measure", color="#d1242f")
    axes.legend(loc="upper right", frameon=False)
    return _svg(figure)


def _smooth(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Each loss with those of the steps before it, a twentieth of the run, averaged."""
    width = max(1, len(points) // 20)
    losses = [loss for _, loss in points]
    windows = [losses[max(0, i - width) : i + 1] for i in range(len(points))]
    return [(step, sum(window) / len(window)) for (step, _), window in zip(points, windows, strict=True)]


def _distribution(last: Deliver, run: Run) -> str:
    """The re-ranker's probabilities of labelled positives and of other candidates, with the thresholds, as SVG."""
    known = known_by_query(last.data.sets(run)["train"], last.data.judged(run)["train"])
    right: list[float] = []
    other: list[float] = []
    for query_id, row in islice(last.training_probabilities(run), SCORED):
        for id, probability in row.items():
            (right if id in known[query_id] else other).append(probability)
    figure, axes = _figure()
    for values, label, color in ((other, "other candidates", "#999999"), (right, "labelled positives", "#1a7f37")):
        if values:
            weights = [1 / len(values)] * len(values)
            axes.hist(values, bins=40, range=(0, 1), weights=weights, alpha=0.6, label=label, color=color)
    for threshold, label in (
        (last.thresholds.negative_below, "negative below"),
        (last.thresholds.positive_above, "positive above"),
    ):
        axes.axvline(threshold, color="#d1242f", linestyle="--", linewidth=1)
        axes.annotate(
            f" {label} {threshold:g}", (threshold, 0.95), xycoords=("data", "axes fraction"), fontsize=8, va="top",
            ha="left" if threshold < 0.5 else "right",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("probability that the passage answers, by the re-ranker")
    axes.set_ylabel("share")
    axes.legend(loc="upper center", frameon=False)
    return _svg(figure)


def _figure() -> Any:
    from matplotlib.figure import Figure  # which, unlike pyplot, needs no display and keeps nothing

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Any) -> str:
    from markupsafe import Markup

    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return Markup(text.getvalue()[text.getvalue().index("<svg") :])
