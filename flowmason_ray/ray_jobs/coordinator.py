"""The actor that drives a run inside a cluster.

Everything happens on a thread that its constructor starts, because that is what Ray calls again after a restart: a method call
would die with the process that made it. When the run has stopped, the actor leaves in order, so it is not restarted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import Any, cast

import ray

from flowmason_ray import telemetry
from flowmason_ray.errors import FlowMasonError
from flowmason_ray.ray_jobs.driving import Order, drive

NAMESPACE = "flowmason"
"""Where coordinators are found by name, whatever namespace a job is in."""
RESTARTS = 100
"""How often a coordinator is started again: a run of weeks survives a bad node, one that kills its coordinator at once ends."""

_logger = logging.getLogger(__name__)
_ray: Any = ray


def name_of(run_id: str) -> str:
    """Return the name of a run's coordinator."""
    return f"coordinator {run_id}"


class Coordinator:
    """Drives one run."""

    def __init__(self, order: Order) -> None:
        self._order = order
        os.environ.setdefault("RAY_ADDRESS", _ray.get_runtime_context().gcs_address)  # as for any run on a cluster
        self._answer = threading.Event()
        self._problem: tuple[str, str] | None = None
        self._again: bool = _ray.get_runtime_context().was_current_actor_reconstructed
        # What the thread calls when it is done; asked for here, because only an actor's own thread knows it.
        self._self: Any = _ray.get_runtime_context().current_actor
        threading.Thread(target=self._drive, name="flowmason-coordinator", daemon=True).start()

    def _drive(self) -> None:
        order = self._order
        try:
            status = asyncio.run(drive(order, self._answer.set, again=self._again))
        except FlowMasonError as exc:
            self._problem = (exc.code, exc.message)
            _logger.error("run %s is left: %s", order.run_id, exc.message)
        except BaseException as exc:
            code = "internal_error"
            self._problem = (code, f"{type(exc).__name__}: {exc}")
            _logger.exception("run %s is left", order.run_id)
        else:
            _logger.info("run %s has stopped: %s", order.run_id, status)
        finally:
            telemetry.flush()
            self._answer.set()
            self._self.leave.remote()

    def begun(self) -> tuple[str, str] | None:
        """Wait until the run was taken up; return code and message of what was in the way, None: nothing."""
        self._answer.wait()
        return self._problem

    def leave(self) -> None:
        """End the actor for good."""
        cast("Any", ray).actor.exit_actor()
