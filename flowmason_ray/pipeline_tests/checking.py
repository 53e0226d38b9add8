"""What of a test file can be checked against its pipeline before anything runs.

A mock that names no stage, an output that the component cannot have, an assertion about a stage that does not exist: each of
these would otherwise make a test pass, or fail, for the wrong reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from flowmason_ray.engine.component import ComponentSpec, Kind
from flowmason_ray.engine.plan import Plan, PlanStage
from flowmason_ray.errors import FlowMasonError, Problem, nearest
from flowmason_ray.pipeline_tests.cases import Assertion, Case, ExpectedError, Mock
from flowmason_ray.pipeline_tests.json_paths import parse_path
from flowmason_ray.pipeline_tests.reading import WrittenCases
from flowmason_ray.pipeline_tests.stage_paths import PlannedStage, fits_stage, planned_stages, without_positions
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.spec.source import join_pointer

APPROVAL = "wait_for_approval"
"""The one construct that can be mocked: somebody has to answer."""

PARTS = ("output", "status", "error", "usage", "stages", "input")
"""What the document that assertions look into consists of."""


def mockable(stage: PlanStage) -> bool:
    """Tell whether a stage can be mocked: one that runs a component which decides nothing, or an approval."""
    component = stage.component
    return component is not None and (component.kind is not Kind.CONTROL_FLOW or component.name == APPROVAL)


def check_against_plan(
    written: WrittenCases, plan: Plan, settings: ProjectSettings, sample: Mapping[str, Any] | None
) -> list[Problem]:
    """Return everything in a test file that does not suit its pipeline."""
    stages = planned_stages(plan)
    problems: list[Problem] = []
    for index, case in enumerate(written.content.cases):
        pointer = f"/cases/{index}"
        problems += _check_mocks(written, case, pointer, stages)
        problems += _check_names(written, case, pointer, settings)
        problems += _check_stages(written, case, pointer, stages)
        if case.sample and sample is None:
            message = f"Case {case.name!r} asks for the sample input; the pipeline has no 'sample_input'."
            problems.append(written.problem("no_sample_input", message, f"{pointer}/sample"))
    return problems


# -- mocks --------------------------------------------------------------------------------------------------------------


def _check_mocks(
    written: WrittenCases, case: Case, pointer: str, stages: Mapping[str, PlannedStage]
) -> Iterator[Problem]:
    for pattern, given in case.mocks.items():
        at = f"{pointer}/mocks{join_pointer(pattern)}"
        meant = [found for path, found in stages.items() if fits_stage(pattern, path)]
        suitable = [found for found in meant if mockable(found.stage)]
        if not meant:
            yield _unknown(written, f"The mock of {pattern!r} names no stage of the pipeline.", at, pattern, stages)
        elif not suitable or ("*" not in pattern and len(suitable) < len(meant)):
            yield _not_mockable(written, pattern, at, next(f for f in meant if not mockable(f.stage)))
        else:
            mocks = given if isinstance(given, list) else [given]
            for number, mock in enumerate(mocks):
                place = f"{at}/{number}" if isinstance(given, list) else at
                for found in suitable:
                    yield from _check_answers(written, mock, place, found)


def _not_mockable(written: WrittenCases, pattern: str, at: str, found: PlannedStage) -> Problem:
    component = found.stage.component
    assert component is not None
    message = f"Stage {found.path!r} is control flow ({component.name}); what it decides cannot be mocked."
    hint = "Mock the stages that it reads, or those in its bodies."
    if component.name in ("subpipeline", "composition"):
        message = f"Stage {found.path!r} calls a pipeline, which cannot be mocked as a whole."
        hint = f"Mock the stages of the called pipeline: '{found.path}/STAGE', or '{found.path}/*' for all of them."
    return written.problem("not_mockable", message, at, key=True, found=pattern, hint=hint)


def _check_answers(written: WrittenCases, mock: Mock, pointer: str, found: PlannedStage) -> Iterator[Problem]:
    if mock.output is not None:
        yield from _check_output(written, mock.output, f"{pointer}/output", found)
    for number, answer in enumerate(mock.outputs or ()):
        if answer.output is not None:
            yield from _check_output(written, answer.output, f"{pointer}/outputs/{number}/output", found)
    component = found.stage.component
    if component is not None and component.name == APPROVAL:
        if mock.output is None or mock.when is not None:
            message = f"The mock of {found.path!r} gives a person's answer: it has an 'output', and no 'when'."
            yield written.problem("not_mockable", message, pointer)
        elif mock.output.get("answered") is not True:
            message = f'The mock of {found.path!r} gives a person\'s answer: its output says "answered": true.'
            hint = "Without a mock nobody answers, and 'timeout_ms' and 'on_timeout' of the stage decide."
            yield written.problem("not_mockable", message, f"{pointer}/output", hint=hint)


def _check_output(
    written: WrittenCases, output: Mapping[str, Any], pointer: str, found: PlannedStage
) -> Iterator[Problem]:
    component = found.stage.component
    assert component is not None
    for problem in unsuitable_output(component, output):
        at = pointer + problem.path
        message = f"The mock of stage {found.path!r}: {problem.message}"
        yield written.problem(
            problem.code, message, at, key=problem.code == "unknown_field", found=problem.found, nearest=problem.nearest
        )


def unsuitable_output(component: ComponentSpec, output: Mapping[str, Any]) -> list[Problem]:
    """Return why a component cannot have an output; paths are relative to it.

    A model of pydantic's passes over fields that it does not know, and so would a mock with a slip of the pen: here they are
    an error, unless the model says that it takes any.
    """
    model = component.output_model
    names = set(model.model_fields) | {f.alias for f in model.model_fields.values() if f.alias}
    problems: list[Problem] = []
    if model.model_config.get("extra") != "allow":
        problems += [
            Problem(
                code="unknown_field",
                message=f"Component {component.name!r} has no output {field!r}; it has: {', '.join(sorted(names))}.",
                path=join_pointer(field),
                found=field,
                nearest=nearest(field, names),
            )
            for field in output
            if field not in names
        ]
    try:
        model.model_validate(dict(output))
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False, include_context=False)
        missing = [str(error["loc"][0]) for error in errors if error["type"] == "missing" and len(error["loc"]) == 1]
        if missing:
            message = f"the output of component {component.name!r} always has {listed(missing)}, and here it has not."
            problems.append(Problem(code="missing_field", message=message, found=", ".join(missing)))
        for error in errors:
            where = ".".join(str(part) for part in error["loc"]) or "the output"
            message = f"the output does not suit component {component.name!r}: {where}: {error['msg']}."
            if error["type"] != "extra_forbidden" and not (error["type"] == "missing" and len(error["loc"]) == 1):
                problems.append(Problem(code="invalid_output", message=message, path=join_pointer(*error["loc"])))
    except FlowMasonError as exc:  # a table, and no polars
        problems.append(Problem(code=exc.code, message=exc.message))
    return problems


def listed(names: list[str]) -> str:
    """Return names as a phrase: `'a', 'b' and 'c'`."""
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


# -- names --------------------------------------------------------------------------------------------------------------


def _check_names(written: WrittenCases, case: Case, pointer: str, settings: ProjectSettings) -> Iterator[Problem]:
    for key, allowed, where in (("env", settings.env_allow, "env_allow"), ("secrets", settings.secrets, "secrets")):
        for name in getattr(case, key):
            if name not in allowed:
                yield written.problem(
                    "unknown_name",
                    f"{name!r} is not listed in {where!r} of flowmason.json, so no template can read it.",
                    f"{pointer}/{key}{join_pointer(name)}",
                    key=True,
                    found=name,
                    nearest=nearest(name, allowed),
                )


def _check_stages(
    written: WrittenCases, case: Case, pointer: str, stages: Mapping[str, PlannedStage]
) -> Iterator[Problem]:
    """Refuse assertions about stages that the pipeline does not have, and about what no run comes to."""
    for number, assertion in enumerate(case.assertions):
        yield from _check_path(written, assertion, f"{pointer}/assertions/{number}/path", stages)
    if isinstance(case.expect_error, ExpectedError) and case.expect_error.stage is not None:
        stage = case.expect_error.stage
        if without_positions(stage) not in stages:
            message = f"The pipeline has no stage {stage!r} that could fail."
            yield _unknown(written, message, f"{pointer}/expect_error/stage", stage, stages, key=False)


def _check_path(
    written: WrittenCases, assertion: Assertion, pointer: str, stages: Mapping[str, PlannedStage]
) -> Iterator[Problem]:
    steps = parse_path(assertion.path).steps
    if not steps:
        return
    if steps[0] not in PARTS:
        message = f"There is no {steps[0]!r} to look at; there is: {', '.join(PARTS)}."
        close = nearest(str(steps[0]), PARTS)
        yield written.problem("unknown_part", message, pointer, found=assertion.path, nearest=close)
    elif steps[0] == "stages" and len(steps) > 1:
        stage = str(steps[1])
        if without_positions(stage) not in stages:
            message = f"The pipeline has no stage {stage!r}."
            yield _unknown(written, message, pointer, stage, stages, key=False)


def _unknown(
    written: WrittenCases,
    message: str,
    pointer: str,
    name: str,
    stages: Mapping[str, PlannedStage],
    *,
    key: bool = True,
) -> Problem:
    ids = {found.stage.id for found in stages.values()}
    close = nearest(name, {*stages, *ids})
    hint = None if close else f"Its stages: {', '.join(stages)}."
    return written.problem("unknown_stage", message, pointer, key=key, found=name, nearest=close, hint=hint)
