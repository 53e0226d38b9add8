"""The canonical bytes of a pipeline file: what `fm fmt` writes.

Current spellings, keys in the order of the models, two spaces, one line break at the end, UTF-8 without escapes that are
not needed. What people meant stays theirs: the order of stages and of their own keys, defaults that they wrote out, the
spelling of numbers, keys that the models do not know (they follow the known ones; `fm validate` complains about them).
Formatting is idempotent and loses nothing, so it may be run on a file that is not valid yet, as long as it is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from flowmason_ray.spec import pipeline
from flowmason_ray.spec.merge.marks import CONFLICTS_KEY
from flowmason_ray.spec.parsing import WrittenNumber, parse_object
from flowmason_ray.spec.pipeline import field_order
from flowmason_ray.spec.reading import source_of
from flowmason_ray.spec.spellings import respell

_WIDTH = 100
"""Columns that a list of scalars may fill before it is broken into one item a line."""

PARTS: Mapping[type[pipeline.Model], Mapping[str, type[pipeline.Model]]] = {
    pipeline.Pipeline: {
        "stages": pipeline.Stage,
        "compositions": pipeline.Composition,
        "budget": pipeline.Budget,
        "defaults": pipeline.Defaults,
        "triggers": pipeline.Triggers,
        "federation": pipeline.Federation,
    },
    pipeline.Stage: {
        "retry": pipeline.Retry,
        "cache": pipeline.Cache,
        "llm_settings": pipeline.LlmSettings,
        "resources": pipeline.Resources,
        "placement": pipeline.Placement,
        "federation": pipeline.Federation,
    },
    pipeline.Defaults: {
        "retry": pipeline.Retry,
        "cache": pipeline.Cache,
        "llm_settings": pipeline.LlmSettings,
        "resources": pipeline.Resources,
    },
}
"""Which model the value (or each item) of a key has. A test holds this against the models."""


def format_pipeline(text: str | bytes, *, file: str | None = None) -> bytes:
    """Return the canonical form of a pipeline file.

    Args:
        text: The file's content.
        file: The name that problems mention.

    Raises:
        InvalidPipeline: it is not UTF-8, not JSON, or cannot be written back without loss (a key that is written twice, half
            of a surrogate pair); a pipeline that is merely invalid is formatted.
    """
    data = respell(parse_object(source_of(text, file=file), exact_numbers=True)).data
    return f"{_written(_ordered(data, pipeline.Pipeline), '', 0)}\n".encode()


def canonical_bytes(data: Mapping[str, Any]) -> bytes:
    """Return the canonical form of a document that is given as plain JSON values in canonical spelling."""
    return f"{_written(_ordered(data, pipeline.Pipeline), '', 0)}\n".encode()


def _ordered(value: Any, model: type[pipeline.Model]) -> Any:
    """Return the value (or each item of a list) with its keys in the order of `model`; unknown keys follow as written."""
    if isinstance(value, list):
        return [_ordered(item, model) for item in cast("list[Any]", value)]
    if not isinstance(value, Mapping):
        return value
    written = cast("Mapping[str, Any]", value)
    parts = PARTS.get(model, {})
    known = [key for key in (CONFLICTS_KEY, *field_order(model)) if key in written]  # open conflicts are seen first
    others = [key for key in written if key not in set(known)]
    return {key: _ordered(written[key], parts[key]) if key in parts else written[key] for key in (*known, *others)}


def _written(value: Any, indent: str, column: int) -> str:
    """Return JSON text for a value that starts at `column` of a line that is indented by `indent`."""
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value)
        if not members:
            return "{}"
        inner = f"{indent}  "
        lines: list[str] = []
        for key, item in members.items():
            start = f"{inner}{_scalar(key)}: "
            lines.append(f"{start}{_written(item, inner, len(start))}")
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list):
        items = cast("list[Any]", value)
        if not any(isinstance(item, (Mapping, list)) for item in items):
            line = f"[{', '.join(_scalar(item) for item in items)}]"
            # One column is kept for the comma that may follow.
            if column + len(line) < _WIDTH or not items:
                return line
        inner = f"{indent}  "
        return "[\n" + ",\n".join(f"{inner}{_written(item, inner, len(inner))}" for item in items) + f"\n{indent}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, WrittenNumber):
        return value.text
    return json.dumps(value, ensure_ascii=False)
