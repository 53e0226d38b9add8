"""`fm info`: what a pipeline is, in a few lines; with `--inheritance`, its parents and slots as a tree."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowmason_ray.cli.errors import command

if TYPE_CHECKING:
    from flowmason_ray.cli.terminal import Paint
    from flowmason_ray.spec.inheritance import Member, Resolved


@command
def info(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The pipeline file.")],
    inheritance: Annotated[
        bool, typer.Option("--inheritance", help="Show what it extends, and its slots, as a tree.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Show what a pipeline is: name, version, input, output, stages; what it extends and composes."""
    from pathlib import Path

    from flowmason_ray.cli.terminal import painter, write_json, write_text
    from flowmason_ray.settings import find_project
    from flowmason_ray.wiring import library_of

    library = library_of(find_project(Path(file)))
    resolved = library.family(library.read(Path(file)))
    if as_json:
        write_json(_facts(resolved) | ({"inheritance": _family_json(resolved)} if inheritance else {}))
        return
    paint = painter(sys.stdout)
    lines = [*_tree(resolved, paint)] if inheritance else [*_summary(resolved, paint)]
    write_text("\n".join(lines) + "\n")


# -- in a few lines ----------------------------------------------------------------------------------------------------


def _facts(resolved: Resolved) -> dict[str, Any]:
    pipeline = resolved.loaded.pipeline
    return {
        "name": pipeline.name,
        "version": pipeline.version,
        "description": pipeline.description,
        "file": resolved.loaded.source.file,
        "abstract": pipeline.abstract,
        "extends": list(resolved.member.references),
        "compositions": {each.id: each.pipeline for each in pipeline.compositions},
        "stages": [stage.id for stage in pipeline.stages],
        "input": sorted((pipeline.input_schema or {}).get("properties", {})),  # pyright: ignore[reportArgumentType, reportUnknownArgumentType]  # a schema's names
        "output": sorted((pipeline.output_schema or {}).get("properties", {})),  # pyright: ignore[reportArgumentType, reportUnknownArgumentType]  # a schema's names
    }


def _summary(resolved: Resolved, paint: Paint) -> list[str]:
    from flowmason_ray.cli.words import counted

    facts = _facts(resolved)
    kind = "abstract pipeline" if facts["abstract"] else "pipeline"
    title = paint(f"{facts['name']} {facts['version']}", "bold")
    composed = facts["compositions"]
    counts = [counted(len(facts["stages"]), "stage")] if facts["stages"] or not composed else []
    counts += [counted(len(composed), "composition")] if composed else []
    head = f"{title}: {kind}, {', '.join(counts)}"
    rows = [
        ("about", facts["description"] or ""),
        ("extends", ", ".join(facts["extends"])),
        ("composes", ", ".join(f"{name} ({pipeline})" for name, pipeline in facts["compositions"].items())),
        ("input", ", ".join(facts["input"])),
        ("output", ", ".join(facts["output"])),
        ("stages", ", ".join(facts["stages"])),
    ]
    return [head, *(f"  {name.ljust(8)}  {text}" for name, text in rows if text)]


# -- as a tree ---------------------------------------------------------------------------------------------------------


def _tree(resolved: Resolved, paint: Paint) -> list[str]:
    lines = [_title(resolved.member, paint)]
    lines += _branches(resolved.member, "", paint, {id(resolved.member)})
    if len(resolved.member.order) > 2:
        order = " → ".join(member.title for member in resolved.member.order)
        lines += ["", f"{paint('order', 'bold')}  {order}"]
    lines += _slot_lines(resolved, paint)
    changes = _changes(resolved)
    if any(changes.values()):
        lines.append("")
    for word, names in changes.items():
        if names:
            lines.append(f"{paint(word, 'bold')}  {', '.join(names)}")
    return lines


def _title(member: Member, paint: Paint, reference: str = "") -> str:
    from flowmason_ray.cli.problem_report import shown_path

    file = member.document.source.file
    about = [shown_path(file)] if file else []
    about += ["abstract"] if member.document.pipeline.abstract else []
    written = f" as {reference}" if reference and reference not in (member.document.pipeline.name, file) else ""
    more = f"  ({', '.join(about)})" if about else ""
    return f"{paint(member.title, 'bold')}{written}{more}"


def _branches(member: Member, indent: str, paint: Paint, seen: set[int]) -> list[str]:
    lines: list[str] = []
    last = len(member.parents) - 1
    for number, (parent, reference) in enumerate(zip(member.parents, member.references, strict=True)):
        bar, space = ("└── ", "    ") if number == last else ("├── ", "│   ")
        again = id(parent) in seen and parent.parents
        lines.append(f"{indent}{bar}{_title(parent, paint, reference)}{paint('  (see above)', 'dim') if again else ''}")
        seen.add(id(parent))
        if not again:
            lines += _branches(parent, indent + space, paint, seen)
    return lines


def _slots(resolved: Resolved) -> list[dict[str, Any]]:
    """Return every slot: where it was declared, and what fills it."""
    found: list[dict[str, Any]] = []
    for name, declared in resolved.layered.slots.items():
        element = resolved.layered.elements.get(name)
        filled = element is not None and not element.is_slot
        by = str(element.mark.chain[-1]) if element is not None and filled else None
        component = element.value.get("component_type") if element is not None and filled else None
        found.append({"id": name, "declared": str(declared), "filled": filled, "by": by, "component": component})
    return found


def _slot_lines(resolved: Resolved, paint: Paint) -> list[str]:
    slots = _slots(resolved)
    if not slots:
        return []
    lines = ["", paint("slots", "bold")]
    for number, slot in enumerate(slots):
        bar = "└── " if number == len(slots) - 1 else "├── "
        gone = resolved.layered.removed.get(slot["id"])
        if slot["filled"]:
            said = f"{slot['component']}, filled at {slot['by']}"
        else:
            said = f"removed at {gone}" if gone is not None else paint("open", "yellow")
        lines.append(f"{bar}{paint(slot['id'], 'bold')}  declared at {slot['declared']}: {said}")
    return lines


def _changes(resolved: Resolved) -> dict[str, list[str]]:
    """Return what the family has come to: stages that the pipeline itself adds, changes, and that are gone."""
    own = resolved.member.document
    slots = resolved.layered.slots
    added: list[str] = []
    changed: list[str] = []
    for name, element in resolved.layered.elements.items():
        if not resolved.member.parents or name in slots:
            continue
        if element.mark.chain[0].document is own:
            added.append(name)
        elif name in own.data.get("overrides", {}):
            changed.append(name)
    return {"adds": added, "changes": changed, "removed": list(resolved.layered.removed)}


def _family_json(resolved: Resolved) -> dict[str, Any]:
    def node(member: Member) -> dict[str, Any]:
        pipeline = member.document.pipeline
        return {
            "name": pipeline.name,
            "version": pipeline.version,
            "file": member.document.source.file,
            "abstract": pipeline.abstract,
            "parents": [
                {"reference": reference, **node(parent)}
                for reference, parent in zip(member.references, member.parents, strict=True)
            ],
        }

    order = [member.title for member in resolved.member.order]
    return {"family": node(resolved.member), "order": order, "slots": _slots(resolved), **_changes(resolved)}
