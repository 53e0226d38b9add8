"""Waiting until a run has done what it was asked, and saying what for when that takes more than a moment.

A run that is to pause waits for effects that must not be repeated, and that may take any time. Who asked sits before an empty
line meanwhile, and has to know why, for how long, and that leaving takes nothing back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from flowmason_ray.cli.terminal import note
from flowmason_ray.engine.events import ATTEMPT_ENDED, StageEnded, StageSkipped
from flowmason_ray.engine.pausing import WAITED_FOR

if TYPE_CHECKING:
    from flowmason_ray.engine.run_log import RunRecord, RunStore

PATIENCE_S = 60.0
"""How long is waited for the run to react: it looks for requests twice a second, but stopping stages takes a moment, and a busy
machine or disk may hold it up for a while."""
POLL_S = 0.1
SILENT_S = 1.0
"""After how long we say what is waited for: most runs have reacted by then."""
_NAMED = 5
"""Stages that are named."""
_OVER = frozenset(event.kind for event in (*ATTEMPT_ENDED, StageSkipped, StageEnded))


class Reactions:
    """Follows the log of a run that is asked something."""

    def __init__(self, store: RunStore, record: RunRecord, *, after: int = 0) -> None:
        """What happens behind position `after` is new; without it, what does after `catch_up`."""
        self._store = store
        self._record = record
        self._position = after
        self._under_way: dict[str, None] = {}
        """The attempts that have begun and not ended."""

    async def catch_up(self) -> None:
        """Pass over what has happened so far: to be done before the run is asked."""
        await self._reads(lambda event: False)

    async def seen(
        self, wanted: Callable[[Mapping[str, Any]], bool], *, say: Callable[[str, str], str] | None = None
    ) -> bool:
        """Wait until an event that is new is the wanted one, up to `PATIENCE_S`.

        Args:
            wanted: Tells it.
            say: Makes the line that is written once when it takes longer than `SILENT_S`, from the stages that are waited for
                because their effects must not be repeated, and from those that are under way; each may be empty. None: we
                keep silent.
        """
        began = monotonic()
        while (waited_s := monotonic() - began) < PATIENCE_S:
            if await self._reads(wanted):
                return True
            if say is not None and waited_s > SILENT_S:
                note(say(_names(await self._waited_for()), _names(list(self._under_way))))
                say = None
            await asyncio.sleep(POLL_S)
        return False

    async def _reads(self, wanted: Callable[[Mapping[str, Any]], bool]) -> bool:
        async for recorded in self._store.read(self._record.run_id, after=self._position):
            self._position, event = recorded.position, recorded.event
            if event["kind"] == "stage_started":
                self._under_way[event["path"]] = None
            elif event["kind"] in _OVER:
                self._under_way.pop(event["path"], None)
            if wanted(event):
                return True
        return False

    async def _waited_for(self) -> list[str]:
        said = {each.path: None async for each in self._store.said(self._record.run_id) if each.message == WAITED_FOR}
        return [path for path in said if path in self._under_way]  # what an earlier pause waited for has ended


def _names(paths: Sequence[str]) -> str:
    more = len(paths) - _NAMED
    return ", ".join(paths[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
