"""The built-in catalogue: names and where their classes are, without importing them.

One file per family. A test checks that every entry loads and declares the name it is listed under.
"""

from __future__ import annotations

_HERE = "flowmason_ray.components.builtin"

BUILTIN: dict[str, str] = {
    "conditional": f"{_HERE}.control_flow:Conditional",
    "foreach": f"{_HERE}.control_flow:Foreach",
    "variable_set": f"{_HERE}.variables:VariableSet",
    "json_transform": f"{_HERE}.json_transform:JsonTransform",
    "filter": f"{_HERE}.filter:Filter",
    "schema_validate": f"{_HERE}.schema_validate:SchemaValidate",
    "logger": f"{_HERE}.logger:Logger",
    "http_request": f"{_HERE}.http_request:HttpRequest",
    "local_file": f"{_HERE}.local_file:LocalFile",
    "table_read": f"{_HERE}.table_files:TableRead",
    "table_sql": f"{_HERE}.table_sql:TableSql",
    "table_aggregate": f"{_HERE}.table_shape:TableAggregate",
    "table_join": f"{_HERE}.table_shape:TableJoin",
    "table_write": f"{_HERE}.table_files:TableWrite",
    "chart": f"{_HERE}.chart:Chart",
    "report": f"{_HERE}.report:Report",
}
"""Canonical name → `module:Class`."""

ALIASES: dict[str, str] = {}
"""Older or second names → canonical names."""
