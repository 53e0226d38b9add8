"""The digest of a pipeline: equal for two files that mean the same, so not changed by what only people read."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from flowmason_ray.engine.drafts import Draft

_NO_MEANING = ("$schema", "description", "tags", "category", "metadata", "sample_input", "triggers")
_NO_MEANING_IN_STAGE = ("name", "description", "position", "metadata")


def digest(data: Mapping[str, Any], drafts: Mapping[str, Draft]) -> str:
    """Return the digest of a pipeline's file as it was read, with what its stages were compiled to."""

    def written(item: Mapping[str, Any], without: tuple[str, ...]) -> dict[str, Any]:
        return {k: v for k, v in item.items() if k not in without and not k.startswith("x-")}

    stages: list[dict[str, Any]] = list(data.get("stages", ()))
    meaning = written(data, (*_NO_MEANING, "stages"))
    meaning["stages"] = sorted((written(s, _NO_MEANING_IN_STAGE) for s in stages), key=lambda s: str(s.get("id")))
    composed: list[dict[str, Any]] = list(data.get("compositions", ()))
    if composed:
        meaning["compositions"] = sorted(composed, key=lambda c: str(c.get("id")))
    meaning["calls"] = sorted({d.callee.digest for d in drafts.values() if d.callee})
    meaning["components"] = sorted({(d.component.name, d.component.version) for d in drafts.values() if d.component})
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    return sha256(orjson.dumps(meaning, option=options, default=str)).hexdigest()
