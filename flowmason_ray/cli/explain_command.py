"""`fm explain`: where the values of a pipeline were written, and what they override."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flowmason_ray.cli.errors import command

if TYPE_CHECKING:
    from flowmason_ray.cli.terminal import Paint
    from flowmason_ray.spec.explaining import Explained

NAME_WIDTH, VALUE_WIDTH = 48, 40
"""Columns that names and values are lined up to; longer ones stand out."""


@command
def explain(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The pipeline file.")],
    path: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH", help="A part of it: 'fetch.config.url', 'output', or a JSON pointer. Default: all of it."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Show where each value of a pipeline was written: file, line, and the places that it overrides."""
    from flowmason_ray.cli.terminal import painter, write_json, write_text
    from flowmason_ray.spec.explaining import explain as explained
    from flowmason_ray.wiring import load

    found = explained(load(file), path)
    if as_json:
        write_json({"file": file, "values": [each.to_json() for each in found]})
        return
    paint = painter(sys.stdout)
    write_text("".join(_in_full(each, paint) for each in found) if len(found) == 1 else _as_table(found, paint))


def _in_full(each: Explained, paint: Paint) -> str:
    """Return one value with every place, the one that holds first."""
    places = [(str(origin), _shown(origin.value())) for origin in reversed(each.chain)]
    width = max(len(place) for place, _ in places)
    lines = [f"{paint(each.name, 'bold')} = {_shown(each.value)}"]
    for number, (place, value) in enumerate(places):
        what = "" if number == 0 else paint("  (overridden)", "dim")
        lines.append(f"  {paint(place.ljust(width), 'cyan')}  {value}{what}")
    return "\n".join(lines) + "\n"


def _as_table(found: list[Explained], paint: Paint) -> str:
    rows = [
        (each.name, _shown(each.value), " ← ".join(str(origin) for origin in reversed(each.chain))) for each in found
    ]
    names = min(NAME_WIDTH, max((len(name) for name, _, _ in rows), default=0))
    values = min(VALUE_WIDTH, max((len(value) for _, value, _ in rows), default=0))
    lines = [
        f"{paint(name.ljust(names), 'bold')}  {value.ljust(values)}  {paint(where, 'cyan')}"
        for name, value, where in rows
    ]
    return "".join(f"{line}\n" for line in lines)


def _shown(value: object) -> str:
    from flowmason_ray.cli.words import shortened
    from flowmason_ray.spec.provenance import MISSING

    if value is MISSING:
        return "(not written)"
    import json

    return shortened(json.dumps(value, ensure_ascii=False), VALUE_WIDTH)
