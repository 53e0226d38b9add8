"""The project's settings: `flowmason.json`, found by walking up from a pipeline or the working directory.

A directory without `flowmason.json` is a project too, with every default: the pipeline's own directory is its root.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flowmason_ray.connections import (
    CONNECTION_TYPES,
    MCP_PREFIX,
    PROVING,
    AnyConnection,
    Connection,
    McpServer,
    no_password,
)
from flowmason_ray.errors import InvalidCall, InvalidPipeline, Problem, nearest

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


class RetrievalSettings(BaseModel):
    """Where `index_documents` and `retriever` keep their vectors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(
        default=".flowmason/vectors.db", description="The embedded vector store: a file, relative to the project."
    )
    connection: str | None = Field(
        default=None,
        description="One of the project's `connections` of type `postgres`, to use pgvector there instead of the file.",
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


WAIT_VARIABLE = "FLOWMASON_WAIT_FOR_RESOURCES_S"
"""The environment variable behind `--wait-for-resources`: it reaches coordinators in the cluster too."""


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
        "somebody who adds one. 0: what no node can give is an error at once. `fm run --wait-for-resources` comes first.",
    )

    def in_environment(self, environment: Mapping[str, str]) -> RaySettings:
        """Return what holds where the environment says something too: FLOWMASON_REGION, FLOWMASON_WAIT_FOR_RESOURCES_S.

        Raises:
            InvalidCall: a value is not what it has to be.
        """
        said: dict[str, Any] = {}
        if region := environment.get("FLOWMASON_REGION"):
            said["region"] = region
        if wait := environment.get(WAIT_VARIABLE):
            said["wait_for_resources_s"] = wait
        try:
            return RaySettings.model_validate({**self.model_dump(), **said})
        except ValidationError:
            raise InvalidCall(
                f"{WAIT_VARIABLE} (--wait-for-resources) is a number of seconds from 0 to 604800; found {wait!r}."
            ) from None


class KeySource(BaseModel):
    """Where a provider's key is read: never the key itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: str | None = Field(default=None, description="The environment variable that holds it.")
    secret: str | None = Field(default=None, description="One of the project's `secrets` that holds it.")

    @model_validator(mode="before")
    @classmethod
    def _no_literal(cls, data: Any) -> Any:
        if isinstance(data, str):
            raise ValueError(
                'a key is not written down here: write {"env": "NAME"} with the environment variable that holds it, '
                'or {"secret": "NAME"} with one of the project\'s \'secrets\''
            )
        return data

    @model_validator(mode="after")
    def _one_of_both(self) -> KeySource:
        if (self.env is None) == (self.secret is None):
            raise ValueError("say where the key is read, with either 'env' or 'secret'")
        return self


class ProviderLimits(BaseModel):
    """What a provider allows, or is to be spared. Shared by everything that uses the same provider and key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rpm: float | None = Field(default=None, gt=0, description="Requests a minute.")
    tpm: float | None = Field(default=None, gt=0, description="Tokens a minute, input and output together.")
    concurrency: int = Field(
        default=16,
        ge=1,
        description="Requests at the same time. Sixteen keep a server busy that batches, and few accounts allow more; for `vllm` the "
        "default is 64, because there the queue is ours.",
    )


class ModelPrices(BaseModel):
    """What a model costs, in US dollars: for a million tokens, unless something else is said."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0, description="Input.")
    output: float = Field(default=0, ge=0, description="Output.")
    cached_input: float | None = Field(
        default=None, ge=0, description="Input read from the provider's cache; absent: as other input."
    )
    cache_write: float | None = Field(default=None, ge=0, description="Input written into it; absent: as other input.")
    audio_hour: float | None = Field(
        default=None, ge=0, description="An hour of sound, for services that count time when they listen."
    )
    characters: float | None = Field(
        default=None, ge=0, description="A million characters of text that is spoken, for services that count these."
    )


class EngineResources(BaseModel):
    """What the actor of an engine occupies on a Ray cluster, as stages say it under `resources`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_gpus: float | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="GPUs. Absent: as many as the options `tensor_parallel_size` and `pipeline_parallel_size` say (1 without them) "
        "where the cluster has GPUs, else none.",
    )
    num_cpus: float = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="CPU cores that are set apart. None by default: stages that wait for the engine occupy theirs, and it must not "
        "wait for them.",
    )
    memory_mib: int | None = Field(default=None, ge=1, le=2**40, description="Memory in MiB.")
    accelerator_type: str | None = Field(default=None, description="The kind of accelerator, such as `A100`.")
    labels: dict[str, str] = Field(
        default={},
        description="Labels that the node must carry, each with a value or a condition, as in `resources.labels`.",
    )


ProviderType = Literal["anthropic", "openai_compatible", "llama_cpp", "vllm"]

ENGINE_CONCURRENCY = 64
"""Requests at the same time for an engine of our own: enough to fill its batches, which grow up to 256 by default (vLLM 0.32)."""


class ProviderSettings(BaseModel):
    """A provider of models: a service, or a model file that is run here."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    type: ProviderType = Field(description="How it is spoken to.")
    base_url: str | None = Field(
        default=None,
        description="The service's address; absent: the company's own. For `openai_compatible` with `/v1`.",
    )
    api_key: KeySource | None = Field(
        default=None,
        description="Where the key is read. Absent: ANTHROPIC_API_KEY or OPENAI_API_KEY for the companies' own addresses; "
        "other addresses are asked without a key.",
    )
    default_model: str | None = Field(default=None, description="The model that is asked when nobody names one.")
    embedding_model: str | None = Field(default=None, description="The model that makes vectors.")
    model_path: str | None = Field(
        default=None,
        description="`llama_cpp`: the model's GGUF file, relative to the project. `vllm`: the model's directory, relative to the "
        "project, or its name at Hugging Face; absent: `default_model` is that.",
    )
    context_tokens: int | None = Field(
        default=None,
        ge=64,
        description="`llama_cpp`, `vllm`: how much the model reads and writes. Absent: 4096 for `llama_cpp`, for `vllm` as much as "
        "the model can.",
    )
    options: dict[str, Any] = Field(
        default={},
        description="`llama_cpp`, `vllm`: options of the engine. Otherwise: put into the body of every request.",
    )
    resources: EngineResources | None = Field(
        default=None,
        description="`vllm`: what its engine occupies on a Ray cluster. In-process it takes what it finds.",
    )
    headers: dict[str, str] = Field(default={}, description="HTTP headers sent with every request; no keys.")
    limits: ProviderLimits = Field(default=ProviderLimits(), description="Rates and concurrency.")
    prices: dict[str, ModelPrices] = Field(
        default={},
        description="By model: what it costs. `*`: any other. Comes before the price table that is built in.",
    )
    price_as: str | None = Field(
        default=None, description="Whose list prices hold, as the price table names providers (`groq`, `azure`, …)."
    )
    timeout_s: float = Field(
        default=600,
        gt=0,
        description="How long one answer may take. Ten minutes, as the companies' own clients have it.",
    )
    max_retries: int = Field(
        default=2,
        ge=0,
        le=20,
        description="How often a request is repeated at once, before the stage's own retry counts.",
    )

    @model_validator(mode="before")
    @classmethod
    def _engine_is_kept_busy(cls, data: Any) -> Any:
        """Put in the larger default for an engine of our own."""
        if not isinstance(data, dict):
            return data
        written = cast("dict[str, Any]", data)
        limits: Any = written.get("limits", {})
        if written.get("type") != "vllm" or not isinstance(limits, dict):
            return written
        return {**written, "limits": {"concurrency": ENGINE_CONCURRENCY, **cast("dict[str, Any]", limits)}}

    @model_validator(mode="after")
    def _keys_are_elsewhere(self) -> ProviderSettings:
        no_password(
            self.base_url, advice='leave it out; the key goes into \'api_key\', {"env": "NAME"} or {"secret": "NAME"}'
        )
        literal = next((name for name in self.headers if name.lower() in PROVING), None)
        if literal is not None:
            raise ValueError(
                f'header {literal!r} is a secret: leave it out, and say where the key is, "api_key": {{"secret": "NAME"}}'
            )
        return self

    @model_validator(mode="after")
    def _resources_are_used(self) -> ProviderSettings:
        if self.resources is not None and self.type != "vllm":
            raise ValueError("'resources' are for an engine of our own (type 'vllm'); this type occupies none")
        return self


class ModelDefaults(BaseModel):
    """The project's `llm_settings`: what holds where neither a stage nor its pipeline says anything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: str | None = Field(default=None, description="The provider that is asked.")
    model: str | None = Field(default=None, description="The model that is asked.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="Sampling temperature.")
    max_tokens: int | None = Field(default=None, ge=1, description="The longest answer, in tokens.")
    top_p: float | None = Field(default=None, ge=0, le=1, description="Nucleus sampling.")
    stop_sequences: list[str] | None = Field(default=None, description="Texts at which the answer ends.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable, where the provider can.")
    priority: Literal["normal", "batch"] | None = Field(
        default=None,
        description="`batch`: as part of a batch that is cheaper and may take hours, where the provider can.",
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
    providers: dict[str, ProviderSettings] = Field(default={}, description="Model providers, by name.")
    llm_settings: ModelDefaults = Field(
        default=ModelDefaults(), description="Which model is asked, and how, where neither stage nor pipeline says so."
    )
    connections: dict[str, AnyConnection] = Field(
        default={},
        description="The servers that stages use, by the name that they say: databases, Redis, S3, mail, webhooks.",
    )
    mcp_servers: dict[str, McpServer] = Field(
        default={}, description="Servers of the Model Context Protocol whose tools stages call, by name."
    )
    retrieval: RetrievalSettings = Field(
        default=RetrievalSettings(), description="Where vectors of documents are kept."
    )
    testing: TestingSettings = Field(default=TestingSettings(), description="Settings of `fm test`.")
    stores: StoreSettings = Field(default=StoreSettings(), description="Where runs are recorded.")
    ray: RaySettings = Field(default=RaySettings(), description="How runs use a Ray cluster.")
    datasets: dict[str, DatasetSettings] = Field(
        default={}, description="Where data lies, for stages that are to run near it (`placement.near`)."
    )
    regions: dict[str, Any] = Field(default={}, description="Other clusters that stages can run in.")
    http: HttpSettings = Field(default=HttpSettings(), description="What `http_request` may reach.")

    @property
    def reachable(self) -> dict[str, Connection]:
        """Everything that stages reach by name and that may need secrets: connections, and MCP servers under `mcp:NAME`."""
        return {**self.connections, **{MCP_PREFIX + name: server for name, server in self.mcp_servers.items()}}


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
    place, known = _place(error["loc"])
    path = "".join(f"/{part}" for part in place)
    key = str(place[-1]) if place else ""
    if error["type"] == "extra_forbidden":
        return Problem(
            code="unknown_key",
            message=f"Unknown key {key!r}.",
            path=path,
            file=str(file),
            nearest=nearest(key, known),
        )
    said = str(error["msg"]).removeprefix("Value error, ")  # pydantic's words before ours
    return Problem(code="invalid_value", message=f"{path or 'The file'}: {said}.", path=path, file=str(file))


def _place(location: tuple[Any, ...]) -> tuple[tuple[Any, ...], Iterable[str]]:
    """Return where in the file an error is, and the keys that are known there."""
    if len(location) > 2 and location[0] == "connections" and location[2] in CONNECTION_TYPES:
        # pydantic also says which of several models it tried, and which of several types of a value.
        name, kind, *inner = location[1:]
        return ("connections", name, *inner[:1]), CONNECTION_TYPES[kind].model_fields
    return location, ProjectSettings.model_fields
