"""Secrets: a text that does not show itself, and the masking of everything that leaves a run.

A template hands a secret to a component as a `Secret`; the component's Input makes a plain text of it, because that is what a
password is needed as. So that it comes no further, whatever is recorded, logged or reported is masked: any text that
contains one of the run's secrets says `***` in its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from flowmason_ray.errors import Failure

MASK = "***"
SHORTEST = 4
"""Secrets of fewer characters are not masked: they would blot out half of every text. None worth the name is shorter."""


class Secret(str):
    """A text that prints as `***`. Opaque to expressions: it can be passed on, and joined to text, which makes a secret."""

    __slots__ = ()

    def reveal(self) -> str:
        """Return the secret itself."""
        return str.__str__(self)

    def join_text(self, parts: list[Any]) -> Secret:
        """Return the text that `parts` make, as a secret (`spec.templates.Joinable`)."""
        return Secret("".join(part.reveal() if isinstance(part, Secret) else part for part in parts))

    def __repr__(self) -> str:
        return MASK

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK


class Masking:
    """Replaces secrets in whatever leaves a run. Without secrets it returns what it is given."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        plain = {each.reveal() if isinstance(each, Secret) else each for each in secrets}
        # The longest first: one secret may contain another.
        self._texts = sorted((each for each in plain if len(each) >= SHORTEST), key=len, reverse=True)
        self._encoded = [(orjson.dumps(each)[1:-1], MASK.encode()) for each in self._texts]
        self.needed = bool(self._texts)

    def text(self, text: str) -> str:
        """Return a text with every secret in it masked."""
        for each in self._texts:
            if each in text:
                text = text.replace(each, MASK)
        return text

    def begun(self, text: str) -> int:
        """Return how many characters at the end of a masked text may be the beginning of a secret."""
        longest = 0
        for each in self._texts:
            for length in range(min(len(each) - 1, len(text)), longest, -1):
                if text.endswith(each[:length]):
                    longest = length
                    break
        return longest

    def encoded(self, text: bytes) -> bytes:
        """Return JSON text with every secret in it masked."""
        for each, mask in self._encoded:
            if each in text:
                text = text.replace(each, mask)
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON value with every secret in its texts and keys masked."""
        if not self.needed:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(key): self.value(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
        if isinstance(value, list):
            return [self.value(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
        return value

    def failure(self, failure: Failure) -> Failure:
        """Return a failure with every secret in it masked."""
        if not self.needed:
            return failure
        traceback = None if failure.traceback is None else self.text(failure.traceback)
        return replace(
            failure, message=self.text(failure.message), traceback=traceback, details=self.value(failure.details)
        )
