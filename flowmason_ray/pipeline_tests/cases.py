"""The models of a test file: every key that may be written, its type, its default and what it means.

The JSON Schema for editors and the tables of the guide are generated from them. They check one value at a time; what
takes two values, or the pipeline, is checked by `checking`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from flowmason_ray.spec.pipeline import JsonObject, Milliseconds, Model, Name

Operator = Literal[
    "equals",
    "not_equals",
    "contains",
    "not_contains",
    "exists",
    "not_exists",
    "greater_than",
    "greater_or_equal",
    "less_than",
    "less_or_equal",
    "close_to",
    "matches",
    "starts_with",
    "ends_with",
    "in",
    "not_in",
    "length",
    "length_greater_than",
    "length_less_than",
    "is_empty",
    "is_not_empty",
    "is_null",
    "is_not_null",
    "is_true",
    "is_false",
    "type",
    "schema",
    "expression",
]
"""How a value that was found is compared (`operators`)."""

Status = Literal["succeeded", "failed"]


class MockError(Model):
    """The error with which a mocked stage fails."""

    code: Name = Field(
        default="mock_error", description="The error's code: what `retry_on` and `catch_error_types` see."
    )
    message: str = Field(default="The mock fails.", description="The error's message.")
    error_type: Name | None = Field(
        default=None, description="The exception's class name, as `catch_error_types` sees it."
    )


class Answer(Model):
    """One answer of a mocked stage: exactly one of the two."""

    output: JsonObject | None = Field(
        default=None,
        description="The stage's output. It must be what the component's Output allows; a table is a list of rows.",
    )
    error: MockError | None = Field(default=None, description="The error with which the attempt fails.")


class Mock(Model):
    """What a stage answers instead of running its component: exactly one of `output`, `error` and `outputs`."""

    output: JsonObject | None = Field(
        default=None,
        description="The stage's output. It must be what the component's Output allows; a table is a list of rows.",
    )
    error: MockError | None = Field(default=None, description="The error with which every attempt fails.")
    outputs: list[Answer] | None = Field(
        default=None,
        description="One answer per attempt, in the order in which attempts start; one attempt more is an error.",
    )
    when: Name | None = Field(
        default=None,
        description="An expression over `config` (the stage's rendered config), `input` (the pipeline's), `path` and "
        "`attempt`: the mock answers only when it is true.",
    )


class Assertion(Model):
    """One thing that must hold when the run has ended."""

    path: Name = Field(
        default="$",
        description="JSONPath (RFC 9535) into what the run came to: `output`, `status`, `error`, `usage`, `stages`. A path of "
        "names and positions gives a value; one that may find several gives the list of them.",
    )
    operator: Operator = Field(default="equals", description="How what is found there is compared.")
    value: JsonValue = Field(default=None, description="What it is compared with.")
    tolerance: float | None = Field(
        default=None, ge=0, description="`close_to`: the largest difference; absent: one part in a billion."
    )
    message: str | None = Field(default=None, description="What to say when it does not hold.")


class ExpectedError(Model):
    """How the run must fail. What is not said may be anything."""

    code: Name | None = Field(default=None, description="The error's code.")
    stage: Name | None = Field(
        default=None, description="The stage that fails: its path, or its path without positions."
    )
    message_contains: str | None = Field(default=None, description="A part of the error's message.")


class Case(Model):
    """One test: an input, mocks, and what must come out."""

    name: Name = Field(description="What the case is called; unique in its file.")
    description: str | None = Field(default=None, description="What it shows.")
    tags: list[Name] = Field(default=[], description="Words to choose cases by: `fm test --tag`.")
    skip: bool | Name = Field(
        default=False, description="`true`, or the reason: the case is not run, and the report says so."
    )
    only: bool = Field(default=False, description="Of this file, only cases that say so are run.")
    input: JsonObject | None = Field(default=None, description="The pipeline's input; absent: `{}`.")
    sample: bool = Field(default=False, description="Take the pipeline's `sample_input` as the input.")
    on: Literal["local", "ray"] | None = Field(
        default=None, description="Where to run; absent: where `fm test --on` says, and that is `local` by default."
    )
    mocks: dict[str, Mock | list[Mock]] = Field(
        default={},
        description="Answers by stage: a stage's id, or a path in which `*` stands for anything. Of several mocks in a list, the "
        "first whose `when` is true answers.",
    )
    env: dict[str, str] = Field(
        default={}, description="Values of environment variables that the project allows templates to read."
    )
    secrets: dict[str, str] = Field(default={}, description="Values of the project's secrets.")
    assertions: list[Assertion] = Field(default=[], description="What must hold when the run has ended.")
    expect_error: bool | ExpectedError = Field(
        default=False, description="The run must fail: `true` in any way, or as described."
    )
    expect_status: Status | None = Field(
        default=None, description="How the run must end; absent: `succeeded`, or `failed` with `expect_error`."
    )
    timeout_ms: Milliseconds | None = Field(
        default=None,
        description="How long the case may take, in milliseconds; absent: `testing.timeout_ms` of the project, 60 s.",
    )


class CaseFile(Model):
    """A test file."""

    TITLE: ClassVar[str] = "FlowMason pipeline tests"

    schema_: str | None = Field(
        default=None, alias="$schema", description="The JSON Schema that editors check against."
    )
    pipeline: Name | None = Field(
        default=None,
        description="The pipeline: a name, `name@range`, or a path relative to this file; absent: the file beside this one whose "
        "name begins alike (`x.test.json`: `x.pipeline.json`).",
    )
    description: str | None = Field(default=None, description="What the file is about.")
    cases: Annotated[list[Case], Field(min_length=1)] = Field(
        description="The tests, in the order in which they are run."
    )
