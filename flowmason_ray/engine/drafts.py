"""A stage on its way into the plan: its component found, its templates parsed, its construct read.

First step of planning. Everything that can be said about one stage without looking at the others is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flowmason_ray.engine.component import Catalogue, ComponentSpec, Kind
from flowmason_ray.engine.control_flow import BRANCHING, CONSTRUCTS, Body, ConfigProblem, Construct, Shape
from flowmason_ray.errors import Problem, nearest
from flowmason_ray.spec.expressions import Expression, ExpressionSyntaxError, Reference, parse_expression
from flowmason_ray.spec.pipeline import Cache
from flowmason_ray.spec.templates import Template, parse_template
from flowmason_ray.spec.versions import in_range, is_range

if TYPE_CHECKING:
    from flowmason_ray.engine.plan import Plan
    from flowmason_ray.spec.pipeline import Composition, Stage

T = TypeVar("T")
V = TypeVar("V")

WHOLE = parse_template({})
"""The template of a stage without config."""


class Report(Protocol):
    """Takes a problem: where it is found, and the facts of `errors.Problem`."""

    def __call__(self, code: str, message: str, pointer: str, **facts: Any) -> None:
        """Take one problem."""
        ...


@dataclass(slots=True, kw_only=True)
class Draft:
    """A stage being planned. `spec` is None for hidden stages."""

    id: str
    pointer: str
    called: str = ""
    """What a hidden stage is called in messages; empty for written ones."""
    spec: Stage | None = None
    component: ComponentSpec | None = None
    construct: Construct | None = None
    shape: Shape = field(default_factory=Shape)
    misshapen: bool = False
    """Whether its shape is not known: its component does not exist, or its config cannot be planned."""
    template: Template = WHOLE
    fixed: dict[str, Any] = field(default_factory=dict[str, Any])
    when: Expression | None = None
    cache_key: Template | None = None
    """What identifies its result for the cache, if it says so itself."""
    late: dict[str, Template] = field(default_factory=dict[str, Template])
    callee: Plan | None = None
    """The plan of the pipeline that a subpipeline stage or a composition calls."""
    composition: Composition | None = None
    """What is written, if it is a composition (`composing`); `spec` is made of it then."""
    mapping: Template | None = None
    """Of a composition: what makes its output of the result; None: the result is the output."""
    accepts: Mapping[str, Any] | None = None
    """Of a composition: the input schema of the pipeline that it runs."""
    result: Mapping[str, Any] | None = None
    """Of a composition: a schema of the result of that pipeline, as far as it is known."""
    returns: Mapping[str, Any] | None = None
    """Of a composition: a schema of its output, as far as it is known."""

    @property
    def title(self) -> str:
        """What begins a sentence about it."""
        return self.called or f"Stage {self.id!r}"

    @property
    def names(self) -> tuple[str, ...]:
        """The variables that this stage sets."""
        if self.component is None or self.component.name != "variable_set":
            return ()
        return self.shape.options or ()  # None: its config could not be read

    def references(self) -> Iterator[tuple[str, Reference]]:
        """Yield every reference with its JSON pointer in the pipeline."""
        base = self.pointer if self.spec is None else f"{self.pointer}/config"
        for pointer, reference in self.template.references:
            yield base + pointer, reference
        if self.when is not None:
            for reference in self.when.references:
                yield f"{self.pointer}/when", reference
        if self.cache_key is not None:
            for pointer, reference in self.cache_key.references:
                yield f"{self.pointer}/cache/key{pointer}", reference


def draft_stages(stages: list[Stage], catalogue: Catalogue, report: Report) -> dict[str, Draft]:
    """Return the drafts of all stages by id, in the order of the file; every problem goes to `report`."""
    drafts: dict[str, Draft] = {}
    for position, stage in enumerate(stages):
        drafts[stage.id] = _draft(stage, f"/stages/{position}", catalogue, report)
    return drafts


def _draft(stage: Stage, pointer: str, catalogue: Catalogue, report: Report) -> Draft:
    draft = Draft(id=stage.id, pointer=pointer, spec=stage)
    draft.component = component = _find_component(stage, pointer, catalogue, report)
    config = dict(stage.config)
    fixed_names: Collection[str] = ()
    draft.misshapen = component is None
    if component is not None:
        draft.construct = CONSTRUCTS.get(component.name)
        if draft.construct is None and component.kind is Kind.CONTROL_FLOW:
            draft.construct = BRANCHING
        if draft.construct is not None:
            draft.shape, draft.misshapen = _shape(draft.construct, stage, pointer, report)
            for name in draft.construct.bare_expressions:
                if isinstance(text := config.get(name), str) and "{{" not in text:
                    config[name] = "{{" + text + "}}"
        fixed_names = {*component.raw_fields, *component.expression_fields, *_body_fields(component, config)}
    draft.fixed = {name: config.pop(name) for name in tuple(config) if name in fixed_names}
    draft.template = parse_at(config, f"{pointer}/config", report, parse_template) or WHOLE
    if isinstance(stage.when, bool):
        draft.when = None if stage.when else parse_expression("false")
    elif stage.when is not None:
        draft.when = parse_at(stage.when, f"{pointer}/when", report, parse_expression)
    if isinstance(stage.cache, Cache) and stage.cache.key is not None:
        draft.cache_key = parse_at(stage.cache.key, f"{pointer}/cache/key", report, parse_template)
    for name, value in (draft.shape.late or {}).items():
        parsed = parse_at(value, f"{pointer}/config/{name}", report, parse_template)
        if parsed is not None:
            draft.late[name] = parsed
    for name in component.expression_fields if component else ():
        if isinstance(draft.fixed.get(name), str):
            parse_at(draft.fixed[name], f"{pointer}/config/{name}", report, parse_expression)
    return draft


def parse_at(value: V, pointer: str, report: Report, parse: Callable[[V], T]) -> T | None:
    """Parse a template or an expression; report what is wrong with it at `pointer`, and return None then."""
    try:
        return parse(value)
    except ExpressionSyntaxError as exc:
        report(
            "invalid_expression",
            exc.message,
            pointer + getattr(exc, "pointer", ""),
            nearest=getattr(exc, "nearest", None),
        )
        return None


def _shape(construct: Construct, stage: Stage, pointer: str, report: Report) -> tuple[Shape, bool]:
    """Return the shape, and whether it could not be told."""
    try:
        return construct.shape(stage.config), False
    except ConfigProblem as exc:
        report("invalid_config", f"Stage {stage.id!r}: {exc.message}", f"{pointer}/config{exc.pointer}")
        return Shape(), True


def _body_fields(component: ComponentSpec, config: Mapping[str, Any]) -> Iterator[str]:
    if component.kind is Kind.CONTROL_FLOW:
        yield from (name for name in config if name.endswith("_stages") or name == "branches")


def _find_component(stage: Stage, pointer: str, catalogue: Catalogue, report: Report) -> ComponentSpec | None:
    name, _, wanted = stage.component_type.partition("@")
    where = f"{pointer}/component_type"
    if name == "abstract":
        report(
            "unfilled_slot",
            f"Stage {stage.id!r} is a slot (component_type 'abstract'): only a pipeline that extends this one can fill it.",
            where,
        )
        return None
    component = catalogue.get(name)
    if component is None:
        names = catalogue.names()
        hint = "See 'fm components list'; a project's own components are the *.py files in its 'components/' directory."
        report(
            "unknown_component",
            f"Stage {stage.id!r} uses component {name!r}, which does not exist.",
            where,
            found=name,
            nearest=nearest(name.replace("-", "_"), names),
            hint=hint,
        )
    elif wanted and not is_range(wanted):
        report(
            "invalid_range",
            f"Stage {stage.id!r} asks for {name!r} in {wanted!r}, which is no version and no range of versions.",
            where,
            found=wanted,
            hint="Write it as in '1.2.3', '^1.2', '~1.2' or '>=1.2 <2'.",
        )
    elif wanted and not in_range(component.version, wanted):
        report(
            "component_version",
            f"Stage {stage.id!r} asks for {name!r} {wanted!r}; version {component.version} is there.",
            where,
            expected=wanted,
            found=component.version,
        )
    return component


def problem_sink(problems: list[Problem], make: Callable[..., Problem]) -> Report:
    """Return a `Report` that appends what `make(code, message, pointer, **facts)` gives to `problems`."""

    def report(code: str, message: str, pointer: str, **facts: Any) -> None:
        problems.append(make(code, message, pointer, **facts))

    return report


def body_members(drafts: Mapping[str, Draft]) -> Iterator[tuple[Draft, Body, str, str]]:
    """Yield (owner, body, pointer, member id) for every member that a construct names."""
    for draft in drafts.values():
        for body in draft.shape.bodies:
            for pointer, member in body.members:
                yield draft, body, f"{draft.pointer}/config{pointer}", member
