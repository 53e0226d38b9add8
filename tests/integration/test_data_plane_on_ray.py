"""Large values go from worker to worker; the process that drives the run carries none of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli_kit import environment

pytestmark = [pytest.mark.ray, pytest.mark.timeout(540)]

DRIVER = '''
"""Passes frames through a chain of stages; says how much the coordinator has grown and has read of Ray's objects, and how
much Ray has moved to the disk.

Its own memory alone would not tell: what is read from the object store on the same machine is shared, and is not copied.
"""

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path

import ray
from ray._private.serialization import SerializationContext
from pydantic import BaseModel
from typing import Any

import flowmason_ray
from flowmason_ray import operator
from flowmason_ray.stores.blobs import LocalBlobs
from flowmason_ray.stores.sqlite import SqliteRunStore

COUNT, MIB = int(sys.argv[1]), int(sys.argv[2])
STORED = sys.argv[3] == "stored"
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


read_bytes = 0
deserialize = SerializationContext._deserialize_object


def counted(self, data, *more):
    global read_bytes
    read_bytes += 0 if data is None else memoryview(data).nbytes
    return deserialize(self, data, *more)


SerializationContext._deserialize_object = counted


def check_the_count():
    """Whichever way an object is read, it is counted."""
    async def read(reference):
        return await reference

    large = ray.put(bytes(2**20))
    for way in (ray.get, lambda each: each.future().result(), lambda each: asyncio.run(read(each))):
        before = read_bytes
        way(large)
        assert read_bytes - before >= 2**20, way


def own_bytes():
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * 4096


def on_disk():
    found = 0
    for file in SPILL.rglob("*"):
        with suppress(OSError):  # Ray removes them all the time
            found += file.stat().st_size
    return found


def start():
    for last in (False, False, True):
        try:
            ray.init(
                address="local",
                num_cpus=2,
                object_store_memory=600 * 2**20,
                object_spilling_directory=str(SPILL),
                include_dashboard=False,
                log_to_driver=False,
            )
            return
        except Exception:  # Ray's 30 s for a start were not enough, on a busy machine
            if last:
                raise
        ray.shutdown()


def main():
    stages = [{"id": "s0", "component_type": "frame_step"}]
    for i in range(1, COUNT):
        config = {"frame": "{{ stages.s%d.frame }}" % (i - 1)}
        stages.append({"id": f"s{i}", "component_type": "frame_step", "config": config})
    last = {"id": "last", "component_type": "foreach",
            "config": {"items": "{{ [stages.s%d.frame | length] }}" % (COUNT - 1), "loop_stages": ["one"]}}
    one = {"id": "one", "component_type": "variable_set", "config": {"name": "rows", "value": "{{ item }}"}}
    start()
    check_the_count()
    most, before, spilled, read_before = 0, own_bytes(), 0, read_bytes
    store = SqliteRunStore(Path("runs.db"), LocalBlobs(Path("blobs"))) if STORED else None

    def look(event):
        nonlocal most, spilled
        most = max(most, own_bytes())
        spilled = max(spilled, on_disk())

    result = flowmason_ray.run(
        {"name": "p", "stages": [*stages, last, one]}, on="ray", components=[FrameStep], observers=[look], store=store
    ).raise_for_status()
    print(json.dumps({
        "output": result.output,
        "grown_mib": (most - before) / 2**20,
        "spilled_mib": spilled / 2**20,
        "read_mib": (read_bytes - read_before) / 2**20,
        "copies": sum(file.is_file() for file in Path("blobs").rglob("*")),
    }))


if __name__ == "__main__":
    main()
'''


def passing(folder: Path, count: int, mib: int, *, stored: bool) -> dict[str, Any]:
    """Pass so many frames of this size; return what was measured."""
    script = folder / "driver.py"
    script.write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, str(script), str(count), str(mib), "stored" if stored else "not stored"],
        cwd=folder,
        env=environment(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0"),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["output"]["results"] == [{"rows": mib * 2**20 // 8}]
    return said


def test_five_gigabytes_pass_and_the_coordinator_reads_none_of_it(tmp_path: Path) -> None:
    said = passing(tmp_path, 50, 100, stored=False)
    assert said["grown_mib"] < 150
    assert said["read_mib"] < 5
    # What nobody reads any more was given back: the store of 600 MiB, and the disk behind it, never had to hold all of it.
    assert said["spilled_mib"] < 2500


def test_what_is_recorded_is_written_by_workers(tmp_path: Path) -> None:
    """Each frame has a copy that the run log refers to; the coordinator has read none of them."""
    said = passing(tmp_path, 10, 20, stored=True)
    assert said["read_mib"] < 5
    assert said["copies"] >= 10
