"""A Ray head of its own, as `ray start --head` makes it: with a token, a dashboard that takes jobs, and metrics.

Several on one machine get along when every port differs. It is a child of the test process and ends with it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPException
from pathlib import Path

import pytest

START_S = 90.0
"""How long a head may take to be there: 10 s quiet, much longer on a busy machine."""
TRIES = 5
"""How often it is tried: Ray gives a node 30 s to be there, whatever the machine does (ray/_private/node.py)."""
_PORTS = (
    "port",
    "node-manager-port",
    "object-manager-port",
    "ray-client-server-port",
    "runtime-env-agent-port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
)
_DASHBOARD_NEEDS = ("aiohttp_cors", "grpc", "opencensus", "prometheus_client", "virtualenv")
HOST = "127.0.0.1"


def has_dashboard() -> bool:
    """Tell whether what Ray's dashboard needs is installed (`ray[default]`)."""
    return all(importlib.util.find_spec(name) is not None for name in _DASHBOARD_NEEDS)


def _end_with_parent() -> None:
    """Have the kernel end this process when the tests are killed (PR_SET_PDEATHSIG, prctl(2)); it takes its own along."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Head:
    """A running head."""

    def __init__(self) -> None:
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in _PORTS]
            for each in sockets:
                each.bind((HOST, 0))
            self.ports = dict(zip(_PORTS, (each.getsockname()[1] for each in sockets), strict=True))
        self.token = secrets.token_hex(32)
        self.folder = Path(tempfile.mkdtemp(prefix="fm-ray-"))  # short: sockets lie in it
        self.dashboard = f"http://{HOST}:{self.ports['dashboard-port']}"
        self.address = f"{HOST}:{self.ports['port']}"
        self._log = (self.folder / "start.log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        """Return what a client's environment says besides."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0"}

    def start(self, **environment: str) -> None:
        """Start it, and wait until it takes jobs."""
        root = str(Path(__file__).resolve().parents[1])
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        command += [f"--{name}={port}" for name, port in self.ports.items()]
        command += ["--include-dashboard=true", f"--dashboard-host={HOST}", f"--node-ip-address={HOST}"]
        command += [
            "--num-cpus=4",
            f"--object-store-memory={256 * 1024**2}",
            "--min-worker-port=0",
            "--max-worker-port=0",
        ]
        command += [f"--temp-dir={self.folder}"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env = {
            **kept,
            **self.environment(),
            "PYTHONPATH": root,
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            **environment,
        }
        self._process = subprocess.Popen(
            command,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=self.folder,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        deadline = time.monotonic() + START_S
        # The dashboard answers before the node is there, and the node may give up starting after that.
        while not (self._says("Ray runtime started") and self._takes_jobs()):
            gone = self._process.poll() is not None or self._says("Traceback")
            if gone or time.monotonic() > deadline:
                said = (self.folder / "start.log").read_text(errors="replace")
                raise AssertionError(f"the head {'ended' if gone else 'is not there'}:\n{said[-3000:]}")
            time.sleep(0.3)

    def _says(self, words: str) -> bool:
        return words in (self.folder / "start.log").read_text(errors="replace")

    def _takes_jobs(self) -> bool:
        request = urllib.request.Request(
            f"{self.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return isinstance(json.load(answer), list)
        except (OSError, ValueError, HTTPException):  # half of an answer, while it starts
            return False

    def stop(self) -> None:
        """End it and everything that it started: they share its process group."""
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._log.close()
        for _ in range(20):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                break
            time.sleep(0.2)


def serving(**environment: str) -> Iterator[Head]:
    """Start a head, and end it."""
    if not has_dashboard():
        message = "RAY JOBS ARE NOT TESTED: the dashboard's packages ('ray[default]') are not installed."
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    for left in range(TRIES - 1, -1, -1):
        head = Head()
        try:
            try:
                head.start(**environment)
            except AssertionError:
                if not left:
                    raise
                continue
            yield head
            return
        finally:
            head.stop()
