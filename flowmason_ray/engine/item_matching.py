"""Which item of an earlier run's loop an iteration stands for: found by what the item is, not by where it stands.

Items are inserted, removed and moved; what was done for an item belongs to it at its new place. An item that was not there
before is new, unless the item that had its place has vanished: then it may be the same one, changed, and counts as that, so
that no effect is repeated for it silently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flowmason_ray.engine.commands import StartStage
from flowmason_ray.engine.scope import Scope

OldItems = Sequence[tuple[str, bytes]]
"""Of a loop: each item's number in paths, and what stands for it."""


class ItemMatching:
    """Finds the earlier paths of stage instances."""

    def __init__(
        self,
        items_of: Callable[[str], OldItems],
        item: Callable[[Scope], bytes | None],
        all_of: Callable[[Scope], Sequence[bytes]],
    ) -> None:
        """
        Args:
            items_of: Returns the items that the loop at an earlier path had; empty: there was no such loop.
            item: Returns what stands for the item of an iteration; None: it is not known.
            all_of: Returns what stands for all the items of the loop that an iteration belongs to.
        """
        self._items_of = items_of
        self._item = item
        self._all_of = all_of
        self._old: dict[str, tuple[Mapping[bytes, list[str]], Mapping[str, bytes]]] = {}

    def old_path(self, command: StartStage) -> str | None:
        """Return the path that this stage instance had; None: it is inside of an item that is new."""
        prefix = self._prefix(command.scope)
        return None if prefix is None else prefix + command.stage.id

    def _prefix(self, scope: Scope) -> str | None:
        if scope.parent is None:
            return ""
        if scope.contents is None:
            scope.contents = {}
        if "before" not in scope.contents:
            around = self._prefix(scope.parent)
            found = None
            if around is not None:
                stage = around + scope.parent.plan.stages[scope.owner].id
                found = self._iteration(stage, scope) if scope.plan.variables else f"{stage}/"
            scope.contents["before"] = found
        return scope.contents["before"]

    def _iteration(self, loop: str, scope: Scope) -> str | None:
        by_content, by_number = self._loop(loop)
        content = self._item(scope)
        number = scope.prefix[scope.prefix.rindex("[") + 1 : -2]
        places = by_content.get(content or b"", [])
        if places:
            return f"{loop}[{number if number in places else places[0]}]/"
        before = by_number.get(number)
        if before is None:
            return None
        assert scope.parent is not None
        if scope.parent.contents is None:
            scope.parent.contents = {}
        key = ("items", scope.owner)
        if key not in scope.parent.contents:
            scope.parent.contents[key] = frozenset(self._all_of(scope))
        return None if before in scope.parent.contents[key] else f"{loop}[{number}]/"

    def _loop(self, loop: str) -> tuple[Mapping[bytes, list[str]], Mapping[str, bytes]]:
        found = self._old.get(loop)
        if found is None:
            by_content: dict[bytes, list[str]] = {}
            by_number: dict[str, bytes] = {}
            for number, content in self._items_of(loop):
                by_content.setdefault(content, []).append(number)
                by_number[number] = content
            found = self._old[loop] = (by_content, by_number)
        return found
