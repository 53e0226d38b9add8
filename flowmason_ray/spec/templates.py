"""Templates: JSON values whose strings hold `{{ … }}`, parsed once and rendered as often as needed.

A string that is exactly one expression keeps the type of its value; in any other the values become text. What holds no
expression is not copied: it comes out as the same object that went in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from flowmason_ray.errors import ExpressionError
from flowmason_ray.spec.expressions import Expression, Reference, Scope, parse_expression
from flowmason_ray.spec.language.budget import Budget, Fault
from flowmason_ray.spec.language.rewriting import rewrite_expression, rewrite_references
from flowmason_ray.spec.language.scanning import spans
from flowmason_ray.spec.language.syntax import ExpressionSyntaxError
from flowmason_ray.spec.language.writing import Joinable, join_pieces, text_piece

__all__ = ["Joinable", "JsonValue", "Template", "parse_template", "rewrite_expression", "rewrite_references"]

JsonValue = Any
"""null, a boolean, a number, a string, a list or an object; rendered ones may also hold opaque values."""

Render = Callable[[Scope], Any]

MAX_DEPTH = 200
"""Levels of a templated value."""
MAX_RENDERED_TEXT = 16 * 1024 * 1024
"""Characters of a rendered string with text around its expressions."""


class Template:
    """A parsed value.

    `source` is what was parsed; `references` says for each value that is read where (a JSON pointer into the source) and
    what; `constant` tells that nothing is read or drawn, `draws` that a time or an identifier is. `render(scope)` returns the value or raises `ExpressionError`, which
    then names the pointer in its details.
    """

    __slots__ = ("constant", "draws", "references", "render", "source")

    def __init__(
        self,
        source: JsonValue,
        references: tuple[tuple[str, Reference], ...],
        *,
        constant: bool,
        render: Render,
        draws: bool = False,
    ) -> None:
        self.source = source
        self.references = references
        self.constant = constant
        self.draws = draws
        self.render = render

    def __reduce__(self) -> tuple[Any, ...]:
        return (parse_template, (self.source,))

    def __repr__(self) -> str:
        return f"Template({self.source!r})"


def parse_template(value: JsonValue, *, errors: list[ExpressionSyntaxError] | None = None) -> Template:
    """Parse a JSON value whose strings may hold `{{ … }}`.

    Args:
        value: any JSON value; it is kept, not copied.
        errors: when given, every error is added to it and the string it stands in is taken as plain text; so a check can
            report all of them.

    Raises:
        ExpressionSyntaxError: the first string that cannot be parsed; its `pointer` says where it stands.
    """
    parser = _Parser(errors)
    render = parser.parse(value, "", 0)
    constant = not parser.references and not parser.draws
    if render is None:
        return Template(value, (), constant=True, render=lambda _scope: value)
    return Template(value, tuple(parser.references), constant=constant, render=render, draws=parser.draws)


class _Parser:
    def __init__(self, errors: list[ExpressionSyntaxError] | None) -> None:
        self.references: list[tuple[str, Reference]] = []
        self.draws = False
        self._errors = errors

    def parse(self, value: JsonValue, pointer: str, depth: int) -> Render | None:
        """Return what renders the value, or None when it holds no expression."""
        if isinstance(value, str):
            if "{{" not in value:
                return None
            try:
                return self._text(value, pointer)
            except ExpressionSyntaxError as error:
                return self._refuse(error, pointer)
        if not isinstance(value, dict | list):
            return None
        if depth >= MAX_DEPTH:
            return self._refuse(ExpressionSyntaxError(f"The value is nested deeper than {MAX_DEPTH} levels."), pointer)
        if isinstance(value, list):
            return self._list(cast("list[Any]", value), pointer, depth)
        return self._object(cast("dict[str, Any]", value), pointer, depth)

    def _refuse(self, error: ExpressionSyntaxError, pointer: str) -> None:
        error.pointer = pointer
        if self._errors is None:
            raise error
        self._errors.append(error)

    def _list(self, value: list[Any], pointer: str, depth: int) -> Render | None:
        parts = [
            (index, render)
            for index, element in enumerate(value)
            if (render := self.parse(element, f"{pointer}/{index}", depth + 1)) is not None
        ]
        return _container(value, parts)

    def _object(self, value: dict[str, Any], pointer: str, depth: int) -> Render | None:
        parts: list[tuple[Any, Render]] = []
        for key, element in value.items():
            escaped = str(key).replace("~", "~0").replace("/", "~1")
            render = self.parse(element, f"{pointer}/{escaped}", depth + 1)
            if render is not None:
                parts.append((key, render))
        return _container(value, parts)

    def _text(self, text: str, pointer: str) -> Render:
        found = spans(text)
        if len(found) == 1 and found[0].start == 0 and found[0].end == len(text):
            return _located(self._note(parse_expression(text), pointer).evaluate, pointer)
        parts: list[str | Render] = []
        done = 0
        noted = len(self.references)
        try:
            for span in found:
                if span.start > done:
                    parts.append(text[done : span.start])
                parts.append(self._expression(text, span.start, span.end, pointer).evaluate)
                done = span.end
        except ExpressionSyntaxError:
            del self.references[noted:]
            raise
        if done < len(text):
            parts.append(text[done:])
        return _located(_joined(parts), pointer)

    def _expression(self, text: str, start: int, end: int, pointer: str) -> Expression:
        try:
            return self._note(parse_expression(text[start:end]), pointer, start)
        except ExpressionSyntaxError as error:
            error.column += start
            raise

    def _note(self, expression: Expression, pointer: str, offset: int = 0) -> Expression:
        self.references += [
            (pointer, replace(reference, column=reference.column + offset) if offset else reference)
            for reference in expression.references
        ]
        self.draws = self.draws or expression.draws
        return expression


def _container(value: Any, parts: list[tuple[Any, Render]]) -> Render | None:
    """Return what copies a list or an object and renders the parts that need it."""
    if not parts:
        return None

    def render(scope: Scope) -> Any:
        made = value.copy()
        for key, part in parts:
            made[key] = part(scope)
        return made

    return render


def _located(render: Render, pointer: str) -> Render:
    if not pointer:
        return render

    def located(scope: Scope) -> Any:
        try:
            return render(scope)
        except ExpressionError as error:
            error.details = {**(error.details or {}), "pointer": pointer}
            raise

    return located


def _joined(parts: list[str | Render]) -> Render:
    def render(scope: Scope) -> Any:
        pieces: list[Any] = []
        budget: Budget | None = None
        size = 0
        for part in parts:
            piece = part if isinstance(part, str) else part(scope)
            if type(piece) is not str:
                if budget is None:
                    budget = Budget()
                try:
                    piece = text_piece(budget, piece)
                except Fault as fault:
                    raise ExpressionError(fault.message, code=fault.code) from None
            size += len(piece) if type(piece) is str else 0
            pieces.append(piece)
        if size > MAX_RENDERED_TEXT:
            raise ExpressionError(
                f"The text would have {size} characters; a template makes at most {MAX_RENDERED_TEXT}.",
                code="expression_budget",
            )
        return join_pieces(pieces)

    return render
