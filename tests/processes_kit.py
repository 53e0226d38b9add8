"""A project in which runs are processes of their own, to be killed, stopped and paused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.cli_kit import command, environment


class ProcessProject:
    """A project whose components note their calls in `calls.txt`. Processes that are left are killed by `close`."""

    def __init__(self, root: Path, components: str, *, patience_s: float = 50) -> None:
        """
        Args:
            root: Its directory.
            components: The source of its components.
            patience_s: How long a command may take.
        """
        self._patience_s = patience_s
        self.root = root
        (root / "flowmason.json").write_text("{}")
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
