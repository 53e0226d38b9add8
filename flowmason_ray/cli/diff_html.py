"""A diff as one HTML page that needs nothing else: both versions drawn side by side, and below every change in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from flowmason_ray.cli import diff_graph
from flowmason_ray.cli.diff_values import is_there, list_changes, value_text
from flowmason_ray.spec.diff.words import excerpt, is_long, word_diff

if TYPE_CHECKING:
    from flowmason_ray.spec.diff.report import Line, Report, StageReport

STYLE = """
body { margin: 0; font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; color: #1f2328; background: #f6f8fa; }
main { max-width: 1400px; margin: 0 auto; padding: 24px; }
h1 { font-size: 22px; margin: 0; } h1 + p { margin: 4px 0 20px; color: #57606a; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
.side, .change { background: #fff; border: 1px solid #d0d7de; border-radius: 8px; }
.side { overflow: auto; max-height: 75vh; } .side h2 { font-size: 14px; margin: 0; padding: 8px 14px; border-bottom: 1px solid #d0d7de; }
.side svg { display: block; margin: 0 auto; max-width: 100%; height: auto; min-width: min(100%, 420px); }
.change { margin-top: 14px; padding: 10px 16px 12px; border-left: 5px solid #bf8700; }
.change.added { border-left-color: #1a7f37; } .change.removed { border-left-color: #cf222e; } .change.renamed { border-left-color: #218bff; }
.change h3 { font-size: 15px; margin: 0 0 4px; } .change h3 small { font-weight: 400; color: #57606a; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 14px; margin: 0; }
dt { font: 13px/1.7 ui-monospace, 'DejaVu Sans Mono', monospace; color: #57606a; overflow-wrap: anywhere; max-width: 32em; }
dt small { display: block; font-size: 11px; line-height: 1.3; }
dd { margin: 0; font: 13px/1.7 ui-monospace, 'DejaVu Sans Mono', monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
ins { background: #dafbe1; color: #0f5323; text-decoration: none; } del { background: #ffebe9; color: #82071e; }
ins, del { border-radius: 3px; padding: 0 2px; }
@media (max-width: 800px) { .sides { grid-template-columns: 1fr; } }
""".strip()


def as_html(reports: Sequence[Report]) -> str:
    """Return a page about one or several diffs."""
    titles = ", ".join(report.title for report in reports) or "No differences"
    body = "\n".join(part for report in reports for part in _report(report))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(titles)}: differences</title>\n'
        f"<style>\n{STYLE}\n</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _report(report: Report) -> Iterator[str]:
    yield f"<h1>{escape(report.title)}</h1>"
    yield f"<p>{escape(report.a)} → {escape(report.b)}{', resolved' if report.resolved else ''}: {escape(report.summary())}</p>"
    yield '<div class="sides">'
    for after, name in ((False, report.a), (True, report.b)):
        title = f"{'after' if after else 'before'}: {name}"
        drawing = diff_graph.as_svg(diff_graph.one(report, after=after))
        yield f'<section class="side"><h2>{escape(title)}</h2>\n{drawing}</section>'
    yield "</div>"
    for section in report.sections:
        yield f'<section class="change"><h3>{escape(section.title)}</h3>{_list(section.lines)}</section>'
    for stage in report.stages:
        yield from _stage(stage)


def _stage(stage: StageReport) -> Iterator[str]:
    name = f"<del>{escape(stage.was)}</del> <ins>{escape(stage.id)}</ins>" if stage.was else escape(stage.id)
    source = f", {escape(stage.source)}" if stage.source else ""
    yield f'<section class="change {stage.status}" id="{escape(stage.id)}">'
    yield f"<h3>{name} <small>{escape(stage.component)}, {stage.status}{source}</small></h3>"
    entries: list[str] = []
    if stage.home:
        was = f"<del>{escape(stage.old_home)}</del> " if stage.old_home else ""
        entries.append(f"<dt>is in</dt><dd>{was}<ins>{escape(stage.home)}</ins></dd>")
    if stage.edges_added or stage.edges_removed:
        came = [f"<ins>{escape(each)}</ins>" for each in stage.edges_added]
        went = [f"<del>{escape(each)}</del>" for each in stage.edges_removed]
        entries.append(f"<dt>waits for</dt><dd>{' '.join([*came, *went])}</dd>")
    yield _list(stage.lines, *entries)
    yield "</section>"


def _list(lines: Sequence[Line], *first: str) -> str:
    entries = [f"<dt>{escape(line.label)}{_source(line)}</dt><dd>{_values(line)}</dd>" for line in lines]
    return f"<dl>{''.join([*first, *entries])}</dl>" if entries or first else ""


def _source(line: Line) -> str:
    return f"<small>{escape(line.source)}</small>" if line.source else ""


def _values(line: Line) -> str:
    old, new = line.old, line.new
    if is_there(old) and is_there(new):
        if is_long(old, new):
            tags = {"same": ("", ""), "old": ("<del>", "</del>"), "new": ("<ins>", "</ins>")}
            pieces = excerpt(word_diff(old, new), 200)
            return "".join(f"{tags[p.sign][0]}{escape(p.text)}{tags[p.sign][1]}" for p in pieces)
        changes = list_changes(old, new)
        if changes is not None:
            return "\n".join(_item(sign, value) for sign, value in changes)
        return f"<del>{escape(value_text(old))}</del> → <ins>{escape(value_text(new))}</ins>"
    tag, value = ("ins", new) if is_there(new) else ("del", old)
    text = value if isinstance(value, str) and (line.member or "\n" in value) else value_text(value)
    return f"<{tag}>{escape(text)}</{tag}>"


def _item(sign: str, value: object) -> str:
    if sign == "=":
        return f"… {value} the same"
    tag = "ins" if sign == "+" else "del"
    return f"<{tag}>{escape(value_text(value))}</{tag}>"
