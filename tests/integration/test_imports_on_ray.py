"""Components whose code a worker cannot import: what is missing is said, in a line."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from flowmason_ray import Context, SetupContext, operator
from flowmason_ray.api import PreparedRun

pytestmark = pytest.mark.ray


class _In(BaseModel):
    pass


class _Out(BaseModel):
    pass


class _Needs:
    """Refers to a module that is only here: the class travels by value, the module by name."""

    Input, Output = _In, _Out

    def execute(self, input: _In, context: Context) -> _Out:
        return _Out(**MISSING.fields())  # pyright: ignore[reportUnknownMemberType]  # made below


@operator(name="needs_it", effect="pure", cost="cpu")
class NeedsIt(_Needs):
    pass


@operator(name="needs_it_in_actor", effect="pure", cost="cpu")
class NeedsItInActor(_Needs):
    def setup(self, context: SetupContext) -> None:
        pass


MISSING: Any = ModuleType("only_here_and_nowhere_else")


@pytest.mark.parametrize(
    ("component", "code"), [("needs_it", "not_importable"), ("needs_it_in_actor", "component_setup_failed")]
)
def test_what_a_worker_cannot_import_is_said_in_a_line(
    ray_cluster: str, monkeypatch: pytest.MonkeyPatch, component: str, code: str
) -> None:
    monkeypatch.setitem(sys.modules, MISSING.__name__, MISSING)
    pipeline = {"name": "imports", "stages": [{"id": "a", "component_type": component}]}
    result = asyncio.run(PreparedRun(pipeline, on="ray", components=[NeedsIt, NeedsItInActor]).run())
    assert result.failure is not None
    assert result.failure.code == code
    assert "No module named 'only_here_and_nowhere_else'" in result.failure.message
    assert "sys.path" not in result.failure.message
    assert len(result.failure.message) < 500
