"""docs/guide/components-reference.md and the README's table hold every built-in component, and its examples fit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.components.builtin import BUILTIN
from flowmason_ray.components.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = dict(
    section.split("\n", 1)
    for section in (ROOT / "docs/guide/components-reference.md").read_text(encoding="utf-8").split("\n## ")[1:]
)


def test_every_component_is_told() -> None:
    assert set(SECTIONS) == set(BUILTIN)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[`(\w+)`\]", readme, re.MULTILINE) == list(BUILTIN)


@pytest.mark.parametrize("name", BUILTIN)
def test_an_example_uses_the_components_fields(name: str) -> None:
    section = SECTIONS[name]
    block = re.search(r"```json\n(.*?)```", section, re.DOTALL)
    if block is None:
        assert "An example is the stage" in section
        return
    stage: dict[str, Any] = json.loads(block[1])
    spec = Registry(entry_points=False).get(name)
    assert spec is not None
    assert stage["component_type"] == name
    given = set(stage["config"])
    fields = spec.input_model.model_fields
    known = {field.alias or key for key, field in fields.items()}
    if spec.input_model.model_config.get("extra") != "allow":
        assert given <= known
    assert {field.alias or key for key, field in fields.items() if field.is_required()} <= given
