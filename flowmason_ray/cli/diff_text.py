"""A diff for a terminal: by stage, long texts word by word. Whatever is said by colour is said by a sign too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from flowmason_ray.cli.diff_values import is_there, list_changes, value_text
from flowmason_ray.spec.diff.words import Piece, excerpt, is_long, word_diff

if TYPE_CHECKING:
    from flowmason_ray.cli.terminal import Paint
    from flowmason_ray.spec.diff.report import Line, Report, StageReport

SIGNS = {"added": "+", "removed": "-", "renamed": ">", "changed": "~"}
COLOURS = {"added": "green", "removed": "red", "renamed": "blue", "changed": "yellow"}


def as_text(report: Report, paint: Paint) -> str:
    """Return the diff for people; ends with a line break."""
    names = f"{report.a} → {report.b}" if report.a != report.b else report.a
    names += ", resolved" if report.resolved else ""
    title = paint(report.title, "bold") if report.title else "?"
    lines = [f"{title} ({names}): {report.summary()}"]
    for section in report.sections:
        lines += ["", f"{paint('~', 'yellow', 'bold')} {paint(section.title, 'bold')}"]
        lines += (f"    {line}" for each in section.lines for line in _line(each, paint))
    for stage in report.stages:
        lines += ["", *_stage(stage, paint)]
    return "\n".join(lines) + "\n"


def _stage(stage: StageReport, paint: Paint) -> Iterator[str]:
    sign = paint(SIGNS[stage.status], COLOURS[stage.status], "bold")
    name = f"{paint(stage.was, 'bold')} is now {paint(stage.id, 'bold')}" if stage.was else paint(stage.id, "bold")
    yield f"{sign} stage {name} {paint(f'({stage.component})', 'cyan')}{_doing(stage)}{f', {stage.source}' if stage.source else ''}"
    if stage.home:
        was = f" (was: {stage.old_home})" if stage.old_home else ""
        yield f"    {'moved to' if stage.old_home else 'in'} {stage.home}{was}"
    if stage.edges_added or stage.edges_removed:
        yield f"    waits for: {', '.join(edge_words(stage, paint))}"
    for line in stage.lines:
        yield from (f"    {text}" for text in _line(line, paint))


def _doing(stage: StageReport) -> str:
    return {"added": " added", "removed": " removed", "renamed": "", "changed": ""}[stage.status]


def edge_words(stage: StageReport, paint: Paint) -> Iterator[str]:
    """Yield the stages that a stage waits for now, with `+`, and those that it does not any more, with `-`."""
    if stage.status == "added":
        yield from stage.edges_added
        return
    yield from (paint(f"+{name}", "green") for name in stage.edges_added)
    yield from (paint(f"-{name}", "red") for name in stage.edges_removed)


def _line(line: Line, paint: Paint) -> Iterator[str]:
    label = paint(f"{line.label}{f' ({line.source})' if line.source else ''}:", "dim")
    if line.member:
        sign, colour, value = ("+", "green", line.new) if is_there(line.new) else ("-", "red", line.old)
        yield f"{label} {paint(f'{sign}{value}', colour)}"
    elif not is_there(line.old) or not is_there(line.new):
        sign, colour, value = ("+", "green", line.new) if is_there(line.new) else ("-", "red", line.old)
        yield from _whole(label, sign, value, colour, paint)
    elif is_long(line.old, line.new):
        yield from _indented(label, words_text(excerpt(word_diff(line.old, line.new)), paint))
    elif (changes := list_changes(line.old, line.new)) is not None:
        yield label
        for sign, value in changes:
            same = f"  … {value} the same"
            yield same if sign == "=" else paint(f"  {sign} {value_text(value)}", "green" if sign == "+" else "red")
    else:
        yield f"{label} {paint(value_text(line.old), 'red')} → {paint(value_text(line.new), 'green')}"


def _whole(label: str, sign: str, value: object, colour: str, paint: Paint) -> Iterator[str]:
    if isinstance(value, str) and "\n" in value:
        yield label
        yield from (paint(f"  {sign} {line}", colour) for line in value.splitlines())
    else:
        yield f"{label} {paint(f'{sign} {value_text(value)}', colour)}"


def _indented(label: str, text: str) -> Iterator[str]:
    if "\n" not in text:
        yield f"{label} {text}"
        return
    yield label
    yield from (f"  | {line}" for line in text.split("\n"))


def words_text(pieces: Iterable[Piece], paint: Paint) -> str:
    """Return changed words in a text: `[-old-]`, `{+new+}`; each line painted by itself."""
    made: list[str] = []
    for piece in pieces:
        if piece.sign == "same":
            made.append(piece.text)
        else:
            begin, end, colour = ("[-", "-]", "red") if piece.sign == "old" else ("{+", "+}", "green")
            made.append("\n".join(paint(line, colour) for line in f"{begin}{piece.text}{end}".split("\n")))
    return "".join(made)
