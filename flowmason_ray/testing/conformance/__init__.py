"""One set of scenarios for every executor: the engine's own, and those of third parties.

    from flowmason_ray.testing.conformance import NotCapable, check, scenarios

    @pytest.mark.parametrize("scenario", scenarios(), ids=lambda s: s.name)
    def test_it_conforms(scenario, tmp_path):
        try:
            asyncio.run(check(scenario, MyExecutor, project_dir=tmp_path))
        except NotCapable as exc:
            pytest.skip(str(exc))

Nothing here needs pytest. What an executor need not have is a `Capability`; everything else is required.
"""

from __future__ import annotations

from flowmason_ray.testing.conformance.checking import (
    Capability,
    NotCapable,
    Outcome,
    Scenario,
    TooSlow,
    check,
    check_nothing_is_left,
    run_scenario,
)
from flowmason_ray.testing.conformance.scenarios import scenarios

__all__ = [
    "Capability",
    "NotCapable",
    "Outcome",
    "Scenario",
    "TooSlow",
    "check",
    "check_nothing_is_left",
    "run_scenario",
    "scenarios",
]
