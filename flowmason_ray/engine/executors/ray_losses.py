"""How the loss of a value is told: from Ray's errors, and in the failure of an attempt that lacks it."""

from __future__ import annotations

from ray.exceptions import ObjectLostError

from flowmason_ray.errors import Failure, FlowMasonError

LOST = "object"
"""The key of a failure's details that names the reference whose value is gone."""


class ValueLost(FlowMasonError):
    """A value in the object store is gone, and could not be brought back."""

    code = "value_lost"


def lost_object(error: BaseException) -> str | None:
    """Return the reference, in hexadecimal, of which an error says that its value is gone; None: it says something else."""
    for each in (error, getattr(error, "cause", None)):
        if isinstance(each, ObjectLostError):
            found: str | None = getattr(each, "object_ref_hex", None)
            if found:
                return found
    return None


def lost_failure(reference: str, path: str, attempt: int) -> Failure:
    """Return the failure of an attempt that was not begun because it lacks an input."""
    message = "A value that it reads is gone from the cluster."
    return Failure(code="value_lost", message=message, stage=path, attempts=attempt, details={LOST: reference})
