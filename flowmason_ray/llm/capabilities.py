"""What a server that speaks OpenAI's API turns out to lack, found by asking and remembered for each model.

A request that is refused (400 and the like) is asked again without the part that the refusal names; when it names none, without one optional part
after the other. What was left out is remembered only when the request is then answered, so a request that is wrong by itself teaches nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Any, Literal

Feature = Literal[
    "json_schema",
    "json_object",
    "tool_choice",
    "stream_options",
    "stream",
    "max_completion_tokens",
    "max_tokens",
    "temperature",
    "top_p",
    "seed",
    "stop",
]

_NAMES: Mapping[Feature, tuple[str, ...]] = {
    "json_schema": ("json_schema", "response_format", "structured output", "guided"),
    "tool_choice": ("tool_choice",),
    "stream_options": ("stream_options", "include_usage"),
    "max_completion_tokens": ("max_completion_tokens",),
    "max_tokens": ("max_tokens",),
    "temperature": ("temperature",),
    "top_p": ("top_p",),
    "seed": ("seed",),
    "stop": ("'stop'", '"stop"', "stop:", "stop sequences"),
}
"""Under what names a refusal may speak of a feature."""
_GUESSES: tuple[Feature, ...] = ("json_schema", "stream_options", "tool_choice", "max_completion_tokens")
"""What is left out when a refusal names nothing, the likeliest first."""
_UNSAID = frozenset[Feature](
    {"json_schema", "json_object", "stream_options", "stream", "max_completion_tokens", "max_tokens"}
)
"""What is made up for in another way, so that nobody needs to know."""


class Capabilities:
    """What the models of one server lack."""

    def __init__(self, *, own: bool) -> None:
        """
        Args:
            own: Whether it is OpenAI itself, whose newer models take `max_completion_tokens` only. Others know `max_tokens`.
        """
        self._start: frozenset[Feature] = frozenset() if own else frozenset({"max_completion_tokens"})
        self._lacking: dict[str, set[Feature]] = {}

    def lacking(self, model: str) -> set[Feature]:
        """Return what is known to be lacking."""
        return set(self._lacking.get(model, self._start))

    def learn(self, model: str, features: Collection[Feature]) -> list[Feature]:
        """Remember what was left out of a request that was answered; return what people should be told."""
        known = self._lacking.setdefault(model, set(self._start))
        new: list[Feature] = [each for each in features if each not in known]
        known.update(features)
        return [each for each in new if each not in _UNSAID]

    def suspect(self, message: str, body: Mapping[str, Any], without: Set[Feature]) -> Feature | None:
        """Return which part of a refused request to leave out; None: it is wrong by itself."""
        lower = message.lower()
        if (
            "json_schema" in without
            and "json_object" not in without
            and "response_format" in body
            and _names("json_schema", lower)
        ):
            return "json_object"
        for feature in _NAMES:
            if feature not in without and _is_used(feature, body) and _names(feature, lower):
                return feature
        if any(_names(feature, lower) for feature in _NAMES):
            return None
        if (
            "unsupported" not in lower
            and "not support" not in lower
            and "extra" not in lower
            and "unknown" not in lower
        ):
            return None
        return next((each for each in _GUESSES if each not in without and _is_used(each, body)), None)


def _names(feature: Feature, message: str) -> bool:
    return any(name in message for name in _NAMES[feature])


def _is_used(feature: Feature, body: Mapping[str, Any]) -> bool:
    if feature == "json_schema":
        format: Any = body.get("response_format") or {}
        return format.get("type") == "json_schema"
    return feature in body
