"""Large values go from worker to worker; the process that drives the run carries none of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_kit import environment

pytestmark = [pytest.mark.ray, pytest.mark.timeout(540)]

DRIVER = '''
"""Passes 5 GB through a chain of stages and says how much the coordinator has grown, and how much Ray has moved to the disk."""

import json
from contextlib import suppress
from pathlib import Path

import ray
from pydantic import BaseModel
from typing import Any

import flowmason_ray
from flowmason_ray import operator

COUNT, MIB = 50, 100
SPILL = Path("spill").absolute()


@operator(name="frame_step", effect="pure", cost="cpu")
class FrameStep:
    """Returns a frame of about 100 MiB, made of what it is given."""

    class Input(BaseModel):
        frame: Any = None

    class Output(BaseModel):
        frame: Any

    def execute(self, input, context):
        import polars

        rows = MIB * 2**20 // 8
        last = 0 if input.frame is None else int(input.frame["n"][0])
        assert input.frame is None or len(input.frame) == rows
        return {"frame": polars.DataFrame({"n": polars.repeat(last + 1, rows, eager=True, dtype=polars.Int64)})}


def own_bytes():
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * 4096


def on_disk():
    found = 0
    for file in SPILL.rglob("*"):
        with suppress(OSError):  # Ray removes them all the time
            found += file.stat().st_size
    return found


def main():
    stages = [{"id": "s0", "component_type": "frame_step"}]
    for i in range(1, COUNT):
        config = {"frame": "{{ stages.s%d.frame }}" % (i - 1)}
        stages.append({"id": f"s{i}", "component_type": "frame_step", "config": config})
    last = {"id": "last", "component_type": "foreach",
            "config": {"items": "{{ [stages.s%d.frame | length] }}" % (COUNT - 1), "loop_stages": ["one"]}}
    one = {"id": "one", "component_type": "variable_set", "config": {"name": "rows", "value": "{{ item }}"}}
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=600 * 2**20,
        object_spilling_directory=str(SPILL),
        include_dashboard=False,
        log_to_driver=False,
    )
    most, before, spilled = 0, own_bytes(), 0

    def look(event):
        nonlocal most, spilled
        most = max(most, own_bytes())
        spilled = max(spilled, on_disk())

    result = flowmason_ray.run(
        {"name": "p", "stages": [*stages, last, one]}, on="ray", components=[FrameStep], observers=[look], store=None
    ).raise_for_status()
    print(json.dumps({
        "output": result.output,
        "grown_mib": (most - before) / 2**20,
        "spilled_mib": spilled / 2**20,
    }))


if __name__ == "__main__":
    main()
'''


def test_five_gigabytes_pass_and_the_coordinator_does_not_grow(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0"),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["output"]["results"] == [{"rows": 100 * 2**20 // 8}]
    assert said["grown_mib"] < 150
    # What nobody reads any more was given back: the store of 600 MiB, and the disk behind it, never had to hold all of it.
    assert said["spilled_mib"] < 2500
