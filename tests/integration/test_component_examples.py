"""The example that a component declares is run as a stage, against the real counterpart that it names."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import boto3  # pyright: ignore[reportMissingTypeStubs]  # it has no types
import pytest
import redis

from flowmason_ray import run
from flowmason_ray.cli.component_page import declared_example, example
from flowmason_ray.components.builtin import BUILTIN
from flowmason_ray.components.registry import Registry
from flowmason_ray.engine.component import Kind
from flowmason_ray.testing.llm_server import LlmServer
from tests import mcp_kit, postgres_kit
from tests.cli_kit import ROOT
from tests.retrieval_kit import server
from tests.servers_kit import PASSWORD, Mailbox, Receiver, mail_server

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A PNG of one pixel."""
__all__ = ["server"]  # a fixture

REGISTRY = Registry(entry_points=False)


ASK_MODELS = {"text", "audio", "vision"}
"""Categories whose examples ask a model: `test_node_examples.py` runs them."""


def declared(*, asking: bool = False) -> list[str]:
    """Return the names of the components that declare an example; `asking`: of those that ask a model."""
    specs = [REGISTRY.get(name) for name in BUILTIN]
    found = [spec for spec in specs if spec is not None and declared_example(spec) is not None]
    return [spec.name for spec in found if (spec.category in ASK_MODELS) == asking]


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    yield from mail_server()


CONNECTED: dict[str, str] = {
    "sql_query": "none", "sql_execute": "none", "postgres": "postgres", "redis": "redis", "queue": "redis",
    "s3": "s3", "webhook": "http", "email": "mail", "output_router": "http", "error_router": "http redis",
    "mcp_list_tools": "mcp", "mcp_tool_call": "mcp",
}  # fmt: skip
"""What the example of a component needs. Others need nothing, and components that use a model need a model."""
BEFORE: dict[str, list[dict[str, Any]]] = {
    name: [
        {
            "id": "before",
            "component_type": "index_documents",
            "config": {
                "collection": "handbook",
                "documents": [{"source": "leave", "text": "Everybody has thirty days of leave."}],
            },
        }
    ]
    for name in ("retriever", "knowledge_query")
}
"""Stages that run before the example: questions need something that was indexed."""


@pytest.fixture
def project(
    project_dir: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str], dict[str, Any]]:
    """Returns a function that sets up a project for a component, and what looks at its counterparts."""

    def set_up(needed: str) -> dict[str, Any]:
        monkeypatch.setenv("SERVER_PASSWORD", PASSWORD)
        secret = {"secret": "SERVER_PASSWORD"}
        connections: dict[str, Any] = {}
        seen: dict[str, Any] = {"project": project_dir}
        if "redis" in needed:
            url: str = request.getfixturevalue("redis_url")
            connections["cache"] = {"type": "redis", "url": url, "password": secret}
            client: Any = redis.Redis.from_url(url, password=PASSWORD, decode_responses=True)  # pyright: ignore[reportUnknownMemberType]  # its options have no types
            client.flushdb()
            seen["redis"] = client
        if "s3" in needed:
            endpoint: str = request.getfixturevalue("s3_endpoint")
            bucket = f"b-{uuid4().hex[:12]}"
            keys = {"aws_access_key_id": "id", "aws_secret_access_key": PASSWORD, "region_name": "us-east-1"}
            seen["s3"] = cast("Any", boto3).resource("s3", endpoint_url=endpoint, **keys).Bucket(bucket)
            seen["s3"].create()
            connections["lake"] = {
                "type": "s3", "endpoint_url": endpoint, "bucket": bucket, "region": "us-east-1",
                "access_key_id": "id", "secret_access_key": secret, "path_style": True,
            }  # fmt: skip
        if "http" in needed:
            receiver: Receiver = request.getfixturevalue("receiver")
            connections["orders_hook"] = {"type": "webhook", "url": receiver.url, "secret": secret}
            seen["http"] = receiver
        if "mail" in needed:
            seen["mail"] = request.getfixturevalue("mailbox")
            connections["mail"] = {
                "type": "smtp", "host": "127.0.0.1", "port": seen["mail"].port, "tls": "none", "sender": "a@example.com",
            }  # fmt: skip
        if "postgres" in needed:
            server: postgres_kit.Server = request.getfixturevalue("postgres")
            name = server.new_database()
            server.execute("create table products (name text, tags text[])", name)
            server.execute("insert into products values ('lamp', '{new}'), ('bulb', '{old}')", name)
            url = f"postgresql://postgres@127.0.0.1:{server.port}/{name}"
            connections["shop"] = {"type": "postgres", "url": url, "password": secret}
        settings: dict[str, Any] = {"connections": connections}
        if "mcp" in needed:
            settings["mcp_servers"] = {"notes": mcp_kit.stdio_settings()}
        if "model" in needed:
            model: LlmServer = request.getfixturevalue("server")
            settings |= {"providers": model.providers(max_retries=0), "llm_settings": {"provider": "openai"}}
        (project_dir / "flowmason.json").write_text(json.dumps(settings))
        for folder, name, text in (
            ("docs", "handbook.md", "# Leave\n\nEverybody has thirty days of leave."),
            ("policies", "gifts.md", "# Gifts\n\nNobody may accept a gift."),
        ):
            (project_dir / folder).mkdir()
            (project_dir / folder / name).write_text(text)
        (project_dir / "media").mkdir()
        (project_dir / "media" / "call.wav").write_bytes(
            b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0@\x1f\0\0\1\0\x08\0data\0\0\0\0"
        )
        (project_dir / "media" / "lamp.png").write_bytes(base64.b64decode(PIXEL))
        (project_dir / "data").mkdir()
        with sqlite3.connect(project_dir / "data" / "shop.db") as database:
            database.execute("create table products (name text, price real)")
            database.execute("insert into products values ('chair', 55), ('nail', 0.1)")
        database.close()
        return seen

    return set_up


CHECKS: dict[str, Callable[[dict[str, Any], dict[str, Any]], bool]] = {
    "loop": lambda out, seen: out["batches"] == [["a", "b"], ["c"]],
    "sort": lambda out, seen: [row["name"] for row in out["data"]] == ["Ada", "Cyd", "Bob"],
    "deduplicate": lambda out, seen: (out["count"], out["removed"]) == (2, 1),
    "sample": lambda out, seen: out["count"] == 2,
    "aggregate": lambda out, seen: out["data"][0] == {"city": "Oslo", "total": 12, "orders": 2},
    "join": lambda out, seen: [row["country"] for row in out["data"]] == ["Norway", None, "Norway"],
    "pivot": lambda out, seen: out["data"][1] == {"city": "Rome", "jan": 67, "feb": None},
    "unpivot": lambda out, seen: [row["rain"] for row in out["data"]] == [49, 36],
    "sql_query": lambda out, seen: out["rows"] == [{"name": "chair", "price": 55.0}],
    "sql_execute": lambda out, seen: (out["changed"][0], out["rows"]) == (2, [{"products": 4}]),
    "postgres": lambda out, seen: out["rows"] == [{"name": "lamp", "tags": ["new"]}],
    "redis": lambda out, seen: json.loads(seen["redis"].get("greeting")) == {"text": "hello"},
    "queue": lambda out, seen: seen["redis"].xrange("orders")[0][0] == out["message_id"],
    "s3": lambda out, seen: [o.key for o in seen["s3"].objects.all()] == ["reports/today.json"],
    "webhook": lambda out, seen: json.loads(seen["http"].seen[0].body) == {"id": 7, "total": 12.5},
    "email": lambda out, seen: seen["mail"].messages[0]["Subject"] == "Your order",
    "output_router": lambda out, seen: (
        len(seen["http"].seen) == 1 and (seen["project"] / "out/orders.ndjson").exists() and out["delivered"] == 2
    ),
    "chunker": lambda out, seen: [c["text"].strip() for c in out["chunks"]][1] == "Parental leave lasts ninety days.",
    "document_reader": lambda out, seen: "thirty days" in out["text"],
    "rule_checker": lambda out, seen: out["compliant"] is True,
    "policy_lookup": lambda out, seen: "accept a gift" in out["policies"][0]["text"],
    "retriever": lambda out, seen: "thirty days" in json.dumps(out),
    "mcp_list_tools": lambda out, seen: "search" in [tool["name"] for tool in out["tools"]],
    "mcp_tool_call": lambda out, seen: out["data"] == {"query": "leave", "found": ["note 0", "note 1", "note 2"]},
    "error_router": lambda out, seen: seen["http"].seen == [] and seen["redis"].xlen("errors") == 1,
}
"""What must have happened, at the counterpart where there is one."""


def uses_a_model(name: str) -> bool:
    spec = REGISTRY.get(name)
    assert spec is not None
    return spec.kind is Kind.NODE


def test_every_declared_example_is_checked() -> None:
    """What a model says is no concern of ours: of components that use one it is enough that they run."""
    assert set(CHECKS) <= set(declared())
    assert [name for name in declared() if name not in CHECKS and not uses_a_model(name)] == []


def shown() -> list[str]:
    """Return the components whose example is run here: declared, or made of the required fields of one that uses a model."""
    elsewhere = declared(asking=True)
    return [name for name in BUILTIN if name not in elsewhere and (name in declared() or uses_a_model(name))]


@pytest.mark.parametrize("name", shown())
def test_an_example_does_what_it_says(name: str, project: Callable[[str], dict[str, Any]]) -> None:
    seen = project(CONNECTED.get(name, "model" if uses_a_model(name) else "none"))
    spec = REGISTRY.get(name)
    assert spec is not None
    stage = json.loads(example(spec))
    before = BEFORE.get(name, [])
    stage["depends_on"] = [each["id"] for each in before]
    result = run({"name": "example", "stages": [*before, stage], "output_stage_id": stage["id"]})
    assert result.status == "succeeded", result.failure
    assert result.output
    assert name not in CHECKS or CHECKS[name](result.output, seen)
    for value in seen.values():
        if isinstance(value, redis.Redis):
            value.close()


def test_every_component_has_an_example_that_is_run() -> None:
    """Run above, or a stage of the pipelines in `examples/`, all of which are run by a test."""
    stages = {
        stage["component_type"].replace("-", "_")
        for file in (ROOT / "examples").rglob("*.pipeline.json")
        for stage in json.loads(file.read_text(encoding="utf-8")).get("stages", [])
    }
    assert set(BUILTIN) - set(shown()) - set(declared(asking=True)) - stages == set()
