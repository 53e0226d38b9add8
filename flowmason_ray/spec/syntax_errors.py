"""What is wrong with a text that is not JSON, said so that whoever wrote it can mend it."""

from __future__ import annotations

import json

from flowmason_ray.errors import Problem
from flowmason_ray.spec.source import Source


def syntax_problem(source: Source, error: json.JSONDecodeError) -> Problem:
    """Return the problem behind a parser's error: where the text stops being JSON, and what stands there."""
    message, offset, hint = _explain(source.text, error)
    place = source.location_at(offset)
    return Problem(
        code="invalid_json",
        message=message,
        file=place.file,
        line=place.line,
        column=place.column,
        hint=hint,
        excerpt=source.excerpt(offset) if source.text.strip() else None,
    )


def _explain(text: str, error: json.JSONDecodeError) -> tuple[str, int, str | None]:
    """Return what is wrong in our words, where, and what helps against the slips that people make most."""
    at = error.pos
    found = text[at : at + 1]
    shown = f"found {found!r}" if found else "the file ends here"
    before = text[:at].rstrip()
    if not text.strip():
        return "The file is empty; expected a JSON object.", 0, None
    if error.msg.startswith(("Unterminated string", "Invalid control character")):
        if error.msg.startswith("Invalid"):
            return (
                f"A text contains the control character {found!r} (a line break?).",
                at,
                "Write it as \\n or \\uXXXX.",
            )
        return "A text starts here and never ends.", at, "Close it with a double quote."
    if error.msg.startswith("Invalid \\"):
        return f"Invalid escape in a text: {text[at : at + 2]!r}.", at, "Write a backslash as \\\\."
    if error.msg.startswith("Extra data"):
        return f"The JSON object ends before this; {shown}.", at, None
    if "trailing comma" in error.msg.lower() or (found and found in "}]" and before.endswith(",")):
        comma = at if found == "," else len(before) - 1
        return "A comma stands before the closing bracket.", comma, "Remove the comma."
    if "delimiter" in error.msg:
        wanted = "':'" if "':'" in error.msg else "',' or a closing bracket"
        return f"Expected {wanted}; {shown}.", at, None
    if found == "'":
        return "Text is written in double quotes in JSON; found a single quote.", at, None
    if text.startswith(("//", "/*", "#"), at):
        return "JSON has no comments.", at, "Put remarks under 'description' or 'metadata'."
    for word, right in (("True", "true"), ("False", "false"), ("None", "null"), ("undefined", "null")):
        if text.startswith(word, at):
            return f"{word!r} is not JSON.", at, f"Write {right}."
    expected = "a key in double quotes" if "property name" in error.msg else "a value"
    return f"Expected {expected}; {shown}.", at, None
