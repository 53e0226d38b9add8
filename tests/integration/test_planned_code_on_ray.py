"""Workers run the code that was planned, of the version that planned it, or say why not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from flowmason_ray.api import PreparedRun
from flowmason_ray.engine.executors import ray_messages

pytestmark = pytest.mark.ray

EDIT = '''
from pathlib import Path

from pydantic import BaseModel

from flowmason_ray import operator


class Nothing(BaseModel):
    pass


@operator(effect="idempotent", cost="cpu")
class Edit:
    """Edits the other component while the run goes on."""

    Input = Output = Nothing

    def execute(self, input, context):
        file = Path(__file__).parent / "late.py"
        file.write_text(file.read_text().replace("planned", "edited since"))
        return Nothing()
'''
LATE = '''
from pydantic import BaseModel

from flowmason_ray import operator


class Said(BaseModel):
    said: str = ""


@operator(effect="idempotent", cost="cpu")
class Late:
    """Says which code it is."""

    Input = Output = Said

    def execute(self, input, context):
        return Said(said="planned")
'''


def test_a_file_that_is_edited_while_the_run_goes_on_is_not_run_as_the_planned_one(
    ray_cluster: str, tmp_path: Path
) -> None:
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "edit.py").write_text(EDIT)
    (tmp_path / "components" / "late.py").write_text(LATE)
    stages = [
        {"id": "edit", "component_type": "edit"},
        {"id": "late", "component_type": "late", "depends_on": ["edit"], "retry": {"max_attempts": 3}},
    ]
    file = tmp_path / "p.pipeline.json"
    file.write_text(json.dumps({"name": "p", "stages": stages}))
    result = asyncio.run(PreparedRun(file, on="ray").run())
    assert result.failure is not None
    assert (result.failure.code, result.failure.stage, result.failure.attempts) == ("component_changed", "late", 1)
    assert "late.py is not the file" in result.failure.message


def test_a_worker_of_another_version_is_named_with_both(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_messages, "_OURS", b"FlowMason 99.1\n")
    stages = [
        {
            "id": "a",
            "component_type": "json_transform",
            "config": {"data": 1, "jmespath_expression": "@"},
            "placement": {"fuse": "never"},
        }
    ]
    result = asyncio.run(PreparedRun({"name": "p", "stages": stages}, on="ray").run())
    assert result.failure is not None
    assert result.failure.code == "version_mismatch"
    assert "The driver has FlowMason '99.1', the Ray worker on " in result.failure.message
