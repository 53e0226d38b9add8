"""From a pipeline file to the document that is compared and merged, numbers as they are spelled."""

from __future__ import annotations

import json
from typing import Any

from flowmason_ray.spec.loader import LoadedPipeline
from flowmason_ray.spec.parsing import WrittenNumber, parse_object
from flowmason_ray.spec.source import Source
from flowmason_ray.spec.spellings import respell


def document_of(loaded: LoadedPipeline) -> dict[str, Any]:
    """Return a loaded pipeline's canonical document; a number that Python would spell otherwise stays as it is written.

    Comparing takes `1e3` and `1000.0` for one number; a merge that writes them back must not respell them.
    """
    text = loaded.source.text
    if not text:
        return loaded.data
    exact = _Exact()
    data = json.JSONDecoder(parse_float=exact.read).decode(text)  # the loader has checked everything about it
    return respell(data).data if exact.found else loaded.data


def read_exactly(source: Source) -> dict[str, Any]:
    """Return what a file holds in canonical spelling, numbers as they are spelled, whether or not it is a pipeline.

    Raises:
        InvalidPipeline: it is not JSON.
    """
    parse_object(source)
    return respell(json.JSONDecoder(parse_float=_Exact().read).decode(source.text)).data


class _Exact:
    """Reads numbers, and notes whether there was one that Python would spell otherwise."""

    def __init__(self) -> None:
        self.found = False

    def read(self, written: str) -> float | WrittenNumber:
        value = float(written)
        if repr(value) == written:
            return value
        self.found = True
        return WrittenNumber(written)


def without_spelling(value: Any) -> Any:
    """Return a value with all numbers as Python's: for who prints JSON or shows it."""
    if isinstance(value, WrittenNumber):
        return float(value.text)
    if isinstance(value, dict):
        return {key: without_spelling(inner) for key, inner in value.items()}  # pyright: ignore[reportUnknownVariableType]  # JSON
    if isinstance(value, list):
        return [without_spelling(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]  # JSON
    return value
