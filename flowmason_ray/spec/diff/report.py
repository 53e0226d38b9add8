"""A diff as it is told: by stage, in words that people use, whatever it is then written on.

All ways of showing a diff (text, Markdown, HTML, drawings) read this and nothing else, so they all tell the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from flowmason_ray.spec.diff.comparing import Change, Diff, Document, diff_trees
from flowmason_ray.spec.diff.documents import without_spelling
from flowmason_ray.spec.diff.naming import rename, rename_path
from flowmason_ray.spec.diff.sources import NOWHERE, Place, Sources
from flowmason_ray.spec.diff.structure import Home, Structure, structure_of
from flowmason_ray.spec.diff.tree import ABSENT, Body, Branches, Keyed, Names, Path, plain, tree_of

Status = Literal["added", "removed", "renamed", "changed"]

_SECTIONS = {
    "Input": ("input_schema", "sample_input"),
    "Output": ("output_schema", "output", "output_stage_id"),
    "About": ("id", "name", "version", "description", "tags", "category", "metadata", "$schema"),
    "Compositions": ("compositions",),
    "Inheritance": ("abstract", "extends", "overrides"),
}
_OTHER = "Settings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One leaf that changed. `old` and `new` are JSON values, ABSENT where there is none."""

    label: str
    old: Any
    new: Any
    member: bool = False
    """Whether `old` or `new` is a member of a set that came or went."""
    source: str = ""
    """Of a value that a pipeline inherits, where it is written: `from base.pipeline.json:7`; or was: `was in …`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """What happened to one stage."""

    id: str
    status: Status
    component: str
    was: str = ""
    """Its old id, if it was renamed."""
    lines: tuple[Line, ...] = ()
    edges_added: tuple[str, ...] = ()
    """Stages that it waits for now, and did not before."""
    edges_removed: tuple[str, ...] = ()
    home: str = ""
    """Where it is now, if that changed: `loop_stages of 'each'`, `the top level`."""
    old_home: str = ""
    source: str = ""
    """Of a stage that came or went with a parent: as `Line.source`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What changed in one aspect of the pipeline itself."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that changed."""

    a: str
    """What the first document is called."""
    b: str
    title: str
    """The pipeline's name."""
    diff: Diff
    sections: tuple[Section, ...] = ()
    stages: tuple[StageReport, ...] = ()
    before: Structure = field(default_factory=Structure)
    """The first document's structure, in the names of the second."""
    after: Structure = field(default_factory=Structure)
    components: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of every stage of either document, in the names of the second."""
    resolved: bool = False
    """Whether the documents were put together with all that they extend."""

    def __bool__(self) -> bool:
        return bool(self.diff)

    def with_status(self, status: Status) -> list[StageReport]:
        """Return the stages to which this happened."""
        return [stage for stage in self.stages if stage.status == status]

    def summary(self) -> str:
        """Return what changed in one line: `1 stage added, 2 changed; input`."""
        words: list[str] = []
        for status in ("added", "removed", "renamed", "changed"):
            count = len(self.with_status(status))
            if count:
                noun = "" if words else " stage" if count == 1 else " stages"
                words.append(f"{count:,}{noun} {status}")
        others = ", ".join(section.title.lower() for section in self.sections)
        return "; ".join(part for part in (", ".join(words), others) if part) or "no differences"


def report_of(
    a: Document, b: Document, *, a_name: str = "a", b_name: str = "b", sources: tuple[Sources, Sources] | None = None
) -> Report:
    """Compare two documents and return what is to be told about it.

    Args:
        a: A document.
        b: Another.
        a_name: What the first is called.
        b_name: What the second is called.
        sources: Of resolved pipelines, where the values of either are written.

    Raises:
        InvalidPipeline: a document in which stages cannot be told apart by their ids.
    """
    before, after = tree_of(a), tree_of(b)
    change = diff_trees(before, after)
    before = rename(before, change.renames)
    structures = structure_of(before), structure_of(after)
    written = _Written(change, sources)
    return Report(
        a=a_name,
        b=b_name,
        title=str(after.get("name") or before.get("name") or ""),
        diff=change,
        sections=tuple(_sections(change.changes, written)),
        stages=tuple(_stages(change, before, after, *structures, written)),
        before=structures[0],
        after=structures[1],
        components={name: _component(stage) for tree in (before, after) for name, stage in _of(tree).items()},
        resolved=sources is not None,
    )


class _Written:
    """Tells where values are written, as far as that is known and worth telling."""

    def __init__(self, change: Diff, sources: tuple[Sources, Sources] | None) -> None:
        self._sources = sources
        self._back = {new: old for old, new in change.renames.items()}

    def place(self, path: Path, *, after: bool) -> Place:
        """Return the place of a value of either document; `path` is in the names of the second."""
        if self._sources is None:
            return NOWHERE
        return self._sources[after].place(path if after else rename_path(path, self._back, member=False))

    def words(self, path: Path, *, after: bool, around: Place | None = None) -> str:
        """Return that in words; nothing for what is written in the same file as what is around it, or in the pipeline's own."""
        place = self.place(path, after=after)
        home = around.file if around is not None else self._sources[after].own if self._sources is not None else ""
        return "" if place.file == home else f"{'from' if after else 'was in'} {place}"


def _sections(changes: Iterable[Change], written: _Written) -> Iterator[Section]:
    lines: dict[str, list[Line]] = {}
    for change in changes:
        if change.path[0] != "stages":
            title = next((title for title, keys in _SECTIONS.items() if change.path[0] in keys), _OTHER)
            lines.setdefault(title, []).extend(_lines(change, 0, written))
    for title in ("About", "Input", "Output", "Inheritance", "Compositions", _OTHER):
        if title in lines:
            yield Section(title=title, lines=tuple(lines[title]))


def _of(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    stages = tree.get("stages")
    return stages if isinstance(stages, Keyed) else Keyed()


def _component(stage: Any) -> str:
    return str(cast("dict[str, Any]", stage).get("component_type", ""))


def _stages(
    change: Diff,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    old: Structure,
    new: Structure,
    written: _Written,
) -> Iterator[StageReport]:
    was = {now: then for then, now in change.renames.items()}
    by_stage: dict[str, list[Change]] = {}
    for each in _by_stage(change.changes):
        by_stage.setdefault(each.path[1], []).append(each)
    edges = _upstreams(old), _upstreams(new)
    one, other = _of(before), _of(after)
    for name in (*other, *(name for name in one if name not in other)):
        homes = old.homes.get(name), new.homes.get(name)
        moved = name in one and name in other and homes[0] != homes[1]
        touched = edges[0].get(name, {}).keys() != edges[1].get(name, {}).keys()
        if name not in by_stage and name not in was and not moved and not touched:
            continue
        yield _stage(name, was.get(name, ""), by_stage.get(name, []), (one, other), edges, homes, written, moved=moved)


def _by_stage(changes: Iterable[Change]) -> Iterator[Change]:
    """Yield the changes of stages; where one document has no list of stages at all, each stage by itself."""
    for change in changes:
        if change.path == ("stages",):
            old, new = (side if isinstance(side, Keyed) else Keyed() for side in (change.old, change.new))
            yield from (Change(path=("stages", name), old=stage, new=ABSENT) for name, stage in old.items())
            yield from (Change(path=("stages", name), old=ABSENT, new=stage) for name, stage in new.items())
        elif change.path[0] == "stages":
            yield change


def _stage(
    name: str,
    was: str,
    changes: list[Change],
    stages: tuple[Mapping[str, Any], Mapping[str, Any]],
    edges: tuple[dict[str, dict[str, None]], dict[str, dict[str, None]]],
    homes: tuple[Home | None, Home | None],
    written: _Written,
    *,
    moved: bool,
) -> StageReport:
    before, after = (side.get(name, {}) for side in edges)
    added = tuple(each for each in after if each not in before)
    removed = tuple(each for each in before if each not in after)
    status: Status = "changed"
    if name not in stages[0] or name not in stages[1]:
        status = "added" if name in stages[1] else "removed"
    elif was:
        status = "renamed"
    came = status in ("added", "removed")
    around = written.place(("stages", name), after=status == "added") if came else None
    shown = {*added, *removed}
    lines = tuple(
        line
        for each in changes
        if not (each.names_stage and each.path[2] == "depends_on" and each.path[-1] in shown)
        for line in _lines(each, 2, written, around)
        if not came or line.label not in ("depends_on", "component_type")
    )
    placed = moved or (status == "added" and homes[1] is not None)
    return StageReport(
        id=name,
        status=status,
        component=_component(stages[1].get(name) or stages[0].get(name)),
        was=was,
        lines=lines,
        edges_added=added,
        edges_removed=removed if status != "removed" else (),
        home=home_words(homes[1]) if placed else "",
        old_home=home_words(homes[0]) if moved else "",
        source=written.words(("stages", name), after=status == "added") if came else "",
    )


def _upstreams(structure: Structure) -> dict[str, dict[str, None]]:
    found: dict[str, dict[str, None]] = {}
    for above, below in structure.edges:
        found.setdefault(below, {})[above] = None
    return found


def home_words(home: Home | None) -> str:
    """Return where a stage is: `loop_stages of 'each'`, `the top level`."""
    return "the top level" if home is None else f"{home.body.replace('/', '.')} of {home.owner!r}"


def _lines(change: Change, skip: int, written: _Written, around: Place | None = None) -> Iterator[Line]:
    """Yield a change leaf by leaf; `skip` tokens of its path are told elsewhere, and so is that it is written in `around`."""
    if change.member:
        label = label_of(change.path[skip:-1])
        old, new = (side if side is ABSENT else change.path[-1] for side in (change.old, change.new))
        source = written.words(change.path[:-1], after=new is not ABSENT, around=around)
        yield Line(label=label, old=old, new=new, member=True, source=source)
        return
    olds, news = dict(_leaves(change.old, change.path)), dict(_leaves(change.new, change.path))
    for path in {**olds, **news}:
        old, new = olds.get(path, ABSENT), news.get(path, ABSENT)
        source = written.words(path, after=new is not ABSENT, around=around)
        yield Line(label=label_of(path[skip:]), old=old, new=new, source=source)


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if value is ABSENT:
        return
    if isinstance(value, dict) and value and not isinstance(value, (Names, Body, Branches)):
        for key, inner in cast("dict[str, Any]", value).items():
            if not (len(path) == 2 and path[0] == "stages" and key == "position"):
                yield from _leaves(inner, (*path, key))
    else:
        yield path, without_spelling(plain(value))


def label_of(path: Path) -> str:
    """Return a path as it is shown: `config.headers["x-id"]`."""
    text = ""
    for token in path:
        text += f".{token}" if token.replace("-", "_").isidentifier() else f'["{token}"]'
    return text.removeprefix(".")
