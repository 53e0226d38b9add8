"""`python -m flowmason_ray.testing.simulation`: simulate many seeds, or look at one.

A seed with which something is wrong is printed with the pipeline and the shortest story that still shows it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from time import monotonic

from flowmason_ray.testing.simulation.runs import Simulated, calmest, crash_everywhere, simulate


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 nothing was found, 1 something was."""
    parser = argparse.ArgumentParser(
        prog="python -m flowmason_ray.testing.simulation", description="Examine the engine on simulated runs."
    )
    parser.add_argument("--seeds", type=int, default=10_000, help="how many seeds to try (default: 10000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--seed", type=int, help="try this seed only")
    parser.add_argument("--trace", action="store_true", help="with --seed: print everything that happens")
    parser.add_argument("--crash-everywhere", action="store_true", help="crash each run after each of its events")
    parser.add_argument("--time-limit", type=float, metavar="S", help="stop after so many seconds")
    options = parser.parse_args(arguments)
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    began, tried, stimuli = monotonic(), 0, 0
    for seed in seeds:
        run = crash_everywhere(seed) if options.crash_everywhere else simulate(seed, keep_story=options.trace)
        tried += 1
        stimuli += len(run.stimuli)
        if options.trace and options.seed is not None:
            _print_pipelines(run)
            print(*run.story, sep="\n")
        if run.wrong is not None:
            _print_finding(run, traced=options.trace)
            return 1
        if options.time_limit is not None and monotonic() - began > options.time_limit:
            break
    took = monotonic() - began
    print(f"{tried} runs, {stimuli} events, {tried / max(took, 1e-9):.0f} runs/s: every law held.")
    return 0


def _print_pipelines(run: Simulated) -> None:
    generated = run.subject.generated
    for data in (generated.data, *generated.callees.values()):
        rest = {key: value for key, value in data.items() if key != "stages"}
        print(json.dumps(rest))
        for stage in data["stages"]:
            print("   ", json.dumps(stage))


def _print_finding(run: Simulated, *, traced: bool) -> None:
    if not traced:
        run = calmest(run)
        _print_pipelines(run)
        print(*run.story, sep="\n")
    print(f"\nSeed {run.seed}: {run.wrong}")
    print(f"The nuisances that it needs: {run.mood}")
    print(f"See all of it: python -m flowmason_ray.testing.simulation --seed {run.seed} --trace")


if __name__ == "__main__":
    sys.exit(main())
