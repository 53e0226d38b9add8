"""Simulates one run from a seed: the pipeline, the mood, the events, a crash perhaps, and the judgement."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random
from typing import Any

from flowmason_ray.engine.commands import Output, StartStage
from flowmason_ray.engine.component import Effect
from flowmason_ray.engine.events import ApprovalRequested, CancelRequested, Event, RunCreated
from flowmason_ray.engine.executor import RunInfo
from flowmason_ray.engine.plan import Plan
from flowmason_ray.engine.planning import make_plan
from flowmason_ray.engine.replay import replay
from flowmason_ray.engine.run_state import RunState
from flowmason_ray.spec.loader import LoadedPipeline, load_pipeline_data
from flowmason_ray.testing.simulation.components import catalogue
from flowmason_ray.testing.simulation.fate import Fate, Mood, mood_of
from flowmason_ray.testing.simulation.history import History
from flowmason_ray.testing.simulation.invariants import Books, Step, Violation, judge
from flowmason_ray.testing.simulation.oracle import Oracle
from flowmason_ray.testing.simulation.pipelines import Generated, generate
from flowmason_ray.testing.simulation.shapes import Shape, read_shape
from flowmason_ray.testing.simulation.world import Arrival, World

PIPELINES = 250
"""How many different pipelines the seeds share: planning one takes longer than simulating a run of it."""
MOST_STIMULI = 20_000
"""A run that takes more than this does not end: the largest has some hundreds."""
STARTED_AT = 1_700_000_000.0
INPUT = {"base": 17}

MakeState = Callable[[Plan], RunState]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A pipeline, planned by the engine and read by the oracle."""

    generated: Generated
    plan: Plan
    shape: Shape


@lru_cache(maxsize=PIPELINES)
def subject(number: int) -> Subject:
    """Return generated pipeline `number`."""
    generated = generate(number)

    def find(reference: str, from_file: str | None) -> LoadedPipeline:
        return load_pipeline_data(generated.callees[reference])

    plan = make_plan(load_pipeline_data(generated.data), catalogue(), pipelines=find)
    return Subject(generated=generated, plan=plan, shape=read_shape(generated))


@dataclass(slots=True, kw_only=True)
class Simulated:
    """A simulated run: how far it came, and what was wrong with it."""

    seed: int
    subject: Subject
    mood: Mood
    stimuli: list[Event] = field(default_factory=list[Event])
    story: list[str] = field(default_factory=list[str])
    """One line per stimulus and output; kept only when asked for."""
    violation: Violation | None = None
    error: BaseException | None = None
    """What the engine itself raised."""

    @property
    def wrong(self) -> str | None:
        """What was found, or None."""
        if self.violation is not None:
            return str(self.violation)
        return None if self.error is None else f"the_engine_does_not_raise: {self.error!r}"


class _Simulation:
    def __init__(self, run: Simulated, make_state: MakeState, *, keep_story: bool, world: type[World]) -> None:
        self.run = run
        self._make_world = world
        self._make_state = make_state
        self._keep_story = keep_story
        plan = run.subject.plan
        self.plan = plan
        self.fate = Fate(run.seed, run.mood)
        self.info = RunInfo(
            run_id=f"sim-{run.seed}",
            pipeline=plan.name,
            version=plan.version,
            started_at=STARTED_AT,
            seed=run.seed,
            input=INPUT,
        )
        self.genuine: list[bool] = []
        self.told: list[list[Any]] = []
        """Per stimulus: the outputs in a form that can be compared."""
        self._begin(0, STARTED_AT)

    def _begin(self, life: int, now: float) -> None:
        """Begin a coordinator's life: new books, a new world."""
        self.world = self._make_world(self.fate, Random(f"{self.run.seed} {life}"), self.info, now)
        stages = self.run.subject.shape.stages
        self.history = History(
            constructs=frozenset(s.id for s in stages.values() if s.kind != "sim_work"),
            questions=frozenset(s.id for s in stages.values() if s.kind == "wait_for_approval"),
        )
        windows = {s.id: s.config.get("max_parallel", 1) for s in stages.values() if s.kind == "foreach"}
        self.books = Books(self.plan, windows)
        self.cancel: str | None = None

    # -- one life -----------------------------------------------------------------------------------------------------------

    def live(self) -> None:
        """Run from the beginning to the end, through a crash if there is to be one."""
        self.state = self._make_state(self.plan)
        created = RunCreated(
            run_id=self.info.run_id, pipeline=self.plan.name, version=self.plan.version, plan_digest=self.plan.digest,
            input=INPUT, seed=self.run.seed,
        )  # fmt: skip
        self.world.send(created, 0.0)
        crash = self.run.mood.crash_after
        self._go_on(crash)
        if crash is not None and self.books.ended is None:
            self.crash()
            self._go_on(None)
        self.finish()

    def _go_on(self, stop_after: int | None) -> None:
        """Handle what arrives until nothing is left, or until so many stimuli have been handled."""
        stimuli = self.run.stimuli
        cancel_after = self.run.mood.cancel_after
        while stop_after is None or len(stimuli) < stop_after:
            if len(stimuli) == cancel_after and not self.books.cancelled:
                self.world.cancel_run()
            arrival = self.world.next()
            if arrival is None:
                return
            self._handle(arrival)
            if len(stimuli) > MOST_STIMULI:
                raise Violation("every_run_ends", f"it has not after {MOST_STIMULI} stimuli")

    def _handle(self, arrival: Arrival) -> None:
        event = arrival.event
        self.run.stimuli.append(event)
        self.genuine.append(arrival.genuine)
        outputs = self.state.handle(event)
        self.told.append(comparable(outputs))
        self._judge(event, arrival.genuine, outputs, live=True)

    def _judge(self, event: Event, genuine: bool, outputs: list[Output], *, live: bool) -> None:
        if self._keep_story:
            self.run.story.append(f"{event.at - STARTED_AT:8.3f} {'' if genuine else '(late) '}{describe(event)}")
            self.run.story += [f"           -> {describe(output)}" for output in outputs]
        if isinstance(event, CancelRequested) and self.cancel is None and self.books.ended is None:
            self.cancel = event.code
        if live:
            for output in outputs:
                if isinstance(output, ApprovalRequested):
                    self.world.ask(output.path)
                elif not isinstance(output, Event):
                    self.world.carry_out(output)
        self.history.take(event, genuine, outputs)
        if live:
            judge(self.books, Step(event, genuine, outputs, self.world))

    # -- a crash --------------------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Lose everything but the recorded stimuli, and take the run up again."""
        stimuli, genuine, told = list(self.run.stimuli), self.genuine, self.told
        books = self.books
        self._begin(1 + len(stimuli), stimuli[-1].at + 1.0 if stimuli else STARTED_AT)
        self.books = books
        position = 0
        if self._keep_story:
            self.run.story.append("           ** the coordinator crashes, and another one replays the log **")

        def observe(event: Event, outputs: list[Output]) -> None:
            nonlocal position
            if comparable(outputs) != told[position]:
                raise Violation(
                    "replay_tells_the_same", f"stimulus {position}, {event}: {outputs}, not {told[position]}"
                )
            if isinstance(event, CancelRequested) and self.cancel is None and not self.history.ends:
                self.cancel = event.code
            self.history.take(event, genuine[position], outputs)
            position += 1

        replayed = replay(self.plan, stimuli, observe=observe, make_state=self._make_state)
        self.state = replayed.state
        self._take_up(replayed.outstanding, books)

    def _take_up(self, outstanding: Any, books: Books) -> None:
        """Begin again what was under way; say what of it may not be."""
        begun = {command.path for command in (*outstanding.repeat, *outstanding.in_doubt)}
        begun |= {command.path for command in outstanding.stopped}
        if begun != books.running.keys():
            message = f"{sorted(begun)} were found to be under way; it was {sorted(books.running)}"
            raise Violation("resume_knows_what_was_under_way", message)
        for command in outstanding.repeat:
            if isinstance(command, StartStage) and command.stage.effect is Effect.EFFECTFUL:
                raise Violation("effects_happen_once", f"{command.path} is begun again after a crash")
            self.world.carry_out(command)
        for command in outstanding.in_doubt:
            self.world.decide_doubt(command)
        for command in outstanding.stopped:
            self.world.answer_stop(command)
        for timer, due in zip(outstanding.timers, outstanding.due_at, strict=True):
            self.world.carry_out(replace(timer, delay_s=max(0.0, due - self.world.now)))
        for path in self.state.asked:
            self.world.ask(path)

    # -- the end --------------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Judge the run as a whole."""
        if not self.history.ends:
            waiting = sorted(
                p for p, i in self.history.instances.items() if i.status in ("running", "open", "retrying")
            )
            raise Violation("every_run_ends", f"nothing is under way and it has not ended; open: {waiting}")
        if self.state.in_flight or self.state.active:
            raise Violation("nothing_runs_when_the_run_has_ended", f"the state still counts {list(self.state.active)}")
        Oracle(self.run.subject.shape, self.history, self.fate, INPUT, self.cancel).judge()


def simulate(
    seed: int,
    *,
    mood: Mood | None = None,
    make_state: MakeState = RunState,
    keep_story: bool = False,
    world: type[World] = World,
) -> Simulated:
    """Simulate the run of a seed, and judge it.

    Args:
        seed: Chooses the pipeline, the mood and everything else.
        mood: Another mood than the seed's.
        make_state: Makes the state machine that is examined.
        keep_story: Whether to keep a line for everything that happened.
        world: Makes the world in which it happens.
    """
    run = Simulated(seed=seed, subject=subject(seed % PIPELINES), mood=mood or mood_of(seed))
    simulation = None
    try:
        simulation = _Simulation(run, make_state, keep_story=keep_story, world=world)
        simulation.live()
    except Violation as violation:
        run.violation = violation
    except Exception as exc:  # the engine is what is examined: whatever it raises is a finding
        run.error = exc
    return run


def crash_everywhere(seed: int, *, make_state: MakeState = RunState) -> Simulated:
    """Simulate the run of a seed once without a crash, then again with a crash after each of its stimuli.

    Returns: the first run with which something is wrong, or the last one.
    """
    mood = replace(mood_of(seed), crash_after=None)
    run = simulate(seed, mood=mood, make_state=make_state)
    for position in range(1, len(run.stimuli)):
        if run.wrong is not None:
            return run
        run = simulate(seed, mood=replace(mood, crash_after=position), make_state=make_state)
    return run


def calmest(run: Simulated, make_state: MakeState = RunState) -> Simulated:
    """Return the same failure with as few nuisances as it still shows itself, with its story."""
    law = run.violation.law if run.violation else None
    mood = run.mood
    changed = True
    while changed:
        changed = False
        for _, calmer in mood.calmer():
            again = simulate(run.seed, mood=calmer, make_state=make_state)
            if again.wrong is not None and (again.violation.law if again.violation else None) == law:
                mood, changed = calmer, True
                break
    return simulate(run.seed, mood=mood, make_state=make_state, keep_story=True)


def first_wrong(seeds: Iterable[int], make_state: MakeState = RunState) -> Simulated | None:
    """Return the first of the seeds' runs with which something is wrong."""
    for seed in seeds:
        run = simulate(seed, make_state=make_state)
        if run.wrong is not None:
            return run
    return None


def comparable(outputs: list[Output]) -> list[Any]:
    """Return outputs in a form in which those of two lives can be compared: commands carry scopes, which differ."""
    return [_comparable(output) for output in outputs]


def _comparable(output: Output) -> Any:
    if isinstance(output, Event):
        return output
    fact = getattr(output, "delay_s", None) or getattr(output, "first_started_at", None)
    return (type(output).__name__, output.path, output.attempt, fact)


def describe(output: Output) -> str:
    """Return one line that says what an event or a command is."""
    if isinstance(output, Event):
        facts = {name: getattr(output, name) for name in output.__dataclass_fields__ if name != "at"}
        failure = facts.pop("failure", None)
        text = " ".join(
            f"{name}={value!r}" for name, value in facts.items() if value not in (None, 0.0) and name != "draw"
        )
        return f"{output.kind} {text}" + (f" failure={failure.code}@{failure.stage}" if failure else "")
    return f"{type(output).__name__} {output.path} attempt={output.attempt}"
