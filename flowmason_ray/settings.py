"""The project's settings: `flowmason.json`, found by walking up from a pipeline or the working directory.

A directory without `flowmason.json` is a project too, with every default: the pipeline's own directory is its root.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flowmason_ray.errors import InvalidPipeline, Problem, nearest

PROJECT_FILE = "flowmason.json"


class HttpSettings(BaseModel):
    """What `http_request` may reach (security criterion 10)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow_hosts: list[str] = Field(
        default=[],
        description="Hosts (`name`, `name:port` or CIDR ranges) that may be reached although they are private or loopback addresses.",
    )


class StoreSettings(BaseModel):
    """Where runs are recorded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: str = Field(
        default=".flowmason/runs.db",
        description="The run log: a SQLite file, relative to the project, or a database, `postgresql://user@host/database`. "
        "The environment variable FLOWMASON_STORE comes first.",
    )
    blobs: str = Field(
        default=".flowmason/blobs",
        description="Large values: a directory, relative to the project, or a URL such as `s3://bucket/prefix`. It belongs to "
        "one run log. The environment variable FLOWMASON_BLOBS comes first.",
    )
    lease_s: float = Field(
        default=15,
        ge=1,
        le=3600,
        description="How long a run belongs to a process that is not heard of, in seconds: after that it counts as interrupted, "
        "and another may take it up. On one machine a process that has gone is noticed at once.",
    )


class TestingSettings(BaseModel):
    """Settings of `fm test`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    __test__ = False  # pytest collects what begins with "Test"

    timeout_ms: int = Field(default=60_000, ge=1, description="How long a case may take that says nothing itself.")
    jobs: int = Field(
        default=1,
        ge=1,
        description="How many cases run at a time. One, because cases run real stages, which may write the same files.",
    )
    min_coverage: float = Field(
        default=0,
        ge=0,
        le=100,
        description="The percentage of stages that the tests must run; below it `fm test` fails.",
    )


class DatasetSettings(BaseModel):
    """Where a dataset lies, so that stages can run near it (`placement.near`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = Field(
        default=None, description="Its directory, file or URL: `placement.near` may name any path that begins with it."
    )
    labels: dict[str, str] = Field(
        description="Labels of the nodes that are near it, such as `ray.io/region`; values as in `resources.labels`."
    )


class RaySettings(BaseModel):
    """How runs use a Ray cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    region: str | None = Field(
        default=None,
        description="The region (node label `ray.io/region`) of stages that ask for none. Absent: any. The environment variable "
        "FLOWMASON_REGION comes first.",
    )
    wait_for_resources_s: float = Field(
        default=0,
        ge=0,
        le=7 * 24 * 3600,
        description="How long a stage waits for a node that the cluster does not have yet, in seconds: for an autoscaler, or for "
        "somebody who adds one. 0: what no node can give is an error at once.",
    )


class ProjectSettings(BaseModel):
    """`flowmason.json`. Unknown keys are refused, except those starting with `x-`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="project", description="The project's name.")
    version: str = Field(default="0.1.0", description="The project's version.")
    pipeline_dirs: list[str] = Field(default=["pipelines", "."], description="Where pipelines are looked up by name.")
    components: list[str] = Field(default=["components"], description="Directories of the project's own components.")
    env_allow: list[str] = Field(default=[], description="Environment variables that templates may read as `env.NAME`.")
    secrets: list[str] = Field(
        default=[], description="Environment variables that templates may read as `secrets.NAME`; never logged."
    )
    providers: dict[str, Any] = Field(default={}, description="Model providers.")
    testing: TestingSettings = Field(default=TestingSettings(), description="Settings of `fm test`.")
    stores: StoreSettings = Field(default=StoreSettings(), description="Where runs are recorded.")
    ray: RaySettings = Field(default=RaySettings(), description="How runs use a Ray cluster.")
    datasets: dict[str, DatasetSettings] = Field(
        default={}, description="Where data lies, for stages that are to run near it (`placement.near`)."
    )
    regions: dict[str, Any] = Field(default={}, description="Other clusters that stages can run in.")
    http: HttpSettings = Field(default=HttpSettings(), description="What `http_request` may reach.")


class Project(BaseModel):
    """A project on disk: its root directory and its settings."""

    model_config = ConfigDict(frozen=True)

    root: Path
    settings: ProjectSettings = ProjectSettings()


def find_project(start: Path) -> Project:
    """Return the project that `start` (a file or a directory) lies in.

    Raises:
        InvalidPipeline: `flowmason.json` is there but cannot be read; every problem is listed.
    """
    start = start.resolve()
    folder = start if start.is_dir() else start.parent
    for candidate in (folder, *folder.parents):
        file = candidate / PROJECT_FILE
        if file.is_file():
            return Project(root=candidate, settings=_read(file))
    return Project(root=folder)


def _read(file: Path) -> ProjectSettings:
    import json

    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as exc:
        raise InvalidPipeline(
            [Problem(code="invalid_json", message=f"{exc.msg}.", file=str(file), line=exc.lineno, column=exc.colno)]
        ) from exc
    except RecursionError as exc:
        raise InvalidPipeline(
            [Problem(code="too_deep", message="It nests too deeply to be read.", file=str(file))]
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidPipeline(
            [Problem(code="unreadable_file", message=f"Cannot read it: {exc}.", file=str(file))]
        ) from exc
    if isinstance(data, dict):
        written = cast("dict[str, Any]", data)
        data = {k: v for k, v in written.items() if not k.startswith("x-") and k != "$schema"}
    try:
        return ProjectSettings.model_validate(data)
    except ValidationError as exc:
        raise InvalidPipeline([_problem(file, e) for e in exc.errors()]) from exc


def _problem(file: Path, error: Any) -> Problem:
    path = "".join(f"/{part}" for part in error["loc"])
    key = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return Problem(
            code="unknown_key",
            message=f"Unknown key {key!r}.",
            path=path,
            file=str(file),
            nearest=nearest(key, ProjectSettings.model_fields),
        )
    return Problem(code="invalid_value", message=f"{path or 'The file'}: {error['msg']}.", path=path, file=str(file))
