"""Putting search results in order: two rankings into one, and variety against repetition. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flowmason_ray.components.vectors.port import Hit, Vector

RANK_CONSTANT = 60
"""How little the first ranks stand out: the constant of Cormack, Clarke and Büttcher, Reciprocal Rank Fusion (SIGIR 2009)."""


def fused(rankings: Sequence[Sequence[Hit]]) -> list[tuple[Hit, float]]:
    """Return the hits of several rankings in one: each gets 1 / (60 + rank) from every ranking that has it.

    Returns: hits with their sums, scaled so that first in all rankings is 1; the best first, ties by id.
    """
    scores: dict[str, float] = {}
    hits: dict[str, Hit] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            hits.setdefault(hit.id, hit)
            scores[hit.id] = scores.get(hit.id, 0) + 1 / (RANK_CONSTANT + rank)
    best = len(rankings) / (RANK_CONSTANT + 1)
    return [(hits[id], scores[id] / best) for id in sorted(scores, key=lambda id: (-scores[id], id))]


def diverse(ranked: Sequence[tuple[Hit, float]], *, k: int, diversity: float) -> list[tuple[Hit, float]]:
    """Return `k` hits of which each is good and unlike those before it: maximal marginal relevance (Carbonell, Goldstein 1998).

    Args:
        ranked: Hits with their vectors and scores, the best first.
        k: How many.
        diversity: What counts: 0 the score alone, 1 only being unlike the others.
    """
    left = list(ranked)
    chosen: list[tuple[Hit, float]] = []
    likeness = [0.0] * len(left)  # to what was chosen; scores are non-negative where this is used, so is this
    while left and len(chosen) < k:
        at = max(range(len(left)), key=lambda i: ((1 - diversity) * left[i][1] - diversity * likeness[i], -i))
        hit, score = left.pop(at)
        likeness.pop(at)
        chosen.append((hit, score))
        for i, (other, _) in enumerate(left):
            likeness[i] = max(likeness[i], cosine(hit.vector, other.vector))
    return chosen


def cosine(a: Vector, b: Vector) -> float:
    """Return the cosine of the angle between two vectors; 0 when one has no direction."""
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0
