"""Filters on lists and objects. Each takes the budget, the value, then its arguments, and charges before it works."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

from flowmason_ray.spec.language.arithmetic import add, bounded_int
from flowmason_ray.spec.language.budget import MAX_VALUE_DEPTH, Budget, Fault, Missing
from flowmason_ray.spec.language.text_filters import number_of
from flowmason_ray.spec.language.values import (
    NUMBERS,
    attribute_reader,
    copies,
    elements,
    equal,
    is_list,
    is_object,
    kind,
    length,
    less,
    member,
    truth,
)
from flowmason_ray.spec.language.writing import to_json


def _list_of(value: Any, what: str) -> Sequence[Any]:
    if not is_list(value):
        raise Fault(f"{what!r} works on a list, not on {kind(value)}.")
    return cast("Sequence[Any]", value)


def _object_of(value: Any, what: str) -> Mapping[Any, Any]:
    if not is_object(value):
        raise Fault(f"{what!r} works on an object, not on {kind(value)}.")
    return cast("Mapping[Any, Any]", value)


def count(budget: Budget, value: Any) -> int:
    """The number of characters, elements, members or rows."""
    return length(value)


def first(budget: Budget, value: Any) -> Any:
    """The first element or character; missing when there is none."""
    return _end(budget, value, 0, "first")


def last(budget: Budget, value: Any) -> Any:
    """The last element or character; missing when there is none."""
    return _end(budget, value, -1, "last")


def _end(budget: Budget, value: Any, index: int, what: str) -> Any:
    if type(value) is not str:
        _list_of(value, what)
    if not value:
        raise Missing(f"{what!r} found nothing: {kind(value)} is empty.")
    return value[index]


def as_list(budget: Budget, value: Any) -> list[Any]:
    """A list of the elements, keys or characters."""
    budget.items(length(value))
    return list(elements(budget, value))


def sort(
    budget: Budget, value: Any, reverse: Any = False, attribute: Any = None, case_sensitive: Any = True
) -> list[Any]:
    """The elements in order (of their `attribute`); all of them must be numbers, or strings, or lists."""
    values = elements(budget, value)
    budget.items(len(values))
    keys = _keys(budget, values, attribute)
    if not truth(case_sensitive):
        keys = [_folded(budget, k) for k in keys]
    order = _order(budget, keys, truth(reverse))
    return [values[i] for i in order]


def _keys(budget: Budget, values: Sequence[Any], attribute: Any) -> list[Any]:
    if attribute is None:
        return list(values)
    read = attribute_reader(budget, attribute)
    return [read(value) for value in values]


def _folded(budget: Budget, key: Any) -> Any:
    if type(key) is not str:
        return key
    budget.text(len(key))
    return key.lower()


def _order(budget: Budget, keys: list[Any], reverse: bool) -> list[int]:
    """Return the indexes of the keys in order; sorting is stable in both directions."""
    rounds = max(1, len(keys).bit_length())
    kinds: set[type[Any]] = {type(k) for k in keys}
    if kinds <= NUMBERS:
        budget.spend(len(keys) * rounds // 32)
        return sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse)
    if kinds == {str}:
        # Comparing strings costs up to their common prefix; that is not known, so their whole length is charged.
        budget.spend(len(keys) * rounds // 16 + rounds * sum(map(len, keys)) // 256)
        return sorted(range(len(keys)), key=keys.__getitem__, reverse=reverse)

    def compare(i: int, j: int) -> int:
        budget.spend(4)
        if less(budget, keys[i], keys[j], "<"):
            return -1
        return 1 if less(budget, keys[j], keys[i], "<") else 0

    return sorted(range(len(keys)), key=functools.cmp_to_key(compare), reverse=reverse)


def dict_sort(budget: Budget, value: Any, by: Any = "key", reverse: Any = False) -> list[Any]:
    """The members of an object as [key, value] pairs, in order of their keys (or `by='value'`)."""
    members = items(budget, _object_of(value, "dictsort"))
    if by not in ("key", "value"):
        raise Fault(f"'dictsort' sorts by 'key' or by 'value', not by {by!r}.")
    order = _order(budget, [m[0 if by == "key" else 1] for m in members], truth(reverse))
    return [members[i] for i in order]


def unique(budget: Budget, value: Any, attribute: Any = None) -> list[Any]:
    """The elements without repetitions (of their `attribute`), the first of each kept."""
    seen: set[Any] = set()
    kept: list[Any] = []
    source = elements(budget, value)
    for element, key in zip(source, _keys(budget, source, attribute), strict=True):
        budget.spend(1)
        identity = _identity(budget, key)
        if identity not in seen:
            seen.add(identity)
            budget.items(1)
            kept.append(element)
    return kept


def _identity(budget: Budget, value: Any, depth: int = 0) -> Any:
    """Return something hashable that is the same for equal values."""
    if type(value) is str:
        budget.scan(len(value))
        return value
    if type(value) in NUMBERS or value is None:
        budget.spend(1)
        return bounded_int(value)
    budget.spend(3)
    if depth > MAX_VALUE_DEPTH:
        raise Fault(f"Values nested deeper than {MAX_VALUE_DEPTH} levels cannot be compared.")
    if is_list(value):
        return ("list", *(_identity(budget, v, depth + 1) for v in value))
    if is_object(value):
        budget.spend(len(value))
        return ("object", frozenset((k, _identity(budget, v, depth + 1)) for k, v in value.items()))
    return ("opaque", id(value))


def reverse(budget: Budget, value: Any) -> Any:
    """The elements or characters in the opposite order."""
    if type(value) is str:
        budget.text(len(value))
        return value[::-1]
    budget.items(len(_list_of(value, "reverse")))
    return list(value[::-1])


def total(budget: Budget, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    """The sum of the elements (or of their `attribute`), from `start` on."""
    result = start
    for number in _keys(budget, elements(budget, value), attribute):
        if type(number) not in NUMBERS:
            raise Fault(f"'sum' adds numbers, not {kind(number)}.")
        result = add(budget, result, number)
    return result


def minimum(budget: Budget, value: Any, attribute: Any = None) -> Any:
    """The smallest element (by its `attribute`); missing when there is none."""
    return _extreme(budget, elements(budget, value), attribute, "<", "min")


def maximum(budget: Budget, value: Any, attribute: Any = None) -> Any:
    """The largest element (by its `attribute`); missing when there is none."""
    return _extreme(budget, elements(budget, value), attribute, ">", "max")


def _extreme(budget: Budget, values: Sequence[Any], attribute: Any, operator: str, what: str) -> Any:
    if not values:
        raise Missing(f"{what!r} found nothing: the list is empty.")
    keys = _keys(budget, values, attribute)
    best = 0
    for index in range(1, len(keys)):
        if less(budget, keys[index], keys[best], operator):
            best = index
    if len(keys) == 1:
        less(budget, keys[0], keys[0], operator)  # also a single value must be one that has an order
    return values[best]


def min_of(budget: Budget, *values: Any) -> Any:
    """The smallest of the arguments, or of the elements of the only one."""
    return _extreme(budget, elements(budget, values[0]) if len(values) == 1 else values, None, "<", "min")


def max_of(budget: Budget, *values: Any) -> Any:
    """The largest of the arguments, or of the elements of the only one."""
    return _extreme(budget, elements(budget, values[0]) if len(values) == 1 else values, None, ">", "max")


def batch(budget: Budget, value: Any, size: Any, fill_with: Any = None) -> list[Any]:
    """The elements in lists of `size`; the last one is filled up with `fill_with`, when given."""
    values = elements(budget, value)
    size = number_of(size, "The size of a batch", 1)
    budget.items(len(values) + len(values) // size + 1)
    batches = [list(values[i : i + size]) for i in range(0, len(values), size)]
    if fill_with is not None and batches and len(batches[-1]) < size:
        missing = size - len(batches[-1])
        budget.items(missing)
        copies(budget, fill_with, missing)
        batches[-1] += [fill_with] * missing
    return batches


def number_range(budget: Budget, start: Any, stop: Any = None, step: Any = 1) -> list[int]:
    """The integers from `start` (0 when only one argument is given) up to but without `stop`."""
    for bound in (start, step, 0 if stop is None else stop):
        if type(bound) is not int:
            raise Fault(f"'range' takes integers, not {kind(bound)}.")
        bounded_int(bound)
    if step == 0:
        raise Fault("The step of 'range' cannot be 0.")
    numbers = range(start) if stop is None else range(start, stop, step)
    try:
        budget.items(len(numbers))
    except OverflowError:
        budget.items(1 << 62)
    return list(numbers)


def keys(budget: Budget, value: Any) -> list[Any]:
    """The keys of an object."""
    budget.items(len(_object_of(value, "keys")))
    return list(value)


def values(budget: Budget, value: Any) -> list[Any]:
    """The values of an object."""
    budget.items(len(_object_of(value, "values")))
    return list(value.values())


def items(budget: Budget, value: Any) -> list[Any]:
    """The members of an object as [key, value] pairs."""
    budget.items(3 * len(_object_of(value, "items")))
    return [[k, v] for k, v in value.items()]


def get(budget: Budget, value: Any, key: Any, default: Any = None) -> Any:
    """The member of an object, or `default` when it is not there."""
    try:
        return member(_object_of(value, "get"), key)
    except Missing:
        return default


def count_equal(budget: Budget, value: Any, item: Any) -> int:
    """How many elements of the list equal `item`."""
    return sum(equal(budget, element, item) for element in elements(budget, value))


def index_of(budget: Budget, value: Any, item: Any) -> int:
    """The index of the first element that equals `item`; missing when there is none."""
    for index, element in enumerate(elements(budget, value)):
        if equal(budget, element, item):
            return index
    raise Missing("'index' did not find the value in the list.")


def to_json_text(budget: Budget, value: Any, indent: Any = None) -> str:
    """The value as JSON; `indent` (up to 8) spreads it over lines."""
    return to_json(budget, value, None if indent is None else number_of(indent, "The indent of 'tojson'", 0, 8))
