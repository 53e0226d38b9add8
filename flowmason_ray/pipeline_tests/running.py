"""Runs the cases of test files: the same planner, runner and executors as for any run, and reports in the order of the files.

Files are taken one after the other; the cases of a file run one at a time, or as many at once as asked for. Whatever the order
in which they end, results are handed out in the order in which the cases are written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from flowmason_ray.api import PreparedRun
from flowmason_ray.engine.executor import Executor
from flowmason_ray.engine.secrecy import Masking, Secret
from flowmason_ray.errors import FlowMasonError, InvalidInput
from flowmason_ray.pipeline_tests.cases import Case
from flowmason_ray.pipeline_tests.coverage import CoverageObserver, PipelineCoverage
from flowmason_ray.pipeline_tests.judging import judge
from flowmason_ray.pipeline_tests.mocking import MockingExecutor, Mocks
from flowmason_ray.pipeline_tests.opening import OpenedFile, open_file
from flowmason_ray.pipeline_tests.recording import RecordingExecutor, document_of, document_of_refusal
from flowmason_ray.pipeline_tests.results import CaseResult, FileResult, TestReport, Unmet


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which cases are run, and how."""

    tags: Sequence[str] = ()
    """Tags of which a case must have one; `not x`: none of these."""
    name: str | None = None
    """A part of the case's name, in upper or lower case."""
    on: str | None = None
    """Where to run what does not say so itself; None: in this process."""
    jobs: int | None = None
    """How many cases at a time; None: what the project says, else one."""
    fail_fast: bool = False
    """Whether to start no case after the first failure."""

    def wants(self, case: Case) -> bool:
        """Tell whether a case is asked for."""
        refused = {tag[4:].strip() for tag in self.tags if tag.startswith("not ")}
        wanted = {tag for tag in self.tags if not tag.startswith("not ")}
        if refused & set(case.tags) or (wanted and not wanted & set(case.tags)):
            return False
        return self.name is None or self.name.casefold() in case.name.casefold()


@dataclass(slots=True)
class Listener:
    """Is told how the tests go, in the order of the files."""

    file_begins: Callable[[FileResult], None] = lambda file: None
    case_ended: Callable[[FileResult, CaseResult], None] = lambda file, case: None
    file_ended: Callable[[FileResult], None] = lambda file: None


async def run_files(files: Sequence[Path], selection: Selection, listener: Listener | None = None) -> TestReport:
    """Run the cases of these files.

    Raises:
        InvalidCall: there is no such executor.
        StoreError: a run cannot be recorded.
    """
    listener = listener or Listener()
    report = TestReport()
    coverage: dict[str, PipelineCoverage] = {}
    started = perf_counter()
    stopped = False
    for file in files:
        opened = open_file(file, coverage)
        result = opened if isinstance(opened, FileResult) else opened.result
        report.files.append(result)
        listener.file_begins(result)
        if isinstance(opened, OpenedFile):
            report.min_coverage = max(report.min_coverage, opened.workspace.project.settings.testing.min_coverage)
            stopped = await _FileRun(opened, selection, listener, stopped=stopped).run()
        listener.file_ended(result)
    report.coverage = list(coverage.values())
    report.duration_s = perf_counter() - started
    return report


class _FileRun:
    """The cases of one file."""

    def __init__(self, opened: OpenedFile, selection: Selection, listener: Listener, *, stopped: bool) -> None:
        self._opened = opened
        self._selection = selection
        self._listener = listener
        self._stopped = stopped
        """Whether no case is started any more."""

    async def run(self) -> bool:
        """Run them; return whether a failure has stopped everything."""
        opened, selection = self._opened, self._selection
        cases = opened.written.content.cases
        chosen = [(index, case) for index, case in enumerate(cases) if selection.wants(case)]
        opened.result.left_out = len(cases) - len(chosen)
        only = any(case.only for _, case in chosen)
        room = asyncio.Semaphore(selection.jobs or opened.workspace.project.settings.testing.jobs)
        ended: asyncio.Queue[tuple[int, CaseResult]] = asyncio.Queue()
        waiting: dict[int, CaseResult] = {}
        async with asyncio.TaskGroup() as group:
            for place, (index, case) in enumerate(chosen):
                group.create_task(self._case(index, case, only=only, room=room, place=place, ended=ended))
            for place in range(len(chosen)):
                while place not in waiting:
                    at, result = await ended.get()
                    waiting[at] = result
                result = waiting.pop(place)
                opened.result.cases.append(result)
                self._listener.case_ended(opened.result, result)
        return self._stopped

    async def _case(
        self,
        index: int,
        case: Case,
        *,
        only: bool,
        room: asyncio.Semaphore,
        place: int,
        ended: asyncio.Queue[tuple[int, CaseResult]],
    ) -> None:
        async with room:
            result = self._skipped(index, case, only) or await self._run(index, case)
            if result.verdict == "failed" and self._selection.fail_fast:
                self._stopped = True
            ended.put_nowait((place, result))

    async def _run(self, index: int, case: Case) -> CaseResult:
        try:
            return await CaseRun(self._opened, index, self._selection.on).run()
        except FlowMasonError as exc:  # no run came about: a missing extra, a cluster that cannot be reached
            line = self._opened.written.line(f"/cases/{index}")
            unmet = Unmet(message=f"It could not be run: {exc.message} [{exc.code}]", line=line)
            return CaseResult(name=case.name, verdict="failed", line=line, unmet=[unmet])

    def _skipped(self, index: int, case: Case, only: bool) -> CaseResult | None:
        reason = None
        if case.skip:
            reason = case.skip if isinstance(case.skip, str) else "it says so"
        elif only and not case.only:
            reason = "another case says 'only'"
        elif self._stopped:
            reason = "a case before it failed (--fail-fast)"
        if reason is None:
            return None
        line = self._opened.written.line(f"/cases/{index}")
        return CaseResult(name=case.name, verdict="skipped", line=line, reason=reason)


@dataclass(slots=True)
class CaseRun:
    """One case."""

    opened: OpenedFile
    index: int
    on: str | None
    _recorders: list[RecordingExecutor] = field(default_factory=list[RecordingExecutor])
    _overdue: bool = False

    async def run(self) -> CaseResult:
        """Run it and judge it."""
        case = self.opened.written.content.cases[self.index]
        on = case.on or self.on or "local"
        mocks = Mocks.of(case.mocks)
        started = perf_counter()
        given = self._input(case)
        failure = None
        try:
            prepared = self._prepare(case, given, on, mocks)
        except InvalidInput as exc:
            document = document_of_refusal(exc.code, exc.message, given)
            document["error"]["codes"] = [problem.code for problem in exc.problems]
        else:
            result = await self._drive(case, prepared)
            # Values are taken before they are recorded, so what the log masks has to be masked here again.
            masking = Masking(prepared.info.hidden)
            failure = None if result.failure is None else masking.failure(result.failure)
            values = self._recorders[0].values
            document = masking.value(document_of(result, prepared.plan, prepared.info.input, values, mocks.paths))
        pointer = f"/cases/{self.index}"
        unmet = self._late(case) or [
            replace(each, line=self.opened.written.line(pointer + below)) for each, below in judge(case, document)
        ]
        return CaseResult(
            name=case.name,
            verdict="failed" if unmet else "passed",
            line=self.opened.written.line(pointer),
            duration_s=perf_counter() - started,
            unmet=unmet,
            failure=failure,
            mocked=sorted(mocks.paths),
            warnings=_warnings(mocks),
            on=on,
        )

    def _input(self, case: Case) -> Mapping[str, Any]:
        if case.sample:
            return dict(self.opened.loaded.pipeline.sample_input or {})
        return dict(case.input or {})

    def _prepare(self, case: Case, given: Mapping[str, Any], on: str, mocks: Mocks) -> PreparedRun:
        def wrap(executor: Executor) -> Executor:
            recorder = RecordingExecutor(MockingExecutor(executor, mocks))
            self._recorders.append(recorder)
            return recorder

        prepared = PreparedRun(
            self.opened.loaded,
            given,
            on=on,
            workspace=self.opened.workspace,
            observers=[CoverageObserver(self.opened.coverage, mocks.paths)],
            wrap=wrap,
        )
        hidden = {name: Secret(value) for name, value in case.secrets.items()}
        prepared.info = replace(
            prepared.info,
            env={**prepared.info.env, **case.env},
            secrets={**prepared.info.secrets, **hidden},
        )
        return prepared

    async def _drive(self, case: Case, prepared: PreparedRun) -> Any:
        def too_late() -> None:
            self._overdue = True
            prepared.cancel(f"The case did not end within {self._limit_ms(case) / 1000:g} s.")

        limit = asyncio.get_running_loop().call_later(self._limit_ms(case) / 1000, too_late)
        try:
            return await prepared.run()
        finally:
            limit.cancel()

    def _limit_ms(self, case: Case) -> int:
        return case.timeout_ms or self.opened.workspace.project.settings.testing.timeout_ms

    def _late(self, case: Case) -> list[Unmet]:
        if not self._overdue:
            return []
        line = self.opened.written.line(f"/cases/{self.index}")
        message = f"It did not end within {self._limit_ms(case) / 1000:g} s and was stopped."
        return [Unmet(message=message, line=line)]


def _warnings(mocks: Mocks) -> list[str]:
    said = [f"The mock of {pattern!r} was never used." for pattern in mocks.unused()]
    said += [
        f"The mock of {pattern!r} gave {given} of its {declared} outputs."
        for pattern, given, declared in mocks.leftover()
    ]
    return said
