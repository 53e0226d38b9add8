"""Connections as whole runs use them: the secret reaches the server, also from a worker of Ray, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from flowmason_ray import run
from tests.cli_kit import run_process
from tests.servers_kit import PASSWORD

SAYING = {"secret": "CACHE_PASSWORD"}


def pipeline(connection: str = "cache", key: str = "answer") -> dict[str, Any]:
    put = {"connection": connection, "operation": "set", "key": key, "value": 42}
    get = {"connection": connection, "operation": "get", "key": key}
    return {
        "name": "p",
        "stages": [
            {"id": "put", "component_type": "redis", "config": put},
            {"id": "get", "component_type": "redis", "depends_on": ["put"], "config": get},
        ],
        "output": "{{ stages.get.result }}",
    }


@pytest.fixture
def project(project_dir: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CACHE_PASSWORD", PASSWORD)
    monkeypatch.setenv("CACHE_URL", redis_url.replace("://", f"://:{PASSWORD}@"))
    monkeypatch.setenv("REFUSED", "planted-secret-of-nobody")
    connections = {
        "cache": {"type": "redis", "url": redis_url, "password": SAYING},
        "by_url": {"type": "redis", "url": {"secret": "CACHE_URL"}},
        "refused": {"type": "redis", "url": redis_url, "password": {"secret": "REFUSED"}},
        "unset": {"type": "redis", "url": redis_url, "password": {"secret": "NOT_SET_ANYWHERE"}},
    }
    (project_dir / "flowmason.json").write_text(json.dumps({"connections": connections}))
    return project_dir


@pytest.mark.parametrize("connection", ["cache", "by_url"])
def test_a_run_reaches_the_server(connection: str, project: Path) -> None:
    assert run(pipeline(connection, key=connection)).output == 42


def test_on_ray_the_secret_travels_with_the_run(project: Path, ray_cluster: str) -> None:
    """The workers were started before the variable was set: they have it from the run or not at all."""
    result = run(pipeline(key="ray"), on="ray")
    assert (result.status, result.output) == ("succeeded", 42)


def test_a_failure_says_what_is_missing_and_no_secret(project: Path) -> None:
    refused = run(pipeline("refused"))
    assert refused.failure is not None
    assert refused.failure.code == "redis_denied"
    assert "planted-secret-of-nobody" not in json.dumps(refused.to_json())
    unset = run(pipeline("unset"))
    assert unset.failure is not None
    assert unset.failure.code == "missing_secret"
    assert "'NOT_SET_ANYWHERE'" in unset.failure.message


def test_a_planted_secret_is_nowhere_in_what_a_run_leaves(project: Path, redis_url: str) -> None:
    """Also when the server itself gives it back: a value is masked where it is recorded."""
    client: Any = redis.Redis.from_url(redis_url, password=PASSWORD)  # pyright: ignore[reportUnknownMemberType]  # its options have no types
    client.set("planted", PASSWORD)
    client.close()
    get = {"connection": "cache", "operation": "get", "key": "planted"}
    say = {"message": "It is {{ stages.get.result }}", "level": "info"}
    stages = [
        {"id": "get", "component_type": "redis", "config": get},
        {"id": "say", "component_type": "logger", "config": say},
    ]
    document = {"name": "p", "stages": stages, "output": {"done": "{{ stages.get.found }}"}}
    (project / "p.pipeline.json").write_text(json.dumps(document))
    done = run_process("run", "p.pipeline.json", cwd=project)
    assert done.code == 0, done.err
    events = run_process("runs", "events", "last", cwd=project)
    assert "***" in events.out
    assert PASSWORD not in done.out + done.err + events.out
    holding = [p for p in project.rglob("*") if p.is_file() and PASSWORD.encode() in p.read_bytes()]
    assert holding == []
