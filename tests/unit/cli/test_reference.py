"""docs/guide/cli.md tells every command with exactly the options that it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from typer.main import get_command

from flowmason_ray.cli.app import make_app

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guide" / "cli.md"


def real() -> dict[str, set[str]]:
    """Return every command with its options."""
    found: dict[str, set[str]] = {}

    def walk(command: Any, name: str) -> None:
        inner = getattr(command, "commands", None)
        if inner is not None:
            for key, each in inner.items():
                walk(each, f"{name} {key}")
            return
        options = [p for p in command.params if p.param_type_name == "option"]
        found[name] = {flag for p in options for flag in (*p.opts, *p.secondary_opts)} - {"--help", "-h"}

    walk(get_command(make_app()), "fm")
    return found


def told() -> dict[str, set[str]]:
    """Return every command that the guide has a section about, with the options in its table."""
    found: dict[str, set[str]] = {}
    for section in GUIDE.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading = section.split("\n", 1)[0]
        name = " ".join(word for word in heading.split() if word.islower())
        cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `-")]
        found[name] = {flag for cell in cells for flag in re.findall(r"`(-[-\w]+)`", cell)}
    return found


def test_the_guide_tells_every_command_and_option() -> None:
    assert told() == real()
