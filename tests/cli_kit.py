"""Runs `fm` for tests: in this process, which takes milliseconds, or as a process of its own, where streams and signals count."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.cli import main

ROOT = Path(__file__).resolve().parents[1]

NAP = '''
"""A component for tests: takes its time, and fails on request."""

import time
from pydantic import BaseModel
from flowmason_ray import TemporaryError, operator


@operator(effect="pure")
class Nap:
    """Sleeps, prints, fails."""

    class Input(BaseModel):
        seconds: float = 0
        say: str | None = None
        failures: int = 0
        raises: str | None = None

    class Output(BaseModel):
        attempt: int

    def execute(self, input, context):
        if input.say:
            print(input.say)
            context.log("info", input.say)
        time.sleep(input.seconds)
        if context.attempt <= input.failures:
            raise TemporaryError("not yet", code="busy")
        if input.raises:
            raise ValueError(input.raises)
        return {"attempt": context.attempt}
'''


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed on stdout, as JSON."""
        return json.loads(self.out)


class Fm:
    """`fm` in this process, in a project directory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self._monkeypatch = monkeypatch
        self.directory = directory

    def __call__(self, *arguments: str, stdin: str = "") -> Done:
        """Run a command."""
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
        with self._monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
            with pytest.raises(SystemExit) as exit_info:
                main(arguments)
        out, err = (stream.buffer.getvalue().decode() for stream in streams)  # pyright: ignore[reportAttributeAccessIssue]  # a BytesIO
        return Done(int(exit_info.value.code or 0), out, err)

    def write(self, pipeline: Mapping[str, Any] | str, name: str = "p.pipeline.json") -> str:
        """Write a pipeline file and return its name."""
        text = pipeline if isinstance(pipeline, str) else json.dumps(pipeline, indent=2)
        file = self.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return name


def add_nap(directory: Path) -> None:
    """Give a project the component `nap`."""
    (directory / "components").mkdir(exist_ok=True)
    (directory / "components" / "nap.py").write_text(NAP, encoding="utf-8")


def environment(**more: str) -> dict[str, str]:
    """Return the environment of an `fm` process."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return {**inherited, "PYTHONPATH": str(ROOT), "TERM": "xterm", **more}


def command(*arguments: str) -> list[str]:
    """Return the command line of an `fm` process."""
    return [sys.executable, "-m", "flowmason_ray", *arguments]


def run_process(*arguments: str, cwd: Path, stdin: str = "") -> Done:
    """Run `fm` as a process and wait for it."""
    done = subprocess.run(
        command(*arguments), cwd=cwd, input=stdin, capture_output=True, text=True, env=environment(), timeout=120
    )
    return Done(done.returncode, done.stdout, done.stderr)


def stage(id: str, component: str = "nap", after: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """Return a stage."""
    config = more.pop("config", {})
    return {"id": id, "component_type": component, "config": config, "depends_on": list(after), **more}


def pipeline(*stages: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a pipeline."""
    return {"name": "P", **more, "stages": list(stages)}


def set_stage(id: str, value: Any, after: Sequence[str] = ()) -> dict[str, Any]:
    """Return a stage whose output is {`v`: value}."""
    return stage(id, "variable_set", after, config={"name": f"v_{id}", "value": value})
