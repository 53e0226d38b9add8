"""Laws of the evaluator: Python's semantics on generated expressions, and totality on anything at all."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.errors import ExpressionError
from flowmason_ray.spec.expressions import DictScope, Expression, ExpressionSyntaxError, parse_expression
from flowmason_ray.spec.language.budget import MAX_STEPS, Frame
from flowmason_ray.spec.language.catalogue import FILTERS, FORMS, FUNCTIONS, METHOD_NAMES, TESTS
from flowmason_ray.spec.language.compiler import Compiler
from flowmason_ray.spec.language.syntax import parse_tree

VALUES: dict[str, Any] = {"i": 3, "f": 2.5, "s": "text", "b": True, "n": None, "xs": [1, 2, 3], "o": {"k": 1, "s": "v"}}
SCOPE = DictScope({**VALUES, "input": VALUES, "stages": {}}, draw=lambda kind: kind)

Case = tuple[str, Callable[[], Any]]
"""A source, and what computes its value in Python. What raises there must be an `ExpressionError` here."""


SCALARS = st.one_of(
    st.integers(-1000, 1000),
    st.floats(-1e6, 1e6, allow_nan=False),
    st.booleans(),
    st.none(),
    st.text("abcXYZ ü'\"\\{}%", max_size=6),
)


def _quoted(value: Any) -> str:
    return (
        f"({value!r})" if isinstance(value, int | float) and not isinstance(value, bool) and value < 0 else repr(value)
    )


LEAVES: st.SearchStrategy[Case] = st.one_of(
    SCALARS.map(lambda v: (_quoted(v), lambda: v)),
    st.sampled_from(sorted(VALUES)).map(lambda name: (name, lambda: VALUES[name])),
)

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": operator.mod,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda a, b: a in b,
    "not in": lambda a, b: a not in b,
}


def _binary(op: str, a: Case, b: Case) -> Case:
    def compute() -> Any:
        left, right = a[1](), b[1]()
        if op == "%" and isinstance(left, str):
            raise TypeError("there is no string formatting here")
        if op in ("in", "not in") and isinstance(right, dict) and isinstance(left, list | dict):
            return op == "not in"  # Python cannot hash it; here it just is not a key
        return BINARY[op](left, right)

    return f"({a[0]} {op} {b[0]})", compute


def _conditional(test: Case, then: Case, other: Case) -> Case:
    return f"({then[0]} if {test[0]} else {other[0]})", lambda: then[1]() if test[1]() else other[1]()


def _index(container: Case, key: Case) -> Case:
    def compute() -> Any:
        value, index = container[1](), key[1]()
        if isinstance(index, bool):
            raise TypeError("a boolean is no index here")
        return value[index]

    return f"({container[0]})[{key[0]}]", compute


def _both(a: Case, b: Case) -> Case:
    return f"({a[0]} and {b[0]})", lambda: a[1]() and b[1]()


def _either(a: Case, b: Case) -> Case:
    return f"({a[0]} or {b[0]})", lambda: a[1]() or b[1]()


def _negation(a: Case) -> Case:
    return f"(not {a[0]})", lambda: not a[1]()


def _minus(a: Case) -> Case:
    return f"(-({a[0]}))", lambda: -a[1]()


def _list(cases: list[Case]) -> Case:
    return "[" + ", ".join(case[0] for case in cases) + "]", lambda: [case[1]() for case in cases]


def _length(a: Case) -> Case:
    return f"len({a[0]})", lambda: len(a[1]())


def _text_length(a: Case) -> Case:
    return f"({a[0]} | string | length)", lambda: len(_text(a[1]()))


def _chain(a: Case, b: Case, c: Case) -> Case:
    return f"({a[0]} < {b[0]} <= {c[0]})", lambda: a[1]() < b[1]() <= c[1]()


def _larger(children: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    return st.one_of(
        st.builds(_binary, st.sampled_from(sorted(BINARY)), children, children),
        st.builds(_both, children, children),
        st.builds(_either, children, children),
        st.builds(_negation, children),
        st.builds(_minus, children),
        st.builds(_conditional, children, children, children),
        st.builds(_index, children, children),
        st.builds(_list, st.lists(children, max_size=3)),
        st.builds(_length, children),
        st.builds(_text_length, LEAVES),
        st.builds(_chain, children, children, children),
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[1,2,3]"
    return str(value) if not isinstance(value, dict) else '{"k":1,"s":"v"}'


CASES = st.recursive(LEAVES, _larger, max_leaves=10)


@settings(max_examples=400, deadline=None)
@given(CASES)
def test_generated_expressions_mean_what_they_mean_in_python(case: Case) -> None:
    source, compute = case
    try:
        expected, failed = compute(), False
    except (TypeError, ZeroDivisionError, OverflowError, IndexError, KeyError, ValueError):
        expected, failed = None, True
    refusal: ExpressionError | None = None
    found: Any = None
    try:
        found = parse_expression(source).evaluate(SCOPE)
    except ExpressionError as error:
        refusal = error
    if refusal is not None:
        assert failed or refusal.code == "expression_budget", (source, expected, refusal.message)
    else:
        assert not failed, (source, found)
        assert found == expected, source
        assert type(found) is type(expected), source


NUMBER = st.integers(0, 9).map(str)
FLAT = st.lists(
    st.tuples(st.sampled_from(["+", "-", "*", "//", "%", "<", "==", ">=", "and", "or"]), NUMBER), min_size=1, max_size=6
)
PRECEDENCE = [["*", "//", "%"], ["+", "-"]]


@settings(max_examples=300, deadline=None)
@given(NUMBER, FLAT)
def test_precedence_is_pythons(first: str, rest: list[tuple[str, str]]) -> None:
    source = first + "".join(f" {op} {number}" for op, number in rest)
    try:
        expected, failed = _flat(first, rest), False
    except ZeroDivisionError:
        expected, failed = None, True
    try:
        found = parse_expression(source).evaluate(SCOPE)
    except ExpressionError:
        assert failed, source
    else:
        assert not failed
        assert found == expected, source


def _flat(first: str, rest: list[tuple[str, str]]) -> Any:
    """Evaluate without parentheses: split at the loosest operators first."""
    for loosest, combine in (("or", any), ("and", all)):
        places = [i for i, (op, _) in enumerate(rest) if op == loosest]
        if places:
            value = _flat(first, rest[: places[0]])
            if bool(value) is (combine is any):
                return value
            return _flat(rest[places[0]][1], rest[places[0] + 1 :])
    places = [i for i, (op, _) in enumerate(rest) if op in ("<", "==", ">=")]
    if places:
        left = _flat(first, rest[: places[0]])
        for n, place in enumerate(places):
            end = places[n + 1] if n + 1 < len(places) else len(rest)
            right = _flat(rest[place][1], rest[place + 1 : end])
            if not BINARY[rest[place][0]](left, right):
                return False
            left = right
        return True
    values, ops = [int(first), *(int(number) for _, number in rest)], [op for op, _ in rest]
    for level in PRECEDENCE:
        index = 0
        while index < len(ops):
            if ops[index] in level:
                values[index : index + 2] = [BINARY[ops.pop(index)](values[index], values[index + 1])]
            else:
                index += 1
    return values[0]


def attempt(source: str) -> None:
    """Parse and evaluate; the two errors of the language are the only ones there are."""
    try:
        expression = parse_expression(source)
    except ExpressionSyntaxError as error:
        column = error.column
    else:
        _evaluate(expression)
        return
    assert 1 <= column <= len(source) + 2


def _evaluate(expression: Expression) -> None:
    with contextlib.suppress(ExpressionError):
        expression.evaluate(SCOPE)
    frame = Frame(SCOPE)
    with contextlib.suppress(Exception):
        expression.run(frame)
    assert frame.steps_left <= MAX_STEPS


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_an_expression_or_a_syntax_error(source: str) -> None:
    attempt(source)
    attempt("{{" + source + "}}")


WORDS = [
    *FILTERS, *FORMS, *FUNCTIONS, *METHOD_NAMES, *TESTS, *VALUES, *["+", "-", "*", "/", "//", "%", "**", "~", "|", ".", ",", ":", "(", ")", "[", "]", "{", "}", "<", "<=", "==", "!=", ">", ">="],
    "and", "or", "not", "in", "is", "if", "else", "1", "0", "2.5", "-1", "'a'", "''", "'\\d+'", "none", "true", "stages", "input",
    "{{", "}}", "now()", "9999999999", "attribute=", "'[@]'", "'%Y'",
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join))
def test_any_sequence_of_tokens_ends(source: str) -> None:
    attempt(source)


VALUE = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from("abk"), v, max_size=3)
)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(sorted(FILTERS)),
    VALUE,
    st.lists(st.one_of(VALUE, st.sampled_from(["a", "%Y", "k", "a.b", "eq", "upper", "[@]"])), max_size=3),
)
def test_every_filter_is_total(name: str, value: Any, arguments: list[Any]) -> None:
    names = [f"a{n}" for n in range(len(arguments))]
    scope = DictScope({"v": value, **dict(zip(names, arguments, strict=True))})
    try:
        expression = parse_expression(f"v | {name}({', '.join(names)})")
    except ExpressionSyntaxError:
        return
    with contextlib.suppress(ExpressionError):
        expression.evaluate(scope)
    for error in _unexpected(expression, scope):
        raise AssertionError(f"{name} let {error!r} out for {value!r} and {arguments!r}") from error


def _unexpected(expression: Expression, scope: DictScope) -> list[Exception]:
    """Return what an evaluation raises that the language does not know: `evaluate` would hide it behind a vague message."""
    from flowmason_ray.spec.language.budget import Fault

    try:
        expression.run(Frame(scope))
    except Fault:
        return []
    except Exception as error:
        return [error]
    return []


PART = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}(-[a-z0-9]{1,3})?", fullmatch=True)


@settings(max_examples=400, deadline=None)
@given(st.one_of(PART, st.sampled_from(["stages", "upstream", "vars", "input"])), st.lists(PART, max_size=4))
def test_simple_paths_parse_the_same_with_and_without_jinja(root: str, keys: list[str]) -> None:
    source = ".".join([root, *keys])
    try:
        quick = parse_expression(source)
    except ExpressionSyntaxError:
        quick = None
    try:
        compiler = Compiler(source)
        compiler.compile(parse_tree(source))
    except ExpressionSyntaxError:
        assert quick is None
    else:
        assert quick is not None
        assert sorted(compiler.references, key=lambda r: r.column) == list(quick.references)
