"""Expressions: parse once, know what they read, evaluate safely as often as needed.

The language is that of Jinja's expressions (`docs/guide/expressions.md`); the evaluator is our own, in `spec.language`. It is
total: an evaluation ends with a value or with an `ExpressionError`, after a bounded number of steps, whatever the values.
Templates, `{{ … }}` inside of JSON values, are `spec.templates`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol

from flowmason_ray.errors import ExpressionError, FlowMasonError
from flowmason_ray.spec.language.budget import Fault, Frame, Missing
from flowmason_ray.spec.language.compiler import Compiler
from flowmason_ray.spec.language.paths import quick_reader, reader
from flowmason_ray.spec.language.references import Aspect, Key, Path, Reference, StageView, make_path, path_of
from flowmason_ray.spec.language.scanning import spans
from flowmason_ray.spec.language.syntax import ExpressionSyntaxError, parse_tree
from flowmason_ray.spec.language.values import LazyList, eager

__all__ = [
    "Aspect",
    "DictScope",
    "Draw",
    "Expression",
    "ExpressionSyntaxError",
    "LazyList",
    "Reference",
    "Scope",
    "StageView",
    "eager",
    "parse_expression",
]

Draw = Literal["now", "today", "uuid"]


class Scope(Protocol):
    """Where an expression reads."""

    def lookup(self, root: str) -> Any:
        """Return the value of a root name.

        For `stages` that is a mapping from stage ids to `StageView`s, which may be lazy.

        Raises:
            KeyError: it is not defined here.
        """
        ...

    def draw(self, kind: Draw) -> str:
        """Return the recorded time (ISO 8601), day or random UUID."""
        ...


class DictScope:
    """A scope over a plain dict, for tests, components and tools."""

    __slots__ = ("_draw", "_values")

    def __init__(self, values: Mapping[str, Any], draw: Callable[[Draw], str] | None = None) -> None:
        self._values = values
        self._draw = draw

    def lookup(self, root: str) -> Any:
        """Return the value of a root name; raises KeyError when it is not defined."""
        return self._values[root]

    def draw(self, kind: Draw) -> str:
        """Return what the given function draws; without one, drawing is an error."""
        if self._draw is None:
            raise ExpressionError(f"'{kind}()' cannot be used here: nothing records its value.")
        return self._draw(kind)


class Expression:
    """A parsed expression.

    `source` is what was parsed; `references` everything it reads, from left to right; `constant` tells that it reads and
    draws nothing, so that its value is always the same; `draws` that it asks for a time or an identifier. `evaluate(scope)` returns its value or raises `ExpressionError`.
    """

    __slots__ = ("constant", "draws", "evaluate", "references", "run", "source")

    def __init__(
        self,
        source: str,
        references: tuple[Reference, ...],
        *,
        constant: bool,
        run: Callable[[Frame], Any],
        path: Path | None,
        draws: bool = False,
    ) -> None:
        self.source = source
        self.references = references
        self.constant = constant
        self.draws = draws
        self.run = run
        """Evaluates in a frame that the caller made, whose budget can be read afterwards; raises `Fault`."""
        self.evaluate: Callable[[Scope], Any] = _of_path(source, path) if path is not None else _evaluator(source, run)

    def __reduce__(self) -> tuple[Any, ...]:
        return (parse_expression, (self.source,))

    def __repr__(self) -> str:
        return f"Expression({self.source!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and other.source == self.source

    def __hash__(self) -> int:
        return hash(self.source)


def _of_path(source: str, path: Path) -> Callable[[Scope], Any]:
    read = quick_reader(path)

    def evaluate(scope: Scope) -> Any:
        try:
            return read(scope)
        except Exception as exc:
            raise _error(source, exc) from exc.__cause__

    return evaluate


def _evaluator(source: str, run: Callable[[Frame], Any]) -> Callable[[Scope], Any]:
    def evaluate(scope: Scope) -> Any:
        try:
            return run(Frame(scope))
        except Exception as exc:  # values are foreign objects: their mappings may raise anything
            raise _error(source, exc) from exc.__cause__

    return evaluate


def _error(source: str, exc: Exception) -> Exception:
    """Return what `evaluate` raises for what went wrong inside."""
    if isinstance(exc, FlowMasonError):
        return exc
    shown = source if len(source) <= 200 else source[:199] + "…"
    details: dict[str, Any] = {"expression": shown}
    if isinstance(exc, Missing):
        exc.settle()
    if isinstance(exc, Fault):
        details |= exc.details or {}
        return ExpressionError(f"{exc.message} In the expression {shown!r}.", code=exc.code, details=details)
    if isinstance(exc, RecursionError):
        return ExpressionError(f"A value is nested too deeply. In the expression {shown!r}.", details=details)
    return ExpressionError(
        f"The expression {shown!r} met a value that failed: {type(exc).__name__}: {str(exc)[:200]}.", details=details
    )


# Most expressions are one path of plain names. They are recognised without Jinja, which is ten times slower; that both
# ways agree is a property test. Names that Jinja reads as words of the language are left to it.
_PLAIN_PATH = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)((?:\.[A-Za-z_][A-Za-z0-9_]*)*)\s*")
_DASHED_PATH = re.compile(
    r"\s*(stages|upstream|vars)((?:\.[A-Za-z_][A-Za-z0-9_]*(?:-+[A-Za-z0-9_]+)*)(?:\.[A-Za-z_][A-Za-z0-9_]*)*)\s*"
)
_WORDS = frozenset({"true", "false", "none", "True", "False", "None", "not", "and", "or", "in", "is", "if", "else"})


def parse_expression(source: str) -> Expression:
    """Parse an expression, written plainly (`a > 1`) or in braces (`{{ a > 1 }}`).

    Raises:
        ExpressionSyntaxError: it is none; `column` says where, `nearest` what a misspelt name was meant to be.
    """
    inner, offset = _without_braces(source)
    try:
        return _parse(source, inner, offset)
    except ExpressionSyntaxError as error:
        error.column += offset
        error.expression = source
        raise


def _parse(source: str, inner: str, offset: int) -> Expression:
    plain = _plain_path(inner)
    if plain is not None:
        return _path_expression(source, plain, offset)
    tree = parse_tree(inner)
    compiler = Compiler(inner)
    run = compiler.compile(tree)
    path = path_of(tree, inner)
    references = tuple(
        replace(r, column=r.column + offset) for r in sorted(compiler.references, key=lambda r: r.column)
    )
    return Expression(
        source,
        references,
        constant=not references and not compiler.draws,
        run=run,
        path=path if path is not None and not path.rest else None,
        draws=compiler.draws,
    )


def _path_expression(source: str, path: Path, offset: int) -> Expression:
    reference = Reference(root=path.root, path=path.keys, aspect=path.aspect, column=path.column + offset)
    return Expression(source, (reference,), constant=False, run=reader(path), path=path)


def _plain_path(inner: str) -> Path | None:
    found = _PLAIN_PATH.fullmatch(inner) or _DASHED_PATH.fullmatch(inner)
    if found is None or found[1] in _WORDS or len(inner) > 500:
        return None
    keys: list[Key] = [*found[2].split(".")[1:]]
    return make_path(found[1], keys, (), found.start(1) + 1, inner)


def _without_braces(source: str) -> tuple[str, int]:
    """Return what is inside of `{{ … }}`, when that is the whole source, and where it starts."""
    start = len(source) - len(source.lstrip())
    if not source.startswith("{{", start):
        return source, 0
    found = spans(source)
    if len(found) == 1 and not source[found[0].end :].strip():
        return source[found[0].inner_start : found[0].inner_end], found[0].inner_start
    raise ExpressionSyntaxError(
        "An expression is one `{{ … }}` or none; this goes on after it. Write it as one: {{ a > 1 }}.",
        column=found[0].end + 1,
        expression=source,
    )
