"""Where a run's input comes from: `-i`, `-f`, `--sample`, and `--set` on top of any of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast

from flowmason_ray.errors import InvalidCall, InvalidInput, InvalidPipeline, Problem
from flowmason_ray.spec.parsing import parse_object
from flowmason_ray.spec.reading import read_source, source_of
from flowmason_ray.spec.source import Source

STDIN = "-"
"""The file name that means standard input."""


def read_input(
    *, text: str | None, file: str | None, sample: Mapping[str, Any] | None, sets: Sequence[str]
) -> dict[str, Any]:
    """Return the input of a run.

    Args:
        text: What `-i` says: a JSON object.
        file: What `-f` says: a file that holds one; `-` for stdin.
        sample: The pipeline's sample input, when `--sample` asks for it.
        sets: What each `--set` says: `path.to.key=value`.

    Raises:
        InvalidCall: more than one of the three is given, or a `--set` cannot be understood.
        InvalidInput: the input cannot be read, or is not a JSON object.
    """
    given = [name for name, value in (("-i", text), ("-f", file), ("--sample", sample)) if value is not None]
    if len(given) > 1:
        raise InvalidCall(
            f"{' and '.join(given)} each give the whole input; use one of them (--set changes parts of it)."
        )
    data: dict[str, Any] = {}
    if text is not None:
        data = _parsed(source_of(text, file="-i"))
    elif file is not None:
        data = _parsed(_source(file))
    elif sample is not None:
        data = deepcopy(dict(sample))
    for each in sets:
        _set(data, each)
    return data


def _source(file: str) -> Source:
    try:
        if file == STDIN:
            return source_of(sys.stdin.buffer.read(), file="stdin")
        return read_source(Path(file))
    except InvalidPipeline as exc:
        _refuse(exc)


def _parsed(source: Source) -> dict[str, Any]:
    try:
        return parse_object(source)
    except InvalidPipeline as exc:
        _refuse(exc)


def _refuse(error: InvalidPipeline) -> NoReturn:
    """Say the reader's problems in words about an input instead of a pipeline file."""
    raise InvalidInput([_reworded(problem) for problem in error.problems]) from None


def _reworded(problem: Problem) -> Problem:
    if problem.code == "not_an_object":
        kind = problem.message.rpartition("this one holds ")[2].rstrip(".")
        return replace(problem, message=f"The input is a JSON object; found {kind}.")
    if problem.code == "is_a_directory":
        return replace(problem, message=f"{problem.file!r} is a directory; expected a file that holds a JSON object.")
    return problem


def _set(data: dict[str, Any], assignment: str) -> None:
    """Change one value: `a.b=1`, `names.0="x"`. What is not JSON is taken as text."""
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InvalidCall(f"--set takes 'key=value' or 'path.to.key=value'; found {assignment!r}.")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        value = text
    place: Any = data
    for n, key in enumerate(keys[:-1]):
        place = _inside(place, key, assignment, ".".join(keys[: n + 1]))
    _put(place, keys[-1], value, assignment)


def _inside(place: Any, key: str, assignment: str, so_far: str) -> Any:
    if isinstance(place, list):
        return cast("list[Any]", place)[_index(cast("list[Any]", place), key, assignment)]
    inner: Any = cast("dict[str, Any]", place).setdefault(key, {})
    if not isinstance(inner, (dict, list)):
        raise InvalidCall(f"--set {assignment!r}: {so_far!r} is {json.dumps(inner)}, which has no parts.")
    return inner  # pyright: ignore[reportUnknownVariableType]


def _put(place: Any, key: str, value: Any, assignment: str) -> None:
    if isinstance(place, list):
        cast("list[Any]", place)[_index(cast("list[Any]", place), key, assignment)] = value
    elif isinstance(place, dict):
        place[key] = value
    else:
        raise InvalidCall(f"--set {assignment!r}: {json.dumps(place)} has no parts.")


def _index(items: list[Any], key: str, assignment: str) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        raise InvalidCall(f"--set {assignment!r}: {key!r} is no position in a list of {len(items)}; they count from 0.")
    return int(key)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(text)
