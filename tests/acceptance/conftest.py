"""Fixtures of the acceptance tests: `fm` in a fresh project with one component of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli_kit import Fm, add_nap


@pytest.fixture
def fm(project_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Fm:
    add_nap(project_dir)
    return Fm(monkeypatch, project_dir)
