"""Which stage waits for which: references and `depends_on` become order edges inside regions.

Third step of planning. Let `u` be what is read and `v` the reader. Both are lifted to the innermost region that holds them
both; the order edge joins the lifted stages. So an edge into a body becomes an edge to the body's owner, and one out of a
branch starts at the branch's owner. What such a lifting cannot mean is an error: reading a stage inside a loop from outside
it, one branch reading its sibling, a body reading its own owner's output.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flowmason_ray.engine.bodies import Bodies, RegionNode
from flowmason_ray.engine.control_flow import Body
from flowmason_ray.engine.drafts import Draft, Report
from flowmason_ray.engine.setter_order import SetterOrder
from flowmason_ray.errors import Suggestions, nearest
from flowmason_ray.spec.expressions import Reference

ROOTS = frozenset({"input", "stages", "vars", "context", "env", "secrets"})
RESERVED = ROOTS | {
    "upstream",
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "true",
    "false",
    "none",
    "True",
    "False",
    "None",
}
"""Names that mean something in every expression; `upstream` is the older spelling of `stages`."""
MOST_NAMED = 5
"""How many stages a message names that could name thousands."""
CONTEXT_FIELDS = ("attempt", "path", "pipeline", "region", "run_id", "stage_id", "started_at", "version")


@dataclass(slots=True)
class Edges:
    """What follows from the references: order, what the skip rule looks at, what is read."""

    waits: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict[str, dict[str, str]](dict))
    """Lifted reader → {lifted upstream: JSON pointer of where it is said}."""
    upstreams: dict[str, dict[str, None]] = field(default_factory=lambda: defaultdict[str, dict[str, None]](dict))
    """Reader → the stages it names, as written (an ordered set)."""
    roots: dict[str, set[str]] = field(default_factory=lambda: defaultdict[str, set[str]](set))
    """Reader → the roots it uses."""


class EdgeFinder:
    """Collects the edges of one pipeline."""

    def __init__(self, drafts: Mapping[str, Draft], bodies: Bodies, names: Names, report: Report) -> None:
        self._drafts = drafts
        self._bodies = bodies
        self._names = names
        self._report = report
        self._setters = _setters(drafts.values())
        self._setters_in: dict[tuple[str, int], list[str]] = defaultdict(list)
        """(variable, its scope's region) → the stages that set it there."""
        for name, setters in self._setters.items():
            for setter in setters:
                self._setters_in[name, id(bodies.home[setter].scope)].append(setter)
        self._lost = {name for draft in drafts.values() if draft.misshapen for name in _loop_names(draft)}
        """The variables of loops that could not be understood: that their bodies read them is no further mistake."""
        self._suggestions = Suggestions(drafts)
        self._above: dict[str, set[str]] = {}
        self.edges = Edges()

    def add(self, draft: Draft) -> None:
        """Add all edges of one stage but those of variables, which `add_variables` does when the others are known."""
        if draft.spec is not None:
            for i, name in enumerate(draft.spec.depends_on):
                self._depends(draft, name, f"{draft.pointer}/depends_on/{i}")
        for body in draft.shape.bodies:
            self._check_loop_variables(draft, body)
        for pointer, reference in draft.references():
            self._refer(draft, reference, pointer)

    def _check_loop_variables(self, draft: Draft, body: Body) -> None:
        """A loop variable must be a name that expressions can say and that means nothing else."""
        for position, name in enumerate(body.variables):
            config = draft.spec.config if draft.spec else {}
            key = next(
                (
                    key
                    for key in ("index_variable", "item_variable")[:: -1 if position == 0 else 1]
                    if config.get(key) == name
                ),
                "",
            )
            pointer = f"{draft.pointer}/config" + (f"/{key}" if key else "")
            if not name.isidentifier():
                message = (
                    f"The loop variable {name!r} of stage {draft.id!r} is not a name: use letters, digits and '_'."
                )
                self._report("invalid_name", message, pointer, found=name)
            elif name in RESERVED:
                message = (
                    f"The loop variable {name!r} of stage {draft.id!r} would hide what {name!r} means in expressions."
                )
                self._report("shadowed_name", message, pointer, found=name, hint="Give it another name.")
            elif name in body.variables[:position]:
                message = f"Item and index of stage {draft.id!r} are both called {name!r}."
                self._report("shadowed_name", message, pointer, found=name, hint="Give one of them another name.")

    def _refer(self, draft: Draft, reference: Reference, pointer: str) -> None:
        root = reference.root
        self.edges.roots[draft.id].add(root)
        if root == "stages":
            if not reference.path:
                self._report("dynamic_reference", "Name the stage: 'stages.<id>'.", pointer)
                return
            self._read(draft, str(reference.path[0]), reference, pointer)
        elif root in ROOTS:
            self._names.check(reference, pointer, self._report)
        elif root not in self.loop_variables(draft.id):
            self._unknown_root(draft, root, pointer)

    def loop_variables(self, stage: str) -> list[str]:
        """Return the variables of the loops around a stage."""
        return [name for node in self._bodies.home[stage].up() if node.body for name in node.body.variables]

    def _unknown_root(self, draft: Draft, root: str, pointer: str) -> None:
        if root in self._lost:
            return
        hint = f"A stage's output is written 'stages.{root}'." if root in self._drafts else None
        known = [*ROOTS, *self.loop_variables(draft.id)]
        self._report(
            "unknown_name",
            f"{draft.title} reads {root!r}, which is no name here; known are: {', '.join(sorted(known))}.",
            pointer,
            found=root,
            nearest=None if hint else nearest(root, known),
            hint=hint,
        )

    def _read(self, draft: Draft, name: str, reference: Reference, pointer: str) -> None:
        if name not in self._drafts:
            self._unknown_stage(draft, name, f"{draft.title} reads", pointer)
        elif name == draft.id:
            self._report("self_reference", f"Stage {name!r} reads its own output.", pointer)
        elif self._connect(draft, name, pointer, reads=reference.aspect == "output"):
            crosses = self._bodies.home[name] not in self._bodies.home[draft.id].up()
            if crosses and len(reference.path) > 1 and reference.aspect == "output" and not reference.defaulted:
                self._report(
                    "missing_default",
                    f"{draft.title} reads a field of {name!r}, which may be skipped because it lies in a branch.",
                    pointer,
                    hint="Say what holds then: '| default(…)'.",
                )

    def _depends(self, draft: Draft, name: str, pointer: str) -> None:
        if name not in self._drafts:
            self._unknown_stage(draft, name, f"Stage {draft.id!r} depends on", pointer)
        elif name == draft.id:
            self._report("self_reference", f"Stage {name!r} depends on itself.", pointer)
        else:
            self._connect(draft, name, pointer, reads=False)

    def _unknown_stage(self, draft: Draft, name: str, words: str, pointer: str) -> None:
        self._report(
            "unknown_stage",
            f"{words} {name!r}, which is not in the pipeline.",
            pointer,
            found=name,
            nearest=self._suggestions.nearest(name, but=draft.id),
        )

    def _connect(self, draft: Draft, name: str, pointer: str, *, reads: bool) -> bool:
        """Join two stages; return whether that is possible."""
        region = self._bodies.common(name, draft.id)
        above, below = self._bodies.lift(name, region), self._bodies.lift(draft.id, region)
        crossed = self._loop_crossed(name, region)
        if crossed is not None:
            message = f"{draft.title} reaches into the body of {crossed!r}: {name!r} runs once per item there."
            hint = f"Read what the loop collects: 'stages.{crossed}.results'."
            self._report("border_crossing", message, pointer, hint=hint)
            return False
        if above == below:
            return self._within_owner(draft, name, above, pointer, reads=reads)
        self.edges.upstreams[draft.id][name] = None
        self.edges.waits[below].setdefault(above, pointer)
        return True

    def _within_owner(self, draft: Draft, name: str, owner: str, pointer: str, *, reads: bool) -> bool:
        if name == owner:  # a body stage and its own owner: the order is implied
            if reads:
                message = f"{draft.title} reads {name!r}, whose body it belongs to: there is no output yet."
                self._report("border_crossing", message, pointer)
            return not reads
        if draft.id == owner:
            message = f"{draft.title} reads {name!r} in its own body before the body has run."
            self._report("border_crossing", message, pointer)
            return False
        theirs, ours = self._body_in(name, owner), self._body_in(draft.id, owner)
        if theirs.name in ours.after:
            self.edges.upstreams[draft.id][name] = None
            return True
        message = f"Stages {draft.id!r} and {name!r} lie in different bodies of {owner!r}, of which neither waits for the other."
        self._report("border_crossing", message, pointer)
        return False

    def _body_in(self, stage: str, owner: str) -> Body:
        body = next(node.body for node in self._bodies.home[stage].up() if node.owner == owner)
        assert body is not None
        return body

    def _loop_crossed(self, name: str, outside: RegionNode) -> str | None:
        for node in self._bodies.home[name].up():
            if node is outside:
                return None
            if node.begins_scope:
                return node.owner
        return None

    # -- variables ----------------------------------------------------------------------------------------------------

    def order_setters(self, readers: Iterable[Draft]) -> None:
        """Order the stages that set the same variable, or say that nothing orders them (`setter_order`)."""
        several = {name: setters for name, setters in self._setters.items() if len(setters) > 1}
        if not several:
            return
        reading: dict[str, set[str]] = defaultdict(set)
        for draft in readers:
            for name in _variables_read(draft):
                reading[name].add(draft.id)
        order = SetterOrder(self._bodies, self.edges.waits)
        found = {name: order.settle(setters, reading[name]) for name, setters in several.items()}
        for name, (edges, unsettled) in found.items():
            for first, second in edges:
                self.edges.waits[second].setdefault(first, self._drafts[second].pointer)
            if unsettled:
                self._report_unsettled(name, unsettled)
            self._refuse_concurrent(several[name])
        self._above = {}

    def _refuse_concurrent(self, setters: Sequence[str]) -> None:
        """Report setters of one variable in branches that run at the same time, once per construct."""
        by_owner: dict[str, dict[str, str]] = defaultdict(dict)
        for setter in setters:
            for node in self._bodies.home[setter].up():
                if node.body is not None and node.body.concurrent and node.owner is not None:
                    by_owner[node.owner].setdefault(node.body.name, setter)
                if node.begins_scope:
                    break
        for owner, first_in in by_owner.items():
            for other in list(first_in.values())[1:2]:
                self._refuse_race(next(iter(first_in.values())), other, owner, self._drafts[other].pointer)

    def _report_unsettled(self, name: str, setters: Sequence[str]) -> None:
        message = (
            f"Stages {setters[0]!r} and {setters[1]!r} both set variable {name!r}, and neither comes before the other."
        )
        if len(setters) > 2:
            named = ", ".join(map(repr, setters[:MOST_NAMED])) + (", …" if len(setters) > MOST_NAMED else "")
            message = f"{len(setters):,} stages set variable {name!r}, and nothing says in which order: {named}."
        hint = f"Add {setters[0]!r} to 'depends_on' of {setters[1]!r}, or the other way round."
        self._report("ambiguous_order", message, self._drafts[setters[1]].pointer, hint=hint)

    def add_variables(self, readers: Iterable[Draft]) -> None:
        """Let the readers of variables wait for the stages that set them."""
        reads: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for draft in readers:
            for name, pointer in _variables_read(draft).items():
                for setter in self._visible_setters(draft, name, pointer):
                    reads[setter].append((draft.id, pointer))
        for setter, theirs in reads.items():  # setter by setter, so that what is above it is found once
            for reader, pointer in theirs:
                region = self._bodies.common(setter, reader)
                above, below = self._bodies.lift(setter, region), self._bodies.lift(reader, region)
                if above == below:
                    self._refuse_race(setter, reader, above, pointer)
                elif not self._reaches(below, above):
                    self.edges.waits[below].setdefault(above, pointer)

    def _visible_setters(self, draft: Draft, name: str, pointer: str) -> list[str]:
        visible: list[str] = []
        found = False
        own = self._bodies.home[draft.id].scope
        for node in self._bodies.home[draft.id].up():
            setters = self._setters_in.get((name, id(node)), ()) if node.begins_scope else ()
            found = found or any(setter != draft.id for setter in setters)
            if node is not own or name not in draft.names:  # else `order_setters` has put it in its place among them
                visible += setters
        defaulted = any(r.defaulted for _, r in draft.references() if r.root == "vars" and r.path and r.path[0] == name)
        if not found and not defaulted:
            message = f"{draft.title} reads variable {name!r}, which no stage sets where it could be seen."
            others = [s for s in self._setters.get(name, ()) if s != draft.id]
            hint = f"Stage {others[0]!r} sets it inside a loop, for that iteration only." if others else None
            close = nearest(name, [each for each in self._setters if each != name])
            self._report("unknown_variable", message, pointer, found=name, nearest=close, hint=hint)
        return visible

    def _sees(self, reader: str, setter: str) -> bool:
        return any(node is self._bodies.home[setter].scope for node in self._bodies.home[reader].up())

    def _refuse_race(self, setter: str, other: str, owner: str, pointer: str) -> None:
        """Report two stages of which one sets a variable that the other uses while both run."""
        if other == owner or not self._body_in(setter, owner).concurrent:
            return
        message = (
            f"Stages {setter!r} and {other!r} lie in branches of {owner!r} that run at the same time; "
            f"{other!r} uses a variable that {setter!r} sets."
        )
        hint = "Give the variables different names, or read what the other stage returns after the branches."
        self._report("ambiguous_order", message, pointer, hint=hint)

    def _reaches(self, start: str, goal: str) -> bool:
        """Tell whether `goal` waits, at any distance, for `start`.

        What is above the last few goals is remembered: they are asked for in turn. An edge added to `start` because it is
        not above `goal` changes nothing above `goal`; after any other edge all is forgotten.
        """
        known = self._above.get(goal)
        if known is None:
            if len(self._above) >= 100:  # each may be as large as the pipeline
                self._above = {}
            known, stack = set[str](), [goal]
            while stack:
                for above in self.edges.waits.get(stack.pop(), ()):
                    if above not in known:
                        known.add(above)
                        stack.append(above)
            self._above[goal] = known
        return start in known


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the roots other than stages and loop variables hold, as far as it is known when the plan is made."""

    input_properties: frozenset[str] | None
    """None: the pipeline does not say."""
    input_closed: bool
    env: frozenset[str]
    secrets: frozenset[str]
    sealed: bool = False
    """Whether no secret may be read at all: the pipeline is composed into another one."""

    def check(self, reference: Reference, pointer: str, report: Report) -> None:
        """Report a name that cannot be there."""
        root, first = reference.root, str(reference.path[0]) if reference.path else None
        if root == "secrets" and self.sealed:
            message = (
                f"{str(reference)!r} cannot be read here: no secret crosses the border of a composition by itself."
            )
            hint = "Hand it over in the composition's 'input_mapping' and read it from 'input', or call the pipeline by a 'subpipeline' stage."
            report("not_allowed", message, pointer, hint=hint)
            return
        if first is None or root == "vars":
            return
        if root == "context" and first not in CONTEXT_FIELDS:
            report(
                "unknown_name",
                f"'context' has no {first!r}.",
                pointer,
                nearest=nearest(first, CONTEXT_FIELDS),
                expected=", ".join(CONTEXT_FIELDS),
            )
        elif root in ("env", "secrets"):
            allowed, key = (self.env, "env_allow") if root == "env" else (self.secrets, "secrets")
            if first not in allowed:
                report(
                    "not_allowed",
                    f"'{root}.{first}' is not allowed in this project.",
                    pointer,
                    nearest=nearest(first, allowed),
                    hint=f"List it under {key!r} in flowmason.json.",
                )
        elif root == "input" and self.input_properties is not None and first not in self.input_properties:
            if self.input_closed and not reference.defaulted:
                report(
                    "unknown_field",
                    f"The input has no field {first!r}; its schema allows only: "
                    f"{', '.join(sorted(self.input_properties))}.",
                    pointer,
                    found=first,
                    nearest=nearest(first, self.input_properties),
                )
            elif not reference.defaulted and (close := nearest(first, self.input_properties)):
                report(
                    "unknown_field",
                    f"The input's schema does not mention {first!r}.",
                    pointer,
                    found=first,
                    nearest=close,
                    severity="warning",
                )


def _loop_names(draft: Draft) -> Iterator[str]:
    """Yield the variables that a stage's config gives to its body, if it is that of a loop."""
    config = draft.spec.config if draft.spec is not None else {}
    if "loop_stages" in config:
        for key, default in (("item_variable", "item"), ("index_variable", "index")):
            name = config.get(key, default)
            yield name if isinstance(name, str) else default


def _variables_read(draft: Draft) -> dict[str, str]:
    """Return the variables that a stage reads, with the pointer of where."""
    return {str(r.path[0]): pointer for pointer, r in draft.references() if r.root == "vars" and r.path}


def _setters(drafts: Iterable[Draft]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for draft in drafts:
        for name in draft.names:
            found[name].append(draft.id)
    return found


def find_cycle(members: Sequence[str], waits: Mapping[str, Mapping[str, str]]) -> list[str] | None:
    """Return one cycle among `members` (each waits for the next; first and last are the same), or None.

    Iterative depth-first search: a chain of any length is fine.
    """
    done: set[str] = set()
    for start in members:
        if start in done:
            continue
        path: list[str] = [start]
        on_path = {start}
        stack = [iter(waits.get(start, ()))]
        while stack:
            above = next(stack[-1], None)
            if above is None:
                stack.pop()
                finished = path.pop()
                on_path.discard(finished)
                done.add(finished)
            elif above in on_path:
                return [*path[path.index(above) :], above]
            elif above not in done:
                path.append(above)
                on_path.add(above)
                stack.append(iter(waits.get(above, ())))
    return None
