"""The composition root: from a file, settings and a wish (`on`) to a plan, an executor and stores, by plain constructor calls.

Everything concrete is chosen here and nowhere else.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from flowmason_ray import telemetry
from flowmason_ray.components.connection_names import misnamed
from flowmason_ray.components.prompting import PromptLibrary
from flowmason_ray.components.registry import Registry
from flowmason_ray.connections import secrets_of, with_environment
from flowmason_ray.engine.context import read_environment
from flowmason_ray.engine.executor import Executor, RunInfo
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.planning import try_plan
from flowmason_ray.engine.secrecy import Secret
from flowmason_ray.errors import InvalidCall, InvalidPipeline, MissingExtra, Problem
from flowmason_ray.ids import RunId, new_run_id
from flowmason_ray.llm.choosing import Choices, choices_of, key_variables
from flowmason_ray.llm.lazy import LazyModels
from flowmason_ray.settings import Project, find_project
from flowmason_ray.spec.library import Library
from flowmason_ray.spec.loader import LoadedPipeline, load_pipeline_data, load_pipeline_file

if TYPE_CHECKING:
    from flowmason_ray.engine.run_log import RunStore
    from flowmason_ray.engine.runner import Observer

EXECUTORS = ("local", "ray")
"""What `on` may say."""

ABSTRACT = frozenset({"abstract_pipeline", "unfilled_slot", "no_stages"})
"""Codes of what keeps an abstract pipeline from being run, and is as it should be."""


@dataclass(frozen=True, kw_only=True)  # no slots: it keeps what it has read of the environment
class Workspace:
    """A project with its components: where pipelines are planned and run."""

    project: Project
    registry: Registry

    def plan(self, loaded: LoadedPipeline) -> Plan:
        """Compile a pipeline.

        Raises:
            InvalidPipeline: it cannot be run.
        """
        return self.plan_with_warnings(loaded)[0]

    def plan_with_warnings(self, loaded: LoadedPipeline) -> tuple[Plan, list[Problem]]:
        """Compile a pipeline; return the plan, and what does not keep it from running but is worth knowing.

        Raises:
            InvalidPipeline: it cannot be run.
        """
        library = library_of(self.project)
        loaded, plan, problems = self._try_plan(loaded, library)
        if plan is None:
            raise InvalidPipeline([p for p in problems if p.severity == "error"])
        return plan, [*loaded.warnings, *problems, *library.unlocked()]

    def check(self, loaded: LoadedPipeline) -> list[Problem]:
        """Return every problem of a pipeline, warnings included.

        An abstract pipeline is there to be extended: that it cannot be run itself, and has slots to be filled, is no problem.
        """
        library = library_of(self.project)
        try:
            loaded, _, problems = self._try_plan(loaded, library)
        except InvalidPipeline as exc:
            return list(exc.problems)
        if loaded.pipeline.abstract:
            problems = [p for p in problems if p.code not in ABSTRACT]
        return [*loaded.warnings, *problems, *library.unlocked()]

    def _try_plan(self, loaded: LoadedPipeline, library: Library) -> tuple[LoadedPipeline, Plan | None, list[Problem]]:
        settings = self.project.settings
        loaded = library.resolve(loaded)
        plan, problems = try_plan(
            loaded,
            self.registry,
            env=settings.env_allow,
            secrets=settings.secrets,
            pipelines=library,
            datasets={name: dataset.path for name, dataset in settings.datasets.items()},
            models=self.choices.settle,
            prompts=PromptLibrary(self.project.root).choose,
            configured=partial(misnamed, settings),
        )
        return loaded, plan, problems

    def find_pipeline(self, reference: str, from_file: str | None) -> LoadedPipeline:
        """Return the pipeline that something else than a pipeline names, a test file for example; no lock holds for that.

        Raises:
            InvalidPipeline: there is none (code `pipeline_not_found`), or it cannot be loaded.
        """
        return library_of(self.project, locked=False)(reference, from_file)

    @cached_property
    def choices(self) -> Choices:
        """The model providers of the project and the environment."""
        return choices_of(self.project.settings, os.environ)

    def run_info(
        self,
        plan: Plan,
        input: Any,
        *,
        run_id: RunId | None = None,
        seed: int | None = None,
        budget: Mapping[str, Any] | None = None,
        streams: bool = False,
    ) -> RunInfo:
        """Return what executors and attempts know about a new run.

        `budget`: what it may spend on models (`engine.usage.Budget`). `streams`: somebody wants to see texts as they grow.
        """
        settings = self.project.settings
        ray = settings.ray.in_environment(os.environ)
        secrets_by_name = {**read_environment(settings.secrets), **secrets_of(settings.reachable, os.environ)}
        keys = provider_keys(self.choices)
        return RunInfo(
            run_id=run_id or new_run_id(),
            pipeline=plan.name,
            version=plan.version,
            started_at=time(),
            seed=secrets.randbits(63) if seed is None else seed,
            input=input,
            project_dir=self.project.root,
            settings=settings.model_copy(
                update={
                    "ray": ray,
                    "connections": with_environment(settings.connections, os.environ),
                    "mcp_servers": with_environment(settings.mcp_servers, os.environ),
                }
            ),
            env=read_environment(settings.env_allow),
            secrets={name: Secret(value) for name, value in secrets_by_name.items()},
            region=ray.region,
            keys=keys,
            models=LazyModels(self.choices, keys, self.project.root, budget=budget),
            budget=budget or None,
            streams=streams,
        )

    def store(self) -> RunStore:
        """Return the project's run log, with its blobs.

        Raises:
            StoreError: the address is none that we know.
            MissingExtra: what it needs is not installed.
        """
        from flowmason_ray.stores.opening import project_store

        return project_store(self.project)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorOptions:
    """What can be said about the executor beside its name."""

    ray_address: str | None = None
    num_cpus: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


def open_workspace(start: Path, *, components: Sequence[type] = ()) -> Workspace:
    """Return the project around `start`, a pipeline file or a directory, with `components` registered besides its own."""
    project = find_project(start)
    registry = Registry([project.root / folder for folder in project.settings.components])
    for component in components:
        registry.add(component)
    return Workspace(project=project, registry=registry)


def provider_keys(choices: Choices) -> dict[str, Secret]:
    """Return the keys of all providers that the environment holds, by the name of the variable."""
    return {name: Secret(value) for name, value in read_environment(key_variables(choices.providers)).items()}


def library_of(project: Project, *, locked: bool = True) -> Library:
    """Return the pipelines of a project; with `locked`, only what its lock pins."""
    folders = [project.root / folder for folder in project.settings.pipeline_dirs]
    return Library(root=project.root, folders=folders, locked=locked)


def load(source: Path | str | Mapping[str, Any]) -> LoadedPipeline:
    """Load a pipeline from a file, or from the data that such a file holds, put together with all that it extends.

    Raises:
        InvalidPipeline: it or a pipeline that it extends cannot be loaded; every problem is listed.
    """
    loaded = load_pipeline_data(source) if isinstance(source, Mapping) else load_pipeline_file(Path(source))
    if not loaded.pipeline.extends and not loaded.pipeline.overrides:
        return loaded
    file = loaded.source.file
    library = library_of(find_project(Path(file) if file else Path.cwd()))
    resolved = library.resolve(loaded)
    return replace(resolved, warnings=(*resolved.warnings, *library.unlocked()))


def choose_executor(on: str | None) -> str:
    """Return where to run: what was asked for, else Ray when `RAY_ADDRESS` is set, else this process.

    Raises:
        InvalidCall: there is no such executor.
    """
    chosen = on or ("ray" if os.environ.get("RAY_ADDRESS") else "local")
    if chosen not in EXECUTORS:
        raise InvalidCall(f"Cannot run on {chosen!r}; there is: {', '.join(EXECUTORS)}.")
    return chosen


def make_executor(on: str, options: ExecutorOptions | None = None) -> Executor:
    """Make the executor called `on` (`choose_executor`).

    Raises:
        MissingExtra: what it needs is not installed.
    """
    if on == "ray":
        from flowmason_ray.engine.executors.ray_token import protect

        address = options.ray_address if options else None
        protect(address)
        try:
            from flowmason_ray.engine.executors.ray_tasks import RayTasksExecutor
        except ModuleNotFoundError as exc:
            if (exc.name or "").partition(".")[0] != "ray":
                raise
            raise MissingExtra(feature="Running on Ray", extra="ray", module="ray") from exc
        return RayTasksExecutor(address=address)
    from flowmason_ray.engine.executors.in_process import InProcessExecutor

    return InProcessExecutor()


def make_observers(
    plan: Plan, run: RunInfo, on: str, *, options: ExecutorOptions | None, parent: str | None, closing: ExitStack
) -> list[Observer]:
    """Make what lets monitoring see a run: nothing, unless that was asked for.

    Args:
        plan: What is run.
        run: The run.
        on: Where it runs (`choose_executor`).
        options: More about the executor.
        parent: The traceparent of the span that it lies in, if there is one.
        closing: Ends them, however the run ends.
    """
    observers: list[Observer] = []
    tracing = telemetry.tracing() if run.trace is not None else None
    if tracing is not None:
        from flowmason_ray.observing.spans import Spans

        observers.append(Spans(tracing, plan, run, parent=parent))
    if on == "ray" and _outlives_us(options):
        from flowmason_ray.observing.ray_metrics import RayMetrics

        counting = RayMetrics(plan)
        closing.callback(counting.close)
        observers.append(counting)
    return observers


def _outlives_us(options: ExecutorOptions | None) -> bool:
    """Tell whether the Ray cluster of a run was there before this process: nobody scrapes one that ends with it."""
    if os.environ.get("RAY_ADDRESS") or (options is not None and options.ray_address):
        return True
    if "ray" not in sys.modules:  # then it is not connected either
        return False
    from flowmason_ray.observing.ray_metrics import is_joined

    return is_joined()
