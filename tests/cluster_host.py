"""A Ray cluster of several nodes on this machine, in a process of its own that obeys orders on its standard input.

In a process of its own, because Ray is one per process, and because who loses a node must not be who started it. An order is
a line of JSON, `{"order": NAME, …}`; so is each answer. The cluster ends with the process, and the process with its input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

import ray
import ray._private.utils as ray_utils
import ray._raylet as raylet
from ray.cluster_utils import Cluster

STORE_BYTES = 120 * 2**20
TRIES = 3
"""How often a node is tried: Ray gives it 30 s to be there, whatever the machine does (ray/_private/node.py)."""
_ray_utils: Any = ray_utils  # its types are partly unknown
_raylet: Any = raylet


class Host:
    """The cluster and its nodes by id."""

    def __init__(self, head: dict[str, Any]) -> None:
        _ray_utils.write_ray_address = lambda *_: None  # pyright: ignore[reportUnknownLambdaType]  # nobody else is to find it
        head = {"object_store_memory": STORE_BYTES, "include_dashboard": False, **head}
        self._cluster: Any = tried(lambda: Cluster(initialize_head=True, head_node_args=head))
        self._nodes: dict[str, Any] = {}

    def address(self) -> str:
        """Return the address that drivers connect to."""
        return self._cluster.address

    def head(self) -> str:
        """Return the id of the head node."""
        return self._cluster.head_node.node_id

    def add(self, **node: Any) -> str:
        """Add a node; return its id when the cluster knows it."""
        added = tried(lambda: self._cluster.add_node(**{"object_store_memory": STORE_BYTES, **node}))
        self._nodes[added.node_id] = added
        end = monotonic() + 60
        while self._alive() - {self.head(), *self._nodes}:
            assert monotonic() < end, "a node whose start has failed is still there"
            sleep(0.05)
        return added.node_id

    def kill(self, node: str) -> None:
        """Kill all processes of a node at once."""
        self._cluster.remove_node(self._nodes.pop(node), allow_graceful=False)
        while node in self._alive():
            sleep(0.05)

    def _alive(self) -> set[str]:
        return {node["NodeID"] for node in self._cluster.global_state.node_table() if node["Alive"]}

    def drain(self, node: str, seconds: int) -> bool:
        """Ask a node to go within some seconds; return whether the cluster takes it off."""
        client = _raylet.GcsClient(address=self._cluster.address)
        accepted, _ = client.drain_node(node, 2, "the test says so", int((time() + seconds) * 1000))
        return bool(accepted)

    def free(self) -> list[float]:
        """Return how many cores are free, and how many there are."""
        state = self._cluster.global_state
        return [float(found().get("CPU", 0.0)) for found in (state.available_resources, state.cluster_resources)]

    def node_of(self, actor: str) -> str | None:
        """Return the id of the node that a named actor lives on; None: it does not live."""
        for each in self._cluster.global_state.actor_table(None).values():
            if each["Name"] == actor and each["State"] == "ALIVE":
                return each["Address"]["NodeID"]
        return None

    def close(self) -> None:
        """End all of it."""
        self._cluster.shutdown()


def tried(start: Callable[[], Any]) -> Any:
    """Start a node; once more when it was not there in time, without what is left of it: it might join later."""
    for left in range(TRIES - 1, -1, -1):
        before = children()
        try:
            return start()
        except Exception as exc:
            if not left:
                raise
            print(f"a node did not start: {exc!r}", file=sys.stderr, flush=True)
            for pid in children() - before:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    raise AssertionError


def children() -> set[int]:
    """Return the processes that this one has started and not yet taken leave of."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended just now
            found.update(map(int, thread.read_text().split()))
    return found


def main() -> None:
    host: Host | None = None
    for line in sys.stdin:
        said: dict[str, Any] = json.loads(line)
        order = said.pop("order")
        if order == "start":
            host = Host(said)
            answer: Any = {"address": host.address(), "head": host.head()}
        else:
            answer = getattr(host, order)(**said)
        print(json.dumps(answer), flush=True)
    if host is not None:
        host.close()


if __name__ == "__main__":
    assert ray.__version__
    main()
