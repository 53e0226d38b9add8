"""A diff for a comment under a pull request: Markdown as GitHub and GitLab show it, with a Mermaid drawing of what moved."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from flowmason_ray.cli import diff_graph
from flowmason_ray.cli.diff_text import edge_words
from flowmason_ray.cli.diff_values import is_there, list_changes, value_text
from flowmason_ray.cli.terminal import plain
from flowmason_ray.spec.diff.words import Piece, excerpt, is_long, word_diff

if TYPE_CHECKING:
    from flowmason_ray.spec.diff.report import Line, Report, StageReport

SIGNS = {"added": "🟢", "removed": "🔴", "renamed": "🔵", "changed": "🟡"}


def as_markdown(report: Report) -> str:
    """Return the diff; ends with a line break."""
    names = f"{code(report.a)} → {code(report.b)}" if report.a != report.b else code(report.a)
    names += ", resolved" if report.resolved else ""
    lines = [f"### {_text(report.title)} ({names})", "", f"**{report.summary().capitalize()}**"]
    for section in report.sections:
        lines += ["", f"🟡 **{section.title}**", "", *(text for each in section.lines for text in _line(each))]
    for stage in report.stages:
        lines += ["", *_stage(stage)]
    if _moves(report):
        drawing = diff_graph.as_mermaid(diff_graph.both(report)).rstrip("\n")
        lines += [
            "",
            "<details><summary>The stages, drawn</summary>",
            "",
            "```mermaid",
            drawing,
            "```",
            "",
            "</details>",
        ]
    return "\n".join(lines) + "\n"


def _moves(report: Report) -> bool:
    """Tell whether a drawing would show more than the list."""
    return any(s.status in ("added", "removed") or s.edges_added or s.edges_removed or s.home for s in report.stages)


def _stage(stage: StageReport) -> Iterator[str]:
    name = f"{code(stage.was)} is now {code(stage.id)}" if stage.was else code(stage.id)
    yield f"{SIGNS[stage.status]} **Stage {name}** ({_text(stage.component)}) {stage.status}{_source(stage.source, ', {}')}"
    lines: list[str] = []
    if stage.home:
        was = f" (was: {_text(stage.old_home)})" if stage.old_home else ""
        lines.append(f"- {'moved to' if stage.old_home else 'in'} {_text(stage.home)}{was}")
    if stage.edges_added or stage.edges_removed:
        lines.append(f"- waits for: {', '.join(code(word) for word in edge_words(stage, plain))}")
    for line in stage.lines:
        lines += _line(line)
    if lines:
        yield ""
        yield from lines


def _line(line: Line) -> Iterator[str]:
    label = f"- {code(line.label)}{_source(line.source, ' ({})')}:"
    there = is_there(line.old), is_there(line.new)
    if line.member:
        yield f"{label} {code(f'+{line.new}' if there[1] else f'-{line.old}')}"
    elif not all(there):
        sign, value = ("+", line.new) if there[1] else ("-", line.old)
        if isinstance(value, str) and (len(value) > 80 or "\n" in value):
            yield from _block(label, (f"{sign} {text}" for text in value.splitlines()))
        else:
            yield f"{label} {'added' if there[1] else 'removed'} {code(value_text(value))}"
    elif is_long(line.old, line.new):
        yield from _block(label, _by_lines(excerpt(word_diff(line.old, line.new))))
    elif (changes := list_changes(line.old, line.new)) is not None:
        texts = (f"  … {v} the same" if sign == "=" else f"{sign} {value_text(v)}" for sign, v in changes)
        yield from _block(label, texts)
    else:
        yield f"{label} {code(value_text(line.old))} → {code(value_text(line.new))}"


def _source(source: str, frame: str) -> str:
    return frame.format(_text(source)) if source else ""


def _by_lines(pieces: Iterable[Piece]) -> Iterator[str]:
    """Yield the lines of two texts: those that are the same once, the others as they were and as they are."""
    old, new = "", ""

    def close() -> Iterator[str]:
        if old == new:
            yield from (f"  {line}" for line in old.split("\n"))
        else:
            yield from (f"- {line}" for line in old.split("\n") if line)
            yield from (f"+ {line}" for line in new.split("\n") if line)

    for piece in pieces:
        if piece.sign != "same":
            old, new = (old + piece.text, new) if piece.sign == "old" else (old, new + piece.text)
            continue
        first, *rest = piece.text.split("\n")
        old, new = old + first, new + first
        for line in rest:
            yield from close()
            old = new = line
    yield from close()


def _block(label: str, lines: Iterable[str]) -> Iterator[str]:
    listed = list(lines)
    longest = max((len(run) for line in listed for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    yield label
    yield f"  {fence}diff"
    yield from (f"  {line}" for line in listed)
    yield f"  {fence}"


def code(text: str) -> str:
    """Return text as inline code, whatever is in it."""
    text = text.replace("\n", " ")
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    mark = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{mark}{pad}{text}{pad}{mark}" if text else ""


def _text(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|~@])", r"\\\1", text)
