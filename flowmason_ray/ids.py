"""Identifiers as types of their own, so that swapping two is a type error, and how run ids are made.

Nothing here knows what an identifier points at.
"""

from __future__ import annotations

import os
import time
from typing import NewType

RunId = NewType("RunId", str)
"""Identifies a run: `r_` and 20 base-32 digits, sorted by the time of creation."""

StageId = NewType("StageId", str)
"""A stage's `id` as it is written in the pipeline."""

StagePath = NewType("StagePath", str)
"""Addresses one instance of a stage in a run: `each[3]/extract`, `sub/each[1]/inner[0]/call`."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32 in lower case: no i, l, o, u


def new_run_id() -> RunId:
    """Return a new run id: 48 bits of milliseconds and 52 random bits, so that ids sort by time (as a ULID does)."""
    number = (time.time_ns() // 1_000_000) << 52 | int.from_bytes(os.urandom(7), "big") & ((1 << 52) - 1)
    digits: list[str] = []
    for _ in range(20):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return RunId("r_" + "".join(reversed(digits)))
