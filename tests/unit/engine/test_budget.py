"""What runs used, and the budget that the state machine keeps to: from recorded reports alone."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowmason_ray.engine.usage import Budget, Totals, total_of


def usage(tokens: int = 0, cost: float | None = None, **more: Any) -> dict[str, Any]:
    record: dict[str, Any] = {"provider": "p", "model": "m", "calls": 1, "input_tokens": tokens, "output_tokens": 0}
    if cost is None:
        record["unpriced_calls"] = 1
    else:
        record["cost_usd"] = cost
    return {"models": [{**record, **more}]}


def test_a_sum_knows_what_it_does_not_know() -> None:
    totals = Totals()
    assert totals.to_json() == {}
    for each in (usage(5), usage(7)):
        for entry in each["models"]:
            totals.add(entry)
    assert totals.to_json()["cost_usd"] is None
    assert totals.to_json()["unpriced_calls"] == 2
    totals.add(usage(1, 0.25)["models"][0])
    assert totals.to_json()["cost_usd"] == 0.25
    assert (totals.to_json()["calls"], totals.tokens) == (3, 13)


def test_free_is_not_unknown() -> None:
    assert total_of(usage(5, 0.0)).to_json()["cost_usd"] == 0.0


def test_records_that_are_not_ours_are_passed_over() -> None:
    for odd in (None, {}, {"tokens": 5}, {"models": "many"}, {"models": [1, None]}):
        assert total_of(odd).to_json() == {}


@settings(max_examples=100, deadline=None)
@given(spent=st.lists(st.integers(0, 100), max_size=20), limit=st.integers(1, 500))
def test_a_budget_is_over_exactly_when_more_is_spent(spent: list[int], limit: int) -> None:
    budget = Budget(max_tokens=limit)
    told = [budget.spend(usage(each)) for each in spent]
    so_far = 0
    for each, words in zip(spent, told, strict=True):
        so_far += each
        assert (words is not None) == (so_far > limit)


def test_money_is_counted_where_it_is_known() -> None:
    budget = Budget(max_cost_usd=1.0)
    assert budget.spend(usage(10**9)) is None
    assert budget.spend(usage(1, 0.75)) is None
    assert "1" in (budget.spend(usage(1, 0.75)) or "")
