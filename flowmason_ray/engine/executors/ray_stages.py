"""What a Ray worker keeps between calls: runs' facts, compiled stages, the items of loops; and where attempts look things up.

Compiling a stage takes about as long as a Ray call, reading a run's facts too, so both are done once per worker process.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
import ray

from flowmason_ray import telemetry
from flowmason_ray.components.base import CONTENT_ATTRIBUTE, spec_of
from flowmason_ray.components.registry import load_project_module
from flowmason_ray.engine.component import ComponentSpec
from flowmason_ray.engine.context import context_root, draw_text
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.executors.placement import REGION_LABEL
from flowmason_ray.engine.executors.ray_engine_asking import SharedEngines
from flowmason_ray.engine.executors.ray_frames import restore
from flowmason_ray.engine.executors.ray_limits import SharedLimiter
from flowmason_ray.engine.executors.ray_messages import (
    AttemptData,
    Binding,
    ComponentRef,
    StageData,
    sealed,
    unpack_stage,
    unsealed,
)
from flowmason_ray.engine.secrecy import Secret
from flowmason_ray.engine.values import Items
from flowmason_ray.errors import PermanentError, StageError
from flowmason_ray.llm.gateway import unpack as unpack_models
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.spec.expressions import Expression, StageView, parse_expression
from flowmason_ray.spec.input_schema import InputSchema
from flowmason_ray.spec.templates import Template, parse_template
from flowmason_ray.stores.blobs import environment_for, open_blobs

KEPT_STAGES = 4096
"""Compiled stages that a worker keeps: compiling one takes about as long as a Ray call."""
KEPT_VALUES = 4
"""Lists of loop items that a worker keeps, so that the iterations of a loop do not each load the whole list."""

KEPT_RUNS = 4
"""Runs whose instances a worker keeps: what an instance has gathered may be large, and is of no use to another run."""

_stages: OrderedDict[str, Work] = OrderedDict()
_instances: OrderedDict[str, dict[int, tuple[ComponentSpec, Any]]] = OrderedDict()
"""By run and component. With the components, so that no other can be where one was."""
_runs: OrderedDict[bytes, RunInfo] = OrderedDict()
_items: OrderedDict[str, Any] = OrderedDict()


def _cached(cache: OrderedDict[Any, Any], key: Any, limit: int, make: Callable[[], Any]) -> Any:
    if key in cache:
        cache.move_to_end(key)
        return cache[key]
    value = cache[key] = make()
    while len(cache) > limit:
        cache.popitem(last=False)
    return value


@dataclass(slots=True)
class Work:
    """A stage, compiled on this worker (`engine.attempt.Work`)."""

    id: str
    component: ComponentSpec | None
    template: Template
    fixed: Mapping[str, Any]
    when: Expression | None
    schema: InputSchema | None
    memory_mib: float | None
    llm: Mapping[str, Any] | None


def work_of(data: AttemptData, classes: Mapping[str, Any]) -> Work:
    """Return an attempt's stage, compiled.

    Args:
        data: The attempt.
        classes: Component classes that cannot be imported here, by name.
    """
    return _cached(_stages, data.digest, KEPT_STAGES, lambda: _compile(unpack_stage(data.stage), classes))


_ray: Any = ray
# Under this name without types: those of Ray are partly unknown.


def _compile(stage: StageData, classes: Mapping[str, Any]) -> Work:
    component = component_of(stage.component, classes) if stage.component is not None else None
    return Work(
        id=stage.id,
        component=component,
        template=parse_template(stage.template),
        fixed=stage.fixed,
        when=None if stage.when is None else parse_expression(stage.when),
        schema=None if stage.schema is None else InputSchema(stage.schema),
        memory_mib=stage.memory_mib,
        llm=stage.llm,
    )


def instance_of(component: ComponentSpec, run_id: str) -> Any:
    """Return the instance with which this worker carries out a component's attempts of a run.

    Compiled stages are the same for all runs, but what a component remembers belongs to one run, as in-process.
    """
    known = _cached(_instances, run_id, KEPT_RUNS, dict)
    found = known.get(id(component))
    if found is None:
        found = known.setdefault(id(component), (component, component.create()))  # of two threads, one has made it
    return found[1]


class ComponentChanged(PermanentError):
    """What a worker finds of a component is not what was planned."""

    code = "component_changed"


def component_of(reference: ComponentRef, classes: Mapping[str, Any]) -> ComponentSpec:
    """Return the component that is meant, imported here if it has to be.

    Raises:
        ComponentChanged: it is another one here.
        StageError: it cannot be imported here (code `not_importable`).
        InvalidComponent: the project's file cannot be imported.
    """
    if reference.name in classes:
        spec = spec_of(classes[reference.name])
        assert spec is not None, f"{reference.name!r} was sent as a component"
        return spec
    target: Any = _module_of(reference)
    for part in reference.qualname.split("."):
        target = getattr(target, part, None)
    spec = spec_of(target) if isinstance(target, type) else None
    if spec is None or spec.version != reference.version:
        where = f"{reference.module}.{reference.qualname}"
        found = f"{where} is no component here" if spec is None else f"the worker has version {spec.version!r}"
        raise ComponentChanged(
            f"Component {reference.name!r} was planned with version {reference.version!r}; {found}. Install the same packages on "
            "every node of the cluster."
        )
    return spec


def _module_of(reference: ComponentRef) -> Any:
    if reference.file is None:
        try:
            return importlib.import_module(reference.module)
        except ImportError as exc:
            raise StageError(
                f"The worker cannot import module {reference.module!r} of component {reference.name!r}: {exc}. Install the same "
                "packages on every node of the cluster.",
                code="not_importable",
            ) from exc
    # Its name tells path and content: one that is here is the one that was planned, even if the file is another by now.
    module = sys.modules.get(reference.module) or load_project_module(Path(reference.file))
    if getattr(module, CONTENT_ATTRIBUTE, None) != reference.content:
        raise ComponentChanged(
            f"{reference.file} is not the file with which component {reference.name!r} was planned: it was edited while the run "
            "went on, or the nodes of the cluster have different ones. 'fm resume RUN --pipeline FILE' goes on with what is there "
            "now; the files must be the same on every node ('fm submit' sends the project along)."
        )
    return module


class WorkerScope:
    """Resolves an attempt's roots from its bindings (`spec.expressions.Scope`)."""

    def __init__(
        self,
        data: AttemptData,
        stage_id: str,
        run: RunInfo,
        arguments: Sequence[Any],
        made: Sequence[Any],
        get: Callable[[Any], Any],
    ) -> None:
        """
        Args:
            data: The attempt.
            stage_id: The id of its stage.
            run: What is known about the run.
            arguments: What Ray has brought along with the call.
            made: The values of the attempts of this call that came before.
            get: Fetches what is behind a reference.
        """
        self._data = data
        self._stage_id = stage_id
        self._run = run
        self._arguments = arguments
        self._made = made
        self._get = get
        self._draws = 0
        self._loaded: dict[str, Any] = {}
        self.drew_time = False
        """Whether it was asked for the time."""

    def lookup(self, root: str) -> Any:
        """Return the value of a root name.

        Raises:
            KeyError: it is not defined here.
        """
        if root not in self._loaded:
            self._loaded[root] = self._load(root)
        return self._loaded[root]

    def _load(self, root: str) -> Any:
        data, bindings, run = self._data, self._data.bindings, self._run
        if root == "stages":
            return {
                name: StageView(self._value(binding), status, error)
                for name, (binding, status, error) in bindings.stages.items()
            }
        if root == "input":
            if bindings.input is None:
                raise KeyError(root)
            return self._value(bindings.input)
        if root == "vars":
            return {name: self._value(binding)[name] for name, binding in bindings.variables.items()}
        if root == "context":
            return context_root(run, self._stage_id, data.path, data.attempt)
        if root == "env":
            return run.env
        if root == "secrets":
            return run.secrets
        binding, position, wants_index = bindings.loops[root]
        items = self._items(binding)
        return items.index(position) if wants_index else items.item(position)

    def _items(self, binding: Binding) -> Items:
        if binding.source != "reference":
            return binding.of
        reference: Any = self._arguments[binding.of][0]
        return _cached(_items, reference.hex(), KEPT_VALUES, lambda: restore(self._get(reference)))

    def _value(self, binding: Binding) -> Any:
        source, of = binding
        if source == "argument":
            return restore(self._arguments[of])
        return restore(self._made[of] if source == "attempt" else of)

    def draw(self, kind: Literal["now", "today", "uuid"]) -> str:
        """Return a value that a replay sees again."""
        self._draws += 1
        self.drew_time = self.drew_time or kind != "uuid"
        return draw_text(kind, self._run.seed, self._data.path, self._data.first_started_at, self._draws)


def pack_run(run: RunInfo, engines: str | None) -> bytes:
    """Return a run's facts, its input excepted, for workers. `engines`: the keeper of those that they share."""
    facts = orjson.dumps(
        {
            "run_id": run.run_id,
            "pipeline": run.pipeline,
            "version": run.version,
            "started_at": run.started_at,
            "seed": run.seed,
            "project_dir": str(run.project_dir),
            "settings": None if run.settings is None else run.settings.model_dump(mode="json"),
            "env": dict(run.env),
            "secrets": {name: secret.reveal() for name, secret in run.secrets.items()},
            "keys": {name: key.reveal() for name, key in run.keys.items()},
            "models": None if run.models is None else run.models.packed(),
            "engines": engines,
            "streams": run.streams,
            "region": run.region,
            "blobs": None if run.blobs is None else run.blobs.address,
            "fingerprints": run.fingerprints,
            "listens": run.listens,
            "trace": run.trace,
            "environment": {
                **({} if run.trace is None else telemetry.environment()),
                **({} if run.blobs is None else environment_for(run.blobs.address)),
            },
        }
    )
    return sealed(facts)


def run_of(packed: bytes) -> RunInfo:
    """Return a run's facts from what `pack_run` made of them.

    Raises:
        VersionMismatch: another version made it.
    """
    return _cached(_runs, packed, KEPT_VALUES, lambda: _unpack_run(packed))


def _unpack_run(packed: bytes) -> RunInfo:
    facts = orjson.loads(unsealed(packed, "driver"))
    for name, value in facts.pop("environment").items():
        os.environ.setdefault(name, value)  # what this node was told itself comes first
    facts["project_dir"] = Path(facts["project_dir"])
    facts["settings"] = None if facts["settings"] is None else ProjectSettings.model_validate(facts["settings"])
    facts["secrets"] = {name: Secret(value) for name, value in facts["secrets"].items()}
    facts["keys"] = {name: Secret(value) for name, value in facts["keys"].items()}
    engines = facts.pop("engines")
    wait_s = 0.0 if facts["settings"] is None else facts["settings"].ray.wait_for_resources_s
    if facts["models"] is not None:
        facts["models"] = unpack_models(
            facts["models"],
            facts["keys"],
            shared_limits=SharedLimiter,
            shared_engines=None if engines is None else SharedEngines(engines, wait_s),
        )
    facts["blobs"] = None if facts["blobs"] is None else open_blobs(facts["blobs"])
    facts["region"] = _region() or facts["region"]
    return RunInfo(**facts)


def _region() -> str | None:
    """Return the region of the node that this worker runs on."""
    labels: dict[str, str] = _ray.get_runtime_context().get_node_labels()
    return labels.get(REGION_LABEL)
