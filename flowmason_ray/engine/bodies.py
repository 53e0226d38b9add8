"""Which body every stage belongs to: the tree of regions and scopes.

Second step of planning. A stage that no construct names belongs to the root region; every other one to exactly one body.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flowmason_ray.engine.control_flow import Body
from flowmason_ray.engine.drafts import Draft, Report, body_members
from flowmason_ray.errors import Suggestions

MAX_DEPTH = 100
"""How many bodies may lie inside each other. Far more than anybody can follow; it bounds paths, and the engine's stack."""


@dataclass(slots=True, eq=False)
class RegionNode:
    """A body, or the top level of the pipeline. `scope` is the node at which its namespace begins."""

    owner: str | None
    body: Body | None
    parent: RegionNode | None
    depth: int = 0
    members: list[str] = field(default_factory=list[str])
    children: list[RegionNode] = field(default_factory=list["RegionNode"])

    @property
    def begins_scope(self) -> bool:
        """Whether it is the top level of a scope: the root, or the body of a loop."""
        return self.body is None or self.body.loop

    @property
    def scope(self) -> RegionNode:
        """The region at the top of this region's scope."""
        node = self
        while not node.begins_scope:
            assert node.parent is not None
            node = node.parent
        return node

    def up(self) -> Iterator[RegionNode]:
        """Yield this region and all around it, from the inside out."""
        node: RegionNode | None = self
        while node is not None:
            yield node
            node = node.parent


@dataclass(slots=True)
class Bodies:
    """The tree: its root, and every stage's home."""

    root: RegionNode
    home: dict[str, RegionNode]

    def common(self, a: str, b: str) -> RegionNode:
        """Return the innermost region that both stages lie in, at any depth."""
        x, y = self.home[a], self.home[b]
        while x is not y:
            if x.depth >= y.depth:
                assert x.parent is not None
                x = x.parent
            else:
                assert y.parent is not None
                y = y.parent
        return x

    def lift(self, stage: str, region: RegionNode) -> str:
        """Return the stage itself or the owner around it that is a direct member of `region`."""
        node = self.home[stage]
        while node is not region:
            assert node.owner is not None
            assert node.parent is not None
            stage, node = node.owner, node.parent
        return stage

    def scopes(self) -> Iterator[RegionNode]:
        """Yield the region at the top of every scope, outer before inner."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            if node.begins_scope:
                yield node
            stack.extend(reversed(node.children))


def find_bodies(drafts: Mapping[str, Draft], report: Report) -> Bodies | None:
    """Build the tree; None when ownership is so wrong that nothing can be said about edges."""
    owner: dict[str, tuple[str, Body]] = {}
    sound = True
    suggestions = Suggestions(drafts)
    for draft, body, pointer, member in body_members(drafts):
        if member not in drafts:
            message = f"Stage {draft.id!r} names {member!r} in its body, which is not in the pipeline."
            report("unknown_stage", message, pointer, found=member, nearest=suggestions.nearest(member))
        elif member in owner:
            first = owner[member][0]
            same = "twice in its own bodies" if first == draft.id else f"in its body, which {first!r} does too"
            message = f"Stage {draft.id!r} names {member!r} {same}; a stage belongs to one body."
            report("two_owners", message, pointer, found=member)
        else:
            owner[member] = (draft.id, body)
    for ring in _rings(drafts, owner):
        sound = False
        words = " → ".join([*reversed(ring), ring[-1]])
        report("body_cycle", f"Stage {ring[0]!r} lies inside its own body: {words}.", drafts[ring[0]].pointer)
    if not sound:
        return None
    bodies = _build(drafts, owner)
    deepest = max(bodies.home, key=lambda stage: bodies.home[stage].depth, default=None)
    if deepest is not None and bodies.home[deepest].depth > MAX_DEPTH:
        message = (
            f"Stage {deepest!r} lies in {bodies.home[deepest].depth} bodies inside each other; the most is {MAX_DEPTH}."
        )
        report("too_deep", message, drafts[deepest].pointer, hint="Move a part into a pipeline of its own.")
        return None
    return bodies


def _rings(drafts: Mapping[str, Draft], owner: Mapping[str, tuple[str, Body]]) -> Iterator[list[str]]:
    """Yield every ring of stages of which each is owned by the next."""
    settled: set[str] = set()
    for start in drafts:
        chain: dict[str, None] = {}
        stage: str | None = start
        while stage is not None and stage not in settled and stage not in chain:
            chain[stage] = None
            stage = owner[stage][0] if stage in owner else None
        if stage in chain:
            walked = list(chain)
            yield walked[walked.index(stage) :]
        settled.update(chain)


def _build(drafts: Mapping[str, Draft], owner: Mapping[str, tuple[str, Body]]) -> Bodies:
    root = RegionNode(None, None, None)
    regions: dict[tuple[str, str], RegionNode] = {}
    home: dict[str, RegionNode] = {}

    def region_of(stage: str) -> RegionNode:
        pending: list[str] = []
        while stage not in home:
            found = owner.get(stage)
            if found is None:
                home[stage] = root
                break
            pending.append(stage)
            stage = found[0]
        for inner in reversed(pending):
            who, body = owner[inner]
            home[inner] = regions[who, body.name] = _region(regions, who, body, home[who])
        return home[pending[0] if pending else stage]

    for draft in drafts.values():
        region_of(draft.id).members.append(draft.id)
    for draft in drafts.values():  # empty bodies exist too: they can be taken
        for body in draft.shape.bodies:
            _region(regions, draft.id, body, home[draft.id])
    return Bodies(root, home)


def _region(regions: dict[tuple[str, str], RegionNode], owner: str, body: Body, around: RegionNode) -> RegionNode:
    node = regions.get((owner, body.name))
    if node is None:
        node = regions[owner, body.name] = RegionNode(owner, body, around, around.depth + 1)
        around.children.append(node)
    return node
