"""The room that is reserved for a gang on the cluster: a placement group, with a label selector for each bundle."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from flowmason_ray.engine.executors.capacity import Demand, for_ray
from flowmason_ray.engine.executors.gangs import Member
from flowmason_ray.engine.scope import Status

_ray: Any = ray  # under this name without types: those of Ray are partly unknown


class Room:
    """An open gang's room. It is there when `ready` is."""

    def __init__(self, member: Member, bundles: list[Demand], name: str) -> None:
        """
        Args:
            member: One of the gang.
            bundles: What each branch, or item, needs; those that need nothing get no room.
            name: What it is called in Ray's listings.
        """
        stage = member.scope.plan.stages[member.index]
        self.ready = False
        self.wanted = [bundle for bundle in bundles if bundle.amounts]
        self._member = member
        self._places = [number for number, bundle in enumerate(bundles) if bundle.amounts]
        self._strategies: dict[int, Any] = {}
        self._group: Any = placement_group(
            [dict(bundle.amounts) for bundle in self.wanted],
            strategy="SPREAD" if stage.strategy == "spread" else "PACK",
            name=name,
            bundle_label_selector=[for_ray(bundle.labels) for bundle in self.wanted],
        )

    def belongs_to(self, member: Member) -> bool:
        """Tell whether it was opened for this gang, and not for an earlier one at the same path."""
        return self._member.scope is member.scope

    @property
    def over(self) -> bool:
        """Whether the construct that opened the gang has ended."""
        return self._member.scope.status[self._member.index] != Status.OPEN

    def when_ready(self) -> Any:
        """Return a reference that is there when the room is."""
        return self._group.ready()

    def options(self, member: Member, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a call in this room, from those that it would have elsewhere."""
        place = self._place(member)
        strategy = self._strategies.get(place)
        if strategy is None:  # one object for all of them: actors are shared by calls with the same options
            strategy = self._strategies[place] = PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=place, placement_group_capture_child_tasks=False
            )
        kept = {name: value for name, value in options.items() if name not in ("label_selector", "fallback_strategy")}
        return {**kept, "scheduling_strategy": strategy}

    def gone(self) -> set[int]:
        """Ask the cluster which of the room's places were lost with their nodes and are not there again."""
        table: dict[str, Any] = _ray.util.placement_group_table(self._group)
        there: dict[int, str] = table.get("bundles_to_node_id") or {}
        return {place for place in range(len(self.wanted)) if not there.get(place)}

    def needs(self, member: Member, gone: Collection[int]) -> bool:
        """Tell whether a member has to wait for places that are gone: for its own, or, if any will do, for one of all."""
        place = self._place(member)
        return place in gone if place >= 0 else len(gone) == len(self.wanted)

    def _place(self, member: Member) -> int:
        return self._places.index(member.bundle) if member.bundle >= 0 else -1

    def give_back(self) -> None:
        """Give it back. What still runs in it is ended."""
        remove_placement_group(self._group)
