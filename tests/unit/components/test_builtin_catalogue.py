from __future__ import annotations

import asyncio
import builtins
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from flowmason_ray.components.builtin import BUILTIN
from flowmason_ray.components.registry import Registry
from flowmason_ray.engine.component import Cost, Effect
from flowmason_ray.errors import MissingExtra
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext

EFFECTS = {
    "json_transform": Effect.PURE,
    "filter": Effect.PURE,
    "schema_validate": Effect.PURE,
    "logger": Effect.PURE,
    "http_request": Effect.IDEMPOTENT,
    "local_file": Effect.IDEMPOTENT,
    "table_read": Effect.IDEMPOTENT,
    "table_sql": Effect.PURE,
    "table_aggregate": Effect.PURE,
    "table_join": Effect.PURE,
    "table_write": Effect.IDEMPOTENT,
    "chart": Effect.IDEMPOTENT,
    "report": Effect.IDEMPOTENT,
    "aggregate": Effect.PURE,
    "join": Effect.PURE,
    "pivot": Effect.PURE,
    "unpivot": Effect.PURE,
    "sort": Effect.PURE,
    "deduplicate": Effect.PURE,
    "sample": Effect.PURE,
    "sql_query": Effect.IDEMPOTENT,
    "sql_execute": Effect.EFFECTFUL,
    "postgres": Effect.EFFECTFUL,
    "redis": Effect.IDEMPOTENT,
    "s3": Effect.IDEMPOTENT,
    "webhook": Effect.EFFECTFUL,
    "email": Effect.EFFECTFUL,
    "queue": Effect.IDEMPOTENT,
    "output_router": Effect.EFFECTFUL,
    "error_router": Effect.EFFECTFUL,
    "document_reader": Effect.IDEMPOTENT,
    "chunker": Effect.PURE,
    "index_documents": Effect.IDEMPOTENT,
    "retriever": Effect.IDEMPOTENT,
    "knowledge_query": Effect.IDEMPOTENT,
    "policy_lookup": Effect.IDEMPOTENT,
    "rule_checker": Effect.PURE,
    "compliance_evaluator": Effect.IDEMPOTENT,
    "mcp_list_tools": Effect.IDEMPOTENT,
    "mcp_tool_call": Effect.EFFECTFUL,
}


@pytest.mark.parametrize("name", sorted(EFFECTS))
def test_every_builtin_loads_and_describes_itself(name: str):
    spec = Registry(entry_points=False).get(name)
    assert spec is not None
    assert (spec.name, spec.effect) == (name, EFFECTS[name])
    assert spec.cost in ((Cost.TRIVIAL,) if name == "logger" else (Cost.CPU, Cost.IO))
    assert spec.description.endswith(".")
    for model in (spec.input_model, spec.output_model):
        for field_name, field in model.model_fields.items():
            assert field.description, f"{name}: {field_name} has no description"
        assert model.model_json_schema()["type"] == "object"
    assert spec.input_model.model_config.get("extra") == "forbid"


@pytest.mark.parametrize(
    ("name", "hidden", "extra"),
    [
        ("table_read", "polars", "tables"),
        ("table_sql", "polars", "tables"),
        ("table_join", "polars", "tables"),
        ("chart", "altair", "charts"),
        ("chart", "vl_convert", "charts"),
        ("chart", "polars", "tables"),
        ("aggregate", "polars", "tables"),
        ("redis", "redis", "redis"),
        ("s3", "boto3", "s3"),
        ("email", "aiosmtplib", "email"),
        ("postgres", "psycopg", "postgres"),
    ],
)
def test_a_missing_extra_is_named(name: str, hidden: str, extra: str, monkeypatch: pytest.MonkeyPatch):
    without(hidden, monkeypatch)
    with pytest.raises(MissingExtra, match=rf"{hidden}.*flowmason-ray\[{extra}\]"):
        Registry(entry_points=False).get(name)


@pytest.mark.parametrize(("kind", "hidden"), [("redis", "redis"), ("amqp", "aio_pika")])
def test_a_queue_needs_the_extra_of_the_server_that_it_is_on(kind: str, hidden: str, monkeypatch: pytest.MonkeyPatch):
    without(hidden, monkeypatch)
    spec = Registry(entry_points=False).get("queue")
    assert spec is not None
    settings = ProjectSettings.model_validate(
        {"connections": {"there": {"type": kind, "url": f"{kind}://127.0.0.1:1"}}}
    )
    given = spec.input_model.model_validate({"connection": "there", "queue": "q", "message": 1})
    with pytest.raises(MissingExtra, match=rf"{hidden}.*flowmason-ray\[{kind}\]"):
        asyncio.run(spec.create().execute(given, RecordingContext(settings=settings)))


def without(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a library be missing, and the components as if nobody had asked for them yet."""
    real: Callable[..., Any] = builtins.__import__

    def hide(module: str, *args: Any, **kwargs: Any) -> Any:
        if module.partition(".")[0] == hidden:
            raise ModuleNotFoundError(f"No module named {hidden!r}", name=hidden)
        return real(module, *args, **kwargs)

    for module in [m for m in sys.modules if m.startswith("flowmason_ray.components.builtin.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", hide)


def test_the_base_components_load_without_any_extra():
    base = ["json_transform", "filter", "schema_validate", "logger", "local_file", "report", "http_request"]
    base += [
        "sort",
        "deduplicate",
        "sample",
        "sql_query",
        "sql_execute",
        "webhook",
        "output_router",
        "error_router",
        "queue",
    ]
    modules = sorted({BUILTIN[name].partition(":")[0] for name in base})
    program = (
        "import sys\n"
        "for m in ('polars', 'pyarrow', 'altair', 'vl_convert', 'ray', 'redis', 'boto3', 'aiosmtplib', 'psycopg', 'aio_pika'): sys.modules[m] = None\n"
        f"import {', '.join(modules)}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
