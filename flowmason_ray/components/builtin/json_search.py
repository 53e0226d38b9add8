"""JMESPath, evaluated within bounds: an expression may come out of a template, so out of foreign data.

`[@,@]|[@,@]|…` doubles its value with every six characters. Inside the evaluation the halves are one object and take no room, but
whoever writes the result down unfolds it. So what a value takes when it is written down is added up as values are made, in
proportion to what came in. Expressions that only choose cannot make more than there is, and are evaluated as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.visitor import TreeInterpreter

_MAKING = frozenset({"multi_select_list", "multi_select_dict", "function_expression"})
"""What makes new values; everything else chooses from those that are there."""
_ROOM = 32 * 1024 * 1024
"""What a result may take at least, in bytes, roughly; and, for larger data:"""
_TIMES = 8
"""…so many times what the data takes."""
_STEPS = 1_000_000
_STEP_BYTES = 4
"""Steps of evaluation that are there at least; and one more for so many bytes of the data."""
_DEPTH = 400
_CONTAINER, _SCALAR = 64, 16


class InvalidPath(ValueError):
    """A text that is neither a path nor a JMESPath expression, or none for this value."""


def search(data: Any, expression: str) -> Any:
    """Return what the JMESPath `expression` finds in `data`; null for nothing.

    Raises:
        InvalidPath: it does not parse, meets a value of the wrong type, or makes more than there is room for.
    """
    try:
        parsed: Any = cast("Any", jmespath).compile(expression)
        if not _makes_values(parsed.parsed):
            return parsed.search(data)
        return _Bounded(data).visit(parsed.parsed, data)
    except InvalidPath as exc:
        raise InvalidPath(f"{expression[:200]!r} {exc}") from None
    except RecursionError as exc:
        raise InvalidPath(f"{expression[:200]!r} is nested too deeply.") from exc
    except (JMESPathError, TypeError, ValueError, ArithmeticError) as exc:
        said = str(exc).strip().partition("\n")[0]
        raise InvalidPath(f"{expression[:200]!r} is not a JMESPath expression for this value: {said}") from exc


def _makes_values(node: Any) -> bool:
    left: list[Any] = [node]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            if cast("dict[str, Any]", each)["type"] in _MAKING:
                return True
            left += cast("dict[str, Any]", each)["children"]
    return False


_TREE = cast("Any", TreeInterpreter)  # it has no types


class _Bounded(cast("type[Any]", TreeInterpreter)):
    """Evaluates, and adds up what values take when they are written down."""

    def __init__(self, data: Any) -> None:
        _TREE.__init__(self)
        self._known: dict[int, tuple[Any, int, int]] = {}
        """Container's id → the container (so that its id stays its own), what it takes, how deep it is."""
        self._room = _ROOM
        taken = self._measured(data)[0]
        self._room = max(_ROOM, _TIMES * taken)
        self._steps = _STEPS + taken // _STEP_BYTES

    def visit(self, node: Any, *args: Any, **more: Any) -> Any:
        self._spend(1)
        made: Any = _TREE.visit(self, node, *args, **more)
        kind = node["type"]
        if kind in _MAKING or kind.endswith("projection") or kind in ("flatten", "slice"):
            self._refuse_large(made)
        elif kind == "comparator":
            self._spend(1)
        return made

    def visit_function_expression(self, node: Any, value: Any) -> Any:
        arguments = [self.visit(child, value) for child in node["children"]]
        name: str = node["value"]
        for each in arguments:
            # Reading a value in whole takes its time.
            self._spend(self._measured(each)[0] // 1024)
        if name == "join" and len(arguments) == 2 and isinstance(arguments[0], str) and isinstance(arguments[1], list):
            self._refuse_room(len(arguments[0]) * len(cast("list[Any]", arguments[1])))
        return self._functions.call_function(name, arguments)

    def visit_comparator(self, node: Any, value: Any) -> Any:
        for child in node["children"]:
            self._spend(self._measured(self.visit(child, value))[0] // 1024)
        return _TREE.visit_comparator(self, node, value)

    def _spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise InvalidPath("takes too many steps.")

    def _refuse_large(self, value: Any) -> None:
        taken, depth = self._measured(value)
        self._refuse_room(taken)
        if depth > _DEPTH:
            raise InvalidPath("makes a value that is nested too deeply.")

    def _refuse_room(self, taken: int) -> None:
        if taken > self._room:
            raise InvalidPath(f"makes a value of more than {self._room // (1024 * 1024)} MiB.")

    def _measured(self, value: Any) -> tuple[int, int]:
        """Return what a value takes when it is written down, in bytes, and how deep it is."""
        if isinstance(value, str):
            return _CONTAINER + len(value), 0
        kind = cast("Any", type)(value)
        if kind is not dict and kind is not list:
            return _SCALAR, 0
        known = self._known.get(id(value))
        if known is None:
            taken, depth = _CONTAINER, 0
            parts: Iterable[Any] = value
            if kind is dict:
                parts = value.values()
                taken += sum(map(len, value))
            for part in parts:
                inner, below = self._measured(part)
                taken += inner
                depth = max(depth, below)
            known = self._known[id(value)] = (value, taken, depth + 1)
        return known[1], known[2]
