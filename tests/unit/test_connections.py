"""Connections in `flowmason.json`: what may stand there, and what is secret of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray import run
from flowmason_ray.connections import (
    PostgresConnection,
    RedisConnection,
    SmtpConnection,
    WebhookConnection,
    resolved,
    secrets_of,
    with_environment,
)
from flowmason_ray.errors import InvalidPipeline, PermanentError
from flowmason_ray.settings import ProjectSettings, find_project

ENVIRONMENT = {
    "SHOP_PASSWORD": "hunter two",
    "URL": "redis://:p%40ss@cache/0",
    "HOST": "mail.example.com",
    "KEY": "sign",
}
CONNECTIONS: dict[str, Any] = {
    "shop": {"type": "postgres", "url": "postgresql://app@db/shop", "password": {"secret": "SHOP_PASSWORD"}},
    "cache": {"type": "redis", "url": {"secret": "URL"}},
    "mail": {"type": "smtp", "host": {"env": "HOST"}, "username": "me", "password": {"env": "SHOP_PASSWORD"}},
    "hook": {"type": "webhook", "url": "https://example.com/h", "headers": {"x-key": {"secret": "KEY"}, "x-a": "b"}},
}


def settings() -> ProjectSettings:
    return ProjectSettings.model_validate({"connections": CONNECTIONS})


def get(name: str, wanted: Any, environment: dict[str, str] | None = None) -> Any:
    environment = ENVIRONMENT if environment is None else environment
    connections = with_environment(settings().connections, environment)
    return resolved(connections, name, secrets_of(connections, environment), wanted=wanted)


def test_references_are_replaced_by_what_the_environment_holds() -> None:
    assert get("shop", PostgresConnection).password == "hunter two"
    assert get("cache", RedisConnection).url == "redis://:p%40ss@cache/0"
    mail = get("mail", SmtpConnection)
    assert (mail.host, mail.password, mail.port) == ("mail.example.com", "hunter two", None)
    assert get("hook", WebhookConnection).headers == {"x-key": "sign", "x-a": "b"}


def test_what_is_secret_is_known_to_the_run_and_what_is_not_is_not() -> None:
    secrets = set(secrets_of(settings().connections, ENVIRONMENT).values())
    # The password in a URL also by itself, as it is written and as it is meant; the host, which is no secret, not.
    assert secrets == {"hunter two", "redis://:p%40ss@cache/0", "p%40ss", "p@ss", "sign"}


def test_settings_say_the_same_after_a_journey_to_a_worker() -> None:
    before = settings().model_copy(update={"connections": with_environment(settings().connections, ENVIRONMENT)})
    assert "hunter two" not in before.model_dump_json()
    after = ProjectSettings.model_validate(before.model_dump(mode="json"))
    assert resolved(
        after.connections, "mail", secrets_of(after.connections, ENVIRONMENT), wanted=SmtpConnection
    ).host == ("mail.example.com")


@pytest.mark.parametrize(
    ("name", "wanted", "environment", "code", "words"),
    [
        ("shpo", PostgresConnection, ENVIRONMENT, "unknown_connection", "Did you mean 'shop'"),
        ("cache", PostgresConnection, ENVIRONMENT, "connection_type", "takes 'postgres'"),
        ("shop", PostgresConnection, {}, "missing_secret", "'SHOP_PASSWORD', which is not set"),
        ("mail", SmtpConnection, {"SHOP_PASSWORD": "x"}, "missing_secret", "'HOST', which is not set"),
    ],
)
def test_what_cannot_be_had_is_said(name: str, wanted: Any, environment: Any, code: str, words: str) -> None:
    with pytest.raises(PermanentError, match=words) as caught:
        get(name, wanted, environment)
    assert caught.value.code == code
    assert "hunter" not in caught.value.message


@pytest.mark.parametrize(
    ("connection", "path", "words"),
    [
        (
            {"type": "postgres", "url": "postgresql://app:hunter2@db/shop"},
            "/connections/c/url",
            "password is not written",
        ),
        (
            {"type": "redis", "url": "redis://h", "password": "hunter2"},
            "/connections/c/password",
            "is not written down",
        ),
        ({"type": "redis", "ulr": "redis://h", "url": "redis://h"}, "/connections/c/ulr", "Unknown key 'ulr'"),
        ({"type": "smtp", "host": "h", "port": 0}, "/connections/c/port", "greater than or equal to 1"),
        ({"type": "ftp", "url": "x"}, "/connections/c", "'sql', 'postgres', 'redis'"),
    ],
)
def test_a_connection_that_cannot_be_read_says_where(connection: Any, path: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "flowmason.json").write_text(json.dumps({"connections": {"c": connection}}))
    with pytest.raises(InvalidPipeline) as caught:
        find_project(tmp_path)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert words in str(problem)
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize(
    ("settings", "path", "words"),
    [
        (
            {"providers": {"p": {"type": "openai_compatible", "base_url": "https://me:hunter2@host/v1"}}},
            "/providers/p",
            "leave it out; the key goes into 'api_key'",
        ),
        (
            {"providers": {"p": {"type": "openai_compatible", "base_url": "https://me:hunter2\u2100@host/v1"}}},
            "/providers/p",
            "it is no URL",
        ),
        (
            {"providers": {"p": {"type": "anthropic", "api_key": "hunter2"}}},
            "/providers/p/api_key",
            'a key is not written down here: write {"env": "NAME"}',
        ),
        (
            {"providers": {"p": {"type": "anthropic", "headers": {"X-Api-Key": "hunter2"}}}},
            "/providers/p",
            "'X-Api-Key' is a secret",
        ),
        (
            {"mcp_servers": {"s": {"url": "https://me:hunter2@host/mcp"}}},
            "/mcp_servers/s",
            'let the whole URL be a secret, "url": {"secret":',
        ),
    ],
)
def test_no_key_is_written_where_services_are_named(settings: Any, path: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "flowmason.json").write_text(json.dumps(settings))
    with pytest.raises(InvalidPipeline) as caught:
        find_project(tmp_path)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert words in str(problem)
    assert '"password":' not in str(problem), "neither takes that"
    assert "hunter2" not in str(problem)


def test_no_template_reads_a_connections_secret(project_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "hunter two")
    (project_dir / "flowmason.json").write_text(json.dumps({"connections": {"shop": CONNECTIONS["shop"]}}))
    for text in ("{{ secrets.SHOP_PASSWORD }}", "{{ secrets['$SHOP_PASSWORD'] }}"):
        stage = {"id": "a", "component_type": "logger", "config": {"message": text}}
        with pytest.raises(InvalidPipeline) as caught:
            run({"name": "p", "stages": [stage]})
        assert [p.code for p in caught.value.problems] == ["not_allowed"]
