"""Every expression ends soon, on whatever values: the budget is what decides, and a generous clock only watches."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest

from flowmason_ray.errors import ExpressionError
from flowmason_ray.spec.expressions import DictScope, ExpressionSyntaxError, parse_expression
from flowmason_ray.spec.language.budget import MAX_ITEMS, MAX_STEPS, MAX_TEXT, Frame

GENEROUS_S = 2.0
"""Alone on a machine these take at most 0.05 s (measured); what matters is that none takes minutes."""


def doubled(times: int) -> list[Any]:
    """Return a list that is tiny in memory and has 2**times leaves."""
    value: list[Any] = [1]
    for _ in range(times):
        value = [value, value]
    return value


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)

SCOPE = DictScope(
    {
        "ints": list(range(100_000)),
        "strs": [f"user-{i}" for i in range(50_000)],
        "prefixed": ["x" * 5000 + str(i) for i in range(1000)],
        "rows": [{"a": i, "b": {"c": str(i)}} for i in range(30_000)],
        "lists": [[i % 3, [i % 5, [i]]] for i in range(20_000)],
        "empty": [{}] * 90_000,
        "big": "lorem ipsum " * 1_000_000,
        "mega": "a" * 1_000_000,
        "aaaa": "a" * 20_000,
        "wide": {f"k{i}": i for i in range(50_000)},
        "json": json.dumps([[1, 2, 3]] * 50_000),
        "deep_json": "[" * 500_000,
        "dag": doubled(60),
        "dag2": doubled(60),
        "deep": nested(100_000),
        "cycle": CYCLE,
        "huge": 1 << 1_000_000,
        "marks": "a" + "\u0301\u0316" * 300_000,
        "half": "\ud800",
    }
)

REPEATED = "|".join(["[@,@]"] * 80)
ADVERSARIAL = [
    "9**9**9**9",
    "99999**99999",
    "2**4000*2**4000",
    "huge*huge",
    "huge+1",
    "huge|string",
    "huge is even",
    "huge is divisibleby huge",
    "'a'*10**9",
    "'a'*1000000*100",
    "'%0999999999d'%1",
    "[0]*10**9",
    "[[1]*1000]*100000",
    "[[[[1]*300]*300]*300]*300",
    "['a'*1000000]*1000",
    "[big]*1000",
    "[1]|batch(1000,[1]|batch(1000,[1]|batch(1000,1)))",
    "range(1000)|map('string')|map('int',range(1000))|map('int',range(1000))",
    "empty|map(attribute='zz',default=range(1000))",
    "empty|map(attribute='zz',default=0)",
    "range(10**18)",
    "range(10**30)",
    "ints+ints",
    "ints|sort",
    "strs|sort",
    "prefixed|sort",
    "lists|sort",
    "rows|sort(attribute='b.c')",
    "rows|sort(attribute='" + "a." * 2000 + "a')",
    "rows|unique",
    "rows|tojson",
    "rows|tojson(8)",
    "rows|map('tojson')|join",
    "dag|tojson",
    "dag~''",
    "dag==dag2",
    "dag<dag2",
    "dag in [dag2]",
    "dag|unique",
    "[dag]*100",
    "deep|tojson",
    "deep==[deep]",
    "deep<[deep]",
    "deep|unique",
    "deep|sort",
    "cycle|tojson",
    "cycle|unique",
    "cycle==[[cycle]]",
    "'zzz' in big",
    "big|upper",
    "big|split",
    "big|replace('o','oooooooooo')",
    "mega|replace('','x'*1000)",
    "mega|split('a')",
    "mega|join('x'*1000)",
    "mega.splitlines()",
    "strs|join('x'*100)",
    "marks|slugify",
    "json|fromjson",
    "deep_json|fromjson",
    "half|regex_search('a')",
    "half|tojson",
    "wide|items|map('tojson')|join",
    "round(1,-10**9)",
    "1|round(10**9)",
    "mega|date(mega)",
    "0|date('%A'*40000)",
    "mega|int",
    "mega|float",
    "mega|regex_search('(a+)+b')",
    "mega|regex_search('(a|aa)+$')",
    "mega|regex_search('(a|a?)+b')",
    "aaaa|regex_findall('a.*b|a')",
    "aaaa|regex_findall('(a.*b)|a')",
    "aaaa|regex_search('(?:a?){300}a{300}b')",
    "aaaa|regex_search('[ab]*a[ab]{12}c')",
    "mega|regex_replace('','" + "b" * 1000 + "')",
    "mega|regex_replace('a','\\\\0\\\\0\\\\0')",
    "'a'|regex_search('((a{100}){100}){100}')",
    "'a'|regex_search('" + "(?:\\\\pL{50})" * 60 + "')",
    f"[1]|jmespath('{REPEATED}')",
    f"[1]|jmespath('{REPEATED}|to_string(@)')",
    f"[1]|jmespath('{REPEATED}==@')",
    "[1]|jmespath('" + "|".join(["[@,@][]"] * 60) + "')",
    "[1]|jmespath('" + "|".join(["map(&[@,@],@)"] * 30) + "')",
    "['a'*100000]|jmespath('join([0],[" + ",".join(["@[0]"] * 50) + "])')",
    "rows|jmespath('sort_by(@,&b.c)')",
    "rows|jmespath('" + "!" * 900 + "a')",
    "rows|jmespath('" + "(" * 450 + "a" + ")" * 450 + "')",
    "dag|jmespath('to_string(@)')",
    "cycle|jmespath('to_string(@)')",
]


@pytest.mark.parametrize("source", ADVERSARIAL)
def test_adversarial_expressions_end(source: str) -> None:
    assert len(source) <= 4096
    started = time.thread_time()
    with contextlib.suppress(ExpressionError):  # it may end with a value, too
        parse_expression(source).evaluate(SCOPE)
    assert time.thread_time() - started < GENEROUS_S


@pytest.mark.parametrize(
    "source",
    ["'a'*10**9", "[[[[1]*300]*300]*300]*300", "big|upper", "dag==dag2", "rows|tojson", "99**99**99", "range(10**18)"],
)
def test_the_budget_is_what_ends_it(source: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(source).evaluate(SCOPE)
    assert caught.value.code == "expression_budget"


@pytest.mark.parametrize("source", ["rows[:9]|tojson", "strs[:100]|sort|join(',')", "aaaa|regex_findall('a+')", "1+1"])
def test_costs_are_deterministic(source: str) -> None:
    costs: set[tuple[int, int, int]] = set()
    for _ in range(3):
        frame = Frame(SCOPE)
        parse_expression(source).run(frame)
        costs.add((MAX_STEPS - frame.steps_left, MAX_TEXT - frame.text_left, MAX_ITEMS - frame.items_left))
    assert len(costs) == 1


@pytest.mark.parametrize(
    "source",
    [
        "(" * 4000 + "1" + ")" * 4000,
        "(" * 4000,
        "[" * 4000 + "]" * 4000,
        "{'a':" * 800 + "1" + "}" * 800,
        "not " * 1000 + "1",
        "-" * 4000 + "1",
        "1 if 1 else " * 300 + "1",
        "1**" * 1300 + "1",
        "1+" * 2000 + "1",
        "a" + ".a[0]" * 800 + "()",
        "a" + "|upper" * 600,
        "a" + "[a" * 1300 + "]" * 1300,
        "f(" * 1300 + ")" * 1300,
        "a is not none " * 280,
        "1" * 4000 + "0",
        "1" * 5000,
        "x" * (64 * 1024 + 1),
    ],
    ids=lambda s: s[:12],
)
def test_deep_or_long_sources_are_refused(source: str) -> None:
    started = time.thread_time()
    with pytest.raises(ExpressionSyntaxError):
        parse_expression(source)
    assert time.thread_time() - started < GENEROUS_S
