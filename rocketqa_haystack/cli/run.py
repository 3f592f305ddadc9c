"""`rocketqa run`: a recipe, from a collection to a pipeline."""

from __future__ import annotations

from pathlib import Path


def run(recipe: Path, collection: Path | None = None, output: Path | None = None, dry_run: bool = False) -> None:
    """Run a recipe: train, measure and deliver a retriever and a re-ranker, in stages.

    The run folder keeps every stage. Started again, a run goes on where it was; after a changed setting, only what
    depends on it is done again. At its end there are model folders, a document store, pipeline.yaml and
    pipeline-hybrid.yaml for haystack.Pipeline.load, report.html, and judgements.tsv with labels to look at.
    examples/recipes has recipes to begin with.

    Args:
        recipe: The YAML file.
        collection: A BEIR folder, in place of the recipe's.
        output: The run folder, in place of the recipe's.
        dry_run: Show the stages, which of them are done, and how long the others will take; run nothing.
    """
    from trainers.recipes import plan_recipe, read_recipe, run_recipe
    from trainers.recipes.status import format_states

    settings = read_recipe(recipe, collection=collection, output=output)
    if dry_run:
        print(format_states(plan_recipe(settings)))
        return
    run_recipe(settings)
