"""Makes a test file ready to be run: it is read, its pipeline is found and planned, and the one is checked against the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flowmason_ray.components.base import InvalidComponent
from flowmason_ray.engine.plan import Plan
from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.pipeline_tests.checking import check_against_plan
from flowmason_ray.pipeline_tests.coverage import PipelineCoverage, empty_coverage
from flowmason_ray.pipeline_tests.discovery import PIPELINE_SUFFIX
from flowmason_ray.pipeline_tests.reading import SUFFIX, WrittenCases, read_cases
from flowmason_ray.pipeline_tests.results import FileResult
from flowmason_ray.spec.loader import LoadedPipeline
from flowmason_ray.wiring import Workspace, open_workspace


@dataclass(slots=True, kw_only=True)
class OpenedFile:
    """A test file that is ready to be run."""

    result: FileResult
    written: WrittenCases
    workspace: Workspace
    loaded: LoadedPipeline
    plan: Plan
    coverage: PipelineCoverage


def open_file(file: Path, coverage: dict[str, PipelineCoverage]) -> OpenedFile | FileResult:
    """Read a test file and its pipeline, and check the one against the other; say why it cannot be run if it cannot.

    Args:
        file: The test file.
        coverage: The coverage of every pipeline that was met before, by file; that of this one is added.
    """
    result = FileResult(file=str(file))
    try:
        written = read_cases(file)
        workspace = open_workspace(file)
        loaded = _find(written, file, workspace)
        result.pipeline = loaded.source.file
        plan = workspace.plan(loaded)
        problems = check_against_plan(written, plan, workspace.project.settings, loaded.pipeline.sample_input)
    except InvalidPipeline as exc:
        result.problems = exc.problems
        return result
    except InvalidComponent as exc:
        result.problems = [Problem(code=exc.code, message=exc.message, file=str(file))]
        return result
    if problems:
        result.problems = sorted(problems, key=lambda p: (p.line or 0, p.column or 0))
        return result
    name = loaded.source.file or str(file)
    key = str(Path(name).resolve())  # files may name the same pipeline in different ways
    covered = coverage.get(key)
    if covered is None:
        covered = coverage[key] = empty_coverage(plan, name, lambda pointer: _line(loaded, pointer))
    return OpenedFile(result=result, written=written, workspace=workspace, loaded=loaded, plan=plan, coverage=covered)


def _line(loaded: LoadedPipeline, pointer: str) -> int | None:
    """Return the line of a stage in the pipeline's own file; None for one that it inherits."""
    place = loaded.locate(pointer)
    return place.line if place.file == loaded.source.file else None


def _find(written: WrittenCases, file: Path, workspace: Workspace) -> LoadedPipeline:
    """Return the pipeline that a test file is about.

    Raises:
        InvalidPipeline: there is none, or it cannot be loaded.
    """
    reference = written.content.pipeline
    if reference is not None:
        try:
            return workspace.find_pipeline(reference, str(file))
        except InvalidPipeline as exc:
            raise InvalidPipeline([_at_reference(written, problem) for problem in exc.problems]) from None
    beside = file.name.removesuffix(SUFFIX) + PIPELINE_SUFFIX
    if not (file.parent / beside).is_file():
        message = f"There is no {beside!r} beside this file."
        hint = "Name the file of the pipeline under 'pipeline'."
        raise InvalidPipeline([written.problem("pipeline_not_found", message, "", hint=hint)])
    return workspace.find_pipeline(beside, str(file))


def _at_reference(written: WrittenCases, problem: Problem) -> Problem:
    if problem.code != "pipeline_not_found":
        return problem
    return written.problem(problem.code, problem.message, "/pipeline", found=problem.found, nearest=problem.nearest)
