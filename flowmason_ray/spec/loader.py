"""The one reader of pipeline files.

The story of a file: its text is read (`reading`) and parsed (`parsing`), older spellings are replaced (`spellings`), the models check every
value (`pipeline`, in the words of `wording`), `checks` what must hold between values. Everything that is wrong is
collected and raised at once, each problem with its file, line and column.

Parents and overrides are read here and put together by `inheritance`; nothing here knows a component.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flowmason_ray.errors import InvalidPipeline, Problem
from flowmason_ray.spec.checks import check_pairs
from flowmason_ray.spec.merge.marks import unresolved
from flowmason_ray.spec.parsing import parse_object
from flowmason_ray.spec.pipeline import Pipeline
from flowmason_ray.spec.plain_data import plain_object
from flowmason_ray.spec.reading import read_source, source_of
from flowmason_ray.spec.source import Location, Source
from flowmason_ray.spec.spellings import Respelled, respell
from flowmason_ray.spec.wording import problems_from

if TYPE_CHECKING:
    from flowmason_ray.spec.provenance import Provenance

_ABOUT_A_KEY = frozenset({"unknown_key", "two_spellings", "shadowed_value"})
"""Codes of problems that are about a key itself, not about its value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedPipeline:
    """A pipeline that was read, with what is needed to point at any part of it in its file."""

    pipeline: Pipeline
    source: Source
    data: dict[str, Any]
    """The document in canonical spelling, as plain JSON values. Not to be changed."""
    warnings: tuple[Problem, ...]
    respelled: Respelled
    provenance: Provenance | None = None
    """Of a pipeline that extends others, put together (`spec.inheritance`): where each part was written."""

    def locate(self, pointer: str, *, key: bool = False) -> Location:
        """Return where a part of the canonical document is written, whichever spelling, in whichever file."""
        if self.provenance is not None:
            return self.provenance.origin(pointer).place(key=key)
        return self.source.locate(self.respelled.written_at(pointer), key=key)

    def problem(self, code: str, message: str, pointer: str = "", *, key: bool = False, **facts: Any) -> Problem:
        """Return a problem with file, line and column filled in.

        Args:
            code: Stable, snake_case.
            message: What was found, what was expected, what to do.
            pointer: Canonical JSON pointer of the value that it is about.
            key: Point at the value's key instead.
            facts: Further fields of `Problem`: `expected`, `found`, `nearest`, `hint`, `severity`.

        Of a resolved pipeline the problem is placed where the value was written, and names the override chain.
        """
        place = self.locate(pointer, key=key)
        if self.provenance is not None:
            chain = self.provenance.chain(pointer)
            origin = chain[-1]
            # The pointer goes with the file: it leads into the one in which the value is written.
            pointer = origin.pointer
            if len(chain) > 1 or origin.document.source is not self.source:
                facts["chain"] = (*map(str, chain), self.source.file or self.pipeline.name)
        return Problem(
            code=code,
            message=message,
            path=pointer,
            file=place.file,
            line=place.line,
            column=place.column,
            **facts,
        )


def load_pipeline_file(path: Path) -> LoadedPipeline:
    """Read a pipeline file.

    Raises:
        InvalidPipeline: with every problem that was found.
    """
    return _load(read_source(path))


def load_pipeline_text(text: str | bytes, *, file: str | None = None) -> LoadedPipeline:
    """Read a pipeline from its text. `file` is the name that problems mention.

    Raises:
        InvalidPipeline: with every problem that was found.
    """
    return _load(source_of(text, file=file))


def load_pipeline_data(data: Mapping[str, Any]) -> LoadedPipeline:
    """Read a pipeline from Python values, as `json.load` returns them. Problems then have pointers but no lines.

    Raises:
        InvalidPipeline: with every problem that was found.
    """
    return _check(plain_object(data), Source(file=None, text=""))


def _load(source: Source) -> LoadedPipeline:
    return _check(parse_object(source), source)


def _check(data: dict[str, Any], source: Source) -> LoadedPipeline:
    respelled = respell(data)
    if marks := unresolved(data):  # what else is wrong with half a merge is nobody's concern
        raise InvalidPipeline(_placed(marks, source, respelled))
    # Where two spellings disagree the older key is still there: that it is "unknown" need not be said as well.
    kept = {problem.path for problem in respelled.problems}
    problems = list(respelled.problems)
    pipeline: Pipeline | None = None
    try:
        pipeline = Pipeline.model_validate(respelled.data)
    except ValidationError as exc:
        problems += (p for p in problems_from(exc, respelled.data) if p.path not in kept)
    problems += check_pairs(respelled.data, source)
    if problems or pipeline is None:
        raise InvalidPipeline(_placed(problems, source, respelled))
    return LoadedPipeline(
        pipeline=pipeline,
        source=source,
        data=respelled.data,
        warnings=tuple(_placed(respelled.warnings, source, respelled)),
        respelled=respelled,
    )


def _placed(problems: Iterable[Problem], source: Source, respelled: Respelled) -> list[Problem]:
    """Return the problems with their places, in the order of the file."""
    placed: list[Problem] = []
    for problem in problems:
        at = source.locate(respelled.written_at(problem.path), key=problem.code in _ABOUT_A_KEY)
        placed.append(replace(problem, file=at.file, line=at.line, column=at.column))
    return sorted(placed, key=lambda p: (p.line or 0, p.column or 0))
