"""What FlowMason offers to MCP clients: the project's pipelines as tools, and looking at them and at their runs.

This module knows no protocol: a tool is a name with a schema, a call returns a JSON document. Paths in calls come from a model
and are jailed to the project. What cannot be done is an answer with the same error document that `--json` prints.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowmason_ray.errors import FlowMasonError, InvalidCall, InvalidInput, InvalidPipeline, Problem, nearest

if TYPE_CHECKING:
    from flowmason_ray.api import PreparedRun, RunResult
    from flowmason_ray.engine.events import Event
    from flowmason_ray.spec.loader import LoadedPipeline

MAX_PIPELINE_TOOLS = 100
"""More tools than this confuse whoever has to choose; the rest is run by `run_pipeline`."""
MAX_PATHS = 2000
"""Pipeline files that are looked at."""

Progress = Callable[[int], None]
"""Is told how many stages have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """A tool."""

    name: str
    title: str
    description: str
    input_schema: Mapping[str, Any]
    read_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What a call comes to."""

    document: Mapping[str, Any]
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A pipeline of the project."""

    file: Path
    path: str
    loaded: LoadedPipeline


@dataclass(slots=True, kw_only=True)
class ProjectTools:
    """The tools of one project."""

    root: Path
    on: str | None = None
    """Where pipelines run; None: as `fm run` decides."""
    store: bool = True
    """Whether runs are recorded."""
    read_only: bool = False
    """Whether pipelines are only looked at, and none is run."""
    broken: dict[str, str] = field(default_factory=dict[str, str])
    """Pipelines that could not be read at the last look: path → why."""
    _under_way: set[asyncio.Task[RunResult]] = field(default_factory=set["asyncio.Task[RunResult]"])

    def offered(self) -> list[Offered]:
        """Return all tools; the project's files are read anew."""
        tools = [each for each in _GENERAL if each.read_only or not self.read_only]
        if not self.read_only:
            tools += [_offer(name, found) for name, found in self._runnable().items()]
        return tools

    def schema_of(self, tool: str) -> Mapping[str, Any] | None:
        """Return the schema of a tool's arguments; None when there is no such tool."""
        return next((each.input_schema for each in self.offered() if each.name == tool), None)

    async def finish(self) -> None:
        """Wait until the runs whose callers have gone have ended."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def call(self, tool: str, arguments: Mapping[str, Any], progress: Progress | None = None) -> Answered:
        """Call a tool. What goes wrong is an answer, too."""
        from flowmason_ray.cli.errors import error_document

        try:
            return await self._call(tool, arguments, progress)
        except FlowMasonError as exc:
            return Answered(document=self._placed(error_document(exc)), is_error=True)

    async def _call(self, tool: str, arguments: Mapping[str, Any], progress: Progress | None) -> Answered:
        general = next((each for each in _GENERAL if each.name == tool), None)
        if general is not None and (general.read_only or not self.read_only):
            _check(general, arguments)
            return await getattr(self, f"_{tool}")(dict(arguments), progress)
        runnable = {} if self.read_only else await asyncio.to_thread(self._runnable)
        if tool not in runnable:
            names = [each.name for each in await asyncio.to_thread(self.offered)]
            near = nearest(tool, names)
            raise InvalidCall(f"There is no tool {tool!r}.{f' Did you mean {near!r}?' if near else ''}")
        return await self._run(runnable[tool].loaded, arguments, progress)

    # -- looking -------------------------------------------------------------------------------------------------------

    async def _list_pipelines(self, arguments: dict[str, Any], progress: Progress | None) -> Answered:
        found = await asyncio.to_thread(self._found)
        tools = {each.path: name for name, each in _named(found).items()}
        pipelines = [
            {
                "pipeline": each.path,
                "name": each.loaded.pipeline.name,
                "version": each.loaded.pipeline.version,
                "description": each.loaded.pipeline.description,
                "abstract": each.loaded.pipeline.abstract,
                "input_schema": each.loaded.pipeline.input_schema,
                **({"tool": tools[each.path]} if each.path in tools and not self.read_only else {}),
            }
            for each in found
        ]
        broken = [{"pipeline": path, "problem": why} for path, why in self.broken.items()]
        return Answered(document={"pipelines": pipelines, "broken": broken})

    async def _validate_pipeline(self, arguments: dict[str, Any], progress: Progress | None) -> Answered:
        from flowmason_ray.api import validate

        file = self._file(arguments["pipeline"])
        problems = await asyncio.to_thread(validate, file)
        ok = not any(problem.severity == "error" for problem in problems)
        return Answered(document=self._placed({"ok": ok, "problems": [problem.to_json() for problem in problems]}))

    async def _list_runs(self, arguments: dict[str, Any], progress: Progress | None) -> Answered:
        from flowmason_ray.cli.runs_commands import record_json, store_of

        store = await asyncio.to_thread(store_of, str(self.root))
        records = await store.list_runs(
            limit=arguments.get("limit", 20), status=arguments.get("status"), pipeline=arguments.get("pipeline")
        )
        return Answered(document={"runs": [record_json(record) for record in records]})

    async def _show_run(self, arguments: dict[str, Any], progress: Progress | None) -> Answered:
        from flowmason_ray.cli.run_page import read_run, run_document
        from flowmason_ray.cli.runs_commands import store_of

        store = await asyncio.to_thread(store_of, str(self.root))
        return Answered(document=run_document(await read_run(store, arguments["run"])))

    # -- running -------------------------------------------------------------------------------------------------------

    async def _run_pipeline(self, arguments: dict[str, Any], progress: Progress | None) -> Answered:
        from flowmason_ray.wiring import load

        loaded = await asyncio.to_thread(load, self._file(arguments["pipeline"]))
        return await self._run(loaded, arguments.get("input", {}), progress)

    async def _run(self, loaded: LoadedPipeline, value: Mapping[str, Any], progress: Progress | None) -> Answered:
        prepared = await asyncio.to_thread(self._prepared, loaded, value, progress)
        task = asyncio.create_task(prepared.run())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            # Apart from the caller's task: the protocol's library cancels again and again, which a run that is putting
            # its end on record would not survive.
            result = await asyncio.shield(task)
        except asyncio.CancelledError:
            prepared.cancel("The client cancelled the call.")
            raise
        document = result.to_json()
        document["stages"] = {path: summary.status for path, summary in result.stages.items()}
        return Answered(document=document, is_error=result.status != "succeeded")

    def _prepared(self, loaded: LoadedPipeline, value: Mapping[str, Any], progress: Progress | None) -> PreparedRun:
        from flowmason_ray.api import PreparedRun
        from flowmason_ray.wiring import choose_executor, open_workspace

        workspace = open_workspace(Path(loaded.source.file or self.root))
        return PreparedRun(
            loaded,
            value,
            workspace=workspace,
            on=choose_executor(self.on),
            store=workspace.store() if self.store else None,
            observers=() if progress is None else (_Counting(progress),),
        )

    # -- the project's files -------------------------------------------------------------------------------------------

    def _file(self, path: str) -> Path:
        """Return a pipeline of the project. Any other file is refused unread: what is said about it would quote it."""
        from flowmason_ray.cli.pipeline_files import SUFFIX, is_found
        from flowmason_ray.components.files import existing_file, resolve_inside
        from flowmason_ray.errors import PermanentError

        try:
            if not is_found(self.root.resolve(), resolve_inside(self.root, path, reading=True)):
                raise InvalidCall(f"{path!r} is no pipeline of the project: '*{SUFFIX}', in no hidden directory.")
            return existing_file(self.root, path)
        except PermanentError as exc:
            raise InvalidCall(exc.message) from exc

    def _placed(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return the document with the files of its problems relative to the project; quotes from other files go."""
        for problem in document.get("problems", ()):
            file = problem.get("file")
            if file is None:
                continue
            place = Path(file)
            inside = place.is_relative_to(self.root)
            problem["file"] = place.relative_to(self.root).as_posix() if inside else place.name
            if not inside or not place.name.endswith(".pipeline.json"):
                problem.pop("excerpt", None)
        return document

    def _found(self) -> list[_Found]:
        """Return the project's pipelines, in the order of their paths; note those that cannot be read."""
        from flowmason_ray.cli.pipeline_files import find_pipelines, is_found
        from flowmason_ray.wiring import load

        try:
            root = self.root.resolve()
            # What only looks like a pipeline and is a link to another file is none.
            files = [each for each in find_pipelines([str(self.root)])[:MAX_PATHS] if is_found(root, each.resolve())]
        except InvalidCall:  # there is none
            files = []
        found: list[_Found] = []
        self.broken = {}
        for file in files:
            path = file.relative_to(self.root).as_posix()
            try:
                loaded = load(file)
                _check_input_schema(loaded)
            except InvalidPipeline as exc:
                self.broken[path] = exc.message.replace(f"{self.root}/", "")
            else:
                found.append(_Found(file=file, path=path, loaded=loaded))
        return found

    def _runnable(self) -> dict[str, _Found]:
        return _named(self._found())


class _Counting:
    """Counts the stages that have ended, as an observer of a run."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._ended = 0

    def __call__(self, event: Event) -> None:
        from flowmason_ray.engine.events import StageReused, StageSkipped, StageSucceeded

        if isinstance(event, StageSucceeded | StageSkipped | StageReused):
            self._ended += 1
            self._progress(self._ended)


def _check_input_schema(loaded: LoadedPipeline) -> None:
    """Refuse a pipeline that no plan can be made of because of its input's schema: clients would be given that schema.

    What a pipeline adds to those that it inherits from is no schema by itself, and may refer to theirs.

    Raises:
        InvalidPipeline: with what is wrong.
    """
    from flowmason_ray.spec.schema_checks import check_schema

    if loaded.pipeline.abstract or loaded.pipeline.extends or loaded.pipeline.compositions:
        return
    problems = [
        replace(each, path=f"/input_schema{each.path}", message=f"/input_schema{each.path}: {each.message}")
        for each in check_schema(loaded.pipeline.input_schema or {})
        if each.severity == "error"
    ]
    if problems:
        raise InvalidPipeline(problems)


def _named(found: list[_Found]) -> dict[str, _Found]:
    """Return the pipelines that can be run, by the name of their tool."""
    tools: dict[str, _Found] = {}
    for each in found:
        if each.loaded.pipeline.abstract or len(tools) >= MAX_PIPELINE_TOOLS:
            continue
        words = re.sub(r"[^a-z0-9]+", "_", each.loaded.pipeline.name.lower()).strip("_") or "pipeline"
        name = base = f"run_{words}"[:56]
        number = 1
        while name in tools or any(name == general.name for general in _GENERAL):
            number += 1
            name = f"{base}_{number}"
        tools[name] = each
    return tools


def _offer(name: str, found: _Found) -> Offered:
    pipeline = found.loaded.pipeline
    said = (pipeline.description or f"Runs the pipeline {pipeline.name!r}.").strip()
    schema = dict(pipeline.input_schema or {})
    return Offered(
        name=name,
        title=pipeline.name,
        description=f"{said}\n\nRuns {found.path} (version {pipeline.version}) and returns its output.",
        input_schema={**schema, "type": "object"},
    )


def _check(tool: Offered, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that miss a tool's schema.

    Raises:
        InvalidInput: with every problem.
    """
    from jsonschema import Draft202012Validator

    validator: Any = Draft202012Validator(dict(tool.input_schema))
    problems = [
        Problem(code="invalid_input", message=f"{error.message}.", path="".join(f"/{p}" for p in error.absolute_path))
        for error in validator.iter_errors(dict(arguments))
    ]
    if problems:
        raise InvalidInput(problems)


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_PIPELINE = {"type": "string", "description": "The pipeline's file, as list_pipelines names it."}
_GENERAL: tuple[Offered, ...] = (
    Offered(
        name="list_pipelines",
        title="List pipelines",
        description="Lists the project's pipelines: file, name, version, description, and the schema of their input.",
        input_schema=_object(),
        read_only=True,
    ),
    Offered(
        name="validate_pipeline",
        title="Validate a pipeline",
        description="Checks a pipeline without running it; returns every problem with its place and what to do.",
        input_schema=_object(("pipeline",), pipeline=_PIPELINE),
        read_only=True,
    ),
    Offered(
        name="run_pipeline",
        title="Run a pipeline",
        description="Runs a pipeline and returns its output, status and run id. What it does depends on the pipeline.",
        input_schema=_object(
            ("pipeline",),
            pipeline=_PIPELINE,
            input={"type": "object", "description": "The input; must fit the pipeline's input_schema."},
        ),
    ),
    Offered(
        name="list_runs",
        title="List runs",
        description="Lists recorded runs, the newest first.",
        input_schema=_object(
            limit={"type": "integer", "minimum": 1, "maximum": 200, "default": 20},
            status={"enum": ["running", "paused", "succeeded", "failed", "cancelled", "interrupted"]},
            pipeline={"type": "string", "description": "Only runs of the pipeline of this name."},
        ),
        read_only=True,
    ),
    Offered(
        name="show_run",
        title="Show a run",
        description="Shows how a run ended: status, output or error, usage, and every stage.",
        input_schema=_object(
            ("run",), run={"type": "string", "description": "A run id, the beginning of one, or 'last'."}
        ),
        read_only=True,
    ),
)
