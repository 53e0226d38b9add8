"""Coordinates for the nodes of a layer: as near as possible to where each wants to be, in order, and far enough apart.

That is least squares under the constraints x[i+1] - x[i] >= gap[i]. Substituting y[i] = x[i] - (sum of the gaps before i)
makes it isotonic regression, which pooling adjacent violators solves exactly in one pass (Barlow et al. 1972).
"""

from __future__ import annotations

from collections.abc import Sequence


def spread(wanted: Sequence[float], weights: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """Return positions in increasing order.

    Args:
        wanted: Where each would best be.
        weights: How much each insists on it, > 0.
        gaps: The least distance between each and the next; one fewer than `wanted`.
    """
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, total, size = want - offset, weight, 1
        while blocks and blocks[-1][0] > mean:
            before, heavy, many = blocks.pop()
            mean = (before * heavy + mean * total) / (heavy + total)
            total += heavy
            size += many
        blocks.append((mean, total, size))
    placed = [mean for mean, _, size in blocks for _ in range(size)]
    return [y + offset for y, offset in zip(placed, offsets, strict=True)]
