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

CONSTRUCTS = ("branching", "foreach", "trycatch", "parallel", "subpipeline")
"""Every construct that has bodies; `branching` is one of `BRANCHINGS`."""
BRANCHINGS = ("conditional", "sim_switch", "router")
LEAVING = ("return", "break_loop", "continue_loop")
MAX_DEPTH = 4
MAX_STAGES = 40
CODES = ("flaky", "timeout", "component_error", "worker_died", "permanent_error", "invalid_output")
"""What stages fail with; the last two are never retried unless the policy names them."""

CHAINS = tuple(product(CONSTRUCTS, repeat=3))
"""Every construct in every construct in every construct."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """A pipeline, and the pipelines that it calls, each the data of a file."""

    data: dict[str, Any]
    callees: dict[str, dict[str, Any]]


@dataclass(slots=True)
class _Place:
    """Where a stage is generated: what it can see there."""

    depth: int
    readable: list[str]
    variables: list[str]
    loops: list[str] = field(default_factory=list[str])
    in_loop: bool = False

    def inside(self) -> _Place:
        """Return the place of a body that starts here: it sees what is seen here."""
        return _Place(self.depth + 1, list(self.readable), list(self.variables), list(self.loops), self.in_loop)


class _Maker:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.stages: list[dict[str, Any]] = []
        self.callees: dict[str, dict[str, Any]] = {}
        self._counts: dict[str, int] = {}
        self._made = 0

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def pipeline(self, name: str, place: _Place, chain: tuple[str, ...]) -> dict[str, Any]:
        """Generate a pipeline: its stages, and what its result is."""
        around, self.stages = self.stages, []
        members = self.body(place, chain)
        random = self.random
        pipeline: dict[str, Any] = {"name": name, "stages": self.stages}
        if self.chance(0.2):
            pipeline["output_stage_id"] = random.choice([*members, *place.readable])
        elif self.chance(0.3):
            pipeline["output"] = {"last": "{{ stages." + random.choice(place.readable) + " }}"}
        if self.chance(0.5):
            random.shuffle(self.stages)  # their order in the file means nothing
        self.stages = around
        return pipeline

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
        if place.depth < MAX_DEPTH and self._made < MAX_STAGES and self.chance(0.3):
            return self.random.choice(CONSTRUCTS)
        if self.chance(0.12 if place.in_loop else 0.03):
            return self.random.choice(LEAVING if place.in_loop else LEAVING[:1])
        if self.chance(0.04):
            return "wait_for_approval"
        return "variable_set" if self.chance(0.12) else "sim_work"

    def _stage(self, kind: str, place: _Place, chain: tuple[str, ...]) -> str:
        if kind == "branching":
            kind = self.random.choice(BRANCHINGS)
        self._made += 1
        letters = _SHORT[kind]
        number = self._counts[letters] = self._counts.get(letters, 0) + 1
        name = f"{letters}{number}"
        stage: dict[str, Any] = {"id": name, "component_type": kind}
        self.stages.append(stage)
        self._say_more(stage, place, kind)
        seen: list[str] = []
        if kind == "sim_work":
            stage["config"] = {"see": self._reading(place)}
        elif kind in LEAVING:
            value = "return_value" if kind == "return" else "result"
            stage["config"] = {"condition": "context.attempt > 0", value: {"left_by": name, **self._reading(place)}}
        else:
            seen = getattr(self, "_" + kind)(stage, place, chain)
        place.readable += [*seen, name]
        return name

    # -- what may be said about any stage ---------------------------------------------------------------------------------

    def _say_more(self, stage: dict[str, Any], place: _Place, kind: str) -> None:
        random = self.random
        if place.readable and self.chance(0.35):
            stage["depends_on"] = random.sample(place.readable, min(len(place.readable), random.choice((1, 1, 2))))
        if self.chance(0.08):
            stage["when"] = "context.attempt > 0"  # whether it holds is decided by fate
        if self.chance(0.015):
            stage["enabled"] = False
        if self.chance(0.35):
            retry: dict[str, Any] = {"max_attempts": random.choice((2, 3)), "initial_delay_ms": random.choice((1, 500))}
            if self.chance(0.3):
                retry["retry_on"] = random.sample(CODES, 2)
            stage["retry"] = retry
        if self.chance(0.5):
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
            seen[f"r{len(seen)}"] = self.random.choice(
                ("{{ input.base }}", "{{ context.path }}", "{{ context.attempt }}")
            )
        return seen

    def _one(self, place: _Place, otherwise: Any) -> Any:
        """Return one template that reads something, or a constant."""
        return next(iter(self._reading(place).values()), otherwise)

    def _variable_set(self, stage: dict[str, Any], place: _Place, chain: tuple[str, ...]) -> list[str]:
        name = f"x_{stage['id']}"
        stage["config"] = {"name": name, "value": self._one(place, "constant")}
        place.variables.append(name)
        return []

    def _wait_for_approval(self, stage: dict[str, Any], place: _Place, chain: tuple[str, ...]) -> list[str]:
        config: dict[str, Any] = {"message": "May it go on?"}
        if self.chance(0.5):
            config["timeout_ms"] = self.random.choice((500, 3000))
            config["on_timeout"] = self.random.choice(("fail", "continue"))
        stage["config"] = config
        return []

    # -- constructs -----------------------------------------------------------------------------------------------------

    def _bodies(
        self, place: _Place, chain: tuple[str, ...], count: int, *, shared: bool = False, follow: bool = False
    ) -> tuple[list[list[str]], list[str]]:
        """Generate the bodies of a construct; return them, and all that can be seen of them afterwards.

        Args:
            place: Where the construct stands.
            chain: The constructs that one of the bodies has to hold.
            count: How many.
            shared: Whether some of their variables may have the same names, because only one of them runs.
            follow: Whether each may read what was generated in those before it.
        """
        bodies: list[list[str]] = []
        seen: list[str] = []
        variables: list[str] = []
        forced = self.random.randrange(count)
        for position in range(count):
            inside = place.inside()
            if follow:
                inside.readable += seen
                inside.variables += variables
            if position != forced and self.chance(0.2):
                bodies.append([])
                continue
            before = len(inside.readable), len(inside.variables)
            bodies.append(self.body(inside, chain if position == forced else ()))
            if shared and variables and self.chance(0.5):
                self._set_again(inside, bodies[-1], variables[0])
            seen += inside.readable[before[0] :]
            variables += [name for name in inside.variables[before[1] :] if name not in variables]
        place.variables += variables
        return bodies, seen

    def _set_again(self, place: _Place, members: list[str], variable: str) -> None:
        """Let a body that excludes another one set the same variable."""
        if variable in place.variables:
            return
        name = self._stage("variable_set", place, ())
        stage = self.stages[-1]
        assert stage["id"] == name
        stage["config"]["name"] = place.variables[-1] = variable
        members.append(name)

    def _conditional(self, stage: dict[str, Any], place: _Place, chain: tuple[str, ...]) -> list[str]:
        reading = self._one(place, True)
        (yes, no), seen = self._bodies(place, chain, 2, shared=True)
        stage["config"] = {"condition": reading, "true_branch_stages": yes, "false_branch_stages": no}
        return seen

    def _sim_switch(self, stage: dict[str, Any], place: _Place, chain: tuple[str, ...]) -> list[str]:
        reading = self._reading(place)
        (left, middle, right), seen = self._bodies(place, chain, 3, shared=True)
        stage["config"] = {"see": reading, "left_stages": left, "middle_stages": middle, "branches": {"right": right}}
        return seen

    def _router(self, stage: dict[str, Any], place: _Place, chain: tuple[str, ...]) -> list[str]:
        reading = self._one(place, "a")
        (one, two, default), seen = self._bodies(place, chain, 3, shared=True)
        stage["config"] = {"value": reading, "routes": {"a": one, "b": two}, "default_route": default}
        return seen

    def _trycatch(self, stage: dict[str, Any], place: _Place, chain: tuple[str, ...]) -> list[str]:
        (tried, caught, last), seen = self._bodies(place, chain, 3, follow=True)
        config: dict[str, Any] = {"try_stages": tried, "catch_stages": caught, "finally_stages": last}
        stage["config"] = config
        config["error_scope"] = self.random.choice(("propagate", "continue", "continue"))
        if self.chance(0.3):
            config["catch_error_types"] = self.random.sample((*CODES, "Oops", "too_many_errors"), 3)
        return seen

    def _parallel(self, stage: dict[str, Any], place: _Place, chain: tuple[str, ...]) -> list[str]:
        bodies, seen = self._bodies(place, chain, self.random.choice((1, 2, 3, 4)))
        wait_for = self.random.choice(("all", "any", self.random.randint(1, len(bodies))))
        branches: Any = bodies
        if self.chance(0.3):
            branches = {f"b{i}": members for i, members in enumerate(bodies)}
        stage["config"] = {"branches": branches, "wait_for": wait_for}
        return seen

    def _foreach(self, stage: dict[str, Any], place: _Place, chain: tuple[str, ...]) -> list[str]:
        item = self.random.choice(("item", "row", stage["id"] + "_item"))
        index = self.random.choice(("index", stage["id"] + "_index"))
        inside = place.inside()
        inside.in_loop = True
        inside.loops = [name for name in place.loops if name not in (item, index)] + [index, item]
        reading = self._one(place, "")
        config: dict[str, Any] = {"items": reading if reading.endswith("}}") else [], "item_variable": item}
        config["index_variable"] = index
        if self.chance(0.7):
            config["max_parallel"] = self.random.choice((1, 2, 3, 5))
        if self.chance(0.5):
            config["break_on_error"] = False
            if self.chance(0.4):
                config["min_success_ratio"] = self.random.choice((0.5, 1.0))
        first = len(inside.readable)
        config["loop_stages"] = self.body(inside, chain)
        if self.chance(0.3):
            read = self.random.choice(inside.readable[first:])
            config["collect"] = {"of": "{{ stages." + read + " }}", "at": "{{ " + index + " }}"}
        stage["config"] = config
        return []

    def _subpipeline(self, stage: dict[str, Any], place: _Place, chain: tuple[str, ...]) -> list[str]:
        name = "called-" + stage["id"]
        config: dict[str, Any] = {"pipeline": name, "input_data": {"base": self._one(place, 23)}}
        if self.chance(0.3):
            config["timeout_ms"] = self.random.choice((400, 2000, 9000))
        if self.chance(0.4):
            config["on_error"] = self.random.choice(("continue", "default"))
            if config["on_error"] == "default":
                config["default_result"] = {"default": stage["id"]}
        stage["config"] = config
        self.callees[name] = self.pipeline(name, _Place(place.depth + 1, [], []), chain)
        return []


_SHORT = {
    "sim_work": "w",
    "variable_set": "v",
    "wait_for_approval": "a",
    "conditional": "c",
    "sim_switch": "s",
    "router": "r",
    "foreach": "f",
    "trycatch": "t",
    "parallel": "p",
    "subpipeline": "call",
    "return": "ret",
    "break_loop": "brk",
    "continue_loop": "con",
}
"""What ids begin with."""


def generate(seed: int) -> Generated:
    """Return a pipeline and those that it calls; the same for the same seed."""
    maker = _Maker(seed)
    data = maker.pipeline(f"simulated-{seed}", _Place(0, [], []), CHAINS[seed % len(CHAINS)])
    if maker.chance(0.4):
        data["max_parallel"] = maker.random.choice((1, 2, 4))
    return Generated(data=data, callees=maker.callees)
