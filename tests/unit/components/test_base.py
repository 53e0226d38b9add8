"""The decorators: what they read from a class, and what they refuse, at once and by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from flowmason_ray.components.base import InvalidComponent, control_flow, node, normalise_name, operator, spec_of
from flowmason_ray.engine.component import ComponentSpec, Context, Cost, Effect, Kind


class Good:
    """Does good."""

    class Input(BaseModel):
        x: int = 0

    class Output(BaseModel): ...

    def execute(self, input: Input, context: Context) -> Output:
        return self.Output()


def spec(cls: type) -> ComponentSpec:
    found = spec_of(cls)
    assert found is not None
    return found


def copy(name: str = "Good", **members: Any) -> type:
    return type(name, (Good,), {"__doc__": Good.__doc__, **members})


def test_the_defaults_of_each_kind() -> None:
    for declare, kind, effect in (
        (node, Kind.NODE, Effect.IDEMPOTENT),
        (operator, Kind.OPERATOR, Effect.EFFECTFUL),
        (control_flow, Kind.CONTROL_FLOW, Effect.PURE),
    ):
        found = spec(declare(copy()))
        assert (found.kind, found.effect, found.cost) == (kind, effect, Cost.CPU)
        assert (found.name, found.version, found.description, found.is_async) == ("good", "1.0.0", "Does good.", False)
        assert (found.input_model, found.output_model) == (Good.Input, Good.Output)
        assert isinstance(found.create(), Good)


def test_an_asynchronous_component_waits() -> None:
    async def execute(self: Any, input: Any, context: Any) -> Any: ...

    found = spec(operator(copy(execute=execute)))
    assert (found.is_async, found.cost) == (True, Cost.IO)


def test_options_are_kept() -> None:
    declare = operator(
        name="my-name",
        version="2.0.0",
        effect="pure",
        cost="gpu",
        category="c",
        description="d",
        tags=["t"],
        resources={"num_cpus": 2},
        expressions=["x"],
    )
    found = spec(declare(copy()))
    assert (found.name, found.version, found.effect, found.cost) == ("my_name", "2.0.0", Effect.PURE, Cost.GPU)
    assert (found.category, found.description, found.tags) == ("c", "d", ("t",))
    assert (found.resources, found.expression_fields, found.raw_fields) == ({"num_cpus": 2}, {"x"}, frozenset())


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("WordCount", "word_count"),
        ("HTTPRequestComponent", "http_request"),
        ("MyNode", "my"),
        ("Node", "node"),
        ("Csv2Json", "csv2_json"),
    ],
)
def test_the_name_comes_from_the_class(written: str, name: str) -> None:
    assert spec(operator(copy(written))).name == name


@given(st.text(alphabet="ab-_", min_size=1))
def test_kebab_and_snake_case_are_one_name(name: str) -> None:
    assert normalise_name(name) == normalise_name(name.replace("_", "-"))
    assert normalise_name(normalise_name(name)) == normalise_name(name)


def _needs_argument(self: Any, x: int) -> None: ...


def _takes_too_little(self: Any, input: Any) -> None: ...


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"Input": None}, {}, "nested class 'Input'"),
    ({"Output": dict}, {}, "nested class 'Output'"),
    ({"execute": None}, {}, "needs a method 'execute"),
    ({"execute": _takes_too_little}, {}, r"takes \(self, input, context\)"),
    ({"__init__": _needs_argument}, {}, "constructible without arguments"),
    ({}, {"effect": "none"}, "'none' is not a valid Effect"),
    ({}, {"cost": "cheap"}, "'cheap' is not a valid Cost"),
    ({}, {"cost": "trivial"}, "must be 'async def'"),
    ({}, {"raw": ["y"]}, r"\['y'\] as expressions or raw"),
]


@pytest.mark.parametrize(("members", "options", "words"), REFUSED)
def test_a_class_that_does_not_keep_to_the_contract_is_refused(
    members: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidComponent, match=words):
        operator(**options)(copy(**members))


def test_a_subclass_is_a_component_only_when_it_is_declared() -> None:
    base = operator(copy())
    assert spec_of(type("Child", (base,), {})) is None
