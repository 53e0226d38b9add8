"""Whether what a stage is given fits what its component takes, as far as that can be known before running.

Last step of planning. Three questions per stage: does the config have the fields that the component's Input has, do the
values that are written out fit them, and can what is read from other stages fit them. "Cannot fit" is meant strictly: what
pydantic would convert (a number in a text into an integer) is let pass, and judged when the value is there.

Types are sets of JSON's type names plus `frame`; None is "anything".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema

from flowmason_ray.engine.composition_check import check_composition
from flowmason_ray.engine.drafts import Draft, Report
from flowmason_ray.engine.schema_types import Types, is_plain, schema_types
from flowmason_ray.errors import nearest
from flowmason_ray.spec.expressions import Reference
from flowmason_ray.spec.templates import parse_template

if TYPE_CHECKING:
    from flowmason_ray.engine.bodies import Bodies
    from flowmason_ray.spec.pipeline import Pipeline

_TAKES: dict[str, frozenset[str]] = {
    "string": frozenset({"string"}),
    "integer": frozenset({"integer", "number", "string", "boolean"}),
    "number": frozenset({"integer", "number", "string", "boolean"}),
    "boolean": frozenset({"boolean", "integer", "number", "string"}),
    "array": frozenset({"array"}),
    "object": frozenset({"object"}),
    "null": frozenset({"null"}),
    "frame": frozenset({"frame", "array"}),
}
"""Per wanted type, the types of which some value can become one: pydantic's conversion table, lax mode, Python input."""


def check_types(
    pipeline: Pipeline, drafts: Mapping[str, Draft], bodies: Bodies, hidden: Iterable[Draft], report: Report
) -> None:
    """Report everything that cannot fit."""
    checker = _Checker(pipeline, drafts, report)
    for draft in drafts.values():
        checker.check_config(draft)
        checker.check_references(draft)
        if draft.composition is not None:
            check_composition(draft, draft.composition, checker.types_of, report)
    for draft in hidden:
        checker.check_references(draft)


class _Checker:
    def __init__(self, pipeline: Pipeline, drafts: Mapping[str, Draft], report: Report) -> None:
        self._input_schema: Mapping[str, Any] = pipeline.input_schema or {}
        self._drafts = drafts
        self._report = report

    # -- the config -----------------------------------------------------------------------------------------------------

    def check_config(self, draft: Draft) -> None:
        """Check one stage's config against its component's Input."""
        component, spec = draft.component, draft.spec
        if component is None or spec is None:
            return
        base = f"{draft.pointer}/config"
        model = component.input_model
        names = _field_names(model)
        config: Mapping[str, Any] = spec.config
        if model.model_config.get("extra") != "allow":
            for key in config:
                if key not in names:
                    self._unknown_key(draft, key, f"{base}/{_escape(key)}", names)
        templated = {pointer.split("/", 2)[1] for pointer, _ in draft.template.references}
        templated |= {key for key in draft.template.source if not parse_constant(draft.template.source[key])}
        self._check_values(draft, config, templated, names, base)
        for key in sorted(templated & names):
            self._check_flow(draft, key, draft.template.source[key], f"{base}/{_escape(key)}")

    def _unknown_key(self, draft: Draft, key: str, pointer: str, names: frozenset[str]) -> None:
        assert draft.component is not None
        self._report(
            "unknown_key",
            f"Component {draft.component.name!r} (stage {draft.id!r}) has no input {key!r}.",
            pointer,
            found=key,
            expected=", ".join(sorted(names)),
            nearest=nearest(key, names - set(draft.template.source)),
            key=True,
        )

    def _check_values(
        self, draft: Draft, config: Mapping[str, Any], templated: set[str], names: frozenset[str], base: str
    ) -> None:
        """Validate the config as it is written, and keep what concerns fields without templates."""
        component = draft.component
        assert component is not None
        try:
            component.input_model.model_validate({k: v for k, v in config.items() if k in names})
        except ValidationError as exc:
            for error in exc.errors(include_url=False, include_context=False):
                where = [str(part) for part in error["loc"]]
                if not where and templated:
                    continue  # a rule over several fields: it can only be judged when they are rendered
                if where and where[0] in templated:
                    continue
                if error["type"] == "missing" and len(where) == 1:
                    message = (
                        f"Stage {draft.id!r} does not give {where[0]!r}, which component {component.name!r} requires."
                    )
                    self._report("missing_field", message, base, expected=where[0])
                else:
                    path = ".".join(where) or "the config"
                    message = f"Stage {draft.id!r}: {path}: {error['msg']}; found {_short(error['input'])}."
                    pointer = base + "".join(f"/{_escape(part)}" for part in where)
                    self._report("invalid_value", message, pointer, found=_short(error["input"]), expected=error["msg"])
        except Exception as exc:  # a validator of the component: foreign code, and not made for templates
            if not templated:
                message = f"Stage {draft.id!r}: a validator of component {component.name!r} failed: {type(exc).__name__}: {exc}."
                self._report("invalid_value", message, base)

    # -- what flows from stage to stage -----------------------------------------------------------------------------------

    def _check_flow(self, draft: Draft, key: str, value: Any, pointer: str) -> None:
        assert draft.component is not None
        wanted = _field_types(draft.component.input_model, key)
        if wanted is None:
            return
        given, words = self.types_of(value, draft, f"/{_escape(key)}")
        if given is None or any(given & _TAKES[want] for want in wanted):
            return
        self._report(
            "type_mismatch",
            f"Stage {draft.id!r}: {key!r} takes {_words(wanted)}, and {words} is {_words(given)}.",
            pointer,
            expected=_words(wanted),
            found=_words(given),
        )

    def types_of(self, value: Any, draft: Draft, pointer: str) -> tuple[Types, str]:
        """Return the types that a value with a template in it can have, and what it is called in messages.

        Args:
            value: The value.
            draft: The stage in whose template it stands.
            pointer: Where it stands there.
        """
        if isinstance(value, dict):
            return frozenset({"object"}), "what is written"
        if isinstance(value, list):
            return frozenset({"array"}), "what is written"
        if not (value.startswith("{{") and value.endswith("}}") and value.count("{{") == 1):
            return frozenset({"string"}), "a text with values in it"
        references = [r for p, r in draft.template.references if p == pointer]
        if len(references) != 1 or references[0].dynamic or references[0].defaulted or not is_plain(value):
            return None, ""
        return self._reference_types(references[0]), repr(value[2:-2].strip())

    def _reference_types(self, reference: Reference) -> Types:
        if reference.aspect == "status":
            return frozenset({"string", "null"})
        if reference.aspect == "error":
            return frozenset({"object", "null"})
        if reference.root == "input":
            return schema_types(self._input_schema, self._input_schema, [str(p) for p in reference.path])
        if reference.root != "stages" or not reference.path:
            return None
        draft = self._drafts.get(str(reference.path[0]))
        if draft is None or draft.component is None:
            return None
        if draft.spec is not None and draft.spec.on_error != "fail":
            return None  # its output may be null, or the fallback's
        if draft.returns is not None:
            return schema_types(draft.returns, draft.returns, [str(p) for p in reference.path[1:]])
        schema = _output_schema(draft.component.output_model)
        return None if schema is None else schema_types(schema, schema, [str(p) for p in reference.path[1:]])

    def check_references(self, draft: Draft) -> None:
        """Check that what is read from other stages' outputs exists there."""
        for pointer, reference in draft.references():
            if reference.root != "stages" or reference.aspect != "output" or len(reference.path) < 2:
                continue
            source = self._drafts.get(str(reference.path[0]))
            if source is None or source.component is None or reference.defaulted:
                continue
            model = source.component.output_model
            field = str(reference.path[1])
            names = frozenset(model.model_fields)
            if source.returns is not None:
                self._check_composed(source, field, pointer)
                continue
            if model.model_config.get("extra") == "allow" or field in names:
                continue
            fallback = source.spec.fallback_output if source.spec else None
            if isinstance(fallback, Mapping) and field in fallback:
                continue
            self._report(
                "unknown_field",
                f"Component {source.component.name!r} (stage {source.id!r}) has no output {field!r}.",
                pointer,
                found=field,
                expected=", ".join(sorted(names)),
                nearest=nearest(field, names),
            )

    def _check_composed(self, source: Draft, field: str, pointer: str) -> None:
        """Report the reading of a field that a composition does not return: nothing but its declared output leaves it."""
        assert source.returns is not None
        names = source.returns.get("properties")
        if names is None or field in names:
            return
        self._report(
            "unknown_field",
            f"{source.title} has no output {field!r}.",
            pointer,
            found=field,
            expected=", ".join(sorted(names)),
            nearest=nearest(field, names),
        )


def parse_constant(value: Any) -> bool:
    """Tell whether a value of a config holds no template at all."""
    return "{{" not in value if isinstance(value, str) else parse_template(value).constant


def _escape(key: str) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


@lru_cache(maxsize=1024)
def _field_names(model: type[BaseModel]) -> frozenset[str]:
    aliases = {field.alias for field in model.model_fields.values() if field.alias}
    return frozenset(model.model_fields) | aliases


@lru_cache(maxsize=1024)
def _output_schema(model: type[BaseModel]) -> dict[str, Any] | None:
    try:
        return model.model_json_schema(mode="serialization")
    except PydanticInvalidForJsonSchema:
        return None


@lru_cache(maxsize=4096)
def _field_types(model: type[BaseModel], field: str) -> Types:
    try:
        schema = model.model_json_schema(mode="validation")
    except PydanticInvalidForJsonSchema:
        return None
    return schema_types(schema, schema, [field])


def _words(types: frozenset[str]) -> str:
    articles = {"array": "an array", "object": "an object", "integer": "an integer", "null": "null"}
    return " or ".join(articles.get(t, f"a {t}") for t in sorted(types, key=lambda t: (t == "null", t)))
