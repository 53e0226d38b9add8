from __future__ import annotations

import contextlib
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.errors import ExpressionError
from flowmason_ray.spec.expressions import DictScope, ExpressionSyntaxError, StageView, parse_expression
from flowmason_ray.spec.templates import parse_template, rewrite_expression, rewrite_references


class Secret:
    """A value that never shows itself, and can be part of a text."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __str__(self) -> str:
        return "***"

    def join_text(self, parts: list[Any]) -> Secret:
        return Secret("".join(p.value if isinstance(p, Secret) else p for p in parts))


FRAME = object()
TOKEN = Secret("t0ken")
SCOPE = DictScope(
    {
        "input": {"name": "Ann", "n": 3, "f": 1.5, "none": None, "yes": True, "xs": [1, "ü"], "frame": FRAME},
        "secrets": {"token": TOKEN},
        "stages": {"a": StageView({"x": {"deep": [1]}})},
    },
    draw=lambda kind: kind,
)


def render(value: Any) -> Any:
    return parse_template(value).render(SCOPE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{input.n}}", 3),
        ("{{ input.xs }}", [1, "ü"]),
        ("{{ input.frame }}", FRAME),
        (" {{ input.n }}", " 3"),
        ("{{input.n}}{{input.f}}", "31.5"),
        ("<{{input.none}}|{{input.yes}}|{{input.xs}}|{{input.name}}>", '<|true|[1,"ü"]|Ann>'),
        ("{{ '{{' }} and {{ '}}' }}", "{{ and }}"),
        ("{{ {'a': {'b': 1}} }}", {"a": {"b": 1}}),
        ("{{ {'a': {'b': 1}}.a.b }}!", "1!"),
        ("{% if x %} {# note #} {{ input.n }} {%- endif %}", "{% if x %} {# note #} 3 {%- endif %}"),
        ("{ {} } }} {%", "{ {} } }} {%"),
        ("line\r\n{{ input.n }}\r\n", "line\r\n3\r\n"),
        ({"a": ["{{input.n}}", {"b": "x{{input.n}}"}], "{{k}}": 1}, {"a": [3, {"b": "x3"}], "{{k}}": 1}),
        ([None, 1, True, 1.5], [None, 1, True, 1.5]),
    ],
)
def test_rendering(source: Any, expected: object) -> None:
    assert render(source) == expected


def test_what_holds_no_template_is_the_same_object() -> None:
    constant = {"k": [1, {"z": "plain { } }} text"}]}
    template = parse_template({"constant": constant, "n": "{{input.n}}"})
    assert template.render(SCOPE)["constant"] is constant
    whole = parse_template(constant)
    assert whole.constant
    assert whole.render(SCOPE) is constant


def test_a_value_is_handed_on_as_it_is() -> None:
    assert render({"v": ["{{ stages.a.x }}"]})["v"][0] is SCOPE.lookup("stages")["a"].output["x"]


def test_rendering_twice_gives_values_that_do_not_share_their_containers() -> None:
    template = parse_template({"a": ["{{input.n}}"]})
    first, second = template.render(SCOPE), template.render(SCOPE)
    first["a"].append(1)
    assert second == {"a": [3]} == template.render(SCOPE)
    assert template.source == {"a": ["{{input.n}}"]}


def test_a_secret_becomes_part_of_a_text_without_being_shown() -> None:
    for source in ("Bearer {{ secrets.token }}!", "{{ 'Bearer ' ~ secrets.token ~ '!' }}"):
        joined = render(source)
        assert isinstance(joined, Secret)
        assert joined.value == "Bearer t0ken!"
    assert render("{{secrets.token}}") is TOKEN


def test_an_opaque_value_is_no_text() -> None:
    with pytest.raises(ExpressionError, match="opaque value"):
        render("frame: {{input.frame}}")


def test_references_have_pointers_and_columns() -> None:
    template = parse_template({"a/b": ["x", "1 {{ input.n }} {{ upstream.a.x + input.f }}"], "c": "{{ now() }}"})
    found = [(pointer, str(reference), reference.column) for pointer, reference in template.references]
    assert found == [("/a~1b/1", "input.n", 6), ("/a~1b/1", "stages.a.x", 20), ("/a~1b/1", "input.f", 35)]
    assert not template.constant
    assert not parse_template("{{ now() }} and {{ 1 }}").constant
    assert parse_template("{{ 1 + 1 }} {{ 'x' }}").constant


def test_a_syntax_error_says_where() -> None:
    with pytest.raises(ExpressionSyntaxError) as caught:
        parse_template({"a": [1, "text {{ input.name | uper }}"]})
    assert caught.value.pointer == "/a/1"
    assert 20 <= caught.value.column <= 23
    assert caught.value.nearest == "upper"
    with pytest.raises(ExpressionSyntaxError) as caught:
        parse_template("text {{ input.name")
    assert (caught.value.column, caught.value.pointer) == (6, "")


def test_all_syntax_errors_can_be_collected() -> None:
    errors: list[ExpressionSyntaxError] = []
    template = parse_template({"a": "{{ 1 + }}", "b": "{{ input.n }}", "c": ["{{ x }} {{"]}, errors=errors)
    assert [e.pointer for e in errors] == ["/a", "/c/0"]
    assert [pointer for pointer, _ in template.references] == ["/b"]
    assert template.render(SCOPE)["b"] == 3


def test_an_error_at_run_time_says_where() -> None:
    with pytest.raises(ExpressionError) as caught:
        render({"a": ["{{ input.nme }}"]})
    assert caught.value.details is not None
    assert caught.value.details["pointer"] == "/a/0"
    assert caught.value.code == "missing_value"


def test_a_text_has_a_limit() -> None:
    scope = DictScope({"big": "x" * (9 << 20)})
    with pytest.raises(ExpressionError) as caught:
        parse_template("{{big}}{{big}}").render(scope)
    assert caught.value.code == "expression_budget"
    assert len(parse_template("{{big}}!").render(scope)) == (9 << 20) + 1


def test_deeply_nested_values_are_refused() -> None:
    value: Any = "{{ input.n }}"
    for _ in range(5000):
        value = [value]
    with pytest.raises(ExpressionSyntaxError, match="deeper"):
        parse_template(value)


def test_a_template_survives_pickling() -> None:
    template = pickle.loads(pickle.dumps(parse_template({"a": "{{input.n}} x"})))
    assert template.render(SCOPE) == {"a": "3 x"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("a{}% '\"#.", max_size=12),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text("a{}", max_size=3), v, max_size=3),
)


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_value_is_a_template_or_a_syntax_error(value: Any) -> None:
    try:
        template = parse_template(value)
    except ExpressionSyntaxError:
        return
    with contextlib.suppress(ExpressionError):
        assert not template.constant or template.render(SCOPE) == template.render(SCOPE)


STAGES = ("a", "my-stage", "error", "input")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{{upstream.a.x}}", "{{stages.a.x}}"),
        ("{{ upstream.a.output.x }}", "{{ stages.a.x }}"),
        ("{{ upstream['a'].x }}", "{{ stages['a'].x }}"),
        ("{{ stages.a.output.x.y[0] }}", "{{ stages.a.x.y[0] }}"),
        ("{{ stages.a.output['x'] + stages['a'].output[0] }}", "{{ stages.a['x'] + stages['a'][0] }}"),
        ("{{ a.output.x }} {{a.output}}", "{{ stages.a.x }} {{stages.a.output}}"),
        ("{{ my-stage.output.x }} {{ upstream.my-stage.output.y }}", "{{ stages.my-stage.x }} {{ stages.my-stage.y }}"),
        ("{{ stages.a.output }}", None),
        ("{{ stages.a.output.status }} {{ stages.a.output['error'] }} {{ stages.a.output.output }}", None),
        ("{{ a.output.status }}", "{{ stages.a.output.status }}"),
        ("{{ stages.a.output.keys() }} {{ stages.a.output[i] }} {{ stages.a.output[1:] }}", None),
        ("{{ unknown.output.x }} {{ input.output.x }} {{ x.a.output.b }} {{ x.upstream.a }}", None),
        ("{{ 'upstream.a.x' }} upstream.a.x {% upstream.a %}", None),
        (
            "{{ x | default(a.output.y) if a.output.z is defined }}",
            "{{ x | default(stages.a.y) if stages.a.z is defined }}",
        ),
        ("{{ a.x }} {{ a }}", None),
        ("{{ broken upstream.a.x ' }}", None),
        ("{{ upstream.a.x", None),
    ],
)
def test_rewriting(old: str, new: str | None) -> None:
    expected = old if new is None else new
    assert rewrite_references(old, STAGES) == expected
    assert rewrite_references({"k": [old]}, STAGES) == {"k": [expected]}


def test_rewriting_an_expression_without_braces() -> None:
    assert rewrite_expression("upstream.a.ok and a.output.n > 1", STAGES) == "stages.a.ok and stages.a.n > 1"
    assert rewrite_expression("{{ upstream.a.ok }}", STAGES) == "{{ stages.a.ok }}"


def test_rewriting_keeps_what_does_not_change() -> None:
    value = {"same": ["{{ stages.a.x }}", {"n": 1}], "old": "{{ upstream.a.x }}"}
    rewritten = rewrite_references(value, STAGES)
    assert rewritten["same"] is value["same"]
    assert rewrite_references(value["same"], STAGES) is value["same"]


PIECES = st.sampled_from(
    [*STAGES, "upstream", "stages", "output", "status", "x", ".", ".", ".", "['x']", "['output']", "[0]", "[", "]", " + ", "|",
     " is ", "(", ")", "{{", "}}", "{{ ", " }}", "'", "-", "\r\n", "ü"]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=16).map("".join))
def test_rewriting_is_idempotent_and_keeps_the_meaning(text: str) -> None:
    once = rewrite_references(text, STAGES)
    assert rewrite_references(once, STAGES) == once
    expression = rewrite_expression(text, ())
    try:
        before = parse_expression(text)
    except ExpressionSyntaxError:
        return
    after = parse_expression(expression)
    assert [(r.root, r.path, r.aspect) for r in before.references] == [
        (r.root, r.path, r.aspect) for r in after.references
    ]
