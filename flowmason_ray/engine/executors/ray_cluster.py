"""Finding or starting the Ray cluster that a run uses.

A run joins the cluster that this process is connected to, else the one at `RAY_ADDRESS` (or the address given), else it
starts one in this machine's processes: embedded, without a dashboard, reachable with a token that only this process and its
children know (`ray_token`). An embedded cluster is kept for later runs of the same process, because starting one takes seconds, and ends
with the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from concurrent.futures import Future
from typing import Any, cast

from flowmason_ray.errors import FlowMasonError, MissingExtra

# Without this Ray warns about GPUs on every start (ray/_private/worker.py).
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

try:
    import ray
except ModuleNotFoundError as exc:
    raise MissingExtra(feature="Running on Ray", extra="ray", module="ray") from exc

_starting = threading.Lock()


class ClusterUnavailable(FlowMasonError):
    """The Ray cluster cannot be started or reached."""

    code = "cluster_unavailable"


async def connect(address: str | None) -> None:
    """Connect this process to a cluster, if it is not connected yet.

    Raises:
        ClusterUnavailable: it cannot be started or reached.
    """
    if not ray.is_initialized():
        await asyncio.wrap_future(_in_lasting_thread(address or os.environ.get("RAY_ADDRESS")))


def _in_lasting_thread(address: str | None) -> Future[None]:
    """Connect on a thread that lives as long as the process.

    Ray asks the kernel to end its processes with their parent (PR_SET_PDEATHSIG), and for the kernel the parent is the
    thread that started them: on a thread of a pool, the cluster would die with the event loop that owns the pool.
    """
    done: Future[None] = Future()

    def work() -> None:
        try:
            _connect(address)
        except BaseException as exc:  # handed over to whoever waits
            done.set_exception(exc)
        else:
            done.set_result(None)
            threading.Event().wait()

    threading.Thread(target=work, name="flowmason-ray", daemon=True).start()
    return done


def _connect(address: str | None) -> None:
    with _starting:
        if ray.is_initialized():
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            # "local": else Ray joins a cluster that happens to run on this machine.
            options.update(address="local", include_dashboard=False)
        else:
            options.update(address=address)
        try:
            _start(options, again=address is None)
        except Exception as exc:  # Ray raises everything from ValueError to ConnectionError to plain RuntimeError here
            where = (
                "start a Ray cluster on this machine" if address is None else f"reach the Ray cluster at {address!r}"
            )
            raise ClusterUnavailable(f"Cannot {where}: {exc}") from exc


def _start(options: dict[str, Any], *, again: bool) -> None:
    """Start or join a cluster; with `again` once more if that fails: on a busy machine Ray's 30 s for a start are not always
    enough (Ray 2.60, `ray/_private/node.py`), and the second time its files are in memory."""
    try:
        cast("Any", ray).init(**options)
    except Exception:  # Ray raises everything from ValueError to ConnectionError to plain RuntimeError here
        if not again:
            raise
        cast("Any", ray).shutdown()
        cast("Any", ray).init(**options)
