"""The mailbox: how what attempts say on workers reaches the coordinator while they run.

An actor without CPU, on the coordinator's node, one per process that coordinates. Workers post letters there (`ray_telling`); the
coordinator has one call waiting there per run, which returns when there are letters. So nothing happens while nobody says
anything, and all of it goes through Ray: no port is opened, and whoever may not use the cluster can neither read nor write.

The mailbox is made when the first call goes to the cluster, and ends with the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import ray
from ray import cloudpickle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flowmason_ray.engine.executors.ray_telling import Letter

MOST_WAITING = 1_000
"""Letters of a run that wait to be fetched; a coordinator that is further behind misses the oldest."""
REMEMBERED = 1_000
"""Boxes that are closed of which letters may still come."""
MOST_FAILURES = 5
"""After how many failures in a row the mailbox is given up: what is said then comes with the reports."""

_ray: Any = ray
_cloudpickle: Any = cloudpickle
# Under these names without types: those of Ray are partly unknown.


class _Box:
    """The actor."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[bytes]] = {}
        self._filled: dict[str, asyncio.Event] = {}
        self._closed: deque[str] = deque(maxlen=REMEMBERED)

    async def post(self, box: str, letters: bytes) -> None:
        """Leave letters in a box; they are dropped if it is closed."""
        if box not in self._closed:
            waiting = self._waiting.setdefault(box, [])
            waiting.append(letters)
            del waiting[:-MOST_WAITING]
            self._filled.setdefault(box, asyncio.Event()).set()

    async def take(self, box: str) -> list[bytes]:
        """Return the letters in a box, as soon as there are any; none if it is closed meanwhile."""
        if box in self._closed:
            return []
        filled = self._filled.setdefault(box, asyncio.Event())
        await filled.wait()
        filled.clear()
        return self._waiting.pop(box, [])

    async def close(self, box: str) -> None:
        """Forget a box."""
        self._closed.append(box)
        self._waiting.pop(box, None)
        filled = self._filled.pop(box, None)
        if filled is not None:
            filled.set()


_name = f"flowmason mailbox {uuid4().hex[:12]}"
_making = threading.Lock()
_made: dict[str, Any] = {}
"""The mailbox by the cluster that this process is connected to: as long as it is here, it lives."""


def _mailbox() -> Any:
    """Return the mailbox of this process, made if need be. Waits for the cluster."""
    context = _ray.get_runtime_context()
    cluster = f"{context.gcs_address} {context.get_job_id()}"
    with _making:  # who came second would get a handle that does not keep the actor alive, and put it in the place of the one that does
        if cluster not in _made:
            _made.clear()
            here = NodeAffinitySchedulingStrategy(context.get_node_id(), soft=True)
            options = {"num_cpus": 0, "max_restarts": -1, "max_concurrency": 1000, "scheduling_strategy": here}
            _made[cluster] = _ray.remote(_Box).options(name=_name, get_if_exists=True, **options).remote()
        return _made[cluster]


class Mailbox:
    """A run's letters, as its coordinator reads them."""

    def __init__(self, run_id: str, heard: Callable[[list[Letter]], None], given_up: Callable[[], None]) -> None:
        """
        Args:
            run_id: The run's.
            heard: Takes letters, in order.
            given_up: Is called when no letters will come any more.
        """
        # A box for each coordination of a run: one that is paused and resumed here gets a fresh one.
        self.address = (_name, f"{run_id} {uuid4().hex[:12]}")
        self.works = True
        self._heard = heard
        self._given_up = given_up
        self._listening: asyncio.Task[None] | None = None
        self._actor: Any = None

    def open(self) -> None:
        """Begin to listen, if that has not begun yet."""
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        failures = 0
        while failures < MOST_FAILURES:
            try:
                if self._actor is None:
                    self._actor = await asyncio.to_thread(_mailbox)
                for letters in await self._actor.take.remote(self.address[1]):
                    self._heard(_cloudpickle.loads(letters))
                failures = 0
            except RayError:
                failures += 1  # it is being restarted; what it held is lost, but for what comes with the reports
                await asyncio.sleep(0.1 * 2**failures)
        self.works = False
        self._given_up()

    async def close(self) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.cancel()
            with suppress(asyncio.CancelledError, RayError):
                await self._listening
        if self._actor is not None:
            self._actor.close.remote(self.address[1])
