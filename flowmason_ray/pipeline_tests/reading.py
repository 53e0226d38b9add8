"""From a test file to its cases: the same reader as for pipelines, in the words of test files.

Everything that is wrong with the file by itself is found here, with line and column: text that is not JSON, unknown keys,
values of the wrong type, two cases of one name, mocks that answer in two ways, assertions that can never be judged. What
takes the pipeline is left to `checking`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.pipeline_tests.cases import Answer, Assertion, Case, CaseFile, ExpectedError, Mock, MockError
from flowmason_ray.pipeline_tests.json_paths import InvalidPath, parse_path
from flowmason_ray.pipeline_tests.operators import bad_expression, check_value
from flowmason_ray.spec.parsing import parse_object
from flowmason_ray.spec.reading import read_source
from flowmason_ray.spec.source import Source, join_pointer
from flowmason_ray.spec.wording import Vocabulary, problems_from

SUFFIX = ".test.json"

MOCK_ROOTS = frozenset({"config", "input", "path", "attempt"})
"""What the `when` of a mock may read."""

WORDS = Vocabulary(
    document="the test file",
    model=CaseFile,
    parts={
        "cases": Case,
        "mocks": Mock,
        "outputs": Answer,
        "error": MockError,
        "assertions": Assertion,
        "expect_error": ExpectedError,
    },
    items={"cases": "case"},
    named_by="name",
    hints={Answer: 'Each of \'outputs\' is {"output": {…}} or {"error": {…}}.'},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenCases:
    """A test file that was read."""

    content: CaseFile
    source: Source

    def problem(self, code: str, message: str, pointer: str, *, key: bool = False, **facts: Any) -> Problem:
        """Return a problem with its place; `key` points at the value's key instead."""
        at = self.source.locate(pointer, key=key)
        return Problem(code=code, message=message, path=pointer, file=at.file, line=at.line, column=at.column, **facts)

    def line(self, pointer: str) -> int | None:
        """Return the line in which the value at `pointer` starts."""
        return self.source.locate(pointer).line


def read_cases(file: Path) -> WrittenCases:
    """Read a test file.

    Raises:
        InvalidPipeline: with every problem that was found.
    """
    source = read_source(file)
    data = parse_object(source, what="A test file")
    try:
        content = CaseFile.model_validate(data)
    except ValidationError as exc:
        raise InvalidPipeline(_placed(problems_from(exc, data, WORDS), source)) from None
    written = WrittenCases(content=content, source=source)
    problems = list(_check(written))
    if problems:
        raise InvalidPipeline(sorted(problems, key=lambda p: (p.line or 0, p.column or 0)))
    return written


def _placed(problems: Iterable[Problem], source: Source) -> list[Problem]:
    placed: list[Problem] = []
    for problem in problems:
        at = source.locate(problem.path, key=problem.code == "unknown_key")
        placed.append(replace(problem, file=at.file, line=at.line, column=at.column))
    return sorted(placed, key=lambda p: (p.line or 0, p.column or 0))


def _check(written: WrittenCases) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, case in enumerate(written.content.cases):
        pointer = f"/cases/{index}"
        other = first.setdefault(case.name, index)
        if other != index:
            line = written.line(f"/cases/{other}")
            message = f"The name {case.name!r} is taken: another case, in line {line}, has it."
            yield written.problem("duplicate_name", message, f"{pointer}/name", found=case.name)
        yield from _check_case(written, case, pointer)


def _check_case(written: WrittenCases, case: Case, pointer: str) -> Iterator[Problem]:
    who = f"case {case.name!r}"
    if case.sample and case.input is not None:
        yield written.problem(
            "two_inputs", f"{who.capitalize()} has 'input' and 'sample'; keep one.", f"{pointer}/sample"
        )
    if case.expect_error and case.expect_status not in (None, "failed"):
        message = f"{who.capitalize()} expects an error, and the status {case.expect_status!r}; a run that ends in an error has 'failed'."
        yield written.problem("contradiction", message, f"{pointer}/expect_status")
    for stage, given in case.mocks.items():
        at = f"{pointer}/mocks{join_pointer(stage)}"
        for number, mock in enumerate(given if isinstance(given, list) else [given]):
            yield from _check_mock(written, mock, f"{at}/{number}" if isinstance(given, list) else at, stage)
        if given == []:
            yield written.problem("no_answer", f"The mock of {stage!r} is an empty list.", at)
    for number, assertion in enumerate(case.assertions):
        yield from _check_assertion(written, assertion, f"{pointer}/assertions/{number}")


def _check_mock(written: WrittenCases, mock: Mock, pointer: str, stage: str) -> Iterator[Problem]:
    ways = [key for key in ("output", "error", "outputs") if getattr(mock, key) is not None]
    if len(ways) != 1:
        found = "none of them" if not ways else " and ".join(map(repr, ways))
        message = f"The mock of {stage!r} answers with one of 'output', 'error' and 'outputs'; it has {found}."
        yield written.problem("no_answer" if not ways else "two_answers", message, pointer)
    for number, answer in enumerate(mock.outputs or ()):
        if (answer.output is None) == (answer.error is None):
            message = f"Each of the 'outputs' of {stage!r} has either 'output' or 'error'."
            yield written.problem("no_answer", message, f"{pointer}/outputs/{number}")
    if mock.outputs == []:
        yield written.problem("no_answer", f"The 'outputs' of {stage!r} are empty.", f"{pointer}/outputs")
    if mock.when is not None and (wrong := bad_expression(mock.when, MOCK_ROOTS)) is not None:
        yield written.problem(
            "invalid_expression", f"'when' of the mock of {stage!r} must be {wrong}", f"{pointer}/when"
        )


def _check_assertion(written: WrittenCases, assertion: Assertion, pointer: str) -> Iterator[Problem]:
    try:
        parse_path(assertion.path)
    except InvalidPath as exc:
        yield written.problem("invalid_json_path", str(exc), f"{pointer}/path", found=assertion.path)
    wrong = check_value(assertion)
    if wrong is not None:
        yield written.problem("invalid_assertion", wrong, f"{pointer}/value")
    if assertion.tolerance is not None and assertion.operator != "close_to":
        message = f"Only 'close_to' has a 'tolerance'; this operator is {assertion.operator!r}."
        yield written.problem("invalid_assertion", message, f"{pointer}/tolerance")
