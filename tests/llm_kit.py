"""What tests of models share: a context that asks the test server, and a project with a component that does."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from flowmason_ray.testing.llm_server import KEY, LlmServer

PROVIDERS = ("anthropic", "openai")

ASK = '''"""Asks a model."""

from __future__ import annotations

from pydantic import BaseModel

from flowmason_ray import Context, node


@node
class Ask:
    """Asks a model."""

    class Input(BaseModel):
        prompt: str
        system: str | None = None

    class Output(BaseModel):
        content: str
        model: str

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask."""
        answer = await context.models.generate(input.prompt, system=input.system)
        return self.Output(content=answer.text, model=answer.model)
'''


@contextmanager
def model_server() -> Generator[LlmServer]:
    """Run the test server, with its key in the environment."""
    before = os.environ.get("TEST_LLM_KEY")
    os.environ["TEST_LLM_KEY"] = KEY
    try:
        with LlmServer() as server:
            yield server
    finally:
        if before is None:
            del os.environ["TEST_LLM_KEY"]
        else:
            os.environ["TEST_LLM_KEY"] = before


def asking(server: LlmServer, provider: str, *, said: dict[str, Any] | None = None, **more: Any) -> RecordingContext:
    """Return a context whose stage asks one of the server's providers; `more` are fields of the provider."""
    settings = ProjectSettings.model_validate(
        {"providers": server.providers(**more), "llm_settings": {"provider": provider, **(said or {})}}
    )
    return RecordingContext(settings=settings)


def entry(context: RecordingContext) -> dict[str, Any]:
    """Return the only entry of what a context has used."""
    usage = context.models.usage()
    assert usage is not None
    (only,) = usage["models"]
    return only


def make_project(folder: Path) -> Path:
    """Make a project with a loop over stages that ask; return the pipeline."""
    import json

    (folder / "components").mkdir(parents=True)
    (folder / "components" / "ask.py").write_text(ASK, encoding="utf-8")
    pipeline = {
        "name": "asking",
        "version": "1.0.0",
        "input_schema": {"type": "object", "properties": {"items": {"type": "array"}}, "required": ["items"]},
        "stages": [
            {
                "id": "each",
                "component_type": "foreach",
                "config": {"items": "{{ input.items }}", "item_variable": "it", "loop_stages": ["ask"]},
            },
            {"id": "ask", "component_type": "ask", "config": {"prompt": "say {{ it }} please"}},
        ],
    }
    file = folder / "asking.pipeline.json"
    file.write_text(json.dumps(pipeline, indent=2), encoding="utf-8")
    return file
