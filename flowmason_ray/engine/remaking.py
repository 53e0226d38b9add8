"""Which lost values may be made again, and whether what came out is what was recorded. Pure.

A value that an attempt came to may be gone from the cluster (a node died) while later stages still have to read it. Making it
again is no new attempt as the state machine sees it: what is recorded stands, and stays what it is. So a value is made again
only where repeating does no harm, and taken only if it is the one that was recorded.
"""

from __future__ import annotations

from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.digests import Contents
from flowmason_ray.engine.plan import PlanStage

MOST_LOSSES = 5
"""How often one value is brought back: a value that is lost more often is lost for a reason that will not go away."""


def why_not_again(stage: PlanStage, path: str, size_bytes: int) -> str | None:
    """Return why the value of a stage may not be made again; None when it may."""
    if stage.effect is not Effect.EFFECTFUL:
        return None
    return (
        f"The value of stage {path!r} ({size_bytes} bytes) is gone from the cluster, and no copy of it was kept. The stage is "
        "effectful, so it is not done again silently. A run that is recorded keeps copies."
    )


def is_the_same(
    recorded: tuple[bytes | None, Contents | None, int], made: tuple[bytes | None, Contents | None, int]
) -> bool:
    """Tell whether a value that was made again is the recorded one, by the best of what is known of both.

    Args:
        recorded: Of the lost value: how the log records it, what stands for it in fingerprints, its size in bytes.
        made: The same of the value that was made again.
    """
    for old, new in zip(recorded[:2], made[:2], strict=True):
        if old is not None and new is not None:
            return old == new
    return recorded[2] == made[2]
