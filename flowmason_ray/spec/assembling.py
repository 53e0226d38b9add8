"""From a pipeline that was put together to a loaded one: a canonical document, held against the models, with its provenance."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from flowmason_ray.errors import Problem
from flowmason_ray.spec.checks import check_pairs
from flowmason_ray.spec.layering import Element, Layered, Part
from flowmason_ray.spec.loader import LoadedPipeline
from flowmason_ray.spec.pipeline import Pipeline, field_order
from flowmason_ray.spec.provenance import Mark, Origin, Provenance
from flowmason_ray.spec.references import is_path
from flowmason_ray.spec.spellings import Respelled, respell_references
from flowmason_ray.spec.wording import problems_from

_RESOLVED = ("extends", "overrides")
"""What a resolved pipeline has no more."""


def assemble(document: LoadedPipeline, layered: Layered, problems: list[Problem]) -> LoadedPipeline | None:
    """Return the pipeline that a family amounts to.

    Args:
        document: The file that is being resolved.
        layered: It and its parents, put together.
        problems: Takes what is wrong with the whole; the result is None then.
    """
    here = folder_of(document)
    values: dict[str, Any] = {key: value for key, (value, _) in layered.fields.items() if key not in _RESOLVED}
    marks: dict[str, Mark] = {key: mark for key, (_, mark) in layered.fields.items()}
    for part in cast("tuple[Part, ...]", ("stages", "compositions")):
        elements = [element for element in layered.elements.values() if element.part == part]
        if elements:
            values[part] = [_moved(element, here) for element in elements]
            marks[part] = Mark(
                (Origin(document, f"/{part}"),), {str(i): element.mark for i, element in enumerate(elements)}
            )
    known = [key for key in field_order(Pipeline) if key in values]
    data = {key: values[key] for key in (*known, *(key for key in values if key not in set(known)))}
    respell_references(data)
    made = _loaded(document, data, Provenance(Mark((Origin(document, ""),), marks)))
    found: list[Problem] = []
    pipeline: Pipeline | None = None
    try:
        pipeline = Pipeline.model_validate(data)
    except ValidationError as exc:
        found += problems_from(exc, data)
    found += check_pairs(data, document.source)
    problems += (_placed(problem, made) for problem in found)
    if found or pipeline is None:
        return None
    return _loaded(document, data, made.provenance, pipeline)


def _loaded(
    document: LoadedPipeline, data: dict[str, Any], provenance: Provenance | None, pipeline: Pipeline | None = None
) -> LoadedPipeline:
    return LoadedPipeline(
        pipeline=pipeline or document.pipeline,
        source=document.source,
        data=data,
        warnings=document.warnings,
        respelled=Respelled(data=data, moved={}, problems=(), warnings=()),
        provenance=provenance,
    )


def _placed(problem: Problem, made: LoadedPipeline) -> Problem:
    return made.problem(
        problem.code,
        problem.message,
        problem.path,
        key=problem.code == "unknown_key",
        expected=problem.expected,
        found=problem.found,
        nearest=problem.nearest,
        hint=problem.hint,
    )


def folder_of(loaded: LoadedPipeline) -> Path:
    """Return the directory that paths in a pipeline are relative to."""
    return Path(loaded.source.file).parent if loaded.source.file else Path.cwd()


def _moved(element: Element, here: Path) -> dict[str, Any]:
    """Return a copy of a stage or a composition, in which a path to a pipeline is relative to `here`.

    A path is meant from the file in which it is written, which may lie in another directory than the child.
    """
    value = dict(element.value)
    if element.part == "compositions":
        reference, mark = value.get("pipeline"), element.mark.member("pipeline")
        if isinstance(reference, str):
            value["pipeline"] = _from(reference, mark, here)
    elif value.get("component_type") == "subpipeline" and isinstance(config := value.get("config"), dict):
        called = cast("dict[str, Any]", config)
        reference, mark = called.get("pipeline"), element.mark.member("config").member("pipeline")
        if isinstance(reference, str):
            value["config"] = {**called, "pipeline": _from(reference, mark, here)}
    return value


def _from(reference: str, mark: Mark, here: Path) -> str:
    there = folder_of(mark.chain[-1].document)
    if not is_path(reference) or there == here:
        return reference
    target = os.path.realpath(there / reference)
    try:
        return Path(os.path.relpath(target, os.path.realpath(here))).as_posix()
    except ValueError:  # another drive
        return Path(target).as_posix()
