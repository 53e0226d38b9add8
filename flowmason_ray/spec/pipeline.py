"""The models of a pipeline file: every field that may be written, its type, its default and what it means.

These classes are the one definition of the format. The JSON Schema for editors and the tables of the guide are generated
from them; the order of the fields is the order in which `fm fmt` writes keys. They check one value at a time; what takes
two (a fallback without its output, an id that is used twice) is checked by `spec.checks`, what takes components by the
engine's plan.

Unknown keys are refused, but for those starting with `x-`, which are kept in `extensions`.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, StringConstraints, model_validator

EXTENSION_PREFIX = "x-"
"""Keys that start so are anybody's: kept, never interpreted."""

MAX_MS = 315_360_000_000
"""Ten years in milliseconds: the longest time that can be asked for. More is a slip of the keyboard, and overflows timers."""

SEMVER_PATTERN = (
    r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    r"(-(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(\.(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$"
)
"""A version as semver.org, 2.0.0, defines it."""

STAGE_ID_PATTERN = r"^[A-Za-z0-9_-]+$"
COMPONENT_PATTERN = r"^([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+:)?[A-Za-z_][A-Za-z0-9_.-]*(@\S.*)?$"


def _whole(value: Any) -> Any:
    # JSON has one kind of number: 5.0 is as whole as 5, as JSON Schema's "integer" has it too.
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Outermost, because pydantic leaves bounds that are put around a validator out of the JSON Schema.
_AS_WHOLE = BeforeValidator(_whole)

Whole = Annotated[int, _AS_WHOLE]
Milliseconds = Annotated[int, Field(ge=1, le=MAX_MS), _AS_WHOLE]
Delay = Annotated[int, Field(ge=0, le=MAX_MS), _AS_WHOLE]
Id = Annotated[str, StringConstraints(pattern=STAGE_ID_PATTERN)]
Name = Annotated[str, StringConstraints(min_length=1)]
JsonObject = dict[str, JsonValue]


class Model(BaseModel):
    """What the models share: frozen, strict about types, unknown keys refused, `x-` keys set aside."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    # Filled under a key that cannot be a field's name, so that a written "extensions" is refused like any unknown key.
    extensions: JsonObject = Field(default={}, alias=EXTENSION_PREFIX, description="The keys that start with `x-`.")

    @model_validator(mode="before")
    @classmethod
    def _set_extensions_aside(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        written = cast("dict[str, Any]", data)
        extensions = {key: value for key, value in written.items() if key.startswith(EXTENSION_PREFIX)}
        if not extensions:
            return written
        return {k: v for k, v in written.items() if k not in extensions} | {EXTENSION_PREFIX: extensions}


class Retry(Model):
    """When and how often a failed attempt is repeated."""

    max_attempts: Annotated[int, Field(ge=1, le=1_000_000), _AS_WHOLE] = Field(
        default=1, description="How many attempts are made in all, the first one included; 1 means no retry."
    )
    initial_delay_ms: Delay = Field(default=1000, description="Pause before the second attempt, in milliseconds.")
    max_delay_ms: Delay = Field(default=30_000, description="The longest pause between two attempts, in milliseconds.")
    backoff_multiplier: float = Field(
        default=2.0, ge=1, le=1000, description="Each pause is this many times the one before."
    )
    jitter: float = Field(
        default=0.25, ge=0, le=1, description="Each pause is varied at random by up to this share of itself."
    )
    retry_on: list[str] = Field(
        default=[], description="Error codes that are worth another attempt; empty: every error that is not permanent."
    )


class Cache(Model):
    """How a result may be reused by later runs."""

    ttl_s: float | None = Field(
        default=None, gt=0, description="How long the result may be reused, in seconds; absent: without limit."
    )
    key: str | None = Field(
        default=None, description="A template whose value identifies the result; absent: the stage's resolved input."
    )


class LlmSettings(Model):
    """Which model is asked, and how. What is not said comes from the pipeline, then from the project."""

    provider: str | None = Field(default=None, description="The provider's name in the project's settings.")
    model: str | None = Field(default=None, description="The model's name, as the provider knows it.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="Sampling temperature.")
    max_tokens: Annotated[int, Field(ge=1), _AS_WHOLE] | None = Field(
        default=None, description="The longest answer, in tokens."
    )
    top_p: float | None = Field(default=None, ge=0, le=1, description="Nucleus sampling: the share of likely tokens.")
    stop_sequences: list[str] | None = Field(default=None, description="Texts at which the answer ends.")
    seed: Whole | None = Field(default=None, description="Makes sampling repeatable, where the provider can.")
    priority: Literal["normal", "batch"] | None = Field(
        default=None,
        description="`batch`: as part of a batch that is cheaper and may take hours, where the provider can.",
    )


class Budget(Model):
    """What a run may spend on models. When it has spent more it is stopped, and fails with `budget_exceeded`."""

    max_cost_usd: float | None = Field(default=None, gt=0, description="US dollars.")
    max_tokens: Annotated[int, Field(ge=1), _AS_WHOLE] | None = Field(
        default=None, description="Tokens, input and output together."
    )


class Resources(Model):
    """What an attempt occupies while it runs: options of a Ray task; in-process they bound how many run at once."""

    num_cpus: float | None = Field(default=None, ge=0, le=1_000_000, description="CPU cores; fractions share a core.")
    num_gpus: float | None = Field(default=None, ge=0, le=1_000_000, description="GPUs; fractions share one.")
    memory_mib: Annotated[int, Field(ge=1, le=2**40), _AS_WHOLE] | None = Field(
        default=None, description="Memory in MiB."
    )
    accelerator_type: str | None = Field(default=None, description="The kind of accelerator, such as `A100`.")
    labels: dict[str, str] = Field(
        default={},
        description="Labels that the node must carry, each with a value or a condition: `x`, `!x`, `in(x, y)`, `!in(x, y)`.",
    )


class Placement(Model):
    """Where a stage runs, relative to its data."""

    near: str | None = Field(
        default=None,
        description="What to run next to, if there is room: a stage that has ended before, a dataset of `flowmason.json`, or a "
        "path inside one.",
    )
    strategy: Literal["pack", "spread"] | None = Field(
        default=None,
        description="Whether instances of the stage, or with `gang` those of its bodies, sit close together or apart.",
    )
    gang: bool = Field(
        default=False,
        description="`foreach` and `parallel`: reserve room for all that runs at a time before any of it begins.",
    )
    fuse: Literal["auto", "never", "always"] = Field(
        default="auto", description="Whether the stage may share a task with its neighbours."
    )


class Federation(Model):
    """How stages run in other regions."""

    strategy: str | None = Field(default=None, description="How regions are chosen.")
    regions: list[Name] = Field(default=[], description="The regions that may run it, most wanted first.")
    data_locality: JsonValue = Field(default=None, description="How strictly it runs where its data is.")
    aggregation: JsonValue = Field(default=None, description="How the results of several regions become one.")


class Stage(Model):
    """One step of a pipeline: a component, its configuration, and how it is run."""

    id: Id = Field(description="Identifies the stage within the pipeline: letters, digits, `_` and `-`.")
    component_type: Annotated[str, StringConstraints(pattern=COMPONENT_PATTERN)] = Field(
        description="The component: `name`, `name@range` or `owner/package:name`; kebab and snake case are the same "
        "name. `abstract` is a slot that an extending pipeline must fill."
    )
    name: str | None = Field(default=None, description="What people call the stage. No effect on execution.")
    description: str | None = Field(default=None, description="What the stage is for. No effect on execution.")
    position: JsonObject | None = Field(
        default=None, description="Where editors draw the stage; never shows in a diff."
    )
    metadata: JsonObject = Field(default={}, description="Anything; no effect on execution.")
    config: JsonObject = Field(default={}, description="The component's input; templates anywhere in it.")
    depends_on: list[Name] = Field(
        default=[], description="Stages that must end first. References in templates do this by themselves."
    )
    when: str | bool | None = Field(default=None, description="An expression; when it is false, the stage is skipped.")
    enabled: bool = Field(default=True, description="`false`: the stage is treated as skipped.")
    timeout_ms: Milliseconds | None = Field(
        default=None, description="How long one attempt may take, in milliseconds; it is really stopped then."
    )
    retry: Retry | None = Field(default=None, description="When and how often a failed attempt is repeated.")
    on_error: Literal["fail", "continue", "fallback"] = Field(
        default="fail",
        description="What happens when the last attempt has failed: the run fails, it goes on with `null`, or it goes "
        "on with `fallback_output`.",
    )
    fallback_output: JsonValue = Field(default=None, description="The stage's output under `on_error: fallback`.")
    cache: bool | Cache = Field(
        default=False, description="Whether later runs may reuse the result; pure components only."
    )
    effect: Literal["pure", "idempotent", "effectful"] | None = Field(
        default=None, description="What repeating the stage does to the world; absent: what the component declares."
    )
    llm_settings: LlmSettings | None = Field(
        default=None, description="Which model is asked, and how; overrides the pipeline's and the project's settings."
    )
    resources: Resources | None = Field(default=None, description="What an attempt occupies while it runs.")
    placement: Placement | None = Field(default=None, description="Where the stage runs, relative to its data.")
    federation: Federation | None = Field(default=None, description="Run this stage in other regions.")
    labels: list[str] = Field(default=[], description="Residency labels that the stage's output carries.")


class Composition(Model):
    """Another pipeline as a stage, in a namespace of its own: `id/stage`."""

    id: Id = Field(description="Identifies it among the pipeline's stages.")
    pipeline: Name = Field(description="The pipeline: `name`, `name@range`, or a path relative to this file.")
    input_mapping: JsonObject = Field(default={}, description="The other pipeline's input; templates anywhere in it.")
    depends_on: list[Name] = Field(default=[], description="Stages that must end first.")
    output_mapping: JsonObject = Field(
        default={},
        description="What is kept of its result, by name: a path into it, or a template in which it is called "
        "`output`; empty: the whole result.",
    )


class Defaults(Model):
    """Applied to the stages that say nothing themselves."""

    retry: Retry | None = Field(default=None, description="As `retry` of a stage.")
    timeout_ms: Milliseconds | None = Field(default=None, description="As `timeout_ms` of a stage.")
    llm_settings: LlmSettings | None = Field(default=None, description="As `llm_settings` of a stage.")
    resources: Resources | None = Field(default=None, description="As `resources` of a stage.")
    cache: bool | Cache | None = Field(default=None, description="As `cache` of a stage.")


class Triggers(Model):
    """What starts the pipeline, besides a person."""

    natural_language: JsonObject | list[JsonValue] | None = Field(
        default=None, description="Phrases that start it, and how its input is read from them."
    )
    schedule: JsonObject | list[JsonValue] | None = Field(default=None, description="Times at which it starts.")
    webhook: JsonObject | list[JsonValue] | None = Field(default=None, description="HTTP calls that start it.")


class Pipeline(Model):
    """A pipeline, as one file describes it."""

    TITLE: ClassVar[str] = "FlowMason pipeline"

    schema_: str | None = Field(
        default=None, alias="$schema", description="The JSON Schema that editors check against."
    )
    id: Annotated[str, StringConstraints(min_length=1)] = Field(
        default="", description="Identifies the pipeline; absent: its name in lower case with hyphens."
    )
    name: Name = Field(description="Displayed, and how references find it: `name@1.2.0`, `name@^1.2`.")
    version: Annotated[str, StringConstraints(pattern=SEMVER_PATTERN)] = Field(
        default="1.0.0", description="The pipeline's version, as semver.org defines it."
    )
    description: str | None = Field(default=None, description="What the pipeline is for. Documentation only.")
    tags: list[str] = Field(default=[], description="Words to find it by. Documentation only.")
    category: str | None = Field(default=None, description="Where a catalogue lists it. Documentation only.")
    metadata: JsonObject = Field(default={}, description="Anything. Documentation only.")
    abstract: bool = Field(default=False, description="`true`: it must be extended; running it is an error.")
    extends: Name | list[Name] | None = Field(
        default=None,
        description="The parent or parents: `name`, `name@range`, or a path relative to this file. Of several that "
        "change the same value, the one that comes first holds.",
    )
    overrides: JsonObject = Field(
        default={},
        description="Changes to inherited stages by stage id, merged deeply; what they name must exist. `null` removes "
        "a stage; `$append` and the like change lists; `$pipeline` means the pipeline's own fields.",
    )
    compositions: list[Composition] = Field(
        default=[], description="Other pipelines as stages, each in a namespace of its own; also a list of names."
    )
    input_schema: JsonObject | None = Field(
        default=None, description="JSON Schema (draft 2020-12) of the input: enforced, `default`s applied."
    )
    output_schema: JsonObject | None = Field(
        default=None, description="JSON Schema (draft 2020-12) of the result, checked at the end of a run."
    )
    sample_input: JsonObject | None = Field(
        default=None, description="An input to try the pipeline with: `fm run --sample`."
    )
    stages: list[Stage] = Field(default=[], description="The steps. Their order in the file carries no meaning.")
    output_stage_id: str | None = Field(
        default=None,
        description="The stage whose output is the result; absent: `output`, else the only terminal stage, else "
        "{id: output} of all terminal stages.",
    )
    output: JsonValue = Field(default=None, description="The result, assembled from templates.")
    timeout_ms: Milliseconds | None = Field(
        default=None, description="How long the whole run may take, in milliseconds."
    )
    max_parallel: Annotated[int, Field(ge=1, le=1_000_000), _AS_WHOLE] | None = Field(
        default=None, description="How many stages run at the same time, at most."
    )
    budget: Budget | None = Field(default=None, description="What a run may spend on models.")
    defaults: Defaults = Field(default=Defaults(), description="Applied to stages that say nothing themselves.")
    triggers: Triggers | None = Field(default=None, description="What starts the pipeline, besides a person.")
    federation: Federation | None = Field(default=None, description="Region defaults for stages.")
    residency: dict[str, list[Name]] = Field(
        default={}, description="By residency label: the regions where data with that label may be."
    )

    @model_validator(mode="after")
    def _default_id(self) -> Pipeline:
        if "id" not in self.model_fields_set:
            # Frozen for everybody else; a default that depends on another field has to be put in afterwards.
            object.__setattr__(self, "id", slugify(self.name))
        return self

    @cached_property
    def by_id(self) -> dict[str, Stage]:
        """The stages by their id."""
        return {stage.id: stage for stage in self.stages}


def slugify(name: str) -> str:
    """Return `name` in lower case with single hyphens between its words; `pipeline` when nothing is left of it."""
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-") or "pipeline"


def field_order(model: type[Model]) -> tuple[str, ...]:
    """Return the keys that may be written in `model`, in their canonical order."""
    keys = (field.alias or name for name, field in model.model_fields.items())
    return tuple(key for key in keys if key != EXTENSION_PREFIX)
