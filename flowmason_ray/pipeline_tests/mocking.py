"""Mocks: an executor that answers mocked stages itself and hands everything else to the one behind it.

A mocked attempt goes through what every attempt goes through: its `when` and its templates are rendered, the result must
be the component's Input, the answer must be its Output. Only the component itself is left out; so a test with mocks still
finds a template that breaks. Which stages were mocked, and which mocks never answered, is kept for the report.

Values that lie elsewhere (on Ray) are fetched first, because a mocked stage is rendered here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from time import perf_counter, time
from typing import Any, Self

from pydantic import BaseModel

from flowmason_ray.engine.attempt import DECLINED, fail, finish, prepare
from flowmason_ray.engine.commands import CancelStage, GatherResults, StartStage
from flowmason_ray.engine.component import ComponentSpec
from flowmason_ray.engine.context import LocalScope
from flowmason_ray.engine.events import (
    ApprovalAnswered,
    Event,
    StageDeclined,
    StageFailed,
    StageStopped,
    StageSucceeded,
)
from flowmason_ray.engine.executor import Deliver, Executor, RunInfo
from flowmason_ray.engine.plan import Target
from flowmason_ray.engine.scope import Scope
from flowmason_ray.engine.values import Packed, presentable
from flowmason_ray.errors import Failure, StageError
from flowmason_ray.pipeline_tests.cases import Answer, Mock, MockError
from flowmason_ray.pipeline_tests.checking import APPROVAL, mockable
from flowmason_ray.pipeline_tests.stage_paths import fits
from flowmason_ray.spec.expressions import DictScope, parse_expression


class MockExhausted(StageError):
    """A mock with a list of outputs was asked once more than it has."""

    code = "mock_exhausted"


@dataclass(slots=True)
class _Declared:
    """A mock, and how often it answered."""

    mock: Mock
    answered: int = 0


@dataclass(slots=True)
class Mocks:
    """The mocks of one case, and what became of them in one run."""

    by_pattern: dict[str, list[_Declared]]
    paths: set[str] = field(default_factory=set[str])
    """The stage instances that were answered."""

    @classmethod
    def of(cls, written: Mapping[str, Mock | list[Mock]]) -> Mocks:
        """Return the mocks that a case declares."""
        listed = {pattern: given if isinstance(given, list) else [given] for pattern, given in written.items()}
        return cls({pattern: [_Declared(mock) for mock in mocks] for pattern, mocks in listed.items()})

    def meaning(self, path: str) -> list[_Declared]:
        """Return those that mean the stage instance at `path`, the most precise pattern first."""
        found = [pattern for pattern in self.by_pattern if fits(pattern, path)]
        found.sort(key=_precision, reverse=True)
        return [declared for pattern in found for declared in self.by_pattern[pattern]]

    def unused(self) -> list[str]:
        """Return the patterns of mocks that never answered; of several in a list, with their number."""
        names: list[str] = []
        for pattern, declared in self.by_pattern.items():
            idle = [number for number, each in enumerate(declared) if not each.answered]
            if len(idle) == len(declared):
                names.append(pattern)
            else:
                names += [f"{pattern}[{number}]" for number in idle]
        return names

    def leftover(self) -> list[tuple[str, int, int]]:
        """Return (pattern, answers given, answers declared) of lists of outputs that were used in part."""
        return [
            (pattern, each.answered, len(each.mock.outputs))
            for pattern, declared in self.by_pattern.items()
            for each in declared
            if each.mock.outputs is not None and 0 < each.answered < len(each.mock.outputs)
        ]


def _precision(pattern: str) -> tuple[bool, bool, int]:
    return "*" not in pattern, "[" in pattern, pattern.count("/")


class MockingExecutor:
    """Answers mocked stages; everything else is the affair of the executor behind it."""

    def __init__(self, inner: Executor, mocks: Mocks) -> None:
        self._inner = inner
        self.tells_beginning = inner.tells_beginning
        self._mocks = mocks
        self._fetching: dict[str, tuple[int, asyncio.Task[None]]] = {}

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks = [task for _, task in self._fetching.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._inner.__aexit__(*exc)

    def open(self, run: RunInfo, deliver: Deliver) -> None:
        """Begin to serve a run."""
        self._run = run
        self._deliver = deliver
        self._inner.open(run, deliver)

    def start(self, command: StartStage) -> Event | None:
        """Answer an attempt, or hand it on."""
        if not mockable(command.stage):
            return self._inner.start(command)
        declared = self._mocks.meaning(command.path)
        if not declared:
            return self._inner.start(command)
        if not any(isinstance(handle, Packed) for handle in _handles(command)):
            return self._answer(command, command, declared)
        task = asyncio.create_task(self._answer_later(command, declared))
        self._fetching[command.path] = (command.attempt, task)
        return None

    def gather(self, command: GatherResults) -> Event | None:
        """Put a construct's value together."""
        return self._inner.gather(command)

    def cancel(self, command: CancelStage) -> None:
        """Stop an attempt."""
        attempt, task = self._fetching.get(command.path, (0, None))
        if task is None or attempt != command.attempt:
            self._inner.cancel(command)
            return
        del self._fetching[command.path]
        task.cancel()
        stopped = StageStopped(at=time(), path=command.path, attempt=command.attempt)
        self._loop.call_soon(self._deliver, stopped)

    async def fetch(self, handle: Any) -> Any:
        """Return the value behind a handle."""
        return await self._inner.fetch(handle)

    # -- answers ------------------------------------------------------------------------------------------------------

    async def _answer_later(self, command: StartStage, declared: Sequence[_Declared]) -> None:
        """Fetch what the stage reads, then answer."""
        try:
            report = self._answer(command, await self._with_values(command), declared)
        except Exception as exc:  # a value that is gone: a failed attempt, as on any executor
            report = self._failed(command, fail(exc, command.path, command.attempt))
        del self._fetching[command.path]
        if report is not None:
            self._deliver(report)

    def _answer(self, command: StartStage, here: StartStage, declared: Sequence[_Declared]) -> Event | None:
        """Return the report of a mocked attempt; when no mock wants it, hand it on.

        Args:
            command: The attempt.
            here: The same, with all values in this process.
            declared: The mocks that mean it.
        """
        stage, component = command.stage, command.stage.component
        assert component is not None
        started = perf_counter()
        try:
            scope = LocalScope(self._run, here.scope, stage, command.path, command.attempt, command.first_started_at)
            given = prepare(stage, scope)
            if given is DECLINED:
                return StageDeclined(at=time(), path=command.path, attempt=command.attempt)
            chosen = next((each for each in declared if self._wants(each.mock, given, here)), None)
            if chosen is None:
                return self._inner.start(command)
            self._mocks.paths.add(command.path)
            answer = _next_answer(chosen)
            if answer.error is not None:
                return self._failed(command, _failure(answer.error, command))
            if component.name == APPROVAL:
                return self._approve(command, answer.output or {})
            value = finish(component, _as_output(component, answer.output or {}), stage.schema).value
        except Exception as exc:  # templates and models of the component: what they raise is a failed attempt
            return self._failed(command, fail(exc, command.path, command.attempt), perf_counter() - started)
        return StageSucceeded(
            at=time(), path=command.path, attempt=command.attempt, value=value, duration_s=perf_counter() - started
        )

    def _wants(self, mock: Mock, given: BaseModel, here: StartStage) -> bool:
        if mock.when is None:
            return True
        values = {
            "config": presentable(dict(given)),
            "input": here.scope.input,
            "path": here.path,
            "attempt": here.attempt,
        }
        return bool(parse_expression(mock.when).evaluate(DictScope(values)))

    def _approve(self, command: StartStage, output: Mapping[str, Any]) -> Event | None:
        """Let the question be asked, and answer it."""
        report = self._inner.start(command)
        if isinstance(report, StageSucceeded):
            answer = ApprovalAnswered(
                at=time(), path=command.path, data=output.get("data"), by=output.get("answered_by")
            )
            self._loop.call_soon(self._deliver, answer)  # after the report, which is what asks
        return report

    @staticmethod
    def _failed(command: StartStage, failure: Failure, duration_s: float = 0.0) -> StageFailed:
        return StageFailed(
            at=time(), path=command.path, attempt=command.attempt, failure=failure, duration_s=duration_s
        )

    # -- values that lie elsewhere ------------------------------------------------------------------------------------

    async def _with_values(self, command: StartStage) -> StartStage:
        """Return the command with a copy of its scopes in which everything that it reads is a value."""
        innermost = outer = copy(command.scope)
        while True:
            outer.items = await self._value(outer.items)
            outer.input = await self._value(outer.input)
            if outer.variables:
                outer.variables = {name: await self._value(each) for name, each in outer.variables.items()}
            outer.values = list(outer.values)
            if outer.parent is None:
                break
            outer.parent = copy(outer.parent)
            outer = outer.parent
        for target in command.stage.targets.values():
            scope, index = innermost.at(target)
            scope.values[index] = await self._value(scope.values[index])
        return StartStage(
            path=command.path,
            stage=command.stage,
            scope=innermost,
            attempt=command.attempt,
            first_started_at=command.first_started_at,
        )

    async def _value(self, handle: Any) -> Any:
        return await self._inner.fetch(handle) if isinstance(handle, Packed) else handle


def _handles(command: StartStage) -> list[Any]:
    """Return everything that an attempt may read."""
    scope: Scope | None = command.scope
    targets: Mapping[str, Target] = command.stage.targets
    handles = [at.values[index] for at, index in map(command.scope.at, targets.values())]
    while scope is not None:
        handles += [scope.items, scope.input, *(scope.variables or {}).values()]
        scope = scope.parent
    return handles


def _next_answer(declared: _Declared) -> Answer:
    """Return what a mock answers now.

    Raises:
        MockExhausted: it has answered as often as it can.
    """
    mock = declared.mock
    declared.answered += 1
    if mock.outputs is None:
        return Answer(output=mock.output, error=mock.error)
    if declared.answered > len(mock.outputs):
        raise MockExhausted(
            f"The mock has {len(mock.outputs)} outputs, and this is attempt {declared.answered} that asks for one."
        )
    return mock.outputs[declared.answered - 1]


def _failure(error: MockError, command: StartStage) -> Failure:
    return Failure(
        code=error.code,
        message=error.message,
        stage=command.path,
        attempts=command.attempt,
        error_type=error.error_type,
    )


def _as_output(component: ComponentSpec, output: Mapping[str, Any]) -> BaseModel:
    return component.output_model.model_validate(dict(output))
