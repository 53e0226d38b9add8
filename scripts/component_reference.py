"""What the documents say about the built-in components, made from the components themselves.

`component_table` is a line for each; `component_reference` tells every field of every one, with a stage from the examples,
which tests run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flowmason_ray.cli.component_page import declared_example, example, fields_of, type_words
from flowmason_ray.components.builtin import ALIASES, BUILTIN
from flowmason_ray.components.registry import Registry
from flowmason_ray.engine.component import ComponentSpec

LONGEST_EXAMPLE = 700
"""Characters of an example; longer ones are named instead of shown."""


def specs() -> list[ComponentSpec]:
    """Return the built-in components in the order of the catalogue, which is by family."""
    registry = Registry(entry_points=False)
    return [spec for name in BUILTIN if (spec := registry.get(name)) is not None]


def component_table(reference: str) -> str:
    """Return a Markdown table of all components; `reference` is the page that each name leads to."""
    lines = ["| component | kind | effect | cost | what it does |", "|---|---|---|---|---|"]
    for spec in specs():
        kind = spec.kind.value.replace("_", " ")
        about = _cell(spec.description.split("\n", 1)[0])
        lines.append(
            f"| [`{spec.name}`]({reference}#{spec.name}) | {kind} | {spec.effect.value} | {spec.cost.value} | {about} |"
        )
    return "\n".join(lines) + "\n"


def component_reference(examples: Path) -> str:
    """Return a section for each component.

    Args:
        examples: The directory whose pipelines the examples are taken from.
    """
    stages = _stages(examples)
    return "\n".join(line for spec in specs() for line in _section(spec, stages, examples))


def _section(spec: ComponentSpec, stages: dict[str, tuple[Path, dict[str, Any]]], examples: Path) -> Iterator[str]:
    yield f"## {spec.name}\n"
    yield f"{spec.description}\n"
    also = [alias for alias, name in ALIASES.items() if name == spec.name]
    called = f" Also called `{'`, `'.join(also)}`." if also else ""
    kind = spec.kind.value.replace("_", " ").capitalize()
    yield f"{kind}, version {spec.version}; effect *{spec.effect.value}*, cost *{spec.cost.value}*.{called}\n"
    yield "| input | type | default | meaning |\n|---|---|---|---|"
    for name, field in fields_of(spec.input_model).items():
        meaning = field.description or ""
        if name in spec.expression_fields:
            meaning += " An expression; the braces may be left out."
        default = "required" if field.is_required() else _default(field)
        yield f"| `{field.alias or name}` | {_cell(type_words(field.annotation))} | {default} | {_cell(meaning)} |"
    yield "\n| output | type | meaning |\n|---|---|---|"
    yield from _outputs(spec.output_model)
    found = None if declared_example(spec) else stages.get(spec.name)
    if found is None:
        yield f"\n```json\n{example(spec)}\n```\n"
        return
    file, stage = found
    link = f"[{file.relative_to(examples).as_posix()}](../../examples/{file.relative_to(examples).as_posix()})"
    text = json.dumps(stage, indent=2, ensure_ascii=False)
    if len(text) > LONGEST_EXAMPLE:
        yield f"\nAn example is the stage `{stage['id']}` of {link}.\n"
    else:
        yield f"\n```json\n{text}\n```\n\nFrom {link}.\n"


def _outputs(model: type[BaseModel]) -> Iterator[str]:
    for name, field in fields_of(model).items():
        yield f"| `{field.alias or name}` | {_cell(type_words(field.annotation))} | {_cell(field.description or '')} |"
    if model.model_config.get("extra") == "allow":
        yield "| … | anything | Further fields, as the stage makes them. |"
    elif not model.model_fields:
        yield "| | | Nothing. |"


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    return f"`{_cell(json.dumps(value, default=str, ensure_ascii=False))}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _stages(examples: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return the shortest stage of the examples that has more than one field set, for each component."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for file in sorted(examples.rglob("*.pipeline.json")):
        stages = cast("list[dict[str, Any]]", json.loads(file.read_bytes()).get("stages", []))
        for stage in stages:
            name = str(stage["component_type"])
            kept = {key: stage[key] for key in ("id", "component_type", "config") if key in stage}
            if name not in found or _rank(kept) < _rank(found[name][1]):
                found[name] = (file, kept)
    return found


def _rank(stage: dict[str, Any]) -> tuple[bool, int]:
    config: dict[str, Any] = stage.get("config", {})
    return len(config) < 2, len(json.dumps(stage))
