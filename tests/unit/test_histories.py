"""Run logs that were recorded once load and replay for ever: the same decisions, the same end (tests/histories)."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.engine.commands import Output
from flowmason_ray.engine.events import (
    FORMAT_VERSION,
    RUN_ENDED,
    Event,
    RunCreated,
    RunPaused,
    RunResumed,
    StageStarted,
)
from flowmason_ray.engine.replay import replay
from flowmason_ray.errors import StoreError
from flowmason_ray.resuming import with_items
from flowmason_ray.stores.encoding import Decoder, event_from_json
from flowmason_ray.wiring import load, open_workspace

FOLDER = Path(__file__).parent.parent / "histories"
HISTORIES = sorted(FOLDER.glob("v*/*.json"))


class Blobs:
    """The blobs of a history."""

    def __init__(self, contents: dict[str, str]) -> None:
        self._contents = {digest: base64.b64decode(text) for digest, text in contents.items()}

    def put(self, content: bytes) -> str:
        raise AssertionError("a replay writes nothing")

    def get(self, digest: str) -> bytes:
        content = self._contents.get(digest)
        if content is None or f"sha256:{sha256(content).hexdigest()}" != digest:
            raise StoreError(f"blob {digest} is not in the history")
        return content


@pytest.fixture(params=HISTORIES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def history(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text(encoding="utf-8"))


def test_there_are_histories_of_every_version() -> None:
    versions = {json.loads(file.read_text(encoding="utf-8"))["format"] for file in HISTORIES}
    assert versions == set(range(1, FORMAT_VERSION + 1))


def test_a_history_loads_and_replays_to_the_same_end(history: dict[str, Any], tmp_path: Path) -> None:
    for name, pipeline in history["files"].items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(pipeline))
    file = tmp_path / history["pipeline"]
    plan = open_workspace(file).plan(load(file))
    decoder = Decoder(Blobs(history["blobs"]))  # pyright: ignore[reportArgumentType]  # what a replay needs of a blob store
    events = [with_items(event_from_json(each, decoder), tmp_path) for each in history["events"]]
    assert isinstance(events[0], RunCreated)
    made: list[Output] = []
    replayed = replay(plan, events, observe=lambda event, outputs: made.extend(outputs))
    # A run's last event is recorded by the runner, with the value in the place of its handle.
    ended = replayed.ended
    assert ended is not None
    assert type(ended) is type(events[-1])
    assert getattr(ended, "failure", None) == getattr(events[-1], "failure", None)
    # What begins again after a pause is told as started once more, by the runner.
    again = {StageStarted} if any(isinstance(event, RunResumed) for event in events) else set[type[Event]]()
    told = [event for event in made if isinstance(event, Event) and not isinstance(event, RUN_ENDED)]
    recorded = [event for event in events if not event.stimulus and not isinstance(event, RUN_ENDED)]
    recorded = [event for event in recorded if not isinstance(event, (RunPaused, RunResumed))]
    assert [_told(e) for e in told if type(e) not in again] == [_told(e) for e in recorded if type(e) not in again]


def _told(event: Event) -> tuple[Any, ...]:
    """Return what makes two events the same story: not the fingerprint, which is the runner's."""
    facts = {
        name: getattr(event, name)
        for name in event.__slots__
        if name not in ("fingerprint", "idempotency_key", "size_bytes")
    }
    return (event.kind, event.at, tuple(sorted((name, repr(value)) for name, value in facts.items())))
