"""`json_transform`: take a JSON value apart and put it together differently.

The steps, in this order: `parse_json_strings`, `jmespath_expression`, `mapping` (with `defaults` and `values`),
`exclude_fields`, `flatten`. Without `mapping` and `values` the value itself goes on to the last two.

What an entry of `mapping` means, precisely. Templates are rendered first, as everywhere in a config; then
- a value that is no text (what a template of one `{{…}}` may give) is the result itself;
- a text in double quotes is a JSON string: the result itself (`"\\"fixed\\""`, or `{{input.name | tojson}}`);
- `$…` is a path, and so is a dotted text (`a.b[0]`);
- anything else is a JMESPath expression (`items[?price > `10`].name`, `length(items)`).
So a template that renders to a bare text is read as a path. Where the text itself is meant, use `values`.
"""

from __future__ import annotations

import json
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.json_paths import MISSING, find
from flowmason_ray.components.builtin.json_search import InvalidPath, search
from flowmason_ray.components.frames import is_frame
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError


@operator(effect="pure", cost="cpu", category="data")
class JsonTransform:
    """Maps, selects, flattens and renames the fields of a JSON value."""

    class Input(BaseModel):
        """The value and what to make of it."""

        model_config = ConfigDict(extra="forbid")

        data: Any = Field(description="The value to transform.")
        mapping: dict[str, Any] = Field(
            default={},
            description="{field of the result: where it comes from}: a path ($.a.b[0] or a.b), a JMESPath expression, or "
            'a text in double quotes for a fixed text. A rendered template that is no text is taken as the value; one that is a text is read as a path (see "values").',
        )
        values: dict[str, Any] = Field(
            default={},
            description="{field of the result: value}: taken as it is; the place for templates that give texts.",
        )
        jmespath_expression: str | None = Field(
            default=None, description="Applied to 'data' first; 'mapping' then reads from what it gives."
        )
        defaults: dict[str, Any] = Field(
            default={},
            description="{field of the result: value} for paths that are not there; a null that is there stays null.",
        )
        flatten: bool = Field(default=False, description="Join nested objects into one with dotted names; lists stay.")
        exclude_fields: list[str] = Field(
            default=[], description="Fields to leave out of the result: names or dotted paths; in a list, of each item."
        )
        parse_json_strings: bool = Field(
            default=False, description="First parse every text in 'data' that holds a JSON object or list."
        )

    class Output(BaseModel):
        """The new value."""

        result: Any = Field(description="The transformed value.")
        fields_mapped: list[str] = Field(description="The fields of 'mapping' that were found.")
        fields_missing: list[str] = Field(
            description="The fields of 'mapping' that were not found and have no default; they are null in the result."
        )

    def execute(self, input: Input, context: Context) -> Output:
        """Transform the value.

        Raises:
            PermanentError: `invalid_path` for what is neither path nor JMESPath, or makes too much; `invalid_input` for a table, and
                where 'flatten' would lose a value.
        """
        if is_frame(input.data):
            raise PermanentError("json_transform takes JSON; for a table use table_sql.", code="invalid_input")
        data = _parsed(input.data) if input.parse_json_strings else input.data
        if input.jmespath_expression is not None:
            try:
                data = search(data, input.jmespath_expression)
            except InvalidPath as exc:
                raise PermanentError(f"'jmespath_expression': {exc}", code="invalid_path") from exc
        mapped: list[str] = []
        missing: list[str] = []
        result: Any = data
        if input.mapping or input.values:
            result = self._map(input, data, mapped, missing)
            for name in missing:
                context.log(
                    "warning",
                    "Nothing found for a mapped field; a fixed text or a rendered template belongs into 'values'.",
                    field=name,
                    path=input.mapping[name],
                )
        for name in input.exclude_fields:
            result = _without(result, name.split("."))
        if input.flatten:
            result = _each_object(result, _flat)
        return self.Output(result=result, fields_mapped=mapped, fields_missing=missing)

    def _map(self, input: Input, data: Any, mapped: list[str], missing: list[str]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, source in input.mapping.items():
            try:
                value = _value_of(source, data)
            except InvalidPath as exc:
                raise PermanentError(f"'mapping' of field {name!r}: {exc}", code="invalid_path") from exc
            if value is not MISSING:
                mapped.append(name)
            elif name in input.defaults:
                value = input.defaults[name]
            else:
                missing.append(name)
                value = None
            result[name] = value
        result.update(input.values)
        return result


def _value_of(source: Any, data: Any) -> Any:
    if not isinstance(source, str):
        return source
    text = source.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            pass  # a quoted name in JMESPath, such as "a"."b"
    return find(data, text)


def _parsed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _parsed(v) for k, v in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_parsed(v) for v in cast("list[Any]", value)]
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):  # no JSON, a number of more digits than Python reads, or too deep
            return value
    return value


def _without(value: Any, path: list[str]) -> Any:
    if isinstance(value, list):
        return [_without(v, path) for v in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    dotted = ".".join(path)
    if dotted in fields:
        return {k: v for k, v in fields.items() if k != dotted}
    return {k: _without(v, path[1:]) if k == path[0] and len(path) > 1 else v for k, v in fields.items()}


def _each_object(value: Any, change: Any) -> Any:
    if isinstance(value, list):
        return [_each_object(v, change) for v in cast("list[Any]", value)]
    return change(cast("dict[str, Any]", value)) if isinstance(value, dict) else value


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, dict) and value:
            made: dict[str, Any] = _flat(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            made = {prefix + key: value}
        for name, leaf in made.items():
            if name in out:
                raise PermanentError(
                    f"'flatten' finds two values for {name!r}, since one name holds a dot. Rename or exclude one.",
                    code="invalid_input",
                )
            out[name] = leaf
    return out
