"""Answers attempts with what is known already: from the cache, or from the records of an earlier run.

Every attempt that may be reused gets its fingerprint here, on its way from the state machine to the executor. Then, in this
order: is it to run again whatever is known (`force`); is there a record of an earlier run; would an effect be repeated, which
never happens silently; is there a cached result. What has to be read from a store is read beside the run: only the attempt
that asks waits for it.

Control flow and hidden stages are not looked up: deciding again costs less, and comes to the same. Exceptions are questions to
people, who are not asked twice, and decisions that are not pure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import time
from typing import Any, Literal

import orjson

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.definitions import Definitions
from flowmason_ray.engine.events import (
    Event,
    StageDeclined,
    StageFailed,
    StageLogged,
    StageReused,
    StageStarted,
    StageSucceeded,
)
from flowmason_ray.engine.executor import Digesting, RunInfo
from flowmason_ray.engine.fingerprint import Fingerprints
from flowmason_ray.engine.item_matching import ItemMatching
from flowmason_ray.engine.past import Past, Record
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.recipes import Recipe, Recipes
from flowmason_ray.engine.run_log import RunLog
from flowmason_ray.engine.scope import Scope
from flowmason_ray.engine.upstream import Upstream
from flowmason_ray.engine.values import Items
from flowmason_ray.errors import Failure, StoreError

InDoubt = Literal["ask", "retry", "skip", "fail"]
"""What holds for effectful attempts of which nobody knows whether they did their work: `ask` refuses to go on and names them;
`retry` begins them again; `skip` goes on as if the stage had been skipped; `fail` takes them as failed, with code `in_doubt`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReuseRules:
    """What may be taken from where. Stages are named by their paths without positions."""

    continues: bool = False
    """Whether the run goes on with the earlier one: then its effects and answers count as this run's own, and none of them is
    repeated silently. Otherwise it is a run of its own, which has its own effects."""
    force: frozenset[str] = frozenset()
    """Stages that run again whatever is known, each with all that is inside of it; or single instances, by their path."""
    required: frozenset[str] = frozenset()
    """Stages that must be reused: it is an error if one cannot be."""
    in_doubt: InDoubt = "ask"
    cache: bool = True
    """Whether cached results are looked up and left."""

    def to_json(self) -> dict[str, Any]:
        """Return what is recorded with the run (`RunCreated.options`), so that it keeps to it when it is resumed."""
        said: dict[str, Any] = {"continues": self.continues} if self.continues else {}
        if self.force:
            said["force"] = sorted(self.force)
        if self.required:
            said["required"] = sorted(self.required)
        if not self.cache:
            said["cache"] = False
        return said if self.in_doubt == "ask" else {**said, "in_doubt": self.in_doubt}

    @staticmethod
    def from_json(said: Mapping[str, Any]) -> ReuseRules:
        """Return the rules that were recorded."""
        return ReuseRules(
            continues=bool(said.get("continues")),
            force=frozenset(said.get("force", ())),
            required=frozenset(said.get("required", ())),
            in_doubt=said.get("in_doubt", "ask"),
            cache=said.get("cache", True),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What a run may look up: the earlier runs, and how their values are brought back."""

    rules: ReuseRules = field(default_factory=ReuseRules)
    past: Past | None = None
    decode: Callable[[Mapping[str, Any]], Any] = dict[str, Any]
    """Returns the value of a recorded body; may block. Raises `StoreError`."""
    decode_items: Callable[[Mapping[str, Any]], Items] = Items
    """Returns the items of a loop."""
    taken: Sequence[tuple[str, str]] = ()
    """(run, path) of the records that this run took over before it was interrupted."""
    keys: Mapping[str, str] = field(default_factory=dict[str, str])
    """Idempotency keys that this run took over before, by path."""


class Reusing:
    """Stands between the state machine's wish to start an attempt and the executor, for one run."""

    def __init__(self, recipes: Recipes, run: RunInfo, executor: Digesting, log: RunLog, knowledge: Knowledge) -> None:
        self._run = run
        self._executor = executor
        self._log = log
        self._knowledge = knowledge
        self._rules = knowledge.rules
        self._past = knowledge.past
        self._recipes = recipes
        self._by_stage = recipes.by_stage
        self._again = self._forced_stages()
        self._fingerprints = Fingerprints(recipes, run, executor, again=self._again | self._own_effects())
        self._matching = ItemMatching(self._old_items, self._fingerprints.item, self._new_items)
        self._keys = dict(knowledge.keys)
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._keeping: dict[str, tuple[str, float | None]] = {}
        """Cached stages under way: path → (fingerprint, how long the result holds)."""
        for run_id, path in knowledge.taken:
            assert self._past is not None
            self._past.take(run_id, path)

    def _forced_stages(self) -> set[int]:
        named, plan = self._rules.force, self._recipes.plan
        if not named:
            return set()
        upstream = Upstream(plan)
        stages = [stage for stage in upstream.stages if self._by_stage[id(stage)].path in named]
        return set[int]().union(*(upstream.inside(stage) for stage in stages))

    def _own_effects(self) -> set[int]:
        """Return the stages that have their effects again, because the run only takes results over and does not go on."""
        if self._past is None or self._rules.continues:
            return set()
        return {
            id(stage)
            for _, stage in self._recipes.plan.stages()
            if stage.effect is Effect.EFFECTFUL and self._by_stage[id(stage)].path not in self._rules.required
        }

    def open(
        self,
        record: Callable[[Event], None],
        start: Callable[[StartStage], None],
        deliver: Callable[[Event], None],
        wake: Callable[[], None],
    ) -> None:
        """Begin to serve the run; called once, on its event loop.

        Args:
            record: Puts an event into the log.
            start: Begins an attempt.
            deliver: Takes a report.
            wake: Lets the run go on, after an attempt was begun from outside of its own turn.
        """
        self._record, self._start, self._deliver, self._wake = record, start, deliver, wake

    def close(self) -> None:
        """Stop looking up."""
        for task in self._lookups.values():
            task.cancel()

    @property
    def takes_over(self) -> bool:
        """Whether results of an earlier run are taken over."""
        return self._past is not None

    def created(self) -> dict[str, Any]:
        """Return what the run's first event says because of all this."""
        facts: dict[str, Any] = {"definitions": self._recipes.definitions_recorded}
        said = self._rules.to_json()
        if self._past is not None:
            said["run"] = self._past.runs[0]
            if self._rules.continues:
                facts["based_on"] = self._past.runs[0]
        if said:
            facts["options"] = {"reuse": said}
        return facts

    # -- attempts ---------------------------------------------------------------------------------------------------------

    def hand_out(self, started: StageStarted, command: StartStage) -> None:
        """Record that an attempt starts, and begin it unless its result is known."""
        known = self._by_stage[id(command.stage)]
        if not known.looked_up:
            self._record(started)
            self._start(command)
            return
        fingerprint = self._fingerprints.of(command, known)
        key = self._key(command, fingerprint, known) if self._past is not None or self._keys else None
        if key is not None:
            command = replace(command, idempotency_key=key)
        if fingerprint is not None:
            started = StageStarted(
                at=started.at,
                path=started.path,
                attempt=started.attempt,
                fingerprint=fingerprint,
                idempotency_key=key,
            )
        self._record(started)
        if self._past is None and command.stage.cache is None:
            self._start(command)
        else:
            self._answer(command, fingerprint, known)

    def _answer(self, command: StartStage, fingerprint: str | None, known: Recipe) -> None:
        forced = self._forced(command)
        record = None if forced else self._find(command, fingerprint, known)
        if record is not None:
            record.used = True
            data: Mapping[str, Any] = orjson.loads(record.body)
            if "packed" in data:
                self._look_up(command, lambda: self._read_record(command, record, data))
            else:
                self._deliver(_from_record(command, record, data, data.get("value")))
            return
        refused = None if forced else self._refused(command, known)
        if refused is not None:
            self._deliver(refused)
            return
        self._ask_cache(command, fingerprint, forced=forced)

    def _ask_cache(self, command: StartStage, fingerprint: str | None, *, forced: bool) -> None:
        policy = command.stage.cache
        name = fingerprint
        if policy is not None and policy.key is not None:
            name = self._fingerprints.of_key(command, policy.key)
        if policy is None or name is None or not self._rules.cache:
            self._start(command)
            return
        self._keeping[command.path] = (name, policy.ttl_s)
        if forced:
            self._start(command)
        else:
            self._look_up(command, lambda: self._read_cache(command, name))

    def keep(self, event: StageSucceeded) -> None:
        """Leave the result of a cached stage to later runs; called when its success has been recorded."""
        found = self._keeping.pop(event.path, None) if event.attempt else None
        if found is not None:
            fingerprint, ttl_s = found
            self._log.keep_result(fingerprint, event, ttl_s=ttl_s)

    @property
    def keeps(self) -> bool:
        """Whether any success may have to be kept."""
        return bool(self._keeping)

    def cancel(self, path: str) -> bool:
        """Stop looking something up for an attempt; tell whether that was under way, so that it never began."""
        self._keeping.pop(path, None)
        task = self._lookups.pop(path, None)
        if task is None:
            return False
        task.cancel()
        return True

    # -- records of earlier runs ------------------------------------------------------------------------------------------

    def _forced(self, command: StartStage) -> bool:
        return id(command.stage) in self._again or command.path in self._rules.force

    def _find(self, command: StartStage, fingerprint: str | None, known: Recipe) -> Record | None:
        stage, past = command.stage, self._past
        if past is None:
            return None
        if not (self._rules.continues or known.path in self._rules.required) and (
            stage.effect is Effect.EFFECTFUL or known.asks or known.draws
        ):
            return None
        return past.find(fingerprint, self._old_path(command, known) or command.path, once=known.once)

    def _old_path(self, command: StartStage, known: Recipe) -> str | None:
        """Return the path that this instance had in the earlier run; for pure stages it makes no difference."""
        if not known.once or "[" not in command.path:
            return command.path
        return self._matching.old_path(command)

    def _key(self, command: StartStage, fingerprint: str | None, known: Recipe) -> str | None:
        """Return the key under which this very work was begun before, so that whoever is asked sees one key."""
        if command.path in self._keys:
            return self._keys[command.path]
        if self._past is None or not (self._rules.continues and known.once):
            return None
        if self._forced(command):
            return None
        where = self._old_path(command, known)
        key = None if where is None else self._past.key(where, fingerprint)
        if key is not None:
            self._keys[command.path] = key
        return key

    def _refused(self, command: StartStage, known: Recipe) -> Event | None:
        """Return the report of an attempt that must not be made."""
        past, rules = self._past, self._rules
        if past is None:
            return None
        if rules.continues and command.stage.effect is Effect.EFFECTFUL:
            where = self._old_path(command, known)
            if where is not None and where in past.doubtful:
                return self._decided(command)
            done = past.done.get(where or "")
            if done is not None and not done.used and self._was_effectful(known.path):
                message = (
                    f"It did its work in run {done.run_id!r} and would do it again with other inputs, or it has changed. If "
                    f"that is what you want, go on with: --force {known.path}. If not, leave it as it was, or take it out."
                )
                return _failed(command, message, code="effect_would_repeat")
        if known.path in rules.required:
            message = (
                f"It lies before the stage from which to run, and run {past.runs[0]!r} has no result of it that can be reused: "
                "it or what it reads has changed, or it did not succeed there. Start from an earlier stage."
            )
            return _failed(command, message, code="cannot_reuse")
        return None

    def _was_effectful(self, path: str) -> bool:
        assert self._past is not None
        said = self._past.definitions.get(path)
        return said is None or said.get("effect") == Effect.EFFECTFUL.value

    def _decided(self, command: StartStage) -> Event | None:
        """Do what was decided about an attempt in doubt."""
        if self._rules.in_doubt == "skip":
            return StageDeclined(at=time(), path=command.path, attempt=command.attempt)
        if self._rules.in_doubt == "retry":
            return None
        return _failed(
            command, "An earlier run was ended while it worked; whether it did its work is not known.", code="in_doubt"
        )

    def _old_items(self, loop: str) -> Sequence[tuple[str, bytes]]:
        assert self._past is not None
        body = self._past.items.get(loop)
        if body is None:
            return ()
        data: Mapping[str, Any] = orjson.loads(body)
        try:
            items = self._knowledge.decode_items(data)
            contents = [self._executor.item_content(items, position) for position in range(len(items))]
        except (StoreError, TypeError):
            return ()
        numbers: Sequence[int] = data["decision"].get("indices") or range(len(contents))
        return [
            (str(number), content) for number, content in zip(numbers, contents, strict=False) if content is not None
        ]

    def _new_items(self, scope: Scope) -> Sequence[bytes]:
        assert scope.parent is not None
        assert scope.parent.constructs is not None
        count: int = scope.parent.constructs[scope.owner].count
        found = (self._executor.item_content(scope.items, position) for position in range(count))
        return [content for content in found if content is not None]

    # -- looking up -------------------------------------------------------------------------------------------------------

    def _look_up(self, command: StartStage, report: Callable[[], Awaitable[Event | None]]) -> None:
        """Wait for a report; begin the attempt when there is none. Nothing else waits."""

        async def wait() -> None:
            try:
                event = await report()
            except Exception as exc:  # a store is foreign code: that something cannot be looked up must not end the run
                message = f"Whether there is a result to reuse cannot be found out, so the stage runs: {exc}"
                self._deliver(StageLogged(at=time(), path=command.path, level="warning", message=message))
                event = None
            if self._lookups.pop(command.path, None) is None:
                return  # it was cancelled meanwhile
            if event is None:
                self._start(command)
                self._wake()
            else:
                self._deliver(event)

        self._lookups[command.path] = asyncio.get_running_loop().create_task(wait())

    async def _read_record(self, command: StartStage, record: Record, data: Mapping[str, Any]) -> Event | None:
        try:
            value = await asyncio.to_thread(self._knowledge.decode, data)
        except StoreError:
            record.used = False
            refused = self._refused(command, self._by_stage[id(command.stage)])
            if refused is not None:
                return refused
            raise
        return _from_record(command, record, data, value)

    async def _read_cache(self, command: StartStage, fingerprint: str) -> Event | None:
        found = await self._log.kept_result(fingerprint)
        if found is None:
            return None
        self._keeping.pop(command.path, None)
        return StageReused(
            at=time(),
            path=command.path,
            attempt=command.attempt,
            value=found.value,
            decision=found.decision,
            source={"run": found.run_id, "how": "cache"},
        )


def _from_record(command: StartStage, record: Record, data: Mapping[str, Any], value: Any) -> StageReused:
    source = {"run": record.run_id, "how": "record"}
    if record.path != command.path:
        source["path"] = record.path
    return StageReused(
        at=time(),
        path=command.path,
        attempt=command.attempt,
        value=value,
        decision=data.get("decision"),
        source=source,
    )


def _failed(command: StartStage, message: str, *, code: str) -> StageFailed:
    failure = Failure(code=code, message=message, stage=command.path, attempts=command.attempt)
    return StageFailed(at=time(), path=command.path, attempt=command.attempt, failure=failure, final=True)


def closure(plan: Plan, names: Collection[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return the paths without positions of what runs from these stages on, and of what has always ended before them."""
    definitions, upstream = Definitions(plan), Upstream(plan)
    paths = {id(s): f"{definitions.prefixes[scope.index]}{s.id}" for scope in plan.scopes for s in scope.stages}
    stages = [stage for scope in plan.scopes for stage in scope.stages if paths[id(stage)] in names]
    below = upstream.below(stages)
    above = set[int]().union(*(upstream.above(stage) for stage in stages)) - below
    written = {id(stage) for _, stage in plan.stages()}
    return frozenset(paths[each] for each in below & written), frozenset(paths[each] for each in above & written)
