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
    first = make.train_retriever("retriever-1", make.retriever, (make.labelled(),), recipe.step1)
    found = make.measure_retriever("step 1: retriever", "measure-1", first)

    # Step 2: a re-ranker on positives and negatives out of that retriever's candidates: M_C.
    mined = make.mine("mine-1", first, make.sample)
    reranker = make.train_reranker("reranker", make.reranker, mined, recipe.step2)
    make.measure_reranker("step 2: retriever of step 1 + re-ranker", "measure-reranker", reranker, found)

    # Step 3: the retriever again, with hard negatives of which the re-ranker is sure: M_D(1).
    scores = make.score("score", reranker, mined)
    denoised = make.denoised("denoised", mined, scores, recipe.denoising.negatives)
    second = make.train_retriever("retriever-2", first, (denoised,), recipe.step3)
    final = second
    if make.unlabelled and recipe.step4.epochs:
        make.measure_retriever("step 3: retriever", "measure-2", second)

        # Step 4: the retriever again, on questions that the re-ranker has labelled, too: M_D(2).
        pseudo = make.pseudo_labelled(make.unlabelled, second, reranker, scores, recipe.denoising.negatives)
        final = make.train_retriever("retriever-3", second, (denoised, pseudo), recipe.step4)

    return make.deliver(final, reranker, scores)
