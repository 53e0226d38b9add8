"""Where the values of a pipeline come from, for people: names instead of pointers, every place in the chain with its value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from flowmason_ray.errors import InvalidCall, nearest
from flowmason_ray.spec.loader import LoadedPipeline
from flowmason_ray.spec.provenance import MISSING, Chain, chain_of, leaves, value_at
from flowmason_ray.spec.source import join_pointer, split_pointer


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A value of a resolved pipeline."""

    name: str
    """As people write it: `fetch.config.url`, `output.rows`."""
    pointer: str
    """In the resolved document."""
    value: Any
    chain: Chain
    """Where it was written: what holds comes last."""

    def to_json(self) -> dict[str, Any]:
        """Return the form that `fm explain --json` prints."""
        written: list[dict[str, Any]] = []
        for origin in self.chain:
            place = origin.place()
            value = origin.value()
            written.append(
                {
                    "file": place.file,
                    "line": place.line,
                    "column": place.column,
                    "path": origin.pointer,
                    "value": None if value is MISSING else value,
                }
            )
        return {"name": self.name, "path": self.pointer, "value": self.value, "written": written}


def explain(loaded: LoadedPipeline, path: str | None = None) -> list[Explained]:
    """Return every leaf of a pipeline, or of a part of it, with where it was written.

    Args:
        loaded: The pipeline, put together.
        path: The part: a JSON pointer, or names with dots (`pointer_of`); None: all of it.

    Raises:
        InvalidCall: there is no such part.
    """
    start = "" if path is None else pointer_of(loaded, path)
    found: list[Explained] = []
    for pointer, value in leaves(value_at(loaded.data, start), start):
        found.append(
            Explained(name=name_of(loaded, pointer), pointer=pointer, value=value, chain=chain_of(loaded, pointer))
        )
    return found


def pointer_of(loaded: LoadedPipeline, path: str) -> str:
    """Return the JSON pointer of a part of a pipeline.

    Args:
        loaded: The pipeline.
        path: A pointer (`/stages/0/config`), or names with dots: the id of a stage or a composition, or a field of the
            pipeline, and what lies below (`fetch.config.url`, `defaults.retry`).

    Raises:
        InvalidCall: there is no such part; the nearest is named.
    """
    if path.startswith("/") or not path:
        if value_at(loaded.data, path) is MISSING:
            raise InvalidCall(f"There is nothing at {path!r} in the resolved pipeline.")
        return path
    tokens = path.split(".")
    places = {identifier: pointer for pointer, identifier in _elements(loaded)}
    if tokens[0] in ("stages", "compositions") and len(tokens) > 1 and tokens[1] in places:
        tokens = tokens[1:]
    pointer = places.get(tokens[0], join_pointer(tokens[0]))
    if value_at(loaded.data, pointer) is MISSING:
        raise _unknown(path, tokens[0], [*places, *loaded.data])
    for token in tokens[1:]:
        here = value_at(loaded.data, pointer)
        pointer += join_pointer(token)
        if value_at(loaded.data, pointer) is MISSING:
            raise _unknown(path, token, list(cast("dict[str, Any]", here)) if isinstance(here, dict) else [])
    return pointer


def name_of(loaded: LoadedPipeline, pointer: str) -> str:
    """Return what people call the part at a pointer: with the stage's id in the place of its position."""
    match split_pointer(pointer):
        case [("stages" | "compositions") as part, position, *rest]:
            return ".".join([str(loaded.data[part][int(position)].get("id", position)), *rest])
        case tokens:
            return ".".join(tokens)


def _elements(loaded: LoadedPipeline) -> Iterator[tuple[str, str]]:
    for part in ("compositions", "stages"):
        for position, item in enumerate(loaded.data.get(part, ())):
            yield f"/{part}/{position}", str(item.get("id"))


def _unknown(path: str, token: str, known: list[str]) -> InvalidCall:
    close = nearest(token, known)
    hint = f" Did you mean {close!r}?" if close else ""
    return InvalidCall(f"There is no {token!r} in the resolved pipeline (looking for {path!r}).{hint}")
