"""`compliance_evaluator`: a model judges a text against policies, and has to prove what it finds.

Each finding names a policy and quotes both sides: the words of the policy, and the words of the text that break it. Both are
looked up. A finding whose proof does not hold is marked, dropped or refused; it never decides the verdict. A policy that the
model passed over is named, because silence is no compliance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from flowmason_ray.components.base import node
from flowmason_ray.components.builtin.examples import closed
from flowmason_ray.components.builtin.model_node import Asking, ask, one_of, record, words
from flowmason_ray.components.citations import find_quote
from flowmason_ray.components.compliance.policies import Policy, check_ids
from flowmason_ray.engine.component import Context
from flowmason_ray.errors import PermanentError

Verdict = Literal["complies", "violates", "not_applicable"]
Problem = Literal["unknown_policy", "quote_not_found", "policy_quote_not_found"]


class Finding(BaseModel):
    """A breach of a policy."""

    policy_id: str = Field(description="The policy.")
    kind: Literal["violation", "omission"] = Field(description="Words that break it, or something that is missing.")
    explanation: str = Field(description="Why it is a breach.")
    quote: str = Field(description="The words of the text; empty for an omission.")
    policy_quote: str = Field(description="The words of the policy.")
    severity: Literal["error", "warning", "info"] = Field(description="The policy's severity.")
    valid: bool = Field(description="Whether the policy is one of those given, and both quotes are found.")
    problem: Problem | None = Field(description="What is wrong with its proof.")
    start: int | None = Field(default=None, description="Where the quote begins in the text, in characters from 0.")
    end: int | None = Field(default=None, description="Where it ends, exclusive.")


class _Said(BaseModel):
    policy_id: str
    kind: Literal["violation", "omission"]
    explanation: str
    quote: str
    policy_quote: str


class _Judged(BaseModel):
    policy_id: str
    verdict: Verdict


class _Reply(BaseModel):
    judgements: list[_Judged]
    findings: list[_Said]
    summary: str


@node(effect="idempotent", cost="io", category="compliance", prompts=("compliance_evaluator",), raw=("prompt_version",))
class ComplianceEvaluator:
    """Judges a text against policies with a model; each finding cites policy and text, and its quotes are checked."""

    class Input(Asking):
        """The text and the policies."""

        model_config = closed(
            {"content": "This is a guaranteed profit.", "policies": [{"id": "P1", "text": "Never promise a profit."}]}
        )

        content: str = Field(min_length=1, description="The text to judge.")
        policies: list[Policy] = Field(
            min_length=1,
            description="The policies, as policy_lookup returns them.",
            examples=["{{ stages.policies.policies }}"],
        )
        invalid_findings: Literal["report", "drop", "fail"] = Field(
            default="report",
            description="What happens to findings whose proof does not hold: they are marked, left out, or fail the stage "
            "(`invalid_citation`).",
        )
        instructions: str = Field(
            default="", description="Further instructions: context, language. The rules for quotes stay."
        )

    class Output(BaseModel):
        """The verdict and its proof."""

        compliant: bool | None = Field(
            description="false: a breach of a policy of severity 'error' is proven; true: every policy was judged and there is "
            "none; null: it cannot be told, see 'needs_review'."
        )
        needs_review: bool = Field(
            description="Whether a person should look: a finding is not proven, a policy was passed over, or its verdict and "
            "findings disagree."
        )
        findings: list[Finding] = Field(description="The breaches, each checked.")
        invalid_findings: int = Field(description="How many findings are not proven, dropped ones included.")
        judgements: dict[str, Verdict] = Field(description="What the model says of each policy.")
        unjudged: list[str] = Field(description="Policies that it passed over.")
        summary: str = Field(description="What the model says in short.")
        model: str = Field(description="The model.")
        tokens_used: int = Field(description="Tokens of the answer, input and output.")

    async def execute(self, input: Input, context: Context) -> Output:
        """Ask, and check.

        Raises:
            PermanentError: a finding is not proven and that is to be a failure (`invalid_citation`), or two policies have
                one id (`duplicate_policy`).
        """
        check_ids(input.policies)
        policies = {policy.id: policy for policy in input.policies}
        values = {
            "content": input.content,
            "policies": "\n\n".join(map(_shown, input.policies)),
            "instructions": input.instructions,
        }
        said = await ask(context, input, "compliance_evaluator", values, _schema(list(policies)))
        reply = _Reply.model_validate(said.data)
        findings = [_checked(each, policies, input.content) for each in reply.findings]
        invalid = [finding for finding in findings if not finding.valid]
        if invalid and input.invalid_findings == "fail":
            raise _refusal(invalid)
        judgements: dict[str, Verdict] = {
            each.policy_id: each.verdict for each in reply.judgements if each.policy_id in policies
        }
        unjudged = [id for id in policies if id not in judgements]
        proven = {finding.policy_id for finding in findings if finding.valid}
        breached = {id for id, verdict in judgements.items() if verdict == "violates"}
        doubt = bool(invalid or unjudged or breached != proven)
        grave = any(finding.valid and finding.severity == "error" for finding in findings)
        return self.Output(
            compliant=False if grave else None if doubt else True,
            needs_review=doubt,
            findings=[f for f in findings if f.valid] if input.invalid_findings == "drop" else findings,
            invalid_findings=len(invalid),
            judgements=judgements,
            unjudged=unjudged,
            summary=reply.summary,
            model=said.model,
            tokens_used=said.usage.total_tokens,
        )


def _shown(policy: Policy) -> str:
    return f"[{policy.id}] {policy.title or ''}\n{policy.text}"


def _schema(ids: Sequence[str]) -> dict[str, Any]:
    finding = record(
        policy_id=words(f"One of: {', '.join(ids)}."),
        kind=one_of("What it is.", ("violation", "omission")),
        explanation=words("Why it is a breach."),
        quote=words("The words of the text that break the policy, copied exactly; empty for an omission."),
        policy_quote=words("The words of the policy, copied exactly."),
    )
    judgement = record(
        policy_id=words(f"One of: {', '.join(ids)}."),
        verdict=one_of("The verdict.", ("complies", "violates", "not_applicable")),
    )
    return record(
        judgements={"type": "array", "items": judgement},
        findings={"type": "array", "items": finding},
        summary=words("One or two sentences."),
    )


def _checked(said: _Said, policies: Mapping[str, Policy], content: str) -> Finding:
    policy = policies.get(said.policy_id)
    span = None if said.kind == "omission" else find_quote(said.quote, content)
    problem: Problem | None = None
    if policy is None:
        problem = "unknown_policy"
    elif find_quote(said.policy_quote, f"{policy.title or ''}\n{policy.text}") is None:
        problem = "policy_quote_not_found"
    elif said.kind == "violation" and span is None:
        problem = "quote_not_found"
    start, end = span or (None, None)
    return Finding(
        **said.model_dump(),
        severity="error" if policy is None else policy.severity,
        valid=problem is None,
        problem=problem,
        start=start,
        end=end,
    )


def _refusal(invalid: Sequence[Finding]) -> PermanentError:
    shown = "; ".join(f"{f.policy_id}: {f.problem}: {(f.quote or f.policy_quote)[:80]!r}" for f in invalid[:5])
    return PermanentError(
        f"{len(invalid)} finding(s) are not proven: {shown}.",
        code="invalid_citation",
        details={"findings": [finding.model_dump() for finding in invalid]},
    )
