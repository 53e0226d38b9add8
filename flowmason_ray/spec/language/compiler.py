"""From Jinja's tree to Python closures, once per expression; evaluating is then one call.

Each kind of node has one method, which returns a function of a `Frame`. The tree is walked in full, both sides of a
conditional and the arguments of filters included, and every path met is noted as a `Reference`. What is not listed here
cannot be expressed: an unknown node, filter, function, test or method is an error when the expression is parsed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from jinja2 import nodes

from flowmason_ray.errors import nearest
from flowmason_ray.spec.language import arithmetic
from flowmason_ray.spec.language import catalogue as known
from flowmason_ray.spec.language.budget import Fault, Frame, Missing
from flowmason_ray.spec.language.forms import Forms
from flowmason_ray.spec.language.paths import reader
from flowmason_ray.spec.language.references import Path, Reference, path_of
from flowmason_ray.spec.language.syntax import ExpressionSyntaxError
from flowmason_ray.spec.language.values import contains, cut, equal, kind, less, member, truth
from flowmason_ray.spec.language.writing import join_pieces, text_piece

Run = Callable[[Frame], Any]

_BINARY: Mapping[type[nodes.Node], arithmetic.Operator] = {
    nodes.Add: arithmetic.add,
    nodes.Sub: arithmetic.subtract,
    nodes.Mul: arithmetic.multiply,
    nodes.Div: arithmetic.divide,
    nodes.FloorDiv: arithmetic.floor_divide,
    nodes.Mod: arithmetic.modulo,
    nodes.Pow: arithmetic.power,
}
_ORDER = {"lt": "<", "lteq": "<=", "gt": ">", "gteq": ">="}


class Compiler(Forms):
    """Compiles one expression; afterwards `references` and `draws` tell what it reads."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.references: list[Reference] = []
        self.draws = False
        self._tolerant = 0
        self._by_type: dict[type[nodes.Node], Callable[[Any], Run]] = {
            nodes.Const: self._const,
            nodes.List: self._list,
            nodes.Tuple: self._list,
            nodes.Dict: self._dict,
            nodes.Name: self._path_or_member,
            nodes.Getattr: self._path_or_member,
            nodes.Getitem: self._path_or_member,
            nodes.Neg: self._neg,
            nodes.Pos: self._pos,
            nodes.Not: self._not,
            nodes.And: self._and,
            nodes.Or: self._or,
            nodes.CondExpr: self._condexpr,
            nodes.Concat: self._concat,
            nodes.Compare: self._compare,
            nodes.Call: self._call,
            nodes.Filter: self._filter,
            nodes.Test: self._test,
        }

    def fail(self, node: nodes.Node, message: str, close: str | None = None) -> ExpressionSyntaxError:
        """Return the error for a node that cannot be compiled."""
        if close:
            message += f" Did you mean {close!r}?"
        return ExpressionSyntaxError(message, column=node.lineno, nearest=close, expression=self.source)

    def compile(self, node: nodes.Expr) -> Run:
        """Return the closure for a node."""
        method = self._by_type.get(type(node))
        if method is not None:
            return method(node)
        if isinstance(node, nodes.BinExpr) and type(node) in _BINARY:
            return self._binary(node, _BINARY[type(node)])
        raise self.fail(node, f"{type(node).__name__} cannot be used in an expression.")

    def tolerant(self, node: nodes.Expr) -> Run:
        """Compile a node in which a missing value is tolerated by whoever asks."""
        self._tolerant += 1
        try:
            return self.compile(node)
        finally:
            self._tolerant -= 1

    # --- Values ---

    def _const(self, node: nodes.Const) -> Run:
        value = node.value
        try:
            arithmetic.bounded_int(value)
        except Fault as fault:
            raise self.fail(node, fault.message) from None
        return lambda _frame: value

    def _list(self, node: nodes.List | nodes.Tuple) -> Run:
        parts = [self.compile(item) for item in node.items]

        def run(frame: Frame) -> Any:
            frame.items(len(parts))
            return [part(frame) for part in parts]

        return run

    def _dict(self, node: nodes.Dict) -> Run:
        pairs = [(self.compile(pair.key), self.compile(pair.value)) for pair in node.items]

        def run(frame: Frame) -> Any:
            frame.items(len(pairs))
            made: dict[str, Any] = {}
            for key_of, value_of in pairs:
                key = key_of(frame)
                if type(key) is not str:
                    raise Fault(f"The keys of an object are strings, not {kind(key)}.")
                made[key] = value_of(frame)
            return made

        return run

    # --- Paths ---

    def _path_or_member(self, node: nodes.Expr) -> Run:
        path = path_of(node, self.source)
        if path is None:
            assert isinstance(node, nodes.Getattr | nodes.Getitem)
            return self._step(self.compile(node.node), node)
        self.note(path)
        run = reader(path)
        for link in path.rest:
            run = self._step(run, link)
        return run

    def note(self, path: Path) -> None:
        """Remember that the expression reads a path."""
        self.references.append(
            Reference(
                root=path.root,
                path=path.keys,
                aspect=path.aspect,
                dynamic=bool(path.rest),
                defaulted=self._tolerant > 0,
                column=path.column,
            )
        )

    def _step(self, run: Run, link: nodes.Expr) -> Run:
        if isinstance(link, nodes.Getattr):
            attribute = link.attr
            return lambda frame: member(run(frame), attribute)
        assert isinstance(link, nodes.Getitem)
        if isinstance(link.arg, nodes.Slice):
            start, stop, step = (self._bound(b) for b in (link.arg.start, link.arg.stop, link.arg.step))
            return lambda frame: cut(frame, run(frame), start(frame), stop(frame), step(frame))
        key = self.compile(link.arg)
        return lambda frame: member(run(frame), key(frame))

    def _bound(self, node: nodes.Expr | None) -> Run:
        return self.compile(node) if node is not None else lambda _frame: None

    # --- Operators ---

    def _binary(self, node: nodes.BinExpr, operator: arithmetic.Operator) -> Run:
        left, right = self.compile(node.left), self.compile(node.right)
        return lambda frame: operator(frame, left(frame), right(frame))

    def _neg(self, node: nodes.Neg) -> Run:
        operand = self.compile(node.node)
        return lambda frame: arithmetic.negative(operand(frame))

    def _pos(self, node: nodes.Pos) -> Run:
        operand = self.compile(node.node)
        return lambda frame: arithmetic.positive(operand(frame))

    def _not(self, node: nodes.Not) -> Run:
        operand = self.compile(node.node)
        return lambda frame: not truth(operand(frame))

    def _and(self, node: nodes.And) -> Run:
        left, right = self.compile(node.left), self.compile(node.right)

        def run(frame: Frame) -> Any:
            value = left(frame)
            return right(frame) if truth(value) else value

        return run

    def _or(self, node: nodes.Or) -> Run:
        left, right = self.compile(node.left), self.compile(node.right)

        def run(frame: Frame) -> Any:
            value = left(frame)
            return value if truth(value) else right(frame)

        return run

    def _condexpr(self, node: nodes.CondExpr) -> Run:
        test, then = self.compile(node.test), self.compile(node.expr1)
        if node.expr2 is None:
            return lambda frame: then(frame) if truth(test(frame)) else None
        other = self.compile(node.expr2)
        return lambda frame: then(frame) if truth(test(frame)) else other(frame)

    def _concat(self, node: nodes.Concat) -> Run:
        parts = [self.compile(part) for part in node.nodes]

        def run(frame: Frame) -> Any:
            pieces = [text_piece(frame, part(frame)) for part in parts]
            frame.text(sum(len(piece) for piece in pieces if type(piece) is str))
            return join_pieces(pieces)

        return run

    def _compare(self, node: nodes.Compare) -> Run:
        first = self.compile(node.expr)
        rest = [(_comparison(op.op), self.compile(op.expr)) for op in node.ops]
        if len(rest) == 1:
            compare, second = rest[0]
            return lambda frame: compare(frame, first(frame), second(frame))

        def run(frame: Frame) -> bool:
            left = first(frame)
            for compare, operand in rest:
                right = operand(frame)
                if not compare(frame, left, right):
                    return False
                left = right
            return True

        return run

    # --- Calls ---

    def _call(self, node: nodes.Call) -> Run:
        target = node.node
        if isinstance(target, nodes.Getattr):
            return self._method(node, target)
        if not isinstance(target, nodes.Name):
            raise self.fail(node, "Only functions and methods can be called, by their names.")
        name = target.name
        if name in known.DRAWS:
            if node.args or node.kwargs or node.dyn_args or node.dyn_kwargs:
                raise self.fail(node, f"Function {name!r} takes no arguments.")
            self.draws = True
            return lambda frame: frame.scope.draw(name)
        function = known.FUNCTIONS.get(name)
        if function is None:
            hint = " It is a filter: write `value | …`." if name in known.FILTERS or name in known.FORMS else ""
            close = nearest(name, [*known.FUNCTIONS, *known.DRAWS])
            raise self.fail(node, f"There is no function {name!r}.{hint}", None if hint else close)
        args, kwargs = self.arguments(node, f"Function {name!r}", function, given=0)
        return lambda frame: function(frame, *[a(frame) for a in args], **{k: v(frame) for k, v in kwargs.items()})

    def _method(self, node: nodes.Call, target: nodes.Getattr) -> Run:
        name = target.attr
        if name not in known.METHOD_NAMES:
            raise self.fail(target, f"There is no method {name!r}.", nearest(name, known.METHOD_NAMES))
        by_kind = {k: methods[name] for k, methods in known.METHODS.items() if name in methods}
        args, kwargs = self.arguments(node, f"Method {name!r}", None, given=1)
        for method in by_kind.values():
            self.check_call(node, f"Method {name!r}", method, 1 + len(args), list(kwargs))
        receiver = self.compile(target.node)

        def run(frame: Frame) -> Any:
            value = receiver(frame)
            method = by_kind.get(kind(value))
            if method is None:
                raise Fault(f"Method {name!r} works on {' or '.join(by_kind)}, not on {kind(value)}.")
            return method(frame, value, *[a(frame) for a in args], **{k: v(frame) for k, v in kwargs.items()})

        return run

    def _filter(self, node: nodes.Filter) -> Run:
        if node.node is None:
            raise self.fail(node, "A filter needs a value before it.")
        if node.name in known.FORMS:
            return self.form(node)
        function = known.FILTERS.get(node.name)
        if function is None:
            raise self.unknown_filter(node, node.name)
        args, kwargs = self.arguments(node, f"Filter {node.name!r}", function, given=1)
        value = self.compile(node.node)
        if not args and not kwargs:
            return lambda frame: function(frame, value(frame))
        return lambda frame: function(
            frame, value(frame), *[a(frame) for a in args], **{k: v(frame) for k, v in kwargs.items()}
        )

    def _test(self, node: nodes.Test) -> Run:
        if node.name in known.MISSING_TESTS:
            if node.args or node.kwargs:
                raise self.fail(node, f"Test {node.name!r} takes no arguments.")
            operand, expected = self.tolerant(node.node), node.name == "defined"

            def run(frame: Frame) -> bool:
                try:
                    operand(frame)
                except Missing:
                    return not expected
                return expected

            return run
        function = known.TESTS.get(node.name)
        if function is None:
            raise self.unknown_test(node, node.name)
        args, kwargs = self.arguments(node, f"Test {node.name!r}", function, given=1)
        value = self.compile(node.node)
        return lambda frame: function(
            frame, value(frame), *[a(frame) for a in args], **{k: v(frame) for k, v in kwargs.items()}
        )

    def unknown_filter(self, node: nodes.Node, name: str) -> ExpressionSyntaxError:
        """Return the error for a filter that does not exist."""
        return self.fail(node, f"There is no filter {name!r}.", nearest(name, [*known.FILTERS, *known.FORMS]))

    def unknown_test(self, node: nodes.Node, name: str) -> ExpressionSyntaxError:
        """Return the error for a test that does not exist."""
        return self.fail(node, f"There is no test {name!r}.", nearest(name, [*known.TESTS, *known.MISSING_TESTS]))

    def arguments(
        self, node: nodes.Call | nodes.Filter | nodes.Test, what: str, function: known.Builtin | None, *, given: int
    ) -> tuple[list[Run], dict[str, Run]]:
        """Compile the arguments of a call and check them against the function's signature.

        `given` is how many arguments (after the budget) come from elsewhere: the value of a filter.
        """
        if node.dyn_args or node.dyn_kwargs:
            raise self.fail(node, f"{what} is called with * or **, which is not possible here.")
        args = [self.compile(arg) for arg in node.args]
        kwargs = {str(pair.key): self.compile(pair.value) for pair in node.kwargs}
        if len(kwargs) != len(node.kwargs):
            raise self.fail(node, f"{what} is given the same argument twice.")
        if function is not None:
            self.check_call(node, what, function, given + len(args), list(kwargs))
        return args, kwargs

    def check_call(self, node: nodes.Node, what: str, function: known.Builtin, count: int, names: list[str]) -> None:
        """Raise when a function does not take so many arguments, or none of these names."""
        try:
            _signature(function).bind(None, *[None] * count, **dict.fromkeys(names))
        except TypeError as exc:
            raise self.fail(node, f"{what} is called wrongly: {exc}.") from None


@cache
def _signature(function: known.Builtin) -> inspect.Signature:
    return inspect.signature(function)


def _comparison(op: str) -> Callable[[Frame, Any, Any], bool]:
    if op == "eq":
        return equal
    if op == "ne":
        return lambda frame, a, b: not equal(frame, a, b)
    if op == "in":
        return contains
    if op == "notin":
        return lambda frame, a, b: not contains(frame, a, b)
    symbol = _ORDER[op]
    return lambda frame, a, b: less(frame, a, b, symbol)
