"""Who reads a stage: what would be left hanging if it were taken away.

Looks at references in templates and expressions, `depends_on`, the bodies of control flow, and what says the result. Only
texts that contain the id at all are parsed, so that asking about one stage of thousands is quick.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from flowmason_ray.spec.provenance import Origin, leaves

if TYPE_CHECKING:
    from flowmason_ray.spec.layering import Element, Layered

_BODIES = ("branches", "routes", "default_route")
"""Keys of a config under which stage ids stand, besides those that end in `_stages`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One place that reads a stage."""

    title: str
    """Whose place it is, in words: `stage 'load'`."""
    where: Origin


def readers_of(names: Collection[str], layered: Layered) -> dict[str, list[Reader]]:
    """Return, for those of the stages `names` that something reads, who reads them."""
    found: dict[str, list[Reader]] = {}
    if not names:
        return found
    for element in layered.elements.values():
        for name, pointer in _read_by(element, names):
            found.setdefault(name, []).append(Reader(title=element.title, where=_origin(element, pointer)))
    for key in ("output", "output_stage_id"):
        said = layered.fields.get(key)
        if said is None:
            continue
        for pointer, text in leaves(said[0]):
            if isinstance(text, str):
                ids = {text} if key == "output_stage_id" else _references(text, names)
                for name in ids & set(names):
                    where = said[1].chain[-1].below(*pointer.split("/")[1:])
                    found.setdefault(name, []).append(Reader(title="the pipeline's result", where=where))
    return found


def _origin(element: Element, pointer: str) -> Origin:
    from flowmason_ray.spec.provenance import Provenance

    return Provenance(element.mark).origin(pointer)


def _read_by(element: Element, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield (stage that is read, pointer in the element of what reads it)."""
    value = element.value
    for position, name in enumerate(value.get("depends_on", ())):
        if name in names:
            yield name, f"/depends_on/{position}"
    key = "config" if element.part == "stages" else "input_mapping"
    config = value.get(key)
    parts: dict[str, Any] = {f"/{key}": config}
    for other in ("when", "cache"):
        parts[f"/{other}"] = value.get(other)
    near = cast("Mapping[str, Any]", value.get("placement") or {}).get("near")
    if near in names:
        yield str(near), "/placement/near"
    for pointer, name in _members(config):
        if name in names:
            yield name, f"/{key}{pointer}"
    for base, part in parts.items():
        for pointer, text in leaves(part):
            if isinstance(text, str):
                for name in _references(text, names):
                    yield name, base + pointer


def _members(config: Any) -> Iterator[tuple[str, str]]:
    """Yield (pointer, stage id) of the bodies that a config names."""
    if not isinstance(config, dict):
        return
    for key, value in cast("dict[str, Any]", config).items():
        if key.endswith("_stages") or key in _BODIES:
            for pointer, text in leaves(value):
                if isinstance(text, str):
                    yield f"/{key}{pointer}", text


def _references(text: str, names: Collection[str]) -> set[str]:
    """Return those of the stages that a text refers to, as a template or as a bare expression."""
    from flowmason_ray.spec.expressions import ExpressionSyntaxError, parse_expression
    from flowmason_ray.spec.templates import parse_template

    if "stages" not in text or not any(name in text for name in names):
        return set()
    try:
        if "{{" in text:
            references = [reference for _, reference in parse_template(text).references]
        else:
            references = list(parse_expression(text).references)
    except ExpressionSyntaxError:
        return set()  # the plan reports it
    return {str(r.path[0]) for r in references if r.root == "stages" and r.path} & set(names)
