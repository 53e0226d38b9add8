"""A project in which runs are processes of their own, to be killed, stopped and paused."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from tests.cli_kit import command, environment

WAIT_S = 90
"""How long is waited for what is bound to come: long, because a busy machine may not run a process for many seconds."""


def wait_until(true: Callable[[], bool], otherwise: str) -> None:
    """Wait for what is bound to come; fail with `otherwise` when it does not."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def stop_between_commits(pid: int, log: Path | str) -> None:
    """Stop a process (SIGSTOP) that writes into a run log, at a moment when it does not hold the log's lock.

    A process that is stopped in the middle of a commit keeps it, and nobody else could write until it goes on.
    """

    def stopped() -> bool:
        try:
            threads = [(each / "stat").read_text() for each in Path(f"/proc/{pid}/task").iterdir()]
        except OSError:  # one of them has ended just now
            return False
        return all(each.rpartition(")")[2].split()[0] == "T" for each in threads)

    def stopped_outside() -> bool:
        os.kill(pid, signal.SIGSTOP)
        wait_until(stopped, f"process {pid} does not stop")  # a thread that waits for the disk stops behind that
        if _can_be_written(str(log)):
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_until(stopped_outside, f"process {pid} holds the lock of {log} all the time")


def _can_be_written(log: str) -> bool:
    if log.startswith("postgresql"):
        with psycopg.connect(log, autocommit=True) as connection:
            try:
                connection.execute("SELECT id FROM flowmason.runs FOR UPDATE NOWAIT")
            except psycopg.errors.LockNotAvailable:
                return False
        return True
    with closing(sqlite3.connect(f"file:{log}?mode=rw", uri=True, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:  # the rest says in which way it is busy
                raise
            return False
        connection.execute("ROLLBACK")
    return True


class ProcessProject:
    """A project whose components note their calls in `calls.txt`. Processes that are left are killed by `close`."""

    def __init__(self, root: Path, components: str, *, patience_s: float = WAIT_S, lease_s: float = 600) -> None:
        """
        Args:
            root: Its directory.
            components: The source of its components.
            patience_s: How long a command may take.
            lease_s: How long a run belongs to a process that does not renew its lease: it shall not be lost because the
                machine is busy. That a process was killed is seen without it.
        """
        self._patience_s = patience_s
        self.root = root
        (root / "flowmason.json").write_text(json.dumps({"stores": {"lease_s": lease_s}}))
        (root / "components").mkdir()
        (root / "components" / "work.py").write_text(components)
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, stages: list[dict[str, Any]], **more: Any) -> subprocess.Popen[str]:
        """Begin a run of these stages."""
        file = self.root / "p.pipeline.json"
        file.write_text(json.dumps({"name": "p", "stages": stages, **more}))
        return self.begin("run", str(file), "--json")

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command."""
        process = subprocess.Popen(
            command(*arguments),
            cwd=self.root,
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._processes.append(process)
        return process

    def fm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        process = self.begin(*arguments)
        out, err = process.communicate(timeout=self._patience_s)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def close(self) -> None:
        """Leave nothing behind."""
        for process in self._processes:
            process.kill()
            process.communicate()

    def calls(self) -> list[str]:
        """Return what the components noted so far."""
        file = self.root / "calls.txt"
        return file.read_text().splitlines() if file.exists() else []
