"""The filters that are more than functions: `default`, and those that apply another filter or test to each element."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from jinja2 import nodes

from flowmason_ray.spec.language import catalogue as known
from flowmason_ray.spec.language.budget import Frame, Missing
from flowmason_ray.spec.language.syntax import ExpressionSyntaxError
from flowmason_ray.spec.language.values import ABSENT, attribute_reader, elements, truth

Run = Callable[[Frame], Any]
Each = Callable[[Frame], Callable[[Any], Any]]
"""Evaluates the arguments once, and returns what is then applied to each element."""


_NOTHING: Any = object()
"""What an element has that lacks the attribute: only `defined` tells it from null."""


def _default(budget: Any, value: Any, default_value: Any = "", boolean: Any = False) -> Any:
    """Only the signature; the form is compiled by `Forms`."""
    return default_value if boolean and not truth(value) else value


class Forms(ABC):
    """The part of the compiler that builds `known.FORMS`."""

    @abstractmethod
    def compile(self, node: nodes.Expr) -> Run:
        """Return the closure for a node."""

    @abstractmethod
    def tolerant(self, node: nodes.Expr) -> Run:
        """Compile a node in which a missing value is tolerated by whoever asks."""

    @abstractmethod
    def fail(self, node: nodes.Node, message: str, close: str | None = None) -> ExpressionSyntaxError:
        """Return the error for a node that cannot be compiled."""

    @abstractmethod
    def unknown_filter(self, node: nodes.Node, name: str) -> ExpressionSyntaxError:
        """Return the error for a filter that does not exist."""

    @abstractmethod
    def unknown_test(self, node: nodes.Node, name: str) -> ExpressionSyntaxError:
        """Return the error for a test that does not exist."""

    @abstractmethod
    def arguments(
        self, node: nodes.Call | nodes.Filter | nodes.Test, what: str, function: known.Builtin | None, *, given: int
    ) -> tuple[list[Run], dict[str, Run]]:
        """Compile the arguments of a call and check them against the function's signature."""

    @abstractmethod
    def check_call(self, node: nodes.Node, what: str, function: known.Builtin, count: int, names: list[str]) -> None:
        """Raise when a function does not take so many arguments, or none of these names."""

    def form(self, node: nodes.Filter) -> Run:
        """Compile one of `known.FORMS`."""
        if node.name in ("default", "d"):
            return self._default(node)
        if node.name == "map":
            return self._map(node)
        return self._select(node)

    def _default(self, node: nodes.Filter) -> Run:
        assert node.node is not None
        args, kwargs = self.arguments(node, "Filter 'default'", _default, given=1)
        named = dict(zip(("default_value", "boolean"), args, strict=False)) | kwargs
        instead = named.get("default_value", lambda _frame: "")
        boolean = named.get("boolean")
        value = self.tolerant(node.node)

        def run(frame: Frame) -> Any:
            try:
                found = value(frame)
            except Missing:
                return instead(frame)
            if boolean is not None and truth(boolean(frame)) and not truth(found):
                return instead(frame)
            return found

        return run

    def _map(self, node: nodes.Filter) -> Run:
        assert node.node is not None
        args, kwargs = self.arguments(node, "Filter 'map'", None, given=1)
        values = self.compile(node.node)
        each = self._map_attribute(node, kwargs) if not args else self._map_filter(node, args[1:], kwargs)

        def run(frame: Frame) -> list[Any]:
            source = elements(frame, values(frame))
            apply = each(frame)
            frame.items(len(source))
            return [apply(element) for element in source]

        return run

    def _map_attribute(self, node: nodes.Filter, kwargs: dict[str, Run]) -> Each:
        if "attribute" not in kwargs or kwargs.keys() - {"attribute", "default"}:
            raise self.fail(
                node, "Filter 'map' takes attribute=… (and default=…), or the name of a filter and its arguments."
            )
        attribute, default = kwargs["attribute"], kwargs.get("default")

        def each(frame: Frame) -> Callable[[Any], Any]:
            return attribute_reader(frame, attribute(frame), ABSENT if default is None else default(frame))

        return each

    def _map_filter(self, node: nodes.Filter, args: list[Run], kwargs: dict[str, Run]) -> Each:
        name = self._static_name(node, 0, "filter")
        function = known.FILTERS.get(name)
        if function is None:
            if name in known.FORMS:
                raise self.fail(
                    node, f"Filter {name!r} cannot be used inside of 'map'; use map(attribute=…, default=…)."
                )
            raise self.unknown_filter(node, name)
        self.check_call(node, f"Filter {name!r}", function, 1 + len(args), list(kwargs))

        def each(frame: Frame) -> Callable[[Any], Any]:
            given, named = [a(frame) for a in args], {k: v(frame) for k, v in kwargs.items()}

            def apply(element: Any) -> Any:
                frame.spend(2)
                return function(frame, element, *given, **named)

            return apply

        return each

    def _select(self, node: nodes.Filter) -> Run:
        assert node.node is not None
        args, kwargs = self.arguments(node, f"Filter {node.name!r}", None, given=1)
        by_attribute = node.name.endswith("attr")
        wanted = node.name.startswith("select")
        if by_attribute and not args:
            raise self.fail(node, f"Filter {node.name!r} needs the name of an attribute.")
        attribute = args.pop(0) if by_attribute else None
        passes = self._element_test(node, 1 if by_attribute else 0, args, kwargs)
        values = self.compile(node.node)

        def run(frame: Frame) -> list[Any]:
            source = elements(frame, values(frame))
            read = None if attribute is None else attribute_reader(frame, attribute(frame), _NOTHING)
            test = passes(frame)
            kept = [e for e in source if test(e if read is None else read(e)) is wanted]
            frame.items(len(kept))
            return kept

        return run

    def _element_test(self, node: nodes.Filter, position: int, args: list[Run], kwargs: dict[str, Run]) -> Each:
        if not args:
            if kwargs:
                raise self.fail(node, f"Filter {node.name!r} takes the name of a test before its arguments.")
            return lambda frame: lambda value: value is not _NOTHING and truth(value)
        name = self._static_name(node, position, "test")
        if name in known.MISSING_TESTS:
            expected = name == "defined"
            return lambda frame: lambda value: (value is not _NOTHING) is expected
        function = known.TESTS.get(name)
        if function is None:
            raise self.unknown_test(node, name)
        rest = args[1:]
        self.check_call(node, f"Test {name!r}", function, 1 + len(rest), list(kwargs))

        def each(frame: Frame) -> Callable[[Any], Any]:
            given, named = [a(frame) for a in rest], {k: v(frame) for k, v in kwargs.items()}

            def apply(value: Any) -> bool:
                frame.spend(2)
                return bool(function(frame, None if value is _NOTHING else value, *given, **named))

            return apply

        return each

    def _static_name(self, node: nodes.Filter, position: int, what: str) -> str:
        arg = node.args[position]
        if isinstance(arg, nodes.Const) and type(arg.value) is str:
            return arg.value
        raise self.fail(node, f"Filter {node.name!r} needs the name of a {what} as a string.")
