"""The `Context` of an attempt, and the scope in which its templates are rendered, over values in this process.

Draws (time, identifiers, randomness) are derived from the run's seed, the stage's path and a counter, and from the time at
which the stage was first started: all of that is in the run log, so a replay draws the same without recording each draw.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from time import time
from typing import Any, Literal
from uuid import UUID

from flowmason_ray.connections import C, resolved
from flowmason_ray.engine.events import Event, StageLogged, StageProgressed, StageStreamed
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.kept import member_of, read_value
from flowmason_ray.engine.models import AttemptModels, Models, ModelSource
from flowmason_ray.engine.plan import PlanStage
from flowmason_ray.engine.scope import WORDS, Scope
from flowmason_ray.engine.secrecy import Masking
from flowmason_ray.engine.streaming import LiveText
from flowmason_ray.errors import PermanentError
from flowmason_ray.spec.expressions import StageView


def draw_bytes(seed: int, path: str, stream: str, number: int) -> bytes:
    """Return 32 bytes that only depend on the arguments."""
    return sha256(f"{seed}\0{path}\0{stream}\0{number}".encode()).digest()


def idempotency_key(run_id: str, path: str) -> str:
    """Return the key of a stage instance: 32 hexadecimal digits, the same for all its attempts."""
    return sha256(f"{run_id}\0{path}".encode()).hexdigest()[:32]


class AttemptContext:
    """What an attempt may know and do besides its input (`engine.component.Context`)."""

    def __init__(
        self,
        run: RunInfo,
        *,
        stage_id: str,
        path: str,
        attempt: int,
        first_started_at: float,
        tell: Callable[[Event], None],
        key: str | None = None,
        llm: Mapping[str, Any] | None = None,
    ) -> None:
        self._run = run
        self._llm = llm
        self._asked: AttemptModels | None = None
        self._live = LiveText(self._show, Masking(run.hidden)) if run.streams else None
        self._first_started_at = first_started_at
        self._tell = tell
        self._key = key
        self._draws = 0
        self.drew_time = False
        """Whether the component asked for the time at which the stage was started."""
        self.stage_id = stage_id
        self.path = path
        self.attempt = attempt

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run.run_id

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        return self._run.pipeline

    @property
    def version(self) -> str:
        """The pipeline's version."""
        return self._run.version

    @property
    def started_at(self) -> datetime:
        """When the run started (UTC)."""
        return datetime.fromtimestamp(self._run.started_at, UTC)

    @property
    def region(self) -> str | None:
        """The region in which the attempt runs."""
        return self._run.region

    @property
    def project_dir(self) -> Path:
        """The project's root."""
        return self._run.project_dir

    @property
    def settings(self) -> Any:
        """The project's settings."""
        return self._run.settings

    def connection(self, name: str, wanted: type[C] | tuple[type[C], ...]) -> C:
        """A connection of the project, with its secrets."""
        secrets = {key: secret.reveal() for key, secret in self._run.secrets.items()}
        settings = self._run.settings
        return resolved({} if settings is None else settings.reachable, name, secrets, wanted=wanted)

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this stage instance, and for no other."""
        if self._key is None:
            self._key = idempotency_key(self._run.run_id, self.path)
        return self._key

    def now(self) -> datetime:
        """When this stage instance was first started (UTC)."""
        self.drew_time = True
        return datetime.fromtimestamp(self._first_started_at, UTC)

    def uuid(self) -> UUID:
        """A new identifier on every call."""
        return UUID(bytes=self._draw("uuid")[:16], version=4)

    def random(self) -> float:
        """A number in [0, 1) on every call."""
        return int.from_bytes(self._draw("random")[:7]) / 2**56

    def _draw(self, stream: str) -> bytes:
        self._draws += 1
        return draw_bytes(self._run.seed, self.path, stream, self._draws)

    def log(self, level: Literal["debug", "info", "warning", "error"], message: str, **fields: Any) -> None:
        """Say something to whoever follows the run."""
        self._tell(
            StageLogged(at=time(), path=self.path, attempt=self.attempt, level=level, message=message, fields=fields)
        )

    def progress(self, done: float, total: float | None = None) -> None:
        """Report how far this attempt is."""
        self._tell(StageProgressed(at=time(), path=self.path, done=done, total=total))

    def masked(self, text: str) -> str:
        """Return a text with the run's secrets hidden."""
        return Masking(self._run.hidden).text(text)

    def stream(self, text: str) -> None:
        """Show more of a growing text."""
        if self._live is not None and text:
            self._live.add(text)

    @property
    def watched(self) -> bool:
        """Whether somebody wants to see texts as they grow."""
        return self._live is not None

    def _show(self, text: str) -> None:
        self._tell(StageStreamed(at=time(), path=self.path, attempt=self.attempt, text=text))

    @property
    def models(self) -> Models:
        """The models.

        Raises:
            PermanentError: whoever runs this has made no way to models.
        """
        if self._asked is None:
            source: ModelSource | None = self._run.models
            if source is None:
                raise PermanentError("This run was started without model providers.", code="provider_not_configured")
            self._asked = source.for_attempt(self, self._llm)
        return self._asked

    def close(self) -> dict[str, Any] | None:
        """Show what has not been shown yet; return what the attempt has used of models."""
        if self._live is not None:
            self._live.flush()
        return None if self._asked is None else self._asked.usage()


class InstanceContext:
    """What the setup of a component's instance may know and do (`engine.component.SetupContext`)."""

    def __init__(self, run: RunInfo, path: str, tell: Callable[[Event], None]) -> None:
        """`path` is that of the attempt which the instance is made for: what it says is shown there."""
        self._run = run
        self._path = path
        self._tell = tell

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run.run_id

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        return self._run.pipeline

    @property
    def region(self) -> str | None:
        """The region in which the instance is."""
        return self._run.region

    @property
    def project_dir(self) -> Path:
        """The project's root."""
        return self._run.project_dir

    @property
    def settings(self) -> Any:
        """The project's settings."""
        return self._run.settings

    def log(self, level: Literal["debug", "info", "warning", "error"], message: str, **fields: Any) -> None:
        """Say something to whoever follows the run."""
        self._tell(StageLogged(at=time(), path=self._path, level=level, message=message, fields=fields))


class _Stages:
    """`stages` in a template: looks an id up among the targets that the plan resolved."""

    __slots__ = ("_scope", "_stage")

    def __init__(self, scope: Scope, stage: PlanStage) -> None:
        self._scope = scope
        self._stage = stage

    def __getitem__(self, stage_id: str) -> StageView:
        target = self._stage.targets[stage_id]
        scope = self._scope
        if target.levels:
            scope, _ = scope.at(target)
        index = target.index
        failure = scope.failures.get(index) if scope.failures else None
        return StageView(
            read_value(scope.values[index]), WORDS[scope.status[index]], None if failure is None else failure.to_json()
        )


class LocalScope:
    """Resolves the roots of an attempt's templates when all values are in this process (`spec.expressions.Scope`)."""

    __slots__ = ("_attempt", "_draws", "_first_started_at", "_path", "_run", "_scope", "_stage")

    def __init__(
        self, run: RunInfo, scope: Scope, stage: PlanStage, path: str, attempt: int, first_started_at: float
    ) -> None:
        self._run = run
        self._scope = scope
        self._stage = stage
        self._path = path
        self._attempt = attempt
        self._first_started_at = first_started_at
        self._draws = 0

    def lookup(self, root: str) -> Any:
        """Return the value of a root name.

        Raises:
            KeyError: it is not defined here.
        """
        if root == "stages":
            return _Stages(self._scope, self._stage)
        if root == "input":
            return read_value(self._scope.input)
        if root == "vars":
            return _variables(self._scope)
        if root == "context":
            return context_root(self._run, self._stage.id, self._path, self._attempt)
        if root == "env":
            return self._run.env
        if root == "secrets":
            return self._run.secrets
        return loop_variable(self._scope, root)

    def draw(self, kind: Literal["now", "today", "uuid"]) -> str:
        """Return a value that a replay sees again."""
        self._draws += 1
        return draw_text(kind, self._run.seed, self._path, self._first_started_at, self._draws)


def draw_text(kind: Literal["now", "today", "uuid"], seed: int, path: str, first_started_at: float, number: int) -> str:
    """Return what `now()`, `today()` or `uuid()` in a template says."""
    if kind == "uuid":
        return str(UUID(bytes=draw_bytes(seed, path, "template", number)[:16], version=4))
    now = datetime.fromtimestamp(first_started_at, UTC)
    return now.date().isoformat() if kind == "today" else now.isoformat()


def context_root(run: RunInfo, stage_id: str, path: str, attempt: int) -> dict[str, Any]:
    """Return what `context` holds in templates."""
    return {
        "run_id": run.run_id,
        "pipeline": run.pipeline,
        "version": run.version,
        "stage_id": stage_id,
        "path": path,
        "attempt": attempt,
        "started_at": datetime.fromtimestamp(run.started_at, UTC).isoformat(),
        "region": run.region,
    }


def loop_variable(scope: Scope, name: str) -> Any:
    """Return the value of a loop variable here or further out.

    Raises:
        KeyError: no enclosing loop has it.
    """
    around: Scope | None = scope
    while around is not None:
        variables = around.plan.variables
        if name in variables:
            return around.items.item(around.position) if name == variables[0] else around.items.index(around.position)
        around = None if around.plan.isolated else around.parent
    raise KeyError(name)


def visible_variables(scope: Scope) -> dict[str, Any]:
    """Return the handles of all variables that are visible: name → handle of the output of the stage that set it."""
    chain: list[Scope] = []
    around: Scope | None = scope
    while around is not None:
        chain.append(around)
        around = None if around.plan.isolated else around.parent
    merged: dict[str, Any] = {}
    for each in reversed(chain):
        merged.update(each.variables or {})
    return merged


def _variables(scope: Scope) -> Mapping[str, Any]:
    return {name: member_of(handle, name) for name, handle in visible_variables(scope).items()}


def read_environment(names: list[str]) -> dict[str, str]:
    """Return those of the named environment variables that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}
