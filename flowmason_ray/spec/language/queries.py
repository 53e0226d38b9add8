"""JMESPath within the budget.

The library evaluates; this module watches it. A query can double a list by name (`[@, @] | [@, @] | …`) and then ask for all
of it (`to_string(@)`), so every visited node is charged, and whatever a function or a comparison is about to walk is
measured before it is walked. Imports the library, so it is itself imported only when a query is first used.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, cast

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.visitor import TreeInterpreter

from flowmason_ray.spec.language.budget import Budget, Fault
from flowmason_ray.spec.language.values import NUMBERS, eager, is_list, is_object, kind

MAX_QUERY = 1000
"""Characters of a query."""


class _Metered(TreeInterpreter):  # pyright: ignore[reportUntypedBaseClass]  # the library has no types
    """The library's interpreter, charging for what it visits, creates and hands to functions."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self._budget.spend(4)
        result = super().visit(node, *args, **kwargs)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if node["type"] in _CREATING and result is not None:
            self._budget.items(len(cast("list[Any]", result)))
        return cast("Any", result)

    def visit_flatten(self, node: Any, value: Any) -> Any:
        base = self.visit(node["children"][0], value)
        if not isinstance(base, list):
            return None
        flat: list[Any] = []
        for element in cast("list[Any]", base):
            if isinstance(element, list):
                self._budget.items(len(cast("list[Any]", element)))
                flat += element
            else:
                self._budget.items(1)
                flat.append(element)
        return flat

    def visit_field(self, node: Any, value: Any) -> Any:
        return value.get(node["value"]) if is_object(value) else None

    def visit_value_projection(self, node: Any, value: Any) -> Any:
        base = self.visit(node["children"][0], value)
        return (
            super().visit_value_projection(_with(node, [_literal(base), node["children"][1]]), value)
            if is_object(base)
            else None
        )  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    def visit_comparator(self, node: Any, value: Any) -> Any:
        sides = [self.visit(child, value) for child in node["children"]]
        for side in sides:
            _measure(self._budget, side)
        return super().visit_comparator(_with(node, map(_literal, sides)), value)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        arguments: list[Any] = []
        given: list[Any] = []
        for child in node["children"]:
            if child["type"] == "expref":
                arguments.append(child)
                continue
            given.append(self.visit(child, value))
            _measure(self._budget, given[-1], opaque=False)
            arguments.append(_literal(given[-1]))
        if node["value"] == "join" and len(given) == 2 and type(given[0]) is str and is_list(given[1]):
            self._budget.text(len(given[0]) * len(given[1]))
        return super().visit_function_expression(_with(node, arguments), value)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _literal(value: Any) -> Any:
    """Return a node that stands for a value which has been computed already."""
    return {"type": "literal", "value": value, "children": []}


def _with(node: Any, children: Iterable[Any]) -> Any:
    return {**node, "children": list(children)}


_CREATING = frozenset(
    {"slice", "multi_select_list", "multi_select_dict", "projection", "value_projection", "filter_projection"}
)


def _measure(budget: Budget, value: Any, *, opaque: bool = True) -> None:
    """Charge for walking the whole of a value; a shared part counts as often as it is reached."""
    stack = [value]
    while stack:
        value = stack.pop()
        budget.spend(1)
        if type(value) is str:
            budget.text(len(value))
        elif is_list(value):
            budget.spend(len(value))
            stack.extend(value)
        elif is_object(value):
            budget.spend(len(value))
            stack.extend(value.values())
        elif not opaque and value is not None and type(value) not in NUMBERS:
            raise Fault(f"{kind(value).capitalize()} cannot be given to a JMESPath function.")


@lru_cache(maxsize=256)
def _compiled(query: str) -> Any:
    return jmespath.compile(query).parsed  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def search(budget: Budget, value: Any, query: Any) -> Any:
    """Return what a JMESPath query finds in the value; null when it finds nothing."""
    if type(query) is not str:
        raise Fault(f"A JMESPath query is a string, not {kind(query)}.")
    if len(query) > MAX_QUERY:
        raise Fault(f"A JMESPath query of more than {MAX_QUERY} characters is too long.", code="expression_budget")
    value = eager(value)
    budget.spend(10 * len(query))
    try:
        result = _Metered(budget).visit(_compiled(query), value)
    except RecursionError:
        raise Fault("The JMESPath query is nested too deeply.") from None
    except (JMESPathError, TypeError, ValueError, AttributeError) as exc:
        raise Fault(f"The JMESPath query {query[:100]!r} failed: {' '.join(str(exc).split())[:300]}.") from None
    _measure(budget, result)
    return result
