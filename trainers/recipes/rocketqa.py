"""RocketQA's four steps (Qu et al., 2021, section 3.4)."""

from __future__ import annotations

from trainers.recipes.composer import Composer
from trainers.recipes.deliver import Deliver
from trainers.recipes.settings import Recipe


def rocketqa(recipe: Recipe) -> Deliver:
    """The stages of `recipe: rocketqa`, each built on the one before."""
    make = Composer(recipe)
    make.measure_untouched()

    # Step 1: a retriever on the labelled pairs, against the passages of the whole batch: M_D(0).
    hard_negatives = recipe.step1.hard_negatives if recipe.step1.lexical_negatives else 0
    labelled = make.labelled()
    first = make.train_retriever("retriever-1", make.retriever, (labelled,), recipe.step1, hard_negatives)
    found = make.measure_retriever("step 1: retriever", "measure-1", first)

    # Step 2: a re-ranker on positives and negatives out of that retriever's candidates: M_C.
    mined = make.mine("mine-1", first, make.data)
    reranker = make.train_reranker("reranker", make.reranker, mined, recipe.step2)
    make.measure_reranker("step 2: retriever of step 1 + re-ranker", "measure-reranker", reranker, found)

    # Step 3: the retriever again, with hard negatives of which the re-ranker is sure: M_D(1).
    scores = make.score("score", reranker, mined)
    denoised = make.denoised("denoised", mined, scores, recipe.denoising.negatives)
    second = make.train_retriever("retriever-2", first, (denoised,), recipe.step3, recipe.step3.hard_negatives)
    final = second
    if make.unlabelled and recipe.step4.epochs:
        make.measure_retriever("step 3: retriever", "measure-2", second)

        # Step 4: the retriever again, on questions that the re-ranker has labelled, too: M_D(2).
        pseudo = make.pseudo_labelled(make.unlabelled, second, reranker, scores, recipe.denoising.negatives)
        groups = (denoised, pseudo)
        final = make.train_retriever("retriever-3", second, groups, recipe.step4, recipe.step4.hard_negatives)

    return make.deliver(final, reranker, scores)
