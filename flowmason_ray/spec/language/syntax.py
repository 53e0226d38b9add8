"""From text to Jinja's syntax tree: Jinja's lexer and parser, with our columns, our limits and stage ids with dashes.

Jinja counts lines; an expression is one line. So the tokens that its parser gets carry the *column* where Jinja expects the
line, and so do the nodes of the tree and the parser's errors. Also between lexer and parser, `stages.my-stage.x` becomes
one name (Jinja would subtract), and string literals are decoded without warnings.

Nothing of Jinja runs an expression: there is no template, no environment to reach, no undefined value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.lexer import Token, TokenStream, operators
from jinja2.parser import Parser

from flowmason_ray.errors import FlowMasonError

MAX_SOURCE = 64 * 1024
"""Characters of one expression."""
MAX_BRACKETS = 24
"""Open brackets at any place; each costs Jinja's parser 14 Python frames of the 1000 there are."""
MAX_DEPTH = 100
"""Levels of the syntax tree; each costs the evaluator up to 3 Python frames."""

_DASHED_ROOTS = frozenset({"stages", "upstream", "vars"})
_DASHED = re.compile(r"[A-Za-z0-9_]+(?:-+[A-Za-z0-9_]+)*")
_ESCAPE = re.compile(r"\\(?:(\n)|([0-7]{1,3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "\\": "\\", "'": "'", '"': '"'}

# An end mark that no source holds, so that the lexer never leaves the expression.
_environment = Environment(variable_end_string="\x00\x00", autoescape=False)


class ExpressionSyntaxError(FlowMasonError):
    """A text that is no expression, or one that names a filter, function or test that does not exist.

    `column` counts from 1 in `expression`; `nearest` is what a misspelt name was probably meant to be; `pointer` is where
    in a templated JSON value the text stands (RFC 6901; "" is the value itself).
    """

    code = "invalid_expression"
    exit_code = 2

    def __init__(self, message: str, *, column: int = 1, nearest: str | None = None, expression: str = "") -> None:
        self.column, self.nearest, self.expression = column, nearest, expression
        self.pointer = ""
        super().__init__(message)

    def to_json(self) -> dict[str, Any]:
        """Return the error as one JSON document."""
        facts = {"column": self.column, "nearest": self.nearest, "pointer": self.pointer or None}
        return {**super().to_json(), **{k: v for k, v in facts.items() if v is not None}}


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A token with its place: `source[start:end]`. `kind` is Jinja's (`name`, `string`, `operator`, …) or `dashed`."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """Return the offset after the last character."""
        return self.start + len(self.text)


def lexemes(source: str) -> list[Lexeme]:
    """Split an expression into tokens, without white space; an id with dashes after `stages.` is one token.

    Raises:
        ExpressionSyntaxError: a character or a bracket that cannot stand where it stands.
    """
    if len(source) > MAX_SOURCE:
        raise ExpressionSyntaxError(
            f"An expression of more than {MAX_SOURCE} characters is too long.", expression=source
        )
    found: list[Lexeme] = []
    position = depth = 0
    text = source.replace("\r\n", " \n").replace("\r", "\n")
    text = text.rstrip()  # the lexer drops the last line end, which would not be found in its place
    lexer = _environment.lexer.tokeniter(text, None, None, "variable")
    try:
        for _, kind, value in lexer:
            if kind != "whitespace":
                found.append(Lexeme(kind, value, position))
            if kind == "operator" and value in "([{":
                depth += 1
                if depth > MAX_BRACKETS:
                    raise ExpressionSyntaxError(
                        f"Brackets are nested deeper than {MAX_BRACKETS} levels.",
                        column=position + 1,
                        expression=source,
                    )
            elif kind == "operator" and value in ")]}":
                depth -= 1
            position += len(value)
    except TemplateSyntaxError as exc:
        message = re.sub(r" at \d+$", "", str(exc.message))
        if source[position : position + 1] in ("'", '"'):
            message = "a string that is not closed"
        raise ExpressionSyntaxError(
            f"{_sentence(message)} At column {position + 1}.", column=position + 1, expression=source
        ) from None
    return _join_dashes(text, found)


def _join_dashes(source: str, found: list[Lexeme]) -> list[Lexeme]:
    """Make one token of `my-stage` in `stages.my-stage`, `upstream.my-stage` and `vars.my-var`."""
    joined: list[Lexeme] = []
    skip_to = 0
    for index, lexeme in enumerate(found):
        if lexeme.start < skip_to:
            continue
        if (
            index >= 2
            and lexeme.kind in ("name", "integer")
            and found[index - 1].text == "."
            and found[index - 2].kind == "name"
            and found[index - 2].text in _DASHED_ROOTS
            and (index < 3 or found[index - 3].text != ".")
        ):
            run = _DASHED.match(source, lexeme.start)
            if run and run.end() > lexeme.end and any(x.end == run.end() for x in found[index : index + 64]):
                joined.append(Lexeme("dashed", run[0], lexeme.start))
                skip_to = run.end()
                continue
        joined.append(lexeme)
    return joined


def parse_tree(source: str) -> nodes.Expr:
    """Parse an expression (without its braces) into Jinja's tree, whose `lineno`s are columns.

    Raises:
        ExpressionSyntaxError: it is no expression, is too long, or is nested too deeply.
    """
    tokens = lexemes(source)
    if not tokens:
        raise ExpressionSyntaxError("The expression is empty.", expression=source)
    parser = Parser(_environment, "", state="variable")
    try:
        parser.stream = TokenStream(_tokens(source, tokens), None, None)
        tree = parser.parse_expression()
        if parser.stream.current.type != "variable_end":
            token = parser.stream.current
            parser.fail(f"{str(token.value)[:40]!r} was not expected here", token.lineno)
    except TemplateSyntaxError as exc:
        column = exc.lineno
        message = _sentence(str(exc.message))
        raise ExpressionSyntaxError(f"{message} At column {column}.", column=column, expression=source) from None
    except RecursionError:
        raise ExpressionSyntaxError("The expression is nested too deeply.", expression=source) from None
    _check_depth(source, tree)
    return tree


def _sentence(message: str) -> str:
    message = re.sub(r"'?(?:end of print statement|end of template)'?", "the end", message)
    message = message[:1].upper() + message[1:]
    return message if message.endswith(".") else message + "."


def _tokens(source: str, found: list[Lexeme]) -> Iterator[Token]:
    column = 1
    for lexeme in found:
        column, text = lexeme.start + 1, lexeme.text
        try:
            if lexeme.kind == "operator":
                yield Token(column, operators[text], text)
            elif lexeme.kind == "string":
                yield Token(column, "string", unescape(text[1:-1]))
            elif lexeme.kind == "integer":
                yield Token(column, "integer", int(text.replace("_", ""), 0))  # pyright: ignore[reportArgumentType]  # Jinja's own lexer does so
            elif lexeme.kind == "float":
                yield Token(column, "float", float(text.replace("_", "")))  # pyright: ignore[reportArgumentType]  # as above
            elif lexeme.kind == "dashed" or text.isidentifier():
                yield Token(column, "name", text)
            else:
                raise TemplateSyntaxError(f"{text!r} is no name", column)
        except ValueError as exc:
            raise TemplateSyntaxError(f"{text[:40]!r} cannot be read: {exc}", column) from None
    # Jinja's stream ends by itself; this token keeps the column for "unexpected end".
    yield Token(len(source.rstrip()) + 1, "variable_end", "")


def unescape(text: str) -> str:
    """Decode the escapes of a string literal as Python does; an unknown one stays as it is written."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(_unescaped, text)


def _unescaped(found: re.Match[str]) -> str:
    newline, octal, *hexadecimal, other = found.groups()
    if newline:
        return ""
    if octal:
        return chr(int(octal, 8))
    if other is not None:
        return _ESCAPES.get(other, found[0])
    code = int(next(h for h in hexadecimal if h), 16)
    if code > 0x10FFFF:
        raise ValueError("there is no such character")
    return chr(code)


def _check_depth(source: str, tree: nodes.Node) -> None:
    stack: list[tuple[nodes.Node, int]] = [(tree, 1)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise ExpressionSyntaxError(
                f"The expression is nested deeper than {MAX_DEPTH} levels.", column=node.lineno, expression=source
            )
        stack.extend((child, depth + 1) for child in node.iter_child_nodes())
