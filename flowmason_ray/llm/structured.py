"""Answers as data: read from the text, held against the schema, and repaired once by asking again.

Providers that can keep to a schema are sent it; others are told in words. Either way the answer is checked here, because what
providers guarantee differs: some drop keywords that they do not know, some promise nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from flowmason_ray.engine.models import assistant, user
from flowmason_ray.errors import InvalidPipeline, PermanentError
from flowmason_ray.llm.base import Reply, Request
from flowmason_ray.llm.errors import bad_response
from flowmason_ray.spec.input_schema import InputSchema, check_schema

MOST_PROBLEMS = 10
"""How many violations are told to the model: fixing the first ones often fixes the rest."""


@dataclass(frozen=True, slots=True)
class Read:
    """An answer, read: the data, or why it is none."""

    data: Any
    problem: str | None


class Expected:
    """What an answer is to fit."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """
        Raises:
            PermanentError: it is no JSON Schema (code `invalid_schema`).
        """
        try:
            problems = [each for each in check_schema(schema) if each.severity == "error"]
            self._schema = None if problems else InputSchema(schema)
        except InvalidPipeline as exc:
            problems = list(exc.problems)
        if problems:
            message = "The schema of the answer is no JSON Schema: " + "; ".join(each.message for each in problems)
            raise PermanentError(message, code="invalid_schema")

    def read(self, text: str) -> Read:
        """Return the data in an answer."""
        try:
            data = _parsed(text)
        except (ValueError, RecursionError) as exc:
            return Read(None, f"it is not JSON ({exc})")
        assert self._schema is not None
        violations = self._schema.violations(data, subject="answer")
        if violations:
            return Read(data, "; ".join(each.message for each in violations[:MOST_PROBLEMS]))
        return Read(data, None)


def _parsed(text: str) -> Any:
    """Return the JSON that an answer is, else that within a fence, else that between words.

    Raises:
        ValueError: there is none.
    """
    text = text.strip()
    bare = text.partition("\n")[2].rpartition("```")[0].strip() if text.startswith("```") else text
    for each in (text, bare):
        with suppress(ValueError):
            # Not strict: models, and llama.cpp's grammars, leave line ends in texts as they are.
            return json.loads(each, strict=False)
    return json.loads(_between(bare), strict=False)


def _between(text: str) -> str:
    """Return an object or a list without the words before and after it."""
    if text[:1] in ("{", "["):
        return text
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    if not starts:
        return text
    start = min(starts)
    end = text.rfind("}" if text[start] == "{" else "]")
    return text[start : end + 1] if end > start else text


def repair(request: Request, reply: Reply, problem: str) -> Request:
    """Return the request that asks for the same again, with what was wrong."""
    said = assistant(reply.text or "(nothing)")
    complaint = user(
        f"That does not fit the schema: {problem}. Answer again, with the corrected JSON and nothing else. "
        f"The schema: {json.dumps(request.schema)}"
    )
    key = f"{request.key}-repair" if request.key else ""
    return replace(request, messages=(*request.messages, said, complaint), key=key)


def unusable(provider: str, model: str, reply: Reply, problem: str) -> Exception:
    """Return the error for an answer that is not right after its repair either."""
    why = "it was cut off at 'max_tokens'" if reply.finish_reason == "length" else problem
    return bad_response(
        f"The answer of model {model!r} ({provider!r}) does not fit the schema: {why.rstrip('.')}.", reply.text
    )


def instruction(schema: Mapping[str, Any]) -> str:
    """Return in words what a provider is told that cannot be sent a schema."""
    return f"Answer with JSON that fits this JSON Schema, and with nothing else:\n{json.dumps(schema)}"


def with_instruction(request: Request) -> Request:
    """Return the request with its schema told in words."""
    assert request.schema is not None
    words = instruction(request.schema)
    return replace(request, system=f"{request.system}\n\n{words}" if request.system else words)
