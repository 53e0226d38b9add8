"""`filter`: let a value pass or not, or keep those items of a list (or rows of a table) that meet a condition.

`condition` is an expression of the language that templates use. In `pass_fail` it reads `data`; in `filter_array` it reads
`item` (an element, or a row as an object), `index`, and `data`. `field_conditions` is the same as data:
{path: value or {operator: value}}; everything given must hold.

A table stays a table, but is judged row by row, which is right
for thousands of rows. For millions, `table_sql` does the same work in parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.field_conditions import Test, field_tests
from flowmason_ray.components.builtin.json_paths import MISSING
from flowmason_ray.components.frames import is_frame
from flowmason_ray.engine.component import Context
from flowmason_ray.engine.json_values import json_value
from flowmason_ray.errors import ExpressionError, PermanentError
from flowmason_ray.spec.expressions import DictScope, Expression, ExpressionSyntaxError, parse_expression

if TYPE_CHECKING:
    from polars import DataFrame


@operator(effect="pure", cost="cpu", category="data", expressions=("condition",))
class Filter:
    """Passes a value on only if it meets a condition, or keeps the items of a list or table that do."""

    class Input(BaseModel):
        """The value and the condition."""

        model_config = ConfigDict(extra="forbid")

        data: Any = Field(description="The value to judge, or the list or table to filter.")
        condition: str | None = Field(
            default=None,
            description="An expression over 'data' (pass_fail) or 'item' and 'index' (filter_array), such as item.price > 10.",
        )
        field_conditions: dict[str, Any] = Field(
            default={},
            description="{path: value} or {path: {operator: value}} with eq, ne, gt, gte, lt, lte, in, not_in, contains, "
            "starts_with, ends_with, matches (regular expression), exists, is_null. All must hold.",
        )
        pass_if_missing: bool = Field(
            default=False, description="Whether a value or path that is not there counts as meeting the condition."
        )
        filter_mode: Literal["pass_fail", "filter_array"] = Field(
            default="pass_fail", description="Judge the value as a whole, or each of its items."
        )
        invert: bool = Field(default=False, description="Keep what does not meet the condition.")

    class Output(BaseModel):
        """What passed."""

        passed: bool = Field(description="Whether the value passed; for filter_array whether anything is left.")
        data: Any = Field(description="The value, or the items kept; null when the value did not pass.")
        filtered_count: int = Field(description="How many items were left out (0 or 1 for pass_fail).")
        reason: str = Field(description="Why, in words.")

    def execute(self, input: Input, context: Context) -> Output:
        """Judge.

        Raises:
            ExpressionError: the condition does not fit the values it meets; names the item.
            PermanentError: neither condition is given, or filter_array got something else than a list or table.
        """
        if input.condition is None and not input.field_conditions:
            raise PermanentError("Give 'condition' or 'field_conditions'.", code="invalid_input")
        meets = _judge(input)
        if input.filter_mode == "pass_fail":
            return self._pass_fail(input, meets)
        data: object = input.data
        if is_frame(data):
            kept: Any = _filter_frame(data, meets)
            left_out, count = data.height - kept.height, kept.height
        elif isinstance(data, list):
            items = cast("list[Any]", data)
            kept = [item for item, met in zip(items, _each(items, items, meets), strict=True) if met]
            left_out, count = len(items) - len(kept), len(kept)
        elif data is None and input.pass_if_missing:
            kept, left_out, count = None, 0, 1
        else:
            raise PermanentError(
                f"filter_mode 'filter_array' needs a list or a table in 'data', found {type(data).__name__!r}. "
                "To judge the value as a whole use 'pass_fail'.",
                code="invalid_input",
            )
        return self.Output(
            passed=count > 0, data=kept, filtered_count=left_out, reason=f"{count} kept, {left_out} left out."
        )

    def _pass_fail(self, input: Input, meets: Judge) -> Output:
        if input.data is None and input.pass_if_missing:
            return self.Output(passed=True, data=None, filtered_count=0, reason="The value is missing, which passes.")
        passed, reason = meets({"data": input.data, "item": input.data, "index": 0}, input.data)
        return self.Output(
            passed=passed, data=input.data if passed else None, filtered_count=0 if passed else 1, reason=reason
        )


Judge = Callable[[dict[str, Any], Any], tuple[bool, str]]
"""Given the expression's variables and the value that paths start from: whether it passes, and why."""


def _judge(input: Filter.Input) -> Judge:
    expression = _parsed(input.condition) if input.condition is not None else None
    tests = field_tests(input.field_conditions)

    def meets(variables: dict[str, Any], value: Any) -> tuple[bool, str]:
        met, reason = True, "Every condition holds."
        failed = next((t for t in tests if not _holds(t, value, input.pass_if_missing)), None)
        if failed is not None:
            met, reason = False, f"{failed} does not hold."
        elif expression is not None:
            try:
                met = bool(expression.evaluate(DictScope(variables)))
            except ExpressionError as exc:
                if exc.code != "missing_value":
                    raise
                if not input.pass_if_missing:
                    met, reason = False, f"A value is missing: {exc.message}"
            else:
                reason = f"The condition {input.condition!r} {'holds' if met else 'does not hold'}."
        if input.invert:
            return not met, f"Inverted: {reason}"
        return met, reason

    return meets


def _parsed(condition: str) -> Expression:
    try:
        return parse_expression(condition)
    except ExpressionSyntaxError as exc:
        raise PermanentError(f"'condition' {condition!r}: {exc.message}", code=exc.code) from exc


def _holds(test: Test, value: Any, pass_if_missing: bool) -> bool:
    found = test.find(value)
    if found is MISSING and test.needs_value:
        return pass_if_missing
    return test.holds(found)


def _each(items: Iterable[Any], data: list[Any] | None, meets: Judge) -> Iterator[bool]:
    for index, item in enumerate(items):
        try:
            yield meets({"item": item, "index": index, "data": data}, item)[0]
        except ExpressionError as exc:
            raise ExpressionError(f"Item {index}: {exc.message}", code=exc.code) from exc


def _filter_frame(frame: DataFrame, meets: Judge) -> DataFrame:
    if not frame.height:
        return frame
    # The language knows JSON values only: dates and times are judged as ISO texts, which compare as they should. NaN stays.
    untyped = cast("Any", frame)
    rows = (
        {n: v if isinstance(v, str | int | float | None) else json_value(v) for n, v in row.items()}
        for row in untyped.iter_rows(named=True)
    )
    return untyped.filter(list(_each(rows, None, meets)))
