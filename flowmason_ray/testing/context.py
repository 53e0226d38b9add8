"""A `Context` for testing a component by itself: fixed identity and time, and everything the component says is collected.

context = RecordingContext(project_dir=tmp_path)
output = WordCount().execute(WordCount.Input(text="a b"), context)
assert context.messages("warning") == []
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Literal
from uuid import UUID

from flowmason_ray.connections import C, resolved, secrets_of, with_environment
from flowmason_ray.engine.models import AttemptModels
from flowmason_ray.engine.secrecy import Masking
from flowmason_ray.llm.choosing import choices_of
from flowmason_ray.llm.gateway import Gateway
from flowmason_ray.settings import HttpSettings, ProjectSettings
from flowmason_ray.wiring import provider_keys

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """One thing that a component said through `context.log`."""

    level: Level
    message: str
    fields: dict[str, Any]


@dataclass(kw_only=True)
class RecordingContext:
    """Implements `engine.component.Context`; time stands still, and draws repeat from `seed`."""

    run_id: str = "r_test"
    pipeline: str = "test"
    version: str = "1.0.0"
    stage_id: str = "stage"
    path: str = "stage"
    attempt: int = 1
    started_at: datetime = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    region: str | None = None
    idempotency_key: str = "key-1"
    project_dir: Path = field(default_factory=Path.cwd)
    settings: ProjectSettings = field(default_factory=ProjectSettings)
    seed: int = 0
    llm_settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the stage says about models; the rest comes from `settings`."""
    streamed: list[str] = field(default_factory=list[str])
    watched: bool = True
    logs: list[LogLine] = field(default_factory=list[LogLine])
    progressed: list[tuple[float, float | None]] = field(default_factory=list[tuple[float, float | None]])
    _random: Random = field(init=False)
    _models: AttemptModels | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)

    def connection(self, name: str, wanted: type[C] | tuple[type[C], ...]) -> C:
        """Return a connection of `settings`, its secrets from the environment."""
        connections = with_environment(self.settings.reachable, os.environ)
        return resolved(connections, name, secrets_of(connections, os.environ), wanted=wanted)

    def now(self) -> datetime:
        """Return the time at which the run started."""
        return self.started_at

    def uuid(self) -> UUID:
        """Return the next identifier of the seeded sequence."""
        return UUID(int=self._random.getrandbits(128), version=4)

    def random(self) -> float:
        """Return the next number of the seeded sequence."""
        return self._random.random()

    def log(self, level: Level, message: str, **fields: Any) -> None:
        """Collect the line in `logs`."""
        self.logs.append(LogLine(level=level, message=message, fields=fields))

    def progress(self, done: float, total: float | None = None) -> None:
        """Collect the step in `progressed`."""
        self.progressed.append((done, total))

    def masked(self, text: str) -> str:
        """Return a text with the secrets of the connections in `settings` hidden."""
        return Masking(secrets_of(self.settings.connections, os.environ).values()).text(text)

    def stream(self, text: str) -> None:
        """Collect the text in `streamed`."""
        self.streamed.append(text)

    @property
    def models(self) -> AttemptModels:
        """The providers of `settings`; their keys are read from the environment, as in a run."""
        if self._models is None:
            self._models = self._open_models()
        return self._models

    def _open_models(self) -> AttemptModels:
        choices = choices_of(self.settings, os.environ)
        gateway = Gateway(choices, provider_keys(choices), project_dir=self.project_dir)
        return gateway.for_attempt(self, choices.settle([self.llm_settings]))

    def messages(self, level: Level) -> list[str]:
        """Return the messages said at that level, in order."""
        return [line.message for line in self.logs if line.level == level]


def allowing(*hosts: str) -> ProjectSettings:
    """Return project settings under which `http_request` may reach these hosts (`name`, `name:port`, CIDR)."""
    return ProjectSettings(http=HttpSettings(allow_hosts=list(hosts)))
