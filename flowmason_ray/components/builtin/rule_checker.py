"""`rule_checker`: judges data or a text by rules, without a model. That a rule does not hold is a result, not a failure, unless
the stage says otherwise.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from flowmason_ray.components.base import operator
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.compliance.rules import Rule, Severity, Verdict, judge
from flowmason_ray.components.frames import is_frame
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

_RANK: dict[str, int] = {"info": 0, "warning": 1, "error": 2}


@operator(effect="pure", cost="cpu", category="compliance")
class RuleChecker:
    """Judges data or a text by rules: field comparisons, patterns, required and forbidden terms, expressions, lengths."""

    class Input(BaseModel):
        """What is judged, and by what."""

        model_config = closed(
            {
                "data": {"total": 120, "note": "Thank you."},
                "rules": [
                    {"id": "total", "fields": {"total": {"gt": 0}}},
                    {"id": "promises", "path": "$.note", "forbidden_terms": ["guaranteed"]},
                ],
            }
        )

        data: Any = Field(description="The value: an object, a list, or a text.")
        rules: list[Rule] = Field(
            min_length=1,
            description="The rules. Their expressions are written without braces.",
            examples=[[{"id": "total", "fields": {"total": {"gt": 0}}}]],
        )
        fail_on: Literal["never", "error", "warning", "info"] = Field(
            default="never",
            description="Fail the stage with code `rules_violated` when a rule of this severity, or a worse one, does not hold.",
        )

        @model_validator(mode="after")
        def _ids_differ(self) -> Self:
            ids = [rule.id for rule in self.rules]
            twice = next((id for id in ids if ids.count(id) > 1), None)
            if twice is not None:
                raise ValueError(f"two rules have the id {twice!r}")
            return self

    class Output(BaseModel):
        """The verdicts."""

        compliant: bool = Field(description="Whether every rule of severity 'error' holds.")
        results: list[Verdict] = Field(description="What came of each rule, in their order.")
        violations: list[Verdict] = Field(description="Only the rules that do not hold, the worst first.")
        passed: int = Field(description="How many rules hold.")
        failed: int = Field(description="How many do not.")
        skipped: int = Field(description="How many do not apply.")
        worst: Severity | None = Field(description="The worst severity among the violations; null without any.")

    def execute(self, input: Input, context: Context) -> Output:
        """Judge.

        Raises:
            PermanentError: a rule is none (`invalid_rule`), or rules do not hold and that is to be a failure
                (`rules_violated`, with the violations in the details).
        """
        if is_frame(input.data):
            raise PermanentError(
                "A table is judged by table_sql; rule_checker takes JSON values.", code="invalid_input"
            )
        results = [judge(rule, input.data) for rule in input.rules]
        failed = sorted((r for r in results if r.status == "failed"), key=lambda r: -_RANK[r.severity])
        if input.fail_on != "never":
            bad = [r for r in failed if _RANK[r.severity] >= _RANK[input.fail_on]]
            if bad:
                words = "; ".join(f"{r.rule_id}: {r.message}" for r in bad[:5])
                details = {"violations": [r.model_dump() for r in bad]}
                raise PermanentError(
                    f"{len(bad)} rule(s) do not hold: {words}.", code="rules_violated", details=details
                )
        statuses = [r.status for r in results]
        return self.Output(
            compliant=not any(r.severity == "error" for r in failed),
            results=results,
            violations=failed,
            passed=statuses.count("passed"),
            failed=len(failed),
            skipped=statuses.count("skipped"),
            worst=failed[0].severity if failed else None,
        )
