"""From a re-ranker's logits to probabilities that can be held against thresholds.

A re-ranker with one output gives a logit, whose sigmoid is the probability that the passage answers the query; one with
a two-way softmax gives two, and the sigmoid of their difference is the softmax probability of the second (relevant)
class. `CrossEncoder.logits` gives the difference, so that one rule serves both: probability = sigmoid(logit /
temperature). A temperature of 1 takes the model at its word. One fitted on dev (Guo et al., 2017, "On Calibration of
Modern Neural Networks", section 4.2) makes an overconfident model's probabilities milder and a timid one's sharper; it
moves none across 0.5 and changes no ranking.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit

from rocketqa_haystack.data import Qrels
from rocketqa_haystack.evaluation import Run

#: Temperatures are looked for between these.
COLDEST, HOTTEST = 0.05, 20.0


def probabilities(logits: Mapping[str, float], temperature: float = 1.0) -> dict[str, float]:
    """Probabilities of one query's passages.

    Args:
        logits: As `CrossEncoder.logits` gives them, by passage.
        temperature: What they are divided by.
    """
    values = expit(np.fromiter(logits.values(), dtype=np.float64, count=len(logits)) / temperature)
    return dict(zip(logits, values.tolist(), strict=True))


def fit_temperature(run: Run, qrels: Qrels) -> float:
    """The temperature under which the judgements are likeliest; 1 where all candidates are of one kind.

    A candidate that is not judged counts as not relevant, so that missing judgements make probabilities milder.

    Args:
        run: The re-ranker's logits of the dev questions' candidates.
        qrels: Their judgements.
    """
    judged = [(logit, qrels.get(query, {}).get(id, 0) > 0) for query, row in run.items() for id, logit in row.items()]
    labels = np.array([label for _, label in judged], dtype=bool)
    if labels.all() or not labels.any():
        return 1.0
    signed = np.where(labels, 1.0, -1.0) * np.array([logit for logit, _ in judged])

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -signed / np.exp(log_temperature)).mean())

    found = minimize_scalar(loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))
