"""Recipes: RocketQA and RocketQAv2 as stages that can be interrupted, from a collection to a deployed pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rocketqa_haystack.data import read_queries
from rocketqa_haystack.encoders import CrossEncoder, DualEncoder, ModelError
from rocketqa_haystack.encoders.loading import check_kind, is_folder, resolve
from rocketqa_haystack.evaluation import measure
from rocketqa_haystack.generators import load_generator
from trainers.loop import start_accelerator
from trainers.recipes.composer import Composer, ranks
from trainers.recipes.deliver import Deliver, check_room
from trainers.recipes.estimate import measure_rates
from trainers.recipes.plan import File, GivenModel, Stage, ordered
from trainers.recipes.questions import checked_qrels
from trainers.recipes.rocketqa import rocketqa
from trainers.recipes.rocketqav2 import rocketqav2
from trainers.recipes.run import Run, read_record, run_stages
from trainers.recipes.settings import Recipe, RecipeError, check_recipe, make_recipe, read_recipe
from trainers.recipes.status import State, stage_state

RECIPES: dict[str, Callable[[Recipe], Deliver]] = {"rocketqa": rocketqa, "rocketqav2": rocketqav2}

__all__ = ["Recipe", "RecipeError", "make_recipe", "plan_recipe", "read_recipe", "run_recipe"]


def run_recipe(
    recipe: Recipe | str | Path | Mapping[str, Any], *, show_progress: bool = True
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Runs a recipe from where its run folder is: what is done already is not done again.

    Under `accelerate launch` the processes share the work; docs/recipes.md says what that changes.

    ```python
    from trainers import run_recipe

    measures = run_recipe("examples/recipes/quick.yaml")
    print(measures["test"]["final retriever + re-ranker, weighed"]["RR@10"])  # the mean, and its interval
    ```

    Args:
        recipe: A YAML file, its keys and values, or a `Recipe`.
        show_progress: Whether to show progress bars.

    Returns:
        What the report says: by set of questions, system and measure, the mean and the bounds of its 95 % interval.

    Raises:
        RecipeError: The recipe cannot be run; nothing has been then.
    """
    recipe = _recipe(recipe)
    accelerator = start_accelerator()
    _check(recipe, accelerator.num_processes)
    last = RECIPES[recipe.recipe](recipe)
    run = run_stages(recipe, last, accelerator=accelerator, show_progress=show_progress)
    measures: dict[str, dict[str, dict[str, list[float]]]] = read_record(run.of(last))["outcome"]["report"]
    return measures


def plan_recipe(recipe: Recipe | str | Path | Mapping[str, Any]) -> list[State]:
    """The stages of a recipe in their order, with their state, and for those that are not done an estimate of the time.

    Nothing is run but the models that it starts from, on a few texts, to measure how fast this machine is.

    Raises:
        RecipeError: The recipe cannot be run.
    """
    recipe = _recipe(recipe)
    accelerator = start_accelerator()
    _check(recipe, accelerator.num_processes)
    last, sizes = RECIPES[recipe.recipe](recipe), Composer(recipe).sizes()
    run = Run(recipe.output, recipe, accelerator)
    stages = ordered(last)
    states = [_state(run, stage) for stage in stages]
    if all(state.state == "done" for state in states):
        return states
    rates = measure_rates(recipe, run.corpus(File(recipe.collection / "corpus.jsonl")))
    return [
        state if state.state == "done" else replace(state, estimate=rates.seconds(stage.work(sizes)))
        for stage, state in zip(stages, states, strict=True)
    ]


def _state(run: Run, stage: Stage) -> State:
    state = stage_state(run.of(stage), stage.name)
    return State(stage.name, "to do") if state.state == "done" and not run.is_done(stage) else state


def _recipe(recipe: Recipe | str | Path | Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    return make_recipe(dict(recipe)) if isinstance(recipe, Mapping) else read_recipe(recipe)


def _check(recipe: Recipe, processes: int) -> None:
    """Refuses a recipe that would stop in its middle.

    Raises:
        RecipeError: With the key and the reason.
    """
    check_recipe(recipe, processes)
    check_room(recipe.output)
    try:
        measure({}, {"question": {"passage": 1}}, recipe.measures)
    except ValueError as error:
        raise RecipeError(f"measures: {error}") from error
    for key, name in (("retriever", recipe.retriever), ("reranker", recipe.reranker or recipe.retriever)):
        try:
            model = resolve(GivenModel(name).model)
            if is_folder(model) and key == "retriever":
                check_kind(model, "dual encoder")
        except (ModelError, ImportError) as error:
            raise RecipeError(f"{key}: {error}") from error
    if not recipe.step2.epochs and not ranks(GivenModel(recipe.reranker or recipe.retriever)):
        raise RecipeError("step2.epochs: 0 takes the re-ranker as it is, but the recipe's cannot rank without training")
    _check_lengths(recipe)
    if recipe.generation is not None:
        _check_judgements(recipe)  # which are read by a stage otherwise: here after much has been generated
        if recipe.generation.generator is not None:
            try:
                load_generator(recipe.generation.generator)
            except ValueError as error:
                raise RecipeError(f"generation.generator: {error}") from error


def _check_lengths(recipe: Recipe) -> None:
    lengths = recipe.lengths
    try:
        if lengths.query or lengths.passage:
            encoder = DualEncoder.from_pretrained(GivenModel(recipe.retriever).model, device="cpu")
            encoder.change_settings(query_max_length=lengths.query, passage_max_length=lengths.passage)
        if lengths.pair:
            name = GivenModel(recipe.reranker or recipe.retriever).model
            CrossEncoder.for_training(name, device="cpu").change_settings(passage_max_length=lengths.pair)
    except ModelError as error:
        raise RecipeError(f"lengths: {error}") from error


def _check_judgements(recipe: Recipe) -> None:
    queries = recipe.collection / "queries.jsonl"
    known = read_queries(queries) if queries.is_file() else {}
    for split in (recipe.splits.train, recipe.splits.dev, recipe.splits.test):
        if (path := recipe.collection / "qrels" / f"{split}.tsv").is_file():
            checked_qrels(File(path), known)
