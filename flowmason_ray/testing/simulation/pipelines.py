"""Generated pipelines: every construct inside every other, with everything that may be said about a stage.

A pipeline is plain data, so that planning is exercised too. What is generated is valid by construction: a stage reads only
what was generated before it and can be seen from where it stands. The first constructs of a pipeline follow a chain that
goes through all triples of constructs in turn, so that a pool of pipelines holds each of them; the rest is up to the seed.

Stages say little about their outcome: that is the matter of `fate`, so that one pipeline serves many seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import Any

CONSTRUCTS = ("conditional", "sim_switch", "foreach")
"""Every construct that has bodies."""
MAX_DEPTH = 4
MAX_STAGES = 40
CODES = ("flaky", "timeout", "component_error", "worker_died", "permanent_error", "invalid_output")
"""What stages fail with; the last two are never retried unless the policy names them."""

CHAINS = tuple(product(CONSTRUCTS, repeat=3))


@dataclass(slots=True)
class _Place:
    """Where a stage is generated: what it can see there."""

    depth: int
    readable: list[str]
    variables: list[str]
    loops: list[str] = field(default_factory=list[str])

    def inside(self) -> _Place:
        """Return the place of a body that starts here: it sees what is seen here."""
        return _Place(self.depth + 1, list(self.readable), list(self.variables), list(self.loops))


class _Maker:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.stages: list[dict[str, Any]] = []
        self._counts: dict[str, int] = {}
        self._variables = 0

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    # -- bodies -------------------------------------------------------------------------------------------------------

    def body(self, place: _Place, chain: tuple[str, ...]) -> list[str]:
        """Generate the stages of a body; return the ids of its members. `place` sees them afterwards."""
        count = self.random.choice((1, 2, 2, 3, 3, 4)) if place.depth < 3 else self.random.choice((1, 1, 2, 2))
        forced = self.random.randrange(count) if chain else -1
        members: list[str] = []
        for position in range(count):
            kind = chain[0] if position == forced else self._kind(place)
            members.append(self._stage(kind, place, chain[1:] if position == forced else ()))
        return members

    def _kind(self, place: _Place) -> str:
        if place.depth < MAX_DEPTH and len(self.stages) < MAX_STAGES and self.chance(0.3):
            return self.random.choice(CONSTRUCTS)
        return "variable_set" if self.chance(0.12) else "sim_work"

    def _stage(self, kind: str, place: _Place, chain: tuple[str, ...]) -> str:
        short = {"sim_work": "w", "variable_set": "v", "conditional": "c", "sim_switch": "s", "foreach": "f"}
        letters = short.get(kind, kind[:2])
        number = self._counts[letters] = self._counts.get(letters, 0) + 1
        name = f"{letters}{number}"
        stage: dict[str, Any] = {"id": name, "component_type": kind}
        self.stages.append(stage)
        self._say_more(stage, place, kind)
        seen: list[str] = []
        if kind == "sim_work":
            stage["config"] = {"see": self._reading(place)}
        elif kind == "variable_set":
            self._set_variable(stage, place)
        else:
            seen = getattr(self, "_" + kind)(stage, place, chain)
        place.readable += [*seen, name]
        return name

    # -- what may be said about any stage ---------------------------------------------------------------------------------

    def _say_more(self, stage: dict[str, Any], place: _Place, kind: str) -> None:
        random = self.random
        if place.readable and self.chance(0.35):
            stage["depends_on"] = random.sample(place.readable, min(len(place.readable), random.choice((1, 1, 2))))
        if self.chance(0.15):
            stage["when"] = "context.attempt > 0"  # whether it holds is decided by fate
        if self.chance(0.04):
            stage["enabled"] = False
        if self.chance(0.35):
            stage["retry"] = {"max_attempts": random.choice((2, 3)), "initial_delay_ms": random.choice((1, 500))}
            if self.chance(0.3):
                stage["retry"]["retry_on"] = random.sample(CODES, 2)
        if self.chance(0.4):
            stage["on_error"] = random.choice(("continue", "fallback"))
            if stage["on_error"] == "fallback":
                stage["fallback_output"] = {"fallback": stage["id"]}
        if kind == "sim_work" and self.chance(0.4):
            stage["effect"] = random.choice(("idempotent", "effectful"))

    def _reading(self, place: _Place) -> dict[str, str]:
        """Return templates that read some of what can be seen, each in one of the forms that the oracle knows."""
        seen: dict[str, str] = {}
        for each in self.random.sample(place.readable, min(len(place.readable), self.random.choice((0, 1, 1, 2, 3)))):
            form = self.random.choice(("", "", "", ".status", ".error.code | default('none')"))
            seen[f"r{len(seen)}"] = "{{ stages." + each + form + " }}"
        for loop in place.loops[-3:]:
            if self.chance(0.8):
                seen[f"r{len(seen)}"] = "{{ " + loop + " }}"
        if place.variables and self.chance(0.6):
            seen[f"r{len(seen)}"] = "{{ vars." + self.random.choice(place.variables) + " | default('unset') }}"
        if self.chance(0.2):
            seen[f"r{len(seen)}"] = self.random.choice(("{{ input.base }}", "{{ context.path }}", "{{ context.attempt }}"))
        return seen

    def _set_variable(self, stage: dict[str, Any], place: _Place) -> None:
        self._variables += 1
        name = f"x{self._variables}"
        stage["config"] = {"name": name, "value": next(iter(self._reading(place).values()), "constant")}
        place.variables.append(name)

    # -- constructs -----------------------------------------------------------------------------------------------------

    def _branches(self, place: _Place, chain: tuple[str, ...], count: int) -> tuple[list[list[str]], list[str]]:
        """Generate bodies that exclude each other; return them, and all that can be seen of them afterwards."""
        bodies: list[list[str]] = []
        seen: list[str] = []
        variables: list[str] = []
        forced = self.random.randrange(count)
        for position in range(count):
            inside = place.inside()
            if position != forced and self.chance(0.2):
                bodies.append([])
                continue
            bodies.append(self.body(inside, chain if position == forced else ()))
            seen += inside.readable[len(place.readable) :]
            variables += inside.variables[len(place.variables) :]
        place.variables += variables
        return bodies, seen

    def _conditional(self, stage: dict[str, Any], place: _Place, chain: tuple[str, ...]) -> list[str]:
        reading = next(iter(self._reading(place).values()), True)
        (yes, no), seen = self._branches(place, chain, 2)
        stage["config"] = {"condition": reading, "true_branch_stages": yes, "false_branch_stages": no}
        return seen

    def _sim_switch(self, stage: dict[str, Any], place: _Place, chain: tuple[str, ...]) -> list[str]:
        reading = self._reading(place)
        (left, middle, right), seen = self._branches(place, chain, 3)
        stage["config"] = {"see": reading, "left_stages": left, "middle_stages": middle, "branches": {"right": right}}
        return seen

    def _foreach(self, stage: dict[str, Any], place: _Place, chain: tuple[str, ...]) -> list[str]:
        item = self.random.choice(("item", "row", stage["id"] + "_item"))
        index = self.random.choice(("index", stage["id"] + "_index"))
        inside = place.inside()
        inside.loops = [name for name in place.loops if name not in (item, index)] + [index, item]
        reading = next(iter(self._reading(place).values()), None)
        config: dict[str, Any] = {"items": [] if reading is None else reading, "item_variable": item}
        config["index_variable"] = index
        if reading is not None and not reading.endswith("}}"):
            config["items"] = []
        if self.chance(0.7):
            config["max_parallel"] = self.random.choice((1, 2, 3, 5))
        if self.chance(0.5):
            config["break_on_error"] = False
            if self.chance(0.4):
                config["min_success_ratio"] = self.random.choice((0.5, 1.0))
        first = len(inside.readable)
        config["loop_stages"] = self.body(inside, chain)
        if self.chance(0.3):
            config["collect"] = {"of": "{{ stages." + self.random.choice(inside.readable[first:]) + " }}", "at": "{{ " + index + " }}"}
        stage["config"] = config
        return []


def generate(seed: int) -> dict[str, Any]:
    """Return the data of a pipeline file; the same for the same seed."""
    maker = _Maker(seed)
    place = _Place(0, [], [])
    chain = CHAINS[seed % len(CHAINS)]
    members = maker.body(place, chain)
    random = maker.random
    pipeline: dict[str, Any] = {"name": f"simulated {seed}", "stages": maker.stages}
    if random.random() < 0.4:
        pipeline["max_parallel"] = random.choice((1, 2, 4))
    if random.random() < 0.2:
        pipeline["output_stage_id"] = random.choice([*members, *place.readable])
    elif random.random() < 0.3:
        pipeline["output"] = {"last": "{{ stages." + random.choice(place.readable) + " }}"}
    if random.random() < 0.5:
        random.shuffle(maker.stages)  # their order in the file means nothing
    return pipeline
