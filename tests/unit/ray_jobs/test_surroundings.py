"""What a run that is handed to a cluster takes along of the environment: all that it reads, and nothing else."""

from __future__ import annotations

import pytest

from flowmason_ray.llm.choosing import choices_of
from flowmason_ray.ray_jobs.surroundings import taken_along
from flowmason_ray.settings import ProjectSettings

SETTINGS = ProjectSettings.model_validate(
    {
        "env_allow": ["SHOWN"],
        "secrets": ["LISTED"],
        "providers": {
            "mine": {"type": "openai_compatible", "base_url": "http://h/v1", "api_key": {"env": "MY_LLM_KEY"}},
            "other": {"type": "openai_compatible", "base_url": "http://o/v1", "api_key": {"secret": "LISTED_KEY"}},
            "theirs": {"type": "anthropic"},
        },
        "connections": {
            "db": {"type": "postgres", "url": {"env": "DB_URL"}, "password": {"secret": "DB_PASSWORD"}},
        },
        "mcp_servers": {
            "tools": {"command": "tools", "args": ["-v"], "env": {"TOKEN": {"secret": "TOOLS_TOKEN"}}},
            "web": {"url": "http://h/mcp", "headers": {"Authorization": {"secret": "WEB_TOKEN"}}},
        },
    }
)


@pytest.mark.parametrize(
    "name",
    [
        "SHOWN",
        "LISTED",
        "MY_LLM_KEY",
        "LISTED_KEY",
        "ANTHROPIC_API_KEY",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "DB_URL",
        "DB_PASSWORD",
        "TOOLS_TOKEN",
        "WEB_TOKEN",
        "PGHOST",
        "PGPASSWORD",
        "PGSSLROOTCERT",
        "FLOWMASON_STORE",
        "AWS_SECRET_ACCESS_KEY",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ],
)
def test_what_a_run_reads_goes_along(name: str) -> None:
    assert taken_along(SETTINGS, {name: "x"}) == {name: "x"}


@pytest.mark.parametrize("name", ["PGP_PASSPHRASE", "PATH", "HOME", "MY_LLM_KEYS", "GITHUB_TOKEN", "OPENAI_ADMIN_KEY"])
def test_nothing_else_does(name: str) -> None:
    assert taken_along(SETTINGS, {name: "x"}) == {}


def test_the_coordinator_has_the_providers_that_there_are_here() -> None:
    environment = {"ANTHROPIC_API_KEY": "a", "OPENAI_BASE_URL": "http://h/v1", "FLOWMASON_MODEL": "m", "USER": "me"}
    here = choices_of(ProjectSettings(), environment)
    assert here.providers.keys() == {"anthropic", "openai"}
    assert choices_of(ProjectSettings(), taken_along(ProjectSettings(), environment)) == here
