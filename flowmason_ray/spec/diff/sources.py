"""Where the values of a resolved pipeline are written, asked with the paths that a diff speaks of.

A diff knows stages by their ids, provenance by their position in the resolved document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowmason_ray.spec.diff.tree import Path
from flowmason_ray.spec.loader import LoadedPipeline
from flowmason_ray.spec.provenance import chain_of
from flowmason_ray.spec.source import join_pointer


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, as it is shown. `line` is None where there are no lines."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


NOWHERE = Place("")


class Sources:
    """The places of one pipeline's values."""

    def __init__(self, loaded: LoadedPipeline | None, shown: Callable[[str], str]) -> None:
        """
        Args:
            loaded: The pipeline, put together; None: there is none.
            shown: What a file is called.
        """
        self._loaded = loaded
        self._shown = shown
        self._positions: dict[Path, int] = {}
        data = loaded.data if loaded is not None else {}
        for part in ("stages", "compositions"):
            self._positions.update({(part, str(each["id"])): n for n, each in enumerate(data.get(part, ()))})
        self.own = shown(loaded.source.file) if loaded is not None and loaded.source.file else ""
        """The pipeline's own file."""

    def place(self, path: Path) -> Place:
        """Return where the value at a path of the diff's tree is written."""
        if self._loaded is None:
            return NOWHERE
        tokens: tuple[str | int, ...] = path
        if len(path) > 1 and (position := self._positions.get(path[:2])) is not None:
            tokens = (path[0], position, *path[2:])
        at = chain_of(self._loaded, join_pointer(*tokens))[-1].place()
        return Place(self._shown(at.file), at.line) if at.file else NOWHERE
