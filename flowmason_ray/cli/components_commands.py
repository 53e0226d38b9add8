"""`fm components`: which components there are, and what each takes and returns."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason_ray.cli.errors import command

if TYPE_CHECKING:
    from flowmason_ray.components.registry import Registry
    from flowmason_ray.engine.component import ComponentSpec

group = typer.Typer(
    help="Show the components that pipelines can use: built-in, installed, and the project's own.", no_args_is_help=True
)

Project = Annotated[
    str, typer.Option("--project", metavar="DIR", help="The project to look in. Default: the one around here.")
]
Category = Annotated[
    str | None, typer.Option("--category", metavar="NAME", help="List only the components of one category.")
]
CANNOT_BE_LOADED = "(cannot be loaded)"
"""Stands for the category of components whose extra is not installed, at the end of the list."""
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@group.command("list")
@command
def list_components(as_json: AsJson = False, project: Project = ".", category: Category = None) -> None:
    """List the components, by category."""
    from flowmason_ray.cli.terminal import columns, painter, width_of, write_json, write_text
    from flowmason_ray.cli.words import shortened

    found = _loaded(_registry(project))
    if category is not None:
        found = _of_category(category, found)
    if as_json:
        write_json({"components": [_facts(spec) if spec else {"name": n, "error": e} for n, spec, e in found]})
        return
    rows = [
        (spec.category, n, spec.kind.value, spec.effect.value, spec.cost.value, shortened(spec.description, 200))
        if spec is not None
        else (CANNOT_BE_LOADED, n, "", "", "", error)
        for n, spec, error in found
    ]
    rows.sort(key=lambda row: (row[0] == CANNOT_BE_LOADED, row[0], row[1]))
    header = ("CATEGORY", "NAME", "KIND", "EFFECT", "COST", "WHAT IT DOES")
    width = width_of(sys.stdout) if sys.stdout.isatty() else None
    write_text("\n".join(columns(rows, header=header, paint=painter(sys.stdout), width=width)) + "\n")


@group.command("show")
@command
def show_component(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The component's name.")],
    as_json: AsJson = False,
    project: Project = ".",
) -> None:
    """Show what a component takes and returns, with an example."""
    from flowmason_ray.cli.terminal import painter, write_json, write_text
    from flowmason_ray.errors import InvalidCall, nearest

    registry = _registry(project)
    spec = registry.get(name)
    if spec is None:
        close = nearest(name, registry.names())
        hint = f" Did you mean {close!r}?" if close else ""
        raise InvalidCall(f"There is no component {name!r}.{hint} 'fm components list' shows all.")
    if as_json:
        schemas = {
            "input_schema": _json_schema(spec.input_model, "validation"),
            "output_schema": _json_schema(spec.output_model, "serialization"),
        }
        write_json({**_facts(spec), **schemas})
        return
    from flowmason_ray.cli.component_page import component_page

    write_text(component_page(spec, painter(sys.stdout)))


def _registry(project: str) -> Registry:
    from pathlib import Path

    from flowmason_ray.errors import InvalidCall
    from flowmason_ray.wiring import open_workspace

    if not Path(project).is_dir():
        raise InvalidCall(f"--project: there is no directory {project!r}.")
    return open_workspace(Path(project)).registry


def _loaded(registry: Registry) -> list[tuple[str, ComponentSpec | None, str]]:
    """Return every component with its name; one whose extra is not installed with the reason instead."""
    from flowmason_ray.errors import FlowMasonError

    found: list[tuple[str, ComponentSpec | None, str]] = []
    for name in registry.names():
        try:
            found.append((name, registry.get(name), ""))
        except FlowMasonError as exc:
            found.append((name, None, exc.message))
    return found


def _of_category(
    category: str, found: list[tuple[str, ComponentSpec | None, str]]
) -> list[tuple[str, ComponentSpec | None, str]]:
    """Return the components of a category.

    Raises:
        InvalidCall: there is none of that name.
    """
    from flowmason_ray.errors import InvalidCall, nearest

    known = sorted({spec.category for _, spec, _ in found if spec is not None})
    if category not in known:
        close = nearest(category, known)
        hint = f" Did you mean {close!r}?" if close else ""
        raise InvalidCall(f"There is no category {category!r}.{hint} There are {', '.join(known)}.")
    return [each for each in found if each[1] is not None and each[1].category == category]


def _facts(spec: ComponentSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "version": spec.version,
        "kind": spec.kind.value,
        "category": spec.category,
        "effect": spec.effect.value,
        "cost": spec.cost.value,
        "description": spec.description,
        "tags": list(spec.tags),
        "expression_fields": sorted(spec.expression_fields),
        "raw_fields": sorted(spec.raw_fields),
        "file": str(spec.file) if spec.file else None,
    }


def _json_schema(model: Any, mode: str) -> dict[str, Any]:
    """Return the JSON Schema of a model; fields of types that JSON Schema cannot say (frames) admit everything."""
    from pydantic.json_schema import GenerateJsonSchema

    class Lenient(GenerateJsonSchema):
        """Says what can be said."""

        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
            """Admit everything."""
            return {}

    return model.model_json_schema(mode=mode, schema_generator=Lenient)
