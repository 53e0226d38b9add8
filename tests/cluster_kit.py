"""Clusters of several nodes for tests, whose nodes can be killed, and runs on them that are processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from tests.cli_kit import ROOT, command, environment

PATIENCE_S = 150
"""How long anything is waited for: a bound that only a hang reaches, also on a loaded machine."""


class Nodes:
    """A cluster (`cluster_host`)."""

    def __init__(self, **head: Any) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the cluster
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster_host"],
            cwd=ROOT,
            env=environment(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_health_check_period_ms="500"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            start_new_session=True,
        )
        started = self._order("start", **head)
        self.address: str = started["address"]
        self.head: str = started["head"]
        self._added: list[str] = []

    def _order(self, order: str, **more: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"order": order, **more}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._said.seek(0)
            said = self._said.read().decode(errors="replace")
            raise AssertionError(f"the cluster's process has ended over {order!r}:\n{said[-3000:]}")
        return json.loads(answer)

    def add(self, **node: Any) -> str:
        """Add a node; return its id."""
        added = self._order("add", **node)
        self._added.append(added)
        return added

    def kill(self, node: str) -> None:
        """Kill a node."""
        self._order("kill", node=node)
        self._added.remove(node)

    def drain(self, node: str, seconds: int) -> bool:
        """Ask a node to go within some seconds."""
        return self._order("drain", node=node, seconds=seconds)

    def all_free(self) -> bool:
        """Tell whether nobody holds a core."""
        free, there = self._order("free")
        return free == there

    def node_of(self, actor: str) -> str | None:
        """Return the id of the node that a named actor lives on; None: it does not live."""
        return self._order("node_of", actor=actor)

    def only_head(self) -> None:
        """Take all nodes away that were added, for the next test."""
        for node in list(self._added):
            self.kill(node)

    def close(self) -> None:
        """End the cluster."""
        try:
            self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        finally:
            self._said.close()


class Runs:
    """A project whose runs are processes on a cluster."""

    def __init__(self, root: Path, components: str, address: str) -> None:
        self.root = root
        self._address = address
        (root / "flowmason.json").write_text("{}")
        (root / "components").mkdir(exist_ok=True)
        (root / "components" / "work.py").write_text(components)
        self._processes: list[subprocess.Popen[str]] = []

    def settings(self, **settings: Any) -> None:
        """Write the project's settings."""
        (self.root / "flowmason.json").write_text(json.dumps(settings))

    def begin(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Begin an `fm` command."""
        process = subprocess.Popen(
            command(*arguments),
            cwd=self.root,
            env=environment(RAY_ADDRESS=self._address, RAY_AUTH_MODE="disabled", **environ),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._processes.append(process)
        return process

    def write(self, stages: list[dict[str, Any]], **more: Any) -> None:
        """Write a pipeline of these stages, `p.pipeline.json`."""
        (self.root / "p.pipeline.json").write_text(json.dumps({"name": "p", "stages": stages, **more}))

    def start(self, stages: list[dict[str, Any]], *options: str, **more: Any) -> subprocess.Popen[str]:
        """Begin a run of these stages."""
        self.write(stages, **more)
        return self.begin("run", "p.pipeline.json", "--on", "ray", "--json", *options)

    def end(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait for a run; return the document that it prints."""
        out, err = process.communicate(timeout=PATIENCE_S)
        assert out, err
        return json.loads(out)

    def run(self, stages: list[dict[str, Any]], *options: str, **more: Any) -> dict[str, Any]:
        """Run stages to the end; return the document that is printed."""
        return self.end(self.start(stages, *options, **more))

    def say(self, name: str) -> None:
        """Make a file that components wait for."""
        (self.root / name).touch()

    def notes(self) -> list[str]:
        """Return what the components noted, in order."""
        file = self.root / "notes.txt"
        return file.read_text().splitlines() if file.exists() else []

    def forget(self) -> None:
        """Forget what was noted."""
        (self.root / "notes.txt").unlink(missing_ok=True)

    def noted(self, word: str, times: int = 1) -> list[str]:
        """Wait until a word was noted so often; return those notes."""
        return until(
            lambda: found if len(found := [n for n in self.notes() if n.split()[0] == word]) >= times else None
        )

    def close(self) -> None:
        """Leave nothing behind."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)


def until(holds: Callable[[], Any]) -> Any:
    """Wait until something is true; return it."""
    end = monotonic() + PATIENCE_S
    while not (found := holds()):
        assert monotonic() < end, "it did not happen"
        sleep(0.05)
    return found


def alive(pid: int) -> bool:
    """Tell whether a process is there."""
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@contextmanager
def runs_on(nodes: Nodes, root: Path, components: str) -> Generator[Runs]:
    """Make a project; leave neither a process nor a node of the test behind."""
    runs = Runs(root, components, nodes.address)
    try:
        yield runs
    finally:
        runs.close()
        nodes.only_head()
