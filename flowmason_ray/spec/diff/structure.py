"""What a tree says about order and control flow: who waits for whom, and who is in which body.

The plan makes its edges from components and types; here only the document is known, which is enough to draw it, to tell
which edges moved, and to find what a merge broke. An edge into or out of a body is lifted to the innermost body that holds
both of its ends, as the plan does it (`engine.edges`); what cannot be an edge is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowmason_ray.spec.diff.naming import Mention, mentions
from flowmason_ray.spec.diff.tree import Keyed, Path

_DEEPEST = 1000
"""Owners around a stage that are followed; a ring of owners ends there."""


@dataclass(frozen=True, slots=True)
class Home:
    """The body that a stage is in."""

    owner: str
    body: str
    """`loop_stages`, `routes/refund`, …: the path of the body in its owner's config."""


@dataclass(slots=True, kw_only=True)
class Structure:
    """The stages of a tree (and its compositions, which behave like stages), their homes and the edges between them."""

    ids: Mapping[str, None] = field(default_factory=dict[str, None])
    homes: dict[str, Home] = field(default_factory=dict[str, Home])
    mentions: list[Mention] = field(default_factory=list[Mention])
    second_homes: list[tuple[Mention, Home]] = field(default_factory=list[tuple[Mention, Home]])
    """Memberships of stages that another body has already."""

    @property
    def edges(self) -> dict[tuple[str, str], list[Path]]:
        """(upstream, downstream) → where it is said, as it is said."""
        found: dict[tuple[str, str], list[Path]] = {}
        for mention in self.mentions:
            if mention.role in ("reads", "after") and mention.by and mention.stage != mention.by:
                found.setdefault((mention.stage, mention.by), []).append(mention.path)
        return found

    def owners(self, stage: str) -> list[str]:
        """Return the stages that a stage lies in, from the inside out."""
        around: list[str] = []
        while (home := self.homes.get(stage)) is not None and len(around) < _DEEPEST and home.owner not in around:
            stage = home.owner
            around.append(stage)
        return around

    def lifted(self) -> dict[tuple[str, str], list[Path]]:
        """Return the edges between members of the same body: (upstream, downstream) → where they are said."""
        found: dict[tuple[str, str], list[Path]] = {}
        for (above, below), paths in self.edges.items():
            pair = self._lift(above, below)
            if pair is not None:
                found.setdefault(pair, []).extend(paths)
        return found

    def _lift(self, above: str, below: str) -> tuple[str, str] | None:
        if above not in self.ids or below not in self.ids:
            return None
        if above not in self.homes and below not in self.homes:
            return above, below
        chains = [[stage, *self.owners(stage)] for stage in (above, below)]
        bodies = [[*(self.homes.get(stage) for stage in chain)] for chain in chains]
        inside = {body: n for n, body in reversed(list(enumerate(bodies[0])))}
        for n, body in enumerate(bodies[1]):
            if body in inside:
                pair = chains[0][inside[body]], chains[1][n]
                return pair if pair[0] != pair[1] else None
        return None


def structure_of(tree: Mapping[str, Any]) -> Structure:
    """Return the structure of a tree."""
    found = Structure(ids={name: None for part in ("stages", "compositions") for name in _keys(tree.get(part))})
    for mention in mentions(tree):
        found.mentions.append(mention)
        if mention.role == "member":
            home = Home(mention.by, "/".join(mention.path[3:-1]))
            first = found.homes.setdefault(mention.stage, home)
            if first != home:
                found.second_homes.append((mention, first))
    return found


def _keys(part: Any) -> Iterator[str]:
    if isinstance(part, Keyed):
        yield from part


def find_cycle(edges: Mapping[str, list[str]]) -> list[str] | None:
    """Return a ring of stages of which each waits for the next (first and last are the same), or None.

    Args:
        edges: Each stage → the stages that it waits for.
    """
    done: set[str] = set()
    for start in edges:
        if start in done:
            continue
        path, on_path, stack = [start], {start}, [iter(edges.get(start, ()))]
        while stack:
            above = next(stack[-1], None)
            if above is None:
                stack.pop()
                on_path.discard(finished := path.pop())
                done.add(finished)
            elif above in on_path:
                return [*path[path.index(above) :], above]
            elif above not in done:
                path.append(above)
                on_path.add(above)
                stack.append(iter(edges.get(above, ())))
    return None
