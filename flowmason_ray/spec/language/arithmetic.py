"""What the operators `+ - * / // % **` and the unary ones do: as in Python, but never too much and never a `TypeError`.

Whatever could be large is refused before it is computed: powers and products by the number of bits, repetition and joining
of strings and lists by their size. `%` is division only; there is no string formatting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowmason_ray.spec.language.budget import MAX_INT_BITS, Budget, Fault, over_budget
from flowmason_ray.spec.language.values import NUMBERS, copies, is_list, kind

Operator = Callable[[Budget, Any, Any], Any]
_SMALL = 1 << 62


def _mismatch(a: Any, operator: str, b: Any) -> Fault:
    hint = " Use ~ to join values as text." if operator == "+" and str in (type(a), type(b)) else ""
    return Fault(f"{operator!r} does not work on {kind(a)} and {kind(b)}.{hint}")


def _refuse_bits(bits: int) -> None:
    if bits > MAX_INT_BITS:
        raise over_budget(f"integers of more than {MAX_INT_BITS} bits")


def _check_operands(a: Any, b: Any) -> None:
    """Refuse huge integers that came in as data: even adding them costs more than a step."""
    for x in (a, b):
        if type(x) is int and not -_SMALL < x < _SMALL:
            _refuse_bits(x.bit_length())


def bounded_int(value: Any) -> Any:
    """Return the number unchanged if it is no integer of too many bits."""
    if type(value) is int and not -_SMALL < value < _SMALL:
        _refuse_bits(value.bit_length())
    return value


def _numbers(operator: str, compute: Callable[[Any, Any], Any]) -> Operator:
    def apply(_budget: Budget, a: Any, b: Any) -> Any:
        if type(a) not in NUMBERS or type(b) not in NUMBERS:
            raise _mismatch(a, operator, b)
        _check_operands(a, b)
        try:
            return bounded_int(compute(a, b))
        except ZeroDivisionError:
            raise Fault(f"Division by zero: {a} {operator} {b}.") from None
        except OverflowError:
            raise Fault(f"The result of {operator!r} is too large for a floating-point number.") from None

    return apply


_add_numbers = _numbers("+", lambda a, b: a + b)
_mul_numbers = _numbers("*", lambda a, b: a * b)
subtract = _numbers("-", lambda a, b: a - b)
divide = _numbers("/", lambda a, b: a / b)
floor_divide = _numbers("//", lambda a, b: a // b)
modulo = _numbers("%", lambda a, b: a % b)


def add(budget: Budget, a: Any, b: Any) -> Any:
    """Return the sum of numbers, or two strings or two lists joined."""
    if type(a) in NUMBERS and type(b) in NUMBERS:
        return _add_numbers(budget, a, b)
    if type(a) is str and type(b) is str:
        budget.text(len(a) + len(b))
        return a + b
    if is_list(a) and is_list(b):
        budget.items(len(a) + len(b))
        return [*a, *b]
    raise _mismatch(a, "+", b)


def multiply(budget: Budget, a: Any, b: Any) -> Any:
    """Return the product of numbers, or a string or a list repeated."""
    if type(a) in NUMBERS and type(b) in NUMBERS:
        if type(a) is int and type(b) is int:
            _refuse_bits(a.bit_length() + b.bit_length() - 1)
        return _mul_numbers(budget, a, b)
    if type(a) in NUMBERS:
        a, b = b, a
    if type(b) is int or type(b) is bool:
        if type(a) is str:
            budget.text(len(a) * max(b, 0))
            return a * b
        if is_list(a):
            budget.items(len(a) * max(b, 0))
            copies(budget, a, b - 1)
            return list(a) * b
    raise _mismatch(a, "*", b)


def power(_budget: Budget, a: Any, b: Any) -> Any:
    """Return `a ** b` of numbers, when the result is a real number of bounded size."""
    if type(a) not in NUMBERS or type(b) not in NUMBERS:
        raise _mismatch(a, "**", b)
    _check_operands(a, b)
    if type(a) is not float and type(b) is not float and b > 0 and abs(a) > 1:
        _refuse_bits((int(a).bit_length() - 1) * b)  # at least so many; what is above by less is refused afterwards
    try:
        result = a**b
    except ZeroDivisionError:
        raise Fault(f"Division by zero: {a} ** {b}.") from None
    except OverflowError:
        raise Fault("The result of '**' is too large for a floating-point number.") from None
    if type(result) is complex:
        raise Fault(f"{a} ** {b} is not a real number.")
    return bounded_int(result)


def negative(value: Any) -> Any:
    """Return `-value`."""
    if type(value) not in NUMBERS:
        raise Fault(f"'-' does not work on {kind(value)}.")
    return -bounded_int(value)


def positive(value: Any) -> Any:
    """Return `+value`."""
    if type(value) not in NUMBERS:
        raise Fault(f"'+' does not work on {kind(value)}.")
    return +bounded_int(value)
