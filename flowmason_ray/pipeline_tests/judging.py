"""The verdict on a case: its expectations and assertions, held against what the run came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from flowmason_ray.pipeline_tests.cases import Assertion, Case, ExpectedError
from flowmason_ray.pipeline_tests.comparing import differences
from flowmason_ray.pipeline_tests.json_paths import MISSING, JsonPath, parse_path
from flowmason_ray.pipeline_tests.operators import OPERATORS, CannotCompare, close, evaluate
from flowmason_ray.pipeline_tests.results import Unmet
from flowmason_ray.pipeline_tests.stage_paths import is_hidden, without_positions
from flowmason_ray.spec.expressions import StageView
from flowmason_ray.spec.input_schema import InputSchema
from flowmason_ray.spec.wording import shown

MOST_VIOLATIONS = 20


def judge(case: Case, document: Mapping[str, Any]) -> list[tuple[Unmet, str]]:
    """Return what did not hold, each with the JSON pointer, below the case, of what it is about.

    When the run did not end as expected, only that is said: what the assertions look at is then not what they are about.
    """
    unmet = _judge_end(case, document)
    if unmet is not None:
        pointer = "/expect_error" if case.expect_error else "/expect_status" if case.expect_status else ""
        return [(unmet, pointer)]
    judged = [(_judge_assertion(each, document), f"/assertions/{i}") for i, each in enumerate(case.assertions)]
    return [(each, pointer) for each, pointer in judged if each is not None]


# -- how the run ended ----------------------------------------------------------------------------------------------------


def _judge_end(case: Case, document: Mapping[str, Any]) -> Unmet | None:
    expected = case.expect_status or ("failed" if case.expect_error else "succeeded")
    status, error = document["status"], document["error"]
    if status != expected:
        reason = _words(error) if error else ""
        if case.expect_error:
            message = f"The run was to fail, but it {status}.{reason}"
        elif case.expect_status:
            message = f"The run was to end as {expected!r}, but it {status}.{reason}"
        else:
            message = f"The run {'failed' if status == 'failed' else 'was cancelled'}.{reason}"
        return Unmet(
            message=message, path="$.status", expected=expected, found=status, has_values=bool(case.expect_status)
        )
    wanted = case.expect_error
    if not isinstance(wanted, ExpectedError):
        return None
    wrong = _wrong_error(wanted, error)
    if not wrong:
        return None
    return Unmet(message=f"The run failed, but not as expected.{_words(error)}", path="$.error", details=wrong)


def _wrong_error(wanted: ExpectedError, error: Mapping[str, Any]) -> list[str]:
    wrong: list[str] = []
    stage = str(error.get("stage", ""))
    codes = {error["code"], *error.get("codes", ())}
    if wanted.code is not None and wanted.code not in codes:
        wrong.append(f"~ code: expected {wanted.code!r}; found {error['code']!r}")
    if wanted.stage is not None and wanted.stage not in (stage, without_positions(stage)):
        wrong.append(f"~ stage: expected {wanted.stage!r}; found {stage!r}")
    if wanted.message_contains is not None and wanted.message_contains not in str(error["message"]):
        wrong.append(f"~ message: expected one with {wanted.message_contains!r}; found {error['message']!r}")
    return wrong


def _words(error: Mapping[str, Any]) -> str:
    stage = f" Stage {error['stage']!r}:" if error.get("stage") else ""
    if is_hidden(str(error.get("stage", ""))):
        stage = " The result cannot be made:"
    return f"{stage} {error['message']} [{error['code']}]"


# -- assertions -----------------------------------------------------------------------------------------------------------


def _judge_assertion(assertion: Assertion, document: Mapping[str, Any]) -> Unmet | None:
    path = parse_path(assertion.path)
    found = path.find(document)
    there = found is not MISSING and not (path.steps is None and found == [])
    if assertion.operator in ("exists", "not_exists"):
        return _judge_presence(assertion, path, found, there=there, document=document)
    if found is MISSING and not OPERATORS[assertion.operator].missing:
        message = f"{assertion.path} is not there. {path.why_missing(document)}"
        return _unmet(assertion, message, expected=assertion.value, found=None, has_values=False)
    try:
        return _judge_value(assertion, None if found is MISSING else found, document)
    except CannotCompare as exc:
        return _unmet(assertion, f"{_sentence(assertion)}: {exc}", found=_or_null(found))


def _judge_presence(
    assertion: Assertion, path: JsonPath, found: Any, *, there: bool, document: Mapping[str, Any]
) -> Unmet | None:
    if there == (assertion.operator == "exists"):
        return None
    if there:
        return _unmet(assertion, f"{assertion.path} must not be there; found {shown(found)}.", found=found)
    return _unmet(assertion, f"{assertion.path} must be there. {path.why_missing(document)}", has_values=False)


def _judge_value(assertion: Assertion, found: Any, document: Mapping[str, Any]) -> Unmet | None:
    operator, expected = assertion.operator, cast("Any", assertion.value)
    if operator == "expression":
        given = evaluate(expected, _variables(found, document))
        if given:
            return None
        message = f"The expression {expected!r} is not true; it gives {shown(given)}."
        return _unmet(assertion, message, found=found)
    if operator == "schema":
        violations = InputSchema(expected).violations(found, subject=assertion.path)
        details = [problem.message for problem in violations[:MOST_VIOLATIONS]]
        return (
            _unmet(assertion, f"{assertion.path} does not fit the schema.", found=found, details=details)
            if details
            else None
        )
    if operator == "close_to":
        holds = close(found, expected, assertion.tolerance)
    else:
        holds = OPERATORS[operator].holds(found, expected)
    if holds:
        return None
    details = differences(expected, found) if operator in ("equals", "close_to") else ()
    if details:
        return _unmet(assertion, f"{assertion.path} is not what was expected.", found=found, details=details)
    return _unmet(assertion, f"{_sentence(assertion)}; found {shown(found)}.", found=found, details=details)


def _variables(value: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    stages = cast("Mapping[str, Mapping[str, Any]]", document["stages"])
    views = {path: StageView(s["output"], s["status"], s["error"]) for path, s in stages.items()}
    return {**document, "value": value, "stages": views}


def _sentence(assertion: Assertion) -> str:
    words = OPERATORS[assertion.operator].words.format(shown(cast("Any", assertion.value)))
    within = f" (within {assertion.tolerance:g})" if assertion.tolerance is not None else ""
    return f"{assertion.path} must {words}{within}"


def _or_null(found: Any) -> Any:
    return None if found is MISSING else found


def _unmet(assertion: Assertion, message: str, **facts: Any) -> Unmet:
    values: dict[str, Any] = {"expected": cast("Any", assertion.value), "found": None, "has_values": True, **facts}
    return Unmet(message=message, path=assertion.path, operator=assertion.operator, said=assertion.message, **values)
