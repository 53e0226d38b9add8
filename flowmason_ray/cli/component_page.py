"""What a component takes and returns, as text, with an example stage that is made from its fields."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from flowmason_ray.cli.terminal import Paint
    from flowmason_ray.engine.component import ComponentSpec

LONGEST_DEFAULT = 60


def component_page(spec: ComponentSpec, paint: Paint) -> str:
    """Return the page."""
    about = f"{spec.kind.value}, {spec.category}; effect {spec.effect.value}, cost {spec.cost.value}"
    lines = [f"{paint(spec.name, 'bold')} {spec.version}  {paint(f'({about})', 'dim')}", ""]
    if spec.description:
        lines += [*spec.description.strip().splitlines(), ""]
    lines += [paint("Input", "bold"), *_fields(spec.input_model, spec, paint), ""]
    lines += [paint("Output", "bold"), *_fields(spec.output_model, None, paint), ""]
    lines += [paint("Example", "bold"), *(f"  {line}" for line in example(spec).splitlines())]
    if spec.file is not None:
        lines += ["", f"Declared in {spec.file}"]
    return "\n".join(lines) + "\n"


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return a model's fields, its own before those that it shares with others."""
    own = inspect.get_annotations(model)
    fields = model.model_fields
    return {name: fields[name] for name in sorted(fields, key=lambda name: name not in own)}


def _fields(model: type[BaseModel], spec: ComponentSpec | None, paint: Paint) -> Iterator[str]:
    if not model.model_fields:
        yield "  any fields" if model.model_config.get("extra") == "allow" else "  nothing"
        return
    names = max(len(_written(name, field)) for name, field in model.model_fields.items())
    for name, field in fields_of(model).items():
        written = _written(name, field)
        default = "required" if field.is_required() else f"default {_default(field)}"
        said = f"{type_words(field.annotation)}" + (f", {default}" if spec is not None else "")
        yield f"  {paint(written.ljust(names), 'cyan')}  {paint(said, 'dim')}"
        if field.description:
            yield f"  {' ' * names}  {field.description}"
        if spec is not None and name in spec.expression_fields:
            yield f"  {' ' * names}  An expression; written without braces."
    if model.model_config.get("extra") == "allow":
        yield "  and any other field"


def _written(name: str, field: FieldInfo) -> str:
    return field.alias or name


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "set by the component"
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError):
        text = str(value)
    return text if len(text) <= LONGEST_DEFAULT else text[: LONGEST_DEFAULT - 1] + "…"


_WORDS: dict[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    dict: "object",
    list: "list",
    type(None): "null",
    Any: "anything",
}


def type_words(annotation: Any) -> str:
    """Return a type in the words of JSON: `text`, `list of integer`, `"asc" or "desc"`."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_words(arg) for arg in args))
    if origin is Literal:
        return " or ".join(json.dumps(arg) for arg in args)
    if origin in (list, tuple, set, frozenset):
        return f"list of {type_words(args[0])}" if args else "list"
    if origin is dict:
        return f"object of {type_words(args[1])}" if len(args) == 2 else "object"
    if hasattr(annotation, "__metadata__") and args:  # Annotated
        return type_words(args[0])
    if isinstance(annotation, type):
        return "object" if issubclass(annotation, BaseModel) else annotation.__name__
    return re.sub(r"\b(?:typing|collections\.abc)\.", "", str(annotation))


def example(spec: ComponentSpec) -> str:
    """Return a stage that uses the component: with the config that it declares, else with its required fields."""
    required = declared_example(spec) or {
        _written(name, field): _sample(name, field)
        for name, field in spec.input_model.model_fields.items()
        if field.is_required()
    }
    stage = {"id": f"my_{spec.name}", "component_type": spec.name, "config": required}
    return json.dumps(stage, indent=2, ensure_ascii=False)


def declared_example(spec: ComponentSpec) -> dict[str, Any] | None:
    """Return the first example that the component's Input declares (JSON Schema's `examples`), or None."""
    extra: Any = spec.input_model.model_config.get("json_schema_extra")
    examples = cast("dict[str, Any]", extra).get("examples") if isinstance(extra, dict) else None
    return examples[0] if examples else None


def _sample(name: str, field: FieldInfo) -> Any:
    if field.examples:
        return field.examples[0]
    words = type_words(field.annotation).partition(" or ")[0]
    if words.startswith('"'):
        return json.loads(words)
    if words.startswith("list"):
        return ["another_stage"] if name.endswith("_stages") else []
    samples: dict[str, Any] = {"integer": 1, "number": 1.0, "true": True, "text": f"…{name}…", "object": {}}
    return samples.get(words, "{{ input.something }}")
