"""The fields of the models as Markdown tables, for the guide and the README."""

from __future__ import annotations

import json
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from flowmason_ray.spec.pipeline import EXTENSION_PREFIX

_WORDS: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def field_table(model: type[BaseModel]) -> str:
    """Return a Markdown table of the fields of a model: name, type, default, meaning; ends with a line break."""
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if field.alias != EXTENSION_PREFIX:
            words = type_words(field.annotation).replace("|", "\\|")
            meaning = (field.description or "").replace("|", "\\|")
            lines.append(f"| `{field.alias or name}` | {words} | {_default(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def type_words(annotation: Any) -> str:
    """Return a type in words: `list of text`, `Retry`, `` `fail`, `continue` or `fallback` ``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(args[0])
    if origin is Literal:
        return _either([f"`{choice}`" for choice in args])
    if origin in (Union, UnionType):
        return _either([type_words(arg) for arg in args if arg is not NoneType])
    if origin is list:
        return f"list of {type_words(args[0])}"
    if origin is dict:
        return "object" if _is_any(args[1]) else f"object of {type_words(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return _WORDS.get(annotation, "any value")


def _is_any(annotation: Any) -> bool:
    return annotation is JsonValue or annotation is Any


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.default
    if value is None or value == "" or isinstance(value, BaseModel):
        return ""
    return f"`{json.dumps(value)}`"
