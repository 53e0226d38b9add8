from __future__ import annotations

import pickle
from typing import Any

import pytest

from flowmason_ray.errors import ExpressionError, StoreError
from flowmason_ray.spec.expressions import (
    DictScope,
    ExpressionSyntaxError,
    StageView,
    parse_expression,
)


class Opaque:
    """Something the language knows nothing of, with a length."""

    secret = "not to be seen"

    def __len__(self) -> int:
        return 7

    def get(self, key: str) -> str:
        return self.secret


OPAQUE = Opaque()

SCOPE = DictScope(
    {
        "input": {
            "n": 3,
            "name": "Ann",
            "none": None,
            "xs": [3, 1, 2],
            "text": "a1b22",
            "rows": [{"a": {"b": 1}, "k": "x"}, {"a": {"b": 5}, "k": "y"}, {"k": "x"}],
            "opaque": OPAQUE,
        },
        "stages": {
            "a": StageView({"x": 1, "status": "own", "rows": [{"v": 1}, {"v": 2}]}),
            "my-stage": StageView({"y": [1, 2]}),
            "skipped": StageView(status="skipped"),
            "failed": StageView(status="failed", error={"code": "timeout", "message": "late"}),
        },
        "vars": {"my-var": 9},
        "item": 4,
    },
    draw=lambda kind: f"<{kind}>",
)


def value(source: str) -> Any:
    return parse_expression(source).evaluate(SCOPE)


def error(source: str) -> ExpressionError:
    with pytest.raises(ExpressionError) as caught:
        value(source)
    return caught.value


def syntax_error(source: str) -> ExpressionSyntaxError:
    with pytest.raises(ExpressionSyntaxError) as caught:
        parse_expression(source)
    return caught.value


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("stages.a.x", 1),
        ("{{ stages.a.x }}", 1),
        ("upstream.a.x", 1),
        ("stages.a.output.x", 1),
        ("stages['a']['x']", 1),
        ("stages.a.status", "succeeded"),
        ("stages.a.output.status", "own"),
        ("stages.a.rows[-1].v", 2),
        ("stages.a.rows[item - 4].v", 1),
        ("stages.my-stage.y[0]", 1),
        ("stages.my-stage.y[1] - 1", 1),
        ("stages.my-stage.y[1]-1", 1),
        ("stages['my-stage'].y", [1, 2]),
        ("vars.my-var", 9),
        ("stages.skipped", None),
        ("stages.skipped.status", "skipped"),
        ("stages.skipped.x | default('d')", "d"),
        ("stages.skipped.x is defined", False),
        ("stages.failed.error.code", "timeout"),
        ("stages.a.error", None),
        ("input.xs.0", 3),
        ("input.xs[1:]", [1, 2]),
        ("input.xs[::-1]", [2, 1, 3]),
        ("input.name[0]", "A"),
        ("input.nope | default(stages.a.x)", 1),
        ("nope.at.all is undefined", True),
        ("input.none | default('d')", None),
        ("input.none | default('d', true)", "d"),
        ("[] | first | default(7)", 7),
        ("input.opaque", OPAQUE),
        ("input.opaque | length", 7),
        ("len(input.opaque) > 3", True),
        ("now() ~ today() ~ uuid()", "<now><today><uuid>"),
    ],
)
def test_paths(source: str, expected: object) -> None:
    assert value(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1 + 2 * 3 - 4 / 2", 5.0),
        ("7 // 2 ~ '|' ~ 7 % 3 ~ '|' ~ (2 ** 10)", "3|1|1024"),
        ("1 < 2 < 3 and not 3 < 2", True),
        ("'a' in 'cat' and 2 in [1, 2] and 'k' in {'k': 1} and 'z' not in 'cat'", True),
        ("'yes' if input.n > 2 else 'no'", "yes"),
        ("'yes' if input.n > 5", None),
        ("0 or 'x' and 'y'", "y"),
        ("{'a': [1, {'b': 2}]}.a[1].b", 2),
        ("(1, 2) == [1, 2]", True),
        ("1 == 'a' or none == 0 or input.opaque == 1", False),
        ("input.opaque == input.opaque", True),
        ("'a' ~ none ~ true ~ 1.5 ~ [1, {'b': 'ü'}]", 'atrue1.5[1,{"b":"ü"}]'),
        ("'ab' * 2 + 'c'", "ababc"),
        ("[1] + [2] * 2", [1, 2, 2]),
        ("-(2) ** 2", 4),  # as in Jinja, a sign binds more tightly than a power
        ("'{{ }}'", "{{ }}"),
        (r"'\d\n\u0041\x42\'' ", "\\d\nAB'"),
        ("true and True and not none", True),
    ],
)
def test_operators(source: str, expected: object) -> None:
    assert value(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("-3 | abs", 3),
        ("[1,2,3] | batch(2)", [[1, 2], [3]]),
        ("[1,2,3] | batch(2, 0)", [[1, 2], [3, 0]]),
        ("'aB' | capitalize", "Ab"),
        ("[1,2] | count", 2),
        ("'2026-01-02T03:04:05+01:00' | date('%d.%m.%y %H:%M:%S %z %A %%')", "02.01.26 03:04:05 +0100 Friday %"),
        ("0 | date", "1970-01-01"),
        ("{'b': 1, 'a': 2} | dictsort", [["a", 2], ["b", 1]]),
        ("{'b': 1, 'a': 2} | dictsort('value', true)", [["a", 2], ["b", 1]]),
        ("[1,2] | first ~ [1,2] | last", "12"),
        ("'1.5' | float + 1", 2.5),
        ("'x' | float(0.0)", 0.0),
        ("'{\"a\": [1]}' | fromjson", {"a": [1]}),
        ("' 42 ' | int + ('3.9' | int) + (2.9 | int) + ('x' | int(0))", 47),
        ("{'a': 1} | items", [["a", 1]]),
        ("input | jmespath('rows[].a.b')", [1, 5]),
        ("input.xs | join('-')", "3-1-2"),
        ("input.rows[:2] | join(',', attribute='a.b')", "1,5"),
        ("{'a': 1} | keys", ["a"]),
        ("'abc' | length", 3),
        ("'ab' | list", ["a", "b"]),
        ("'AB' | lower ~ ('ab' | upper)", "abAB"),
        ("input.rows | map(attribute='a.b', default=0) | list", [1, 5, 0]),
        ("input.xs | map('string') | join", "312"),
        ("['a', 'b'] | map('replace', 'a', 'c') | list", ["c", "b"]),
        ("input.xs | max - (input.xs | min)", 2),
        ("input.rows | max(attribute='k')", {"a": {"b": 5}, "k": "y"}),
        ("input.text | regex_findall('[0-9]+')", ["1", "22"]),
        ("input.text | regex_search('b([0-9]+)', 1)", "22"),
        ("input.text | regex_search('(?P<digit>[0-9])', 'digit')", "1"),
        ("input.text | regex_search('z')", None),
        (r"input.text | regex_replace('([a-z])', '<\\1\\g<1>\\\\>')", "<aa\\>1<bb\\>22"),
        ("'ü€x' | regex_replace('€', '-')", "ü-x"),
        ("input.xs | reject('odd') | list", [2]),
        ("input.rows | rejectattr('a') | list | length", 1),
        ("'aXbX' | replace('X', '-', 1)", "a-bX"),
        ("[1,2] | reverse", [2, 1]),
        ("2.567 | round(2) ~ '|' ~ (2.1 | round(0, 'ceil')) ~ '|' ~ (2.9 | round(method='floor'))", "2.57|3.0|2.0"),
        ("input.xs | select('gt', 1) | list", [3, 2]),
        ("input.xs | select | list", [3, 1, 2]),
        ("input.rows | selectattr('k', 'eq', 'x') | map(attribute='k') | list", ["x", "x"]),
        ("input.rows | selectattr('a', 'defined') | list | length", 2),
        ("'Grüße, Welt!' | slugify", "grue-welt"),
        ("input.xs | sort", [1, 2, 3]),
        ("input.xs | sort(reverse=true)", [3, 2, 1]),
        ("['b', 'A'] | sort(case_sensitive=false)", ["A", "b"]),
        ("[[2, 'a'], [1, 'b']] | sort", [[1, "b"], [2, "a"]]),
        ("input.rows[:2] | sort(true, attribute='a.b') | first", {"a": {"b": 5}, "k": "y"}),
        ("'a,b' | split(',')", ["a", "b"]),
        ("' a  b ' | split", ["a", "b"]),
        ("none | string ~ (1 | string)", "1"),
        ("input.xs | sum", 6),
        ("input.rows[:2] | sum(attribute='a.b')", 6),
        ("'a bc' | title", "A Bc"),
        ("{'a': [1, none, true]} | tojson", '{"a":[1,null,true]}'),
        ("{'a': 1} | tojson(2)", '{\n  "a": 1\n}'),
        ("' a ' | trim", "a"),
        ("'one two three' | truncate(9)", "one two…"),
        ("'one two three' | truncate(9, true, '...')", "one tw..."),
        ("[1, 1.0, 'a', [1], [1], {'a': 1}, {'a': 1}] | unique", [1, "a", [1], {"a": 1}]),
        ("{'a': 1} | values", [1]),
        ("[2.5 | d(0), nope | d(0)]", [2.5, 0]),
    ],
)
def test_filters(source: str, expected: object) -> None:
    assert value(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("abs(-1) + int('2') + len('abc') + max(1, 2) + min([4, 3]) + sum([1, 2])", 14),
        ("float('1.5') + round(2.5) + round(1.25, 1)", 4.7),
        ("str(1) ~ range(3) ~ range(1, 7, 3)", "1[0,1,2][1,4]"),
        ("'aB'.lower() ~ 'aB'.upper() ~ ' x '.strip() ~ ' y'.lstrip() ~ 'z '.rstrip()", "abABxyz"),
        ("'ab'.startswith('a') and 'ab'.endswith('b') and '12'.isdigit() and 'ab'.isalpha()", True),
        ("'a,b'.split(',') + 'a\\nb'.splitlines()", ["a", "b", "a", "b"]),
        ("'ab'.replace('a', 'c').title() ~ 'x'.capitalize() ~ ','.join(['a', 1])", "CbXa,1"),
        ("'abab'.count('ab') + 'abc'.find('c') + [1, 1].count(1) + [5, 6].index(6)", 7),
        ("{'a': 1}.get('a') + {'a': 1}.get('b', 2)", 3),
        ("{'a': 1}.keys() + {'a': 1}.values()", ["a", 1]),
        ("{'items': 5}.items", 5),
        ("{'items': 5}.items()", [["items", 5]]),
    ],
)
def test_functions_and_methods(source: str, expected: object) -> None:
    assert value(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "1 is integer and 1.5 is float and 1 is number and true is boolean and true is not number",
        "'a' is string and [1] is sequence and {} is mapping and 'a' is iterable and 1 is not iterable",
        "none is none and 0 is not none and true is true and false is false and 1 is not true",
        "2 is even and 3 is odd and 9 is divisibleby 3 and 9 is not divisibleby(2)",
        "1 is eq 1 and 1 is equalto(1) and 1 is ne 2 and 1 is lt 2 and 1 is lessthan 2 and 2 is gt 1",
        "2 is greaterthan 1 and 2 is ge 2 and 2 is le 2 and 1 is in [1, 2]",
        "'ab' is lower and 'AB' is upper and '12' is not upper and 'ab12' is match('[0-9]+$')",
        "input.n is defined and input.zz is undefined and input.zz is not defined",
    ],
)
def test_tests(source: str) -> None:
    assert value(source) is True


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("1 < 'a'", "expression_error", ["an integer", "a string", "'<'"]),
        ("1 + 'a'", "expression_error", ["'+'", "an integer and a string", "~"]),
        ("input.opaque + 1", "expression_error", ["an opaque value (Opaque)"]),
        ("1 / 0", "expression_error", ["Division by zero"]),
        ("(-8) ** 0.5", "expression_error", ["not a real number"]),
        ("10.0 ** 400", "expression_error", ["too large"]),
        ("'%s' % 'x'", "expression_error", ["'%'"]),
        ("[1, 'a'] | sort", "expression_error", ["cannot be compared"]),
        ("'x' | int", "expression_error", ["'x' is no integer", "default"]),
        ("'{' | fromjson", "expression_error", ["not JSON"]),
        ("'(' | regex_search('(')", "expression_error", ["not a regular expression"]),
        ("'a' | regex_search('(?=a)')", "expression_error", ["RE2"]),
        ("'x' | date", "expression_error", ["ISO 8601"]),
        ("0 | date('%Q')", "expression_error", ["'%Q'"]),
        ("input | jmespath('a[')", "expression_error", ["JMESPath"]),
        ("(1).upper()", "expression_error", ["a string", "an integer"]),
        ("input.opaque ~ ''", "expression_error", ["Opaque"]),
        ("{'a': input.opaque} | tojson", "expression_error", ["Opaque"]),
        ("(1e308 * 10) | tojson", "expression_error", ["no form in JSON"]),
        ("input.nme", "missing_value", ["'input'", "'name'", "'n'", "Did you mean"]),
        ("input.rows[9]", "missing_value", ["Index 9", "length 3"]),
        ("input.name.first", "missing_value", ["'first'", "a string"]),
        ("input.none.x", "missing_value", ["null"]),
        ("input.opaque.secret", "missing_value", ["Opaque"]),
        ("stages.b", "missing_value", ["no stage 'b'"]),
        ("stages.skipped.x", "missing_value", ["'skipped'", "no output"]),
        ("nope", "missing_value", ["'nope' is not defined"]),
        ("[] | max", "missing_value", ["empty"]),
        ("input.rows | map(attribute='a.b') | list", "missing_value", ["'a'"]),
        ("'a' * 10 ** 9", "expression_budget", ["characters"]),
        ("99 ** 99 ** 99", "expression_budget", ["bits"]),
    ],
)
def test_errors_say_what_is_wrong(source: str, code: str, words: list[str]) -> None:
    caught = error(source)
    assert caught.code == code
    for word in words:
        assert word.lower() in caught.message.lower()
    assert source in caught.message or repr(source) in caught.message


def test_a_missing_value_lists_what_there_is() -> None:
    details = error("input.nme").details
    assert details is not None
    assert details["nearest"] == "name"
    assert "rows" in details["available"]


@pytest.mark.parametrize(
    ("source", "column", "nearest"),
    [
        ("input.name | uper", 14, "upper"),
        ("{{ input.name | uper }}", 17, "upper"),
        ("lenn(1)", 5, "len"),
        ("1 is evn", 3, "even"),
        ("'a'.uppr()", 4, "upper"),
        ("[1] | map('uper')", 7, "upper"),
        ("[1] | select('evn')", 7, "even"),
        ("", 1, None),
        ("{{ }}", 3, None),
        ("a b", 3, None),
        ("a +", 4, None),
        ("(a", 3, None),
        ("a)", 2, None),
        ("'abc", 1, None),
        ("a ? b", 3, None),
        ("{{ a", 1, None),
        ("{{ a }} > 1", 8, None),
        ("stages", 1, None),
        ("1 + stages[input.n].x", 5, None),
        ("stages[0]", 1, None),
        ("f(1)(2)", 5, None),
        ("len(*xs)", 4, None),
        ("xs | join(1, 2, 3, 4)", 6, None),
        ("xs | map", 6, None),
        ("xs | map(input.n)", 6, None),
        ("xs | map('default', 1)", 6, None),
        ("now(1)", 4, None),
        ("a, b", 2, None),
        (r"'\U99999999'", 1, None),
    ],
)
def test_syntax_errors_have_a_place(source: str, column: int, nearest: str | None) -> None:
    caught = syntax_error(source)
    assert caught.nearest == nearest
    assert abs(caught.column - column) <= 1  # filters and tests are placed at their bar or their name
    assert caught.expression == source
    assert caught.code == "invalid_expression"
    assert pickle.loads(pickle.dumps(caught)).to_json() == caught.to_json()


def references(source: str) -> list[str]:
    return [
        f"{'?' if r.defaulted else ''}{r}{'…' if r.dynamic else ''}@{r.column}"
        for r in parse_expression(source).references
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1 + 1", []),
        ("stages.a.output.x.y", ["stages.a.x.y@1"]),
        ("{{  upstream.a['x'][0] }}", ["stages.a.x[0]@5"]),
        ("stages.a.status", ["stages.a.status@1"]),
        ("stages.a.output.status", ["stages.a.output.status@1"]),
        ("stages.my-stage.x", ["stages.my-stage.x@1"]),
        ("a.b[c.d].e", ["a.b…@1", "c.d@5"]),
        ("a[1:2].x", ["a…@1"]),
        ("a.b if c else d", ["a.b@1", "c@8", "d@15"]),
        ("a | default(b.c)", ["?a@1", "b.c@13"]),
        ("a.x is defined and a.y", ["?a.x@1", "a.y@20"]),
        ("a or b", ["a@1", "b@6"]),
        ("xs | map(attribute=k) | selectattr('z', 'in', ys)", ["xs@1", "k@20", "ys@47"]),
        ("a.b.lower()", ["a.b@1"]),
        ("{k: [v, -w]}", ["k@2", "v@6", "w@10"]),
    ],
)
def test_references(source: str, expected: list[str]) -> None:
    assert references(source) == expected


def test_reference_parts() -> None:
    (found,) = parse_expression("stages.failed.error.code").references
    assert (found.root, found.path, found.aspect) == ("stages", ("failed", "code"), "error")


def test_constants_are_told_from_draws() -> None:
    assert parse_expression("1 + 1").constant
    assert not parse_expression("now()").constant
    assert not parse_expression("a").constant


def test_an_expression_survives_pickling() -> None:
    expression = pickle.loads(pickle.dumps(parse_expression("{{ stages.a.x + 1 }}")))
    assert expression == parse_expression("{{ stages.a.x + 1 }}")
    assert expression.evaluate(SCOPE) == 2


def test_errors_of_the_scope_pass_through() -> None:
    class Unavailable(StoreError):
        pass

    class Broken:
        def lookup(self, root: str) -> Any:
            raise Unavailable(root)

        def draw(self, kind: str) -> str:
            raise Unavailable(kind)

    for source in ("a.b", "a.b + 1", "now()"):
        with pytest.raises(Unavailable):
            parse_expression(source).evaluate(Broken())


def test_drawing_without_a_source_is_an_error() -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression("now()").evaluate(DictScope({}))
    assert "now()" in caught.value.message


def test_a_large_value_is_handed_on_for_nothing() -> None:
    big = "x" * 50_000_000
    scope = DictScope({"input": {"big": big, "rows": [{"v": big}]}})
    assert parse_expression("input.big if input.rows | length else none").evaluate(scope) is big
    assert parse_expression("input.rows | first").evaluate(scope)["v"] is big


def test_an_opaque_values_own_operators_are_never_called() -> None:
    class Frame:
        """Like a data frame: it refuses to be a boolean, and compares element by element."""

        def __len__(self) -> int:
            return 2

        def __bool__(self) -> bool:
            raise TypeError("the truth of a frame is ambiguous")

        def __eq__(self, other: object) -> bool:
            raise TypeError("frames are compared by elements")

        __hash__ = None  # pyright: ignore[reportAssignmentType]  # as Python does for a class with its own __eq__

    frame = Frame()
    scope = DictScope({"frame": frame})
    assert parse_expression("'yes' if frame and not (not frame) else 'no'").evaluate(scope) == "yes"
    assert parse_expression("(frame or 1) == frame and frame != 1 and frame in [1, frame]").evaluate(scope) is True
    assert parse_expression("[frame, frame] | unique | length").evaluate(scope) == 1
