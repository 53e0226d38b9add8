"""The config of a component's example: written beside its Input, shown by `fm components show` and in the reference.

Every example is run by a test, in a project with the connections that it names.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict


def closed(example: dict[str, Any]) -> ConfigDict:
    """Return the configuration of an Input that refuses unknown fields and has this example."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [example]})
