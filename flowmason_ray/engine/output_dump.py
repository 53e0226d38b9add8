"""How a component's output becomes a value: JSON, except for frames, which stay the objects that they are.

pydantic's JSON mode serialises again whatever its `fallback` returns, so `fallback=identity` ends in "circular reference".
Instead each foreign object is swapped for a token that nobody can guess, and put back afterwards. Outputs without such
objects, the usual ones, pay nothing for it.
"""

from __future__ import annotations

from secrets import token_hex
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel


def dump_output(output: BaseModel, keep: Callable[[object], bool]) -> dict[str, Any]:
    """Return `output` in JSON mode, with every object for which `keep` holds left in place, untouched.

    Args:
        output: The model that a component returned.
        keep: Tells whether an object that is not JSON may travel as it is (frames).

    Raises:
        pydantic_core.PydanticSerializationError: the output holds something that is neither JSON nor kept.
    """
    kept: dict[str, object] = {}

    def swap(value: object) -> str:
        if not keep(value):
            raise TypeError(f"a value of type {type(value).__name__!r} cannot be part of an output")
        token = f"kept:{token_hex(16)}"
        kept[token] = value
        return token

    dumped = type(output).__pydantic_serializer__.to_python(output, mode="json", fallback=swap)
    return cast("dict[str, Any]", _put_back(dumped, kept) if kept else dumped)


def _put_back(value: Any, kept: dict[str, object]) -> Any:
    if isinstance(value, str):
        return kept.get(value, value)
    if isinstance(value, dict):
        return {k: _put_back(v, kept) for k, v in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_put_back(v, kept) for v in cast("list[Any]", value)]
    return value
