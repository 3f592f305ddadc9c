"""RocketQAv2: a warm-up as in RocketQA, then both encoders together on hybrid lists (Ren et al., 2021, section 3)."""

from __future__ import annotations

from trainers.recipes.composer import Composer
from trainers.recipes.deliver import Deliver
from trainers.recipes.groups import Groups
from trainers.recipes.settings import Recipe


def rocketqav2(recipe: Recipe) -> Deliver:
    """The stages of `recipe: rocketqav2`, each built on the one before."""
    make = Composer(recipe)
    make.measure_untouched()

    # Warm-up: RocketQA's step 1.
    warm = make.train_retriever("retriever-1", make.retriever, (make.labelled(),), recipe.step1)
    found = make.measure_retriever("warm-up: retriever", "measure-1", warm)

    # RocketQA's step 2: the re-ranker that denoises. It also teaches on its own where joint training is left out.
    mined = make.mine("mine-1", warm, make.sample)
    teacher = make.train_reranker("reranker", make.reranker, mined, recipe.step2)
    make.measure_reranker("warm-up: retriever + re-ranker", "measure-reranker", teacher, found)

    # Lists of candidates: as they are found, and denoised; pseudo-labelled ones are denoised.
    scores = make.score("score", teacher, mined)
    others = recipe.joint.list_length - 1
    denoised: tuple[Groups, ...] = (make.denoised("denoised", mined, scores, others, all=True),)
    if make.unlabelled:
        denoised += (make.pseudo_labelled(make.unlabelled, warm, teacher, scores, others, all=True),)

    # Both together: the re-ranker learns from the labels, the retriever from the re-ranker.
    start = teacher if recipe.joint_reranker == "step2" or recipe.joint.static else make.reranker
    retriever, reranker = make.train_joint(warm, start, mined, denoised)

    return make.deliver(retriever, reranker if recipe.joint.epochs else teacher, scores)
