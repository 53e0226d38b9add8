"""Connections that a stage names are looked up before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from flowmason_ray import operator, validate
from flowmason_ray.components.builtin import BUILTIN
from flowmason_ray.components.connection_names import MARK, names_connection
from flowmason_ray.components.registry import Registry
from flowmason_ray.connections import CONNECTION_TYPES
from flowmason_ray.engine.component import Context

CONNECTIONS = {
    "cache": {"type": "redis", "url": "redis://h"},
    "broker": {"type": "amqp", "url": "amqp://h"},
    "mail": {"type": "smtp", "host": "h"},
    "hook": {"type": "webhook", "url": "https://h"},
    "shop": {"type": "postgres", "url": "postgresql://h/shop"},
}
MAIL = {"connection": "mail", "to": "a@example.com", "subject": "s", "body": "b"}


@pytest.fixture
def project(project_dir: Path) -> Path:
    settings = {"connections": CONNECTIONS, "mcp_servers": {"notes": {"command": "notes"}}}
    (project_dir / "flowmason.json").write_text(json.dumps(settings), encoding="utf-8")
    return project_dir


def problems(component: str, config: dict[str, Any], *components: type, file: Path | None = None) -> list[Any]:
    pipeline: Any = {"name": "P", "stages": [{"id": "s", "component_type": component, "config": config}]}
    return [(p.code, p.path, p.nearest) for p in validate(pipeline, components=components)]


def routed(**destination: Any) -> dict[str, Any]:
    fine = {"destination": {"type": "file", "path": "x"}}
    return {"payload": 1, "routes": [fine, {"destination": {**destination}}]}


@pytest.mark.parametrize(
    ("component", "config", "expected"),
    [
        ("queue", {"connection": "cahce", "queue": "q", "message": 1}, ("unknown_connection", "", "cache")),
        ("queue", {"connection": "mail", "queue": "q", "message": 1}, ("connection_type", "", None)),
        ("sql_query", {"connection": "shpo", "query": "select 1"}, ("unknown_connection", "", "shop")),
        ("mcp_tool_call", {"server": "nots", "tool": "t"}, ("unknown_mcp_server", "server", "notes")),
        (
            "output_router",
            routed(type="webhook", connection="hok"),
            ("unknown_connection", "routes/1/destination/connection", "hook"),
        ),
        (
            "output_router",
            routed(type="queue", connection="hook", queue="q"),
            ("connection_type", "routes/1/destination/connection", None),
        ),
    ],
)
def test_a_name_that_stands_for_nothing_is_a_problem(
    component: str, config: dict[str, Any], expected: tuple[str, str, str | None], project: Path
) -> None:
    ((code, path, near),) = problems(component, config)
    assert (code, path) == (expected[0], f"/stages/0/config/{expected[1] or 'connection'}")
    assert expected[2] is None or near == expected[2]


@pytest.mark.parametrize(
    ("component", "config"),
    [
        ("queue", {"connection": "cache", "queue": "q", "message": 1}),
        ("queue", {"connection": "broker", "queue": "q", "message": {"connection": "nothing"}}),
        ("queue", {"connection": "{{ input.where }}", "queue": "q", "message": 1}),
        ("email", MAIL),
        ("sql_query", {"connection": "shop", "query": "select 1"}),
        ("sql_query", {"database": "x.db", "query": "select 1"}),
        ("mcp_tool_call", {"server": "notes", "tool": "t"}),
        ("output_router", routed(type="webhook", connection="hook")),
        ("output_router", routed(type="webhook", url="https://example.com")),
    ],
)
def test_what_is_there_or_not_known_yet_is_none(component: str, config: dict[str, Any], project: Path) -> None:
    assert problems(component, config) == []


def test_a_problem_stands_where_the_name_was_written(project: Path) -> None:
    stage = {"id": "s", "component_type": "queue", "config": {"connection": "cahce", "queue": "q", "message": 1}}
    file = project / "p.pipeline.json"
    file.write_text(json.dumps({"name": "P", "stages": [stage]}, indent=2), encoding="utf-8")
    (problem,) = validate(file)
    assert problem.line == next(n for n, line in enumerate(file.read_text().splitlines(), 1) if "cahce" in line)
    assert "Did you mean 'cache'" in problem.message


def test_a_callee_is_looked_at_as_well(project: Path) -> None:
    stage = {"id": "s", "component_type": "email", "config": {**MAIL, "connection": "mial"}}
    (project / "inner.pipeline.json").write_text(json.dumps({"name": "Inner", "stages": [stage]}), encoding="utf-8")
    (found,) = problems("subpipeline", {"pipeline": "inner.pipeline.json"})
    assert (found[0], found[2]) == ("unknown_connection", "mail")


class Place(BaseModel):
    where: str = Field(json_schema_extra=names_connection("s3"))
    inside: list[Place] = []


@operator(name="names_tests_nested", effect="pure")
class Nested:
    """A component of somebody's own, whose Input contains itself."""

    class Input(BaseModel):
        place: Place | None = None
        others: dict[str, Any] = {}

    class Output(BaseModel):
        pass

    def execute(self, input: Input, context: Context) -> Output:
        return self.Output()


def test_components_of_ones_own_may_mark_theirs(project: Path) -> None:
    place = {"where": "{{ input.x }}", "inside": [{"where": "{{ 1 }}"}, {"where": "lake"}]}
    found = problems("names_tests_nested", {"place": place, "others": {"where": "lake"}}, Nested)
    assert found == [("unknown_connection", "/stages/0/config/place/inside/1/where", None)]


def test_every_field_that_is_called_a_connection_is_marked() -> None:
    """Of what is built in, so that none is forgotten."""
    registry = Registry(entry_points=False)
    known = {*CONNECTION_TYPES, "mcp"}

    def look(schema: Any, where: str) -> None:
        if isinstance(schema, dict):
            for name, each in schema.get("properties", {}).items():  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # JSON
                if name in ("connection", "server"):
                    assert set(each.get(MARK, ())) <= known, where  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # JSON
                    assert each.get(MARK), f"{where}: {name} is not marked"  # pyright: ignore[reportUnknownMemberType]  # JSON
            for each in schema.values():  # pyright: ignore[reportUnknownVariableType]  # JSON
                look(each, where)
        elif isinstance(schema, list):
            for each in schema:  # pyright: ignore[reportUnknownVariableType]  # JSON
                look(each, where)

    for name in BUILTIN:
        spec = registry.get(name)
        assert spec is not None
        look(spec.input_model.model_json_schema(), name)
