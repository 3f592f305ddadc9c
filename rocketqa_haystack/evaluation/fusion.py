"""Several runs as one, by reciprocal rank fusion (Cormack et al., 2009)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: The paper's constant.
K = 60


def fuse(rankings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """One query's passages in the order of the sum of 1 / (60 + rank) over the rankings, best first.

    The scores are scaled as Haystack's DocumentJoiner has them: a passage that is first in every ranking gets 1.

    Args:
        rankings: The query's scores in each run.
    """
    fused: dict[str, float] = {}
    for scores in rankings:
        ranked = sorted(scores, key=scores.__getitem__, reverse=True)
        for rank, id in enumerate(ranked, start=1):
            fused[id] = fused.get(id, 0.0) + (K + 1) / (K + rank) / len(rankings)
    return dict(sorted(fused.items(), key=lambda item: item[1], reverse=True))
