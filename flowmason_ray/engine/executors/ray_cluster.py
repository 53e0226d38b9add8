"""Finding or starting the Ray cluster that a run uses.

A run joins the cluster that this process is connected to, else the one at `RAY_ADDRESS` (or the address given), else it
starts one in this machine's processes: embedded, without a dashboard, reachable with a token that only this process and its
children know. An embedded cluster is kept for later runs of the same process, because starting one takes seconds, and ends
with the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, cast

from flowmason_ray.errors import FlowMasonError, MissingExtra

# Ray reads how to authenticate once, when it is imported (2.60: setting it later leaves client and server at odds).
if not {"RAY_AUTH_MODE", "RAY_ADDRESS"} & os.environ.keys() and "ray" not in sys.modules:
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
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


def missing_resources(asked: Mapping[str, float], labels: Mapping[str, str]) -> str | None:
    """Tell what no node of the cluster could ever give: None, or a sentence that names what is asked and what is there.

    Args:
        asked: Amounts by Ray's resource names (`CPU`, `GPU`, `memory` in bytes, …), all on one node.
        labels: A label selector, which the same node must fit.
    """
    every: list[dict[str, Any]] = cast("Any", ray).nodes()
    alive = [node for node in every if node["Alive"]]
    fitting = [node for node in alive if all(fits(node.get("Labels", {}).get(k), v) for k, v in labels.items())]
    if not fitting:
        wanted = ", ".join(f"{name} = {value!r}" for name, value in labels.items())
        return f"It asks for a node with the labels {wanted}; none of the cluster's {len(alive)} nodes has them."
    nodes: list[dict[str, float]] = [node["Resources"] for node in fitting]
    if any(all(node.get(name, 0.0) >= amount for name, amount in asked.items()) for node in nodes):
        return None
    wanted = ", ".join(f"{name} {amount:g}" for name, amount in asked.items())
    best = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in asked}
    there = ", ".join(f"{name} {amount:g}" for name, amount in best.items())
    return f"It asks for {wanted} on one node; the most that one of the cluster's {len(nodes)} nodes has is {there}."


_IN = re.compile(r"in\(([^()]*)\)")


def fits(value: str | None, selector: str) -> bool:
    """Tell whether a node's label fits one condition of a label selector: `x`, `!x`, `in(x, y)` or `!in(x, y)`.

    A node without the label (None) fits the negated forms.
    """
    wanted = selector.removeprefix("!")
    found = _IN.fullmatch(wanted)
    allowed = [each.strip() for each in found[1].split(",")] if found else [wanted]
    return (value in allowed) is not selector.startswith("!")
