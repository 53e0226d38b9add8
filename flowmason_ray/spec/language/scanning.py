"""Where the `{{ … }}` of a text are.

Everything outside of them is plain text, `{% … %}` and `{# … #}` too: prompts hold such things. Inside, a `}}` ends the
expression unless it stands in a string or closes brackets that the expression opened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flowmason_ray.spec.language.syntax import ExpressionSyntaxError

_INNER = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|}}|[\[({]|[\])}]|[^'"\[\](){}]+|.""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Span:
    """One expression in a text: `text[start:end]` with its braces, `text[inner_start:inner_end]` without."""

    start: int
    end: int

    @property
    def inner_start(self) -> int:
        """Return the offset after the opening braces."""
        return self.start + 2

    @property
    def inner_end(self) -> int:
        """Return the offset of the closing braces."""
        return self.end - 2


def spans(text: str) -> list[Span]:
    """Return every `{{ … }}` of the text, from left to right.

    Raises:
        ExpressionSyntaxError: one that is not closed.
    """
    found: list[Span] = []
    position = text.find("{{")
    while position >= 0:
        end = _end(text, position + 2)
        if end is None:
            raise ExpressionSyntaxError(
                "'{{' is not closed by '}}'. To write braces that are text, put them into a string: {{ '{{' }}.",
                column=position + 1,
                expression=text,
            )
        found.append(Span(position, end))
        position = text.find("{{", end)
    return found


def _end(text: str, position: int) -> int | None:
    depth = 0
    while position < len(text):
        token = _INNER.match(text, position)
        if token is None:
            return None
        mark = token[0]
        if mark == "}}" and depth == 0:
            return token.end()
        if mark == "}}":
            depth, position = depth - 1, position + 1
            continue
        if mark in ("(", "[", "{"):
            depth += 1
        elif mark in (")", "]", "}"):
            depth = max(0, depth - 1)
        position = token.end()
    return None
