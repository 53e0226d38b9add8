"""What values are to the language: their kinds, truth, members, equality and order.

Only JSON's types have an inside: null, booleans, numbers, strings, lists (and tuples), objects (any `Mapping`). Exact types
are asked for, so a subclass of `str` (a secret, say) is as opaque as a data frame: it can be handed on whole, and that is all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from flowmason_ray.errors import nearest
from flowmason_ray.spec.language.budget import MAX_VALUE_DEPTH, Budget, Fault, Missing

NUMBERS = frozenset({int, float, bool})
_type = cast("Callable[[object], type[object]]", type)
"""`type`, to the type checker a known one."""

_SIMPLE = frozenset({int, float, bool, str, type(None)})


class LazyList:
    """A list whose elements are fetched when they are asked for: a list to the language, though not a `list`.

    No abstract base class: asking whether something is one has to be quick.
    """

    __slots__ = ()

    any_made = False
    """Whether there has been one in this process: as long as there was none, nobody need look for them in values."""

    def __init__(self) -> None:
        LazyList.any_made = True

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError

    def __getitem__(self, index: int | slice) -> Any:
        """Return an element, or for a slice a list or a lazy list."""
        raise NotImplementedError


_NAMES: Mapping[type[object], str] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
}


def kind(value: Any) -> str:
    """Return what messages call the value's type."""
    if name := _NAMES.get(_type(value)):
        return name
    if is_list(value):
        return "a list"
    if is_object(value):
        return "an object"
    return f"an opaque value ({type(value).__name__})"


def is_list(value: Any) -> bool:
    """Tell whether the value is a list to the language."""
    return type(value) is list or type(value) is tuple or isinstance(value, LazyList)


def eager(value: Any) -> Any:
    """Return a value whose lists are all there: `value` itself unless there is a `LazyList` in it."""
    return _eager(value, {}) if LazyList.any_made else value


def _eager(value: Any, seen: dict[int, Any]) -> Any:
    if type(value) in _SIMPLE:
        return value
    found = seen.get(id(value), ABSENT)
    if found is not ABSENT:  # the same part in many places is walked once, as `[x, x]` of `[x, x]` of … needs
        return found
    made: Any = value
    if isinstance(value, LazyList):
        made = [
            _eager(each, {}) for each in value
        ]  # its elements may be gone the next moment, and their ids given away
    elif type(value) is list:
        listed = cast("list[Any]", value)
        copied = [_eager(each, seen) for each in listed]
        made = copied if any(new is not old for new, old in zip(copied, listed, strict=True)) else listed
    elif type(value) is dict:
        members = cast("dict[Any, Any]", value)
        changed = {key: _eager(each, seen) for key, each in members.items()}
        made = changed if any(changed[key] is not members[key] for key in members) else members
    seen[id(cast("object", value))] = made
    return made


def is_object(value: Any) -> bool:
    """Tell whether the value is a JSON object to the language."""
    return type(value) is dict or (type(value) not in _SIMPLE and isinstance(value, Mapping))


def is_opaque(value: Any) -> bool:
    """Tell whether the language knows nothing of the value but that it is there."""
    return type(value) not in _SIMPLE and not is_list(value) and not is_object(value)


def truth(value: Any) -> bool:
    """Return the value's truth, as in Python; an opaque value is true unless it says that it is empty."""
    if type(value) in _SIMPLE or is_list(value):
        return bool(value)
    try:
        return len(value) > 0
    except TypeError:
        return True


def length(value: Any) -> int:
    """Return the number of characters, elements, members or rows."""
    if type(value) not in NUMBERS and value is not None:
        try:
            return len(value)
        except TypeError:
            pass
    raise Fault(f"The length of {kind(value)} was asked for; only strings, lists, objects and frames have one.")


# --- Members ---------------------------------------------------------------------------------------------------------


def member(value: Any, key: Any) -> Any:
    """Return `value[key]` for objects, lists and strings.

    Raises:
        Missing: there is no such member; the message names what there is.
    """
    if type(key) not in _SIMPLE:
        raise Fault(f"{kind(key).capitalize()} cannot be used as a key or an index.")
    if is_object(value):
        try:
            return value[key]
        except KeyError:
            raise _no_member(value, key) from None
    if is_list(value) or type(value) is str:
        if type(key) is int:
            try:
                return value[key]
            except IndexError:
                raise Missing(f"Index {key} is outside of {kind(value)} of length {len(value)}.") from None
        if type(key) is str:
            raise Missing(f"{key!r} was looked up in {kind(value)}, which only has indexes.")
        raise Fault(f"{kind(value).capitalize()} takes integers as indexes, not {kind(key)}.")
    raise Missing(f"{_shown(key)} was looked up in {kind(value)}, which has no members.")


def _shown(key: Any) -> str:
    text = repr(key) if type(key) is not int or key.bit_length() < 256 else "a huge integer"
    return text if len(text) <= 80 else text[:77] + "…"


def _no_member(value: Mapping[Any, Any], key: Any) -> Missing:
    def describe() -> tuple[str, dict[str, Any]]:
        names = [n for n in itertools.islice(value, 200) if type(n) is str and len(n) <= 100]
        if not names:
            return f"There is no {_shown(key)}: the object has no members.", {"available": []}
        shown = ", ".join(repr(n) for n in names[:12]) + (", …" if len(value) > 12 else "")
        message = f"There is no {_shown(key)}; available: {shown}."
        close = nearest(key, names) if type(key) is str and len(key) <= 100 else None
        if close is None:
            return message, {"available": names[:50]}
        return f"{message} Did you mean {close!r}?", {"available": names[:50], "nearest": close}

    return Missing(describe)


def cut(budget: Budget, value: Any, start: Any, stop: Any, step: Any) -> Any:
    """Return `value[start:stop:step]`."""
    if not is_list(value) and type(value) is not str:
        raise Fault(f"{kind(value).capitalize()} cannot be sliced; only strings and lists can.")
    for bound in (start, stop, step):
        if bound is not None and type(bound) is not int:
            raise Fault(f"The bounds of a slice are integers, not {kind(bound)}.")
    if step == 0:
        raise Fault("The step of a slice cannot be 0.")
    where = slice(start, stop, step)
    size = len(range(*where.indices(len(value))))
    if type(value) is str:
        budget.text(size)
        return value[where]
    budget.items(size)
    return list(value[where])


def elements(budget: Budget, value: Any) -> Sequence[Any]:
    """Return what iterating over the value gives: elements, keys or characters. Charges one step for each."""
    budget.spend(length(value) + 1)
    if is_list(value):
        return cast("Sequence[Any]", value)
    if type(value) is str or is_object(value):
        return list(value)
    raise Fault(f"A list was expected, not {kind(value)}.")


MAX_ATTRIBUTE_PARTS = 20
"""Members in a dotted attribute such as `user.name`."""

ABSENT: Any = object()
"""Stands for "nothing given"; never a value of an expression."""


def attribute_reader(budget: Budget, attribute: Any, default: Any = ABSENT) -> Callable[[Any], Any]:
    """Return what reads a dotted attribute such as `user.name` of one element after the other.

    Digits are indexes of lists. With a default, an element that lacks the attribute gives that, and the copy is charged.
    """
    if type(attribute) is not str and type(attribute) is not int:
        raise Fault(f"An attribute is named by a string, not {kind(attribute)}.")
    if type(attribute) is str and (len(attribute) > 1000 or attribute.count(".") >= MAX_ATTRIBUTE_PARTS):
        raise Fault(
            f"An attribute has at most {MAX_ATTRIBUTE_PARTS} parts and 1000 characters.", code="expression_budget"
        )
    parts: list[Any] = attribute.split(".") if type(attribute) is str else [attribute]
    indexes = [int(part) if type(part) is str and part.isdecimal() and len(part) < 10 else part for part in parts]

    def read(element: Any) -> Any:
        budget.spend(len(parts))
        found: Any = element
        for part, index in zip(parts, indexes, strict=True):
            if type(found) is dict and part in found:
                found = cast("Any", found[part])
            else:
                found = member(found, index if is_list(found) else part)
        return found

    def read_or(element: Any) -> Any:
        try:
            return read(element)
        except Missing:
            budget.spend(3)
            copies(budget, default, 1)
            return default

    return read if default is ABSENT else read_or


def copies(budget: Budget, value: Any, times: int) -> None:
    """Charge for putting the same value into `times` places.

    Each place is a reference and costs nothing here, but whoever writes the result down writes the value as many times:
    `[[[x] * 1000] * 1000] * 1000` is a billion elements.
    """
    if type(value) in NUMBERS or value is None or value is ABSENT or times <= 0:
        return
    stack = [value]
    while stack:
        value = stack.pop()
        budget.spend(1)
        if type(value) is str:
            budget.text(len(value) * times)
        elif is_list(value):
            budget.items(len(value) * times)
            stack.extend(value)
        elif is_object(value):
            budget.items(len(value) * times)
            stack.extend(value.values())


# --- Comparison ------------------------------------------------------------------------------------------------------


def equal(budget: Budget, a: Any, b: Any, depth: int = 0) -> bool:
    """Return whether two values are equal as JSON values (lists and tuples alike; opaque values only to themselves)."""
    ta, tb = _type(a), _type(b)
    if ta in _SIMPLE or tb in _SIMPLE:
        if ta is str and tb is str:
            budget.steps_left -= len(a) // 64 + 1 if len(a) == len(b) else 1
            budget.spend(0)
        return bool(a == b) if ta in _SIMPLE and tb in _SIMPLE else False
    if a is b:
        return True
    if depth > MAX_VALUE_DEPTH:
        raise Fault(f"Values nested deeper than {MAX_VALUE_DEPTH} levels cannot be compared.")
    if is_list(a) and is_list(b):
        if len(a) != len(b):
            return False
        for x, y in zip(a, b, strict=True):
            budget.spend(1)
            if x is not y and not equal(budget, x, y, depth + 1):
                return False
        return True
    if is_object(a) and is_object(b):
        if len(a) != len(b):
            return False
        for key, x in a.items():
            budget.spend(2)
            if key not in b:
                return False
            y = b[key]
            if x is not y and not equal(budget, x, y, depth + 1):
                return False
        return True
    return False


def less(budget: Budget, a: Any, b: Any, operator: str, depth: int = 0) -> bool:
    """Return `a <operator> b` for one of `<`, `<=`, `>`, `>=`."""
    ta, tb = _type(a), _type(b)
    if ta in NUMBERS and tb in NUMBERS:
        return _ORDER[operator](a, b)
    if ta is str and tb is str:
        budget.scan(min(len(a), len(b)))
        return _ORDER[operator](a, b)
    if is_list(a) and is_list(b):
        if depth > MAX_VALUE_DEPTH:
            raise Fault(f"Values nested deeper than {MAX_VALUE_DEPTH} levels cannot be compared.")
        for x, y in zip(a, b, strict=False):
            budget.spend(1)
            if x is not y and not equal(budget, x, y, depth + 1):
                return less(budget, x, y, operator, depth + 1)
        return _ORDER[operator](len(a), len(b))
    raise Fault(f"{kind(a).capitalize()} and {kind(b)} cannot be compared with {operator!r}.")


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def contains(budget: Budget, item: Any, container: Any) -> bool:
    """Return `item in container`."""
    if type(container) is str:
        if type(item) is not str:
            raise Fault(f"Only a string can be in a string, not {kind(item)}.")
        budget.scan(len(container))
        return item in container
    if is_object(container):
        if type(item) not in _SIMPLE:
            return False
        return item in container
    if is_list(container):
        for element in container:
            budget.spend(1)
            if element is item or equal(budget, element, item):
                return True
        return False
    raise Fault(f"Nothing can be in {kind(container)}; only strings, lists and objects hold something.")
