"""Parents and children: from a pipeline that extends others to the one that it amounts to.

`Inheritance.resolve` reads the parents, finds the order in which they act (`linearising`), puts each on top of the others
(`layering`), and checks what can only be seen then: slots that nobody filled, removed stages that are still read
(`readers`), and that a child keeps its parents' contracts (`contracts`). The result is a `LoadedPipeline` like any other, with
the same models, whose `provenance` knows the file and line of every value. Everything behind this module sees only that.

A pipeline that extends nothing is returned as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.assembling import assemble
from flowmason_ray.spec.contracts import breaks
from flowmason_ray.spec.layering import Layer, Layered, open_slots, put_on
from flowmason_ray.spec.linearising import NoOrder, linearise
from flowmason_ray.spec.loader import LoadedPipeline
from flowmason_ray.spec.provenance import Provenance
from flowmason_ray.spec.readers import readers_of

MAX_DEPTH = 32
"""How many generations a family may have."""

MAX_FILES = 256
"""How many files a family may have."""

IN_THE_REFERENCE = frozenset(
    {"pipeline_not_found", "ambiguous_pipeline", "invalid_range", "lock_mismatch", "file_not_found"}
)
"""Codes of problems that are reported where a parent is named, and not in the parent."""


class ParentFinder(Protocol):
    """Finds the file that another one names."""

    def __call__(self, reference: str, from_file: str | None) -> LoadedPipeline:
        """Return the file as it is written, its own parents not looked at.

        Args:
            reference: A name, `name@range`, or a path relative to `from_file`.
            from_file: The file that refers; None: data that is in no file.

        Raises:
            InvalidPipeline: there is none, or it cannot be loaded.
        """
        ...


@dataclass(slots=True, eq=False, kw_only=True)
class Member:
    """A file of a family, with everything that it extends. Not to be changed once it is made."""

    document: LoadedPipeline
    references: tuple[str, ...]
    parents: tuple[Member, ...]
    order: tuple[Member, ...] = ()
    """Itself and all that it extends, nearest first."""

    @property
    def title(self) -> str:
        """What it is called in messages."""
        pipeline = self.document.pipeline
        return f"{pipeline.name}@{pipeline.version}"

    @property
    def layer(self) -> Layer:
        """It as `layering` takes it."""
        return Layer(document=self.document, ancestors=frozenset(id(each.document) for each in self.order[1:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A pipeline put together, and how that came about."""

    loaded: LoadedPipeline
    member: Member
    layered: Layered


@dataclass(slots=True)
class Inheritance:
    """Resolves pipelines that share their parents. Every file is read and put together once."""

    find: ParentFinder
    _members: dict[str, Member] = field(default_factory=dict[str, Member])
    _layered: dict[int, Layered] = field(default_factory=dict[int, Layered])
    _resolved: dict[int, Resolved] = field(default_factory=dict[int, Resolved])

    def resolve(self, loaded: LoadedPipeline) -> LoadedPipeline:
        """Return the pipeline that `loaded` and all that it extends amount to.

        Raises:
            InvalidPipeline: with every problem, each placed in the file in which the fault lies.
        """
        if loaded.provenance is not None or not (loaded.pipeline.extends or loaded.pipeline.overrides):
            return loaded
        return self.family(loaded).loaded

    def family(self, loaded: LoadedPipeline) -> Resolved:
        """Return the same together with the files that it is made of; also for a pipeline that extends nothing.

        Raises:
            InvalidPipeline: as for `resolve`.
        """
        member = self._member(loaded, [])
        resolved = self._resolved.get(id(member.document))
        if resolved is None:
            layered = self._put_together(member)
            problems = list(_unsettled(member, layered))
            made = assemble(member.document, layered, problems) if member.parents else member.document
            if made is None or problems:
                raise InvalidPipeline(problems)
            resolved = self._resolved[id(member.document)] = Resolved(loaded=made, member=member, layered=layered)
        return resolved

    # -- the family -----------------------------------------------------------------------------------------------------

    def _member(self, loaded: LoadedPipeline, heirs: list[tuple[str, str]]) -> Member:
        """Return a file with its parents. `heirs` are the (key, title) of those that extend it, the outermost first."""
        key = key_of(loaded)
        known = self._members.get(key)
        if known is not None:
            return known
        title = f"{loaded.pipeline.name}@{loaded.pipeline.version}"
        line = [*heirs, (key, title)]
        references = references_of(loaded)
        if len(line) > MAX_DEPTH:
            names = " → ".join(name for _, name in [*line[:3], ("", "…"), *line[-2:]])
            message = f"Pipelines extend each other over more than {MAX_DEPTH} generations: {names}."
            raise InvalidPipeline([loaded.problem("extends_too_deep", message, "/extends")])
        parents: list[Member] = []
        problems: list[Problem] = []
        for position, reference in enumerate(references):
            pointer = "/extends" if isinstance(loaded.data.get("extends"), str) else f"/extends/{position}"
            try:
                parent = self._parent(loaded, reference, pointer, line)
            except InvalidPipeline as exc:
                problems += exc.problems
                continue
            if parent in parents:
                message = f"{parent.title} is extended twice."
                problems.append(loaded.problem("not_unique", message, pointer, found=reference))
            parents.append(parent)
        if problems:
            raise InvalidPipeline(_once(problems))
        member = Member(document=loaded, references=references, parents=tuple(parents))
        member.order = _order(member)
        if len(self._members) >= MAX_FILES:
            message = f"More than {MAX_FILES} files extend each other."
            raise InvalidPipeline([loaded.problem("extends_too_deep", message, "/extends")])
        self._members[key] = member
        return member

    def _parent(self, loaded: LoadedPipeline, reference: str, pointer: str, line: list[tuple[str, str]]) -> Member:
        try:
            found = self.find(reference, loaded.source.file)
        except InvalidPipeline as exc:
            raise InvalidPipeline([_at_reference(loaded, each, pointer) for each in exc.problems]) from None
        keys = [key for key, _ in line]
        key = key_of(found)
        if key in keys:
            ring = " → ".join([*(title for _, title in line[keys.index(key) :]), line[keys.index(key)][1]])
            message = f"The pipeline extends itself: {ring}."
            raise InvalidPipeline([loaded.problem("extends_cycle", message, pointer, found=ring)])
        return self._member(found, line)

    # -- putting together -----------------------------------------------------------------------------------------------

    def _put_together(self, member: Member) -> Layered:
        """Return a file on top of all that it extends; each of those is put together, and checked, by itself first."""
        known = self._layered.get(id(member.document))
        if known is not None:
            return known
        below = [self._put_together(parent) for parent in member.parents]
        problems: list[Problem] = []
        if len(member.parents) == 1:
            layered = put_on(below[0], member.layer, problems)
        else:
            layered = Layered()
            for each in reversed(member.order):
                layered = put_on(layered, each.layer, problems)
        problems += _still_read(layered)
        for parent, inherited in zip(member.parents, below, strict=True):
            problems += _broken_contracts(member, layered, parent, inherited)
        if problems:
            raise InvalidPipeline(_once(problems))
        self._layered[id(member.document)] = layered
        return layered


def key_of(loaded: LoadedPipeline) -> str:
    """Return what identifies a file: its real path; data that is in no file is only itself."""
    file = loaded.source.file
    return os.path.realpath(file) if file else f"data {id(loaded.data)}"


def references_of(loaded: LoadedPipeline) -> tuple[str, ...]:
    """Return what a pipeline extends, as it is written."""
    extends = loaded.pipeline.extends
    return () if extends is None else (extends,) if isinstance(extends, str) else tuple(extends)


def _order(member: Member) -> tuple[Member, ...]:
    try:
        return tuple(linearise(member, member.parents, [parent.order for parent in member.parents]))
    except NoOrder as exc:
        document = member.document
        lines = "; ".join(" before ".join(each.title for each in cast("list[Member]", line)) for line in exc.left)
        message = f"The parents contradict each other about who comes first: {lines}."
        hint = "List a parent before those that it extends itself, and several parents in the same order everywhere."
        raise InvalidPipeline([document.problem("contradicting_parents", message, "/extends", hint=hint)]) from None


def _at_reference(loaded: LoadedPipeline, problem: Problem, pointer: str) -> Problem:
    """Place a problem that lies in a reference where the reference is written; of another one, tell who inherits it."""
    if problem.code not in IN_THE_REFERENCE:
        if problem.file is None or problem.chain is not None:
            return problem
        place = f"{problem.file}:{problem.line}" if problem.line else problem.file
        return replace(problem, chain=(place, loaded.source.file or loaded.pipeline.name))
    return loaded.problem(
        problem.code, problem.message, pointer, found=problem.found, nearest=problem.nearest, hint=problem.hint
    )


def _once(problems: Sequence[Problem]) -> list[Problem]:
    """Return problems without repetition: a parent that is reached on two ways is as wrong on both."""
    return list(dict.fromkeys(problems))


# -- what can only be seen when a pipeline is put together -------------------------------------------------------------


def _still_read(layered: Layered) -> Iterator[Problem]:
    """Yield the removals of stages that something still reads."""
    for name, readers in readers_of(layered.removed, layered).items():
        origin = layered.removed[name]
        first = readers[0]
        others = f" and {len(readers) - 1} more" if len(readers) > 1 else ""
        yield origin.document.problem(
            "removed_stage_is_read",
            f"Stage {name!r} cannot be removed: {first.title} still reads it ({first.where}){others}.",
            origin.pointer,
            key=True,
            found=name,
            hint=f'Change what reads it under \'overrides\' too, or replace the stage: {{"{name}": {{"$replace": …}}}}.',
        )


def _broken_contracts(member: Member, layered: Layered, parent: Member, inherited: Layered) -> Iterator[Problem]:
    """Yield where a child asks for more than its parent, or promises less."""
    sides = (
        ("input_schema", "input", "does not accept everything that {} accepts"),
        ("output_schema", "output", "may return what {} never would"),
    )
    for key, word, relation in sides:
        ours, theirs = layered.fields.get(key), inherited.fields.get(key)
        if theirs is None or theirs[0] is None or (ours is not None and ours[0] is theirs[0]):
            continue
        if ours is None or ours[0] is None:
            if word == "output":
                message = f"The output schema that {parent.title} promises is taken away."
                yield member.document.problem("broken_contract", message, "/output_schema", found=parent.title)
            continue
        if _is_broken(theirs[0]) or _is_broken(ours[0]):
            continue  # the plan says what is wrong with it
        found = breaks(theirs[0], ours[0], filled="wide") if key == "input_schema" else breaks(ours[0], theirs[0])
        for each in found:
            subject = f"{word} {each.pointer!r}" if each.pointer else f"the {word}"
            origin = Provenance(ours[1]).origin(each.pointer_in(ours[0]))
            yield origin.document.problem(
                "broken_contract",
                f"{member.title} {relation.format(parent.title)}: {subject}: {each.why}.",
                origin.pointer,
                found=subject,
                hint="A child accepts every input that its parent accepts, and returns only what its parent may return.",
            )


def _unsettled(member: Member, layered: Layered) -> Iterator[Problem]:
    """Yield what a pipeline that is to be run, or looked at by itself, must have settled."""
    document = member.document
    for name, element in layered.elements.items():
        if element.rival is not None:
            first = element.mark.chain[-1]
            yield document.problem(
                "contradicting_parents",
                f"Two parents write {element.title} differently: {first} and {element.rival}.",
                "/extends",
                found=name,
                hint=f'Settle it under \'overrides\': {{"{name}": {{"$replace": {{…}}}}}}, or null for neither.',
            )
    if document.pipeline.abstract or not member.parents:
        return
    for element in open_slots(layered):
        name = str(element.value["id"])
        declared = layered.slots.get(name, element.mark.chain[-1])
        yield document.problem(
            "unfilled_slot",
            f"Slot {name!r}, which {declared} leaves open, is not filled by {member.title}.",
            "/extends",
            found=name,
            hint=f"Add a stage {name!r} under 'stages', or say 'abstract': true.",
        )


def _is_broken(schema: Mapping[str, Any]) -> bool:
    from flowmason_ray.spec.schema_checks import check_schema

    return any(problem.severity == "error" for problem in check_schema(schema))
