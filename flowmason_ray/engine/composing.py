"""Compositions on their way into the plan: each is drafted as a stage that calls a pipeline.

So whatever holds for calls holds for them: scopes of their own, paths `id/stage`, no recursion. What is different: a
composition's output is the result itself, or what `output_mapping` keeps of it; it has a contract with the pipeline that is
checked when the plan is made (`composition_check`); and no secret crosses its border unless it is handed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from flowmason_ray.engine.component import Catalogue
from flowmason_ray.engine.control_flow.composition import Composition
from flowmason_ray.engine.drafts import Draft, Report, parse_at
from flowmason_ray.engine.plan import Plan, PlanStage, Region, ScopePlan
from flowmason_ray.engine.schema_types import is_plain, schema_types
from flowmason_ray.spec.composition import composed_schema, mapping_template
from flowmason_ray.spec.input_schema import InputSchema
from flowmason_ray.spec.pipeline import Composition as Written
from flowmason_ray.spec.pipeline import Stage
from flowmason_ray.spec.source import join_pointer, split_pointer
from flowmason_ray.spec.templates import Template, parse_template

if TYPE_CHECKING:
    from flowmason_ray.spec.loader import LoadedPipeline

COMPOSITION = "composition"
"""The name of the component of a composition's stage."""

MAPPED = "$mapped"
"""The hidden stage that makes a composition's output of the pipeline's result."""

_CONSTRUCT = Composition()
_WRITTEN = re.compile(r"(/compositions/\d+)/config(?:/(input_data|pipeline))?(?=/|$)")
_WORDS = {"input_data": "/input_mapping", "pipeline": "/pipeline", None: ""}


class CompositionOutput(BaseModel):
    """Whatever the composed pipeline returns."""

    model_config = ConfigDict(extra="allow")


def written_pointer(pointer: str) -> str:
    """Return where a part of a composition's stage is written."""
    if not pointer.startswith("/compositions/"):
        return pointer
    return _WRITTEN.sub(lambda match: f"{match[1]}{_WORDS[match[2]]}", pointer)


def draft_compositions(written: list[Written], catalogue: Catalogue, report: Report) -> dict[str, Draft]:
    """Return the drafts of all compositions by id."""
    calling = catalogue.get("subpipeline") if written else None
    drafts: dict[str, Draft] = {}
    for position, each in enumerate(written):
        pointer = f"/compositions/{position}"
        config: dict[str, Any] = {"pipeline": each.pipeline, "input_data": each.input_mapping}
        stage = Stage(id=each.id, component_type="subpipeline", config=config, depends_on=each.depends_on)
        draft = Draft(id=each.id, pointer=pointer, called=f"Composition {each.id!r}", spec=stage, composition=each)
        if calling is None:
            message = "Compositions need the component 'subpipeline', which is not there."
            report("unknown_component", message, pointer)
            draft.misshapen = True
        else:
            draft.component = replace(calling, name=COMPOSITION, output_model=CompositionOutput)
            draft.construct = _CONSTRUCT
            draft.shape = _CONSTRUCT.shape(config)
            draft.fixed = {"pipeline": each.pipeline}
            template = parse_at({"input_data": each.input_mapping}, f"{pointer}/config", report, parse_template)
            draft.template = template if template is not None else draft.template
        if each.output_mapping:
            draft.mapping = parse_at(each.output_mapping, f"{pointer}/output_mapping", report, mapping_template)
        drafts[each.id] = draft
    return drafts


def describe_contract(draft: Draft, callee: LoadedPipeline) -> None:
    """Note what a composed pipeline takes, and what the composition returns."""
    pipeline = callee.pipeline
    draft.accepts = pipeline.input_schema
    result = composed_schema(pipeline.output_schema, pipeline.output)
    draft.result = result
    if draft.mapping is None:
        draft.returns = result
    else:
        properties = {name: _part(result, draft.mapping, join_pointer(name)) for name in draft.mapping.source}
        draft.returns = {"type": "object", "properties": properties, "$defs": result.get("$defs", {})}


def _part(result: Mapping[str, Any], mapping: Template, pointer: str) -> Mapping[str, Any]:
    """Return what is known of one field of a mapping: the types of what it takes, if it takes one value as it is."""
    references = [reference for where, reference in mapping.references if where == pointer]
    source = mapping.source[split_pointer(pointer)[0]]
    if len(references) != 1 or references[0].dynamic or references[0].defaulted or not is_plain(source):
        return {}
    types = schema_types(result, result, [str(part) for part in references[0].path])
    return {} if types is None else {"type": sorted(types)}


def settle_mapping(draft: Draft, callee: LoadedPipeline, plan: Plan) -> None:
    """Decide whether a composition's output has to be made of the result, and by which template."""
    if draft.mapping is None and not _always_object(callee, plan):
        draft.mapping = parse_template("{{ input }}")
    if draft.mapping is not None:
        options = replace(draft.shape.options, mapped_by=len(plan.scopes))
        draft.shape = replace(draft.shape, options=options)


def _always_object(callee: LoadedPipeline, plan: Plan) -> bool:
    """Tell whether every result is an object, as every output of a stage is."""
    pipeline = callee.pipeline
    if pipeline.output_schema is not None and pipeline.output_schema.get("type") == "object":
        return True
    returns = any(stage.component is not None and stage.component.name == "return" for _, stage in plan.stages())
    return not returns and (pipeline.output is None or isinstance(pipeline.output, dict))


def mapping_scope(draft: Draft, template: Template, index: int, *, parent: int, owner: int) -> ScopePlan:
    """Return the scope that renders a composition's mapping: nothing but one hidden stage."""
    stage = PlanStage(
        id=MAPPED,
        index=0,
        region=-1,
        component=None,
        template=template,
        roots=frozenset({"input"}),
        schema=None if isinstance(template.source, dict) else _object_schema(),
        pointer=f"{draft.pointer}/output_mapping",
    )
    return ScopePlan(
        index=index,
        parent=parent,
        owner=owner,
        stages=(stage,),
        regions=(Region(name="", owner=None, members=()),),
        downstream=((),),
        waiting=(0,),
        nested=((),),
        remaining=(0,),
        result=0,
        result_hidden=True,
        isolated=True,
    )


@cache  # compiled when it is first needed: that brings in a large library
def _object_schema() -> InputSchema:
    """Return what a composition's output satisfies, as that of every stage does; null becomes the empty object."""
    return InputSchema({"type": ["object", "null"]})
