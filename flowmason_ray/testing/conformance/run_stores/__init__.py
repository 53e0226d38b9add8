"""What every run store promises, as checks: for the project's own stores, and for those of third parties.

    from flowmason_ray.testing.conformance.run_stores import STORE_CHECKS

    @pytest.mark.parametrize("name", STORE_CHECKS)
    def test_it_conforms(name, tmp_path):
        asyncio.run(STORE_CHECKS[name](lambda: MyStore(tmp_path)))

A check is given a function that opens the store: fresh and empty at its first call, the same again at every other. Nothing here
needs pytest, waits for a lease to run out, or needs a second process.
"""

from __future__ import annotations

from flowmason_ray.testing.conformance.run_stores.events import EVENTS
from flowmason_ray.testing.conformance.run_stores.following import FOLLOWING
from flowmason_ray.testing.conformance.run_stores.kit import (
    FAILURE,
    PATIENCE_S,
    Check,
    OpenStore,
    begun,
    call,
    new_record,
    ran,
    recorded,
    refused,
    started,
    succeeded,
)
from flowmason_ray.testing.conformance.run_stores.owners import OWNERS
from flowmason_ray.testing.conformance.run_stores.pruning import PRUNING
from flowmason_ray.testing.conformance.run_stores.results import RESULTS
from flowmason_ray.testing.conformance.run_stores.runs import RUNS

__all__ = [
    "FAILURE",
    "PATIENCE_S",
    "STORE_CHECKS",
    "Check",
    "OpenStore",
    "begun",
    "call",
    "new_record",
    "ran",
    "recorded",
    "refused",
    "started",
    "succeeded",
]

STORE_CHECKS: dict[str, Check] = {
    name: check
    for chapter in (EVENTS, RUNS, OWNERS, FOLLOWING, RESULTS, PRUNING)
    for name, check in chapter.checks.items()
}
"""Every check by what it shows."""
