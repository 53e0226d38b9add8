"""policy_lookup, rule_checker and compliance_evaluator."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flowmason_ray.components.builtin.compliance_evaluator import ComplianceEvaluator
from flowmason_ray.components.builtin.index_documents import IndexDocuments
from flowmason_ray.components.builtin.policy_lookup import PolicyLookup
from flowmason_ray.components.builtin.rule_checker import RuleChecker
from flowmason_ray.components.compliance.rules import MAX_PLACES, Rule, judge
from flowmason_ray.errors import PermanentError
from flowmason_ray.testing.context import RecordingContext
from flowmason_ray.testing.llm_server import LlmServer
from tests.retrieval_kit import context_for, is_completion, server

__all__ = ["server"]

GIFTS = """---
id: GIFT-1
tags: [gifts, sales]
severity: warning
owner: legal
---
# Gifts

No gift above 50 euros may be accepted.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    policies = tmp_path / "policies"
    (policies / "more").mkdir(parents=True)
    (policies / "gifts.md").write_text(GIFTS)
    (policies / "travel.md").write_text("# Travel\n\nFly economy. Trains come first.")
    data = [{"id": "DATA-1", "text": "Personal data is deleted after a year.", "tags": ["privacy"], "owner": "dpo"}]
    (policies / "more" / "data.json").write_text(json.dumps(data))
    return tmp_path


def look(folder: Path, **more: Any) -> PolicyLookup.Output:
    return asyncio.run(PolicyLookup().execute(PolicyLookup.Input(**more), RecordingContext(project_dir=folder)))


def refused(folder: Path, **more: Any) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        look(folder, **more)
    return caught.value


def test_policies_are_files(folder: Path) -> None:
    found = {p.id: p for p in look(folder).policies}
    assert list(found) == ["GIFT-1", "DATA-1", "travel"]
    gifts = found["GIFT-1"]
    assert (gifts.title, gifts.severity, gifts.tags) == ("Gifts", "warning", ["gifts", "sales"])
    assert gifts.text == "# Gifts\n\nNo gift above 50 euros may be accepted."
    assert gifts.metadata == {"owner": "legal"}
    assert gifts.source == "policies/gifts.md"
    assert found["DATA-1"].metadata == {"owner": "dpo"}
    assert found["travel"].title == "Travel"


def test_policies_by_id_tag_and_words(folder: Path) -> None:
    assert [p.id for p in look(folder, ids=["travel", "GIFT-1"]).policies] == ["travel", "GIFT-1"]
    assert [p.id for p in look(folder, tags=["privacy", "x"]).policies] == ["DATA-1"]
    best = look(folder, query="May I accept some gift?").policies
    assert [p.id for p in best] == ["GIFT-1"]
    assert best[0].score is not None
    assert look(folder, query="trains data gift", top_k=2).count == 2
    assert look(folder, query="zebra").count == 0
    assert look(folder, path="policies/travel.md").count == 1


def test_policies_that_are_not_there_or_wrong(folder: Path) -> None:
    assert "Did you mean 'GIFT-1'?" in refused(folder, ids=["GIFT-2"]).message
    assert refused(folder, path="nowhere").code == "file_not_found"
    assert refused(folder, path="../x").code == "path_outside_project"
    (folder / "empty").mkdir()
    assert refused(folder, path="empty").code == "no_policies"
    for name, text in (
        ("a.json", "{"),
        ("b.json", "[1]"),
        ("deep.json", "[" * 100_000),
        ("long.json", '{"id": "x", "text": "y", "n": ' + "9" * 5000 + "}"),
        ("c.json", '{"id": "x"}'),
        ("d.json", '{"id":"x","text":"y","metadata":3}'),
    ):
        (folder / "empty" / name).write_text(text)
        assert refused(folder, path=f"empty/{name}").code == "invalid_policy", name
    (folder / "policies" / "again.md").write_text(GIFTS)
    assert "'policies/again.md', 'policies/gifts.md'" in refused(folder).message
    with pytest.raises(ValidationError, match="give 'query'"):
        PolicyLookup.Input(collection="c")


def test_policies_in_a_collection(server: LlmServer, tmp_path: Path) -> None:
    context = context_for(server, tmp_path)
    documents = [
        {"text": "No gift above 50 euros.", "source": "gifts", "metadata": {"id": "GIFT-1", "tags": ["gifts"], "severity": "info"}},
        {"text": "Fly economy.", "source": "travel", "metadata": {"id": "TRAVEL", "tags": ["travel"]}},
    ]  # fmt: skip
    asyncio.run(
        IndexDocuments().execute(
            IndexDocuments.Input.model_validate({"documents": documents, "collection": "p"}), context
        )
    )
    given = PolicyLookup.Input(collection="p", query="No gift above 50 euros.", top_k=1)
    found = asyncio.run(PolicyLookup().execute(given, context)).policies
    assert [(p.id, p.severity, p.tags) for p in found] == [("GIFT-1", "info", ["gifts"])]
    tagged = PolicyLookup.Input(collection="p", query="No gift above 50 euros.", tags=["travel"])
    assert [p.id for p in asyncio.run(PolicyLookup().execute(tagged, context)).policies] == ["TRAVEL"]


# -- rules -------------------------------------------------------------------------------------------------------------

OFFER = {
    "total": 120,
    "items": [{"name": "cup", "price": 20}, {"name": "pot", "price": 100}],
    "text": "Dear customer,\nthis is GUARANTEED profit.\nNo risk, guaranteed!",
}


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ({"fields": {"total": {"gt": 100, "lt": 200}}}, True),
        ({"fields": {"total": 121}}, False),
        ({"fields": {"missing": {"exists": False}}}, True),
        ({"fields": {"missing": 1}}, False),
        ({"expression": "data.total == 120 and (data['items'] | length) == 2"}, True),
        ({"expression": "data.total > 200"}, False),
        ({"expression": "data.nothing.here > 1"}, False),
        ({"path": "$.items[*].price", "expression": "(value | sum) == data.total"}, True),
        ({"path": "$.nothing", "min_length": 1}, False),
        ({"path": "$.text", "matches": "(?i)dear"}, True),
        ({"path": "$.text", "matches": "^Hello"}, False),
        ({"not_matches": "(?i)guarantee"}, False),
        ({"not_matches": "forbidden"}, True),
        ({"required_terms": ["no  risk", "DEAR customer"]}, True),
        ({"required_terms": ["risks"]}, False),
        ({"forbidden_terms": ["guarantee", "profits"]}, True),
        ({"forbidden_terms": ["guaranteed"]}, False),
        ({"path": "$.text", "max_length": 10}, False),
        ({"path": "$.items", "min_length": 2, "max_length": 2}, True),
        ({"path": "$.total", "min_length": 1}, False),
        ({"when": "data.total > 1000", "fields": {"total": 0}}, None),
        ({"when": "data.total > 100", "fields": {"total": 0}}, False),
        ({"when": "data.nothing", "fields": {"total": 0}}, None),
    ],
)
def test_rules(rule: dict[str, Any], holds: bool | None) -> None:
    verdict = judge(Rule(id="r", **rule), OFFER)
    assert verdict.status == {True: "passed", False: "failed", None: "skipped"}[holds], verdict.message


def test_a_verdict_says_where() -> None:
    verdict = judge(Rule(id="r", description="No promises", forbidden_terms=["guaranteed"]), OFFER)
    assert verdict.message == "No promises: 'guaranteed' is said 2 time(s)"
    assert [(p.path, p.line, p.text) for p in verdict.where] == [("/text", 2, "GUARANTEED"), ("/text", 3, "guaranteed")]
    place = verdict.where[0]
    assert OFFER["text"][place.start : place.end] == "GUARANTEED"  # type: ignore[index]
    fields = judge(Rule(id="r", fields={"total": {"lt": 1}}), OFFER)
    assert [(p.path, p.text) for p in fields.where] == [("/total", "120")]
    assert "expected lt 1" in fields.message


def test_places_are_characters_whatever_the_letters() -> None:
    text = "äöü 🦆 duck"
    (place,) = judge(Rule(id="r", forbidden_terms=["duck"]), text).where
    assert text[place.start : place.end] == "duck"


@pytest.mark.parametrize(
    ("rule", "places"),
    [
        ({"forbidden_terms": ["bad"]}, ["/note", "/items/0/t", "/items/1/t", "/a~1b/~0"]),
        ({"path": "$.note", "forbidden_terms": ["bad"]}, ["/note"]),
        ({"path": "note", "forbidden_terms": ["bad"]}, ["/note"]),
        ({"path": "$", "not_matches": "bad"}, ["/note", "/items/0/t", "/items/1/t", "/a~1b/~0"]),
        ({"path": "$.items[*].t", "not_matches": "bad"}, ["/items/0/t", "/items/1/t"]),
        ({"path": "$.items[*].t", "max_length": 1}, ["/items"]),
        ({"path": "items[-1:]", "forbidden_terms": ["bad"]}, ["/items/1/t"]),
        ({"path": "items[-1]", "forbidden_terms": ["bad"]}, ["/items/1/t"]),
        ({"path": "$['a/b'].*", "forbidden_terms": ["bad"]}, ["/a~1b/~0"]),
        ({"path": "items[?t == 'bad'].t", "forbidden_terms": ["bad"]}, ["", ""]),
        ({"path": "$.note", "max_length": 1}, ["/note"]),
        ({"path": "items", "expression": "value == 1"}, ["/items"]),
        ({"fields": {"note": 1, "['a/b']['~']": 1, "items[-1].t": 1, "no.such": 1, "length(items)": 1}},
         ["/note", "/a~1b/~0", "/items/1/t", "/no/such", ""]),
        ({"path": "$.items[0]", "fields": {"t": 1}}, ["/items/0/t"]),
        ({"path": "$.items[*]", "fields": {"[0].t": 1}}, ["/items"]),
    ],
)  # fmt: skip
def test_places_are_json_pointers(rule: dict[str, Any], places: list[str]) -> None:
    data = {"note": "bad", "items": [{"t": "bad"}, {"t": "bad"}], "a/b": {"~": "bad"}}
    assert [p.path for p in judge(Rule(id="r", **rule), data).where] == places


@pytest.mark.parametrize(
    ("term", "text", "said"),
    [
        ("ration", "une opération", 0),
        ("ber", "über alles", 0),
        ("na", "naïve", 0),
        ("caf", "café", 0),
        ("cafe", "cafe\u0301 noir", 0),
        ("Ölpreis", "Ölpreise steigen", 0),
        ("Ölpreis", "Der ÖLPREIS (Ölpreis) steigt", 2),
        ("été", "répété, l'été", 1),
        ("東京", "東京都", 1),
        ("AI", "生成AIは", 1),
        ("서울", "서울은", 1),
        ("C++", "C++ rocks, c++!", 2),
        ("mail", "e-mail", 1),
        ("a", "a_b a1 1a a", 1),
        ("no risk", "no\u00a0 risk, casino risk", 1),
        ("a a", "xa a a", 1),
        ("a bc a b", "a bc a bc a b", 1),
        (".*", "a .* b", 1),
    ],
)
def test_terms_are_whole_words_in_every_language(term: str, text: str, said: int) -> None:
    verdict = judge(Rule(id="r", forbidden_terms=[term]), text)
    assert verdict.count == said
    assert [(p.text or "").lower().split() for p in verdict.where] == [term.lower().split()] * said


def test_places_in_long_texts_are_counted_from_where_the_last_one_was() -> None:
    text = "fine\n" * 3 + "guaranteed\n" * 200_000
    for rule in (Rule(id="r", forbidden_terms=["guaranteed"]), Rule(id="r", not_matches="guaranteed")):
        verdict = judge(rule, text)
        assert (verdict.count, verdict.where[0].line, verdict.where[-1].line) == (200_000, 4, 3 + MAX_PLACES)


def test_many_places_are_counted() -> None:
    verdict = judge(Rule(id="r", forbidden_terms=["a"]), "a " * 200)
    assert (len(verdict.where), verdict.count) == (MAX_PLACES, 200)


@pytest.mark.parametrize(
    "rule",
    [{"matches": "("}, {"not_matches": "a{99999999999}"}, {"matches": "a{2,99999999999}"}, {"fields": {"a": {"matches": "a{999999999,}"}}},
     {"matches": "x\\ud800"}, {"not_matches": r"(a)\1"}, {"expression": "data."}, {"when": "1 +"}, {"fields": {"a": {"gtt": 1, "eq": 2}}},
     {"forbidden_terms": [" "]}, {"path": "$..["}, {"expression": "data.total + 'x' > 1"}],
)  # fmt: skip
def test_rules_that_are_none(rule: dict[str, Any]) -> None:
    with pytest.raises(PermanentError, match="Rule 'r'") as caught:
        judge(Rule(id="r", **rule), OFFER)
    assert caught.value.code == "invalid_rule"


def test_a_text_that_is_no_unicode_is_told() -> None:
    for rule in (Rule(id="r", matches="x"), Rule(id="r", not_matches="x")):
        with pytest.raises(
            PermanentError, match=r"Rule 'r': the text at '/a' .* character 2 is half of a surrogate"
        ) as caught:
            judge(rule, {"a": "x \ud800"})
        assert caught.value.code == "invalid_input"
    assert judge(Rule(id="r", fields={"a": {"matches": "x"}}), {"a": "x \ud800"}).status == "failed"
    assert judge(Rule(id="r", forbidden_terms=["x"]), {"a": "x \ud800"}).count == 1


@pytest.mark.parametrize(("pattern", "text"), [(r"a\{99999999999}", "a{99999999999}"), ("a{3}", "aaa"), ("{a}", "{a}")])
def test_braces_that_repeat_nothing_are_letters(pattern: str, text: str) -> None:
    assert judge(Rule(id="r", matches=pattern), text).status == "passed"


def check(**more: Any) -> RuleChecker.Output:
    return RuleChecker().execute(RuleChecker.Input(**more), RecordingContext())


RULES = [
    {"id": "info", "severity": "info", "fields": {"total": 0}},
    {"id": "bad", "fields": {"total": 0}},
    {"id": "good", "fields": {"total": 120}},
    {"id": "not here", "when": "false", "fields": {"total": 0}},
]


def test_the_verdicts_together() -> None:
    output = check(data=OFFER, rules=RULES)
    assert (output.compliant, output.passed, output.failed, output.skipped) == (False, 1, 2, 1)
    assert [v.rule_id for v in output.violations] == ["bad", "info"]
    assert output.worst == "error"
    mild = check(data=OFFER, rules=[RULES[0], RULES[2]])
    assert (mild.compliant, mild.worst) == (True, "info")


def test_violations_can_be_failures() -> None:
    with pytest.raises(PermanentError, match="bad: 'total' is 120") as caught:
        check(data=OFFER, rules=RULES, fail_on="error")
    assert caught.value.code == "rules_violated"
    assert caught.value.details is not None
    assert [v["rule_id"] for v in caught.value.details["violations"]] == ["bad"]
    assert check(data=OFFER, rules=[RULES[0]], fail_on="warning").failed == 1
    with pytest.raises(ValidationError, match="two rules have the id 'good'"):
        check(data=OFFER, rules=[RULES[2], RULES[2]])


# -- the evaluator -----------------------------------------------------------------------------------------------------

POLICIES = [
    {"id": "P1", "text": "Never promise a profit.", "title": "Promises"},
    {"id": "P2", "text": "Every letter names a contact.", "severity": "warning"},
]
LETTER = "Dear customer, this is a guaranteed profit."


def evaluate(
    server: LlmServer, tmp_path: Path, judgements: dict[str, str], *findings: dict[str, str], **more: Any
) -> Any:
    said = {
        "judgements": [{"policy_id": id, "verdict": verdict} for id, verdict in judgements.items()],
        "findings": [{"kind": "violation", "explanation": "because", **each} for each in findings],
        "summary": "A summary.",
    }
    server.says_json(said, match=is_completion)
    given = ComplianceEvaluator.Input(content=LETTER, policies=POLICIES, **more)  # type: ignore[arg-type]
    return asyncio.run(ComplianceEvaluator().execute(given, context_for(server, tmp_path)))


BREACH = {"policy_id": "P1", "quote": "guaranteed profit", "policy_quote": "never promise a profit"}
OMISSION = {"policy_id": "P2", "kind": "omission", "quote": "", "policy_quote": "names a contact"}


def test_a_breach_that_is_proven(server: LlmServer, tmp_path: Path) -> None:
    output = evaluate(server, tmp_path, {"P1": "violates", "P2": "violates"}, BREACH, OMISSION)
    assert (output.compliant, output.needs_review, output.invalid_findings) == (False, False, 0)
    assert [(f.policy_id, f.valid, f.severity) for f in output.findings] == [
        ("P1", True, "error"),
        ("P2", True, "warning"),
    ]
    assert LETTER[output.findings[0].start : output.findings[0].end] == "guaranteed profit"
    assert output.judgements == {"P1": "violates", "P2": "violates"}
    asked = server.requests[-1]
    assert "[P1] Promises\nNever promise a profit." in asked.last
    assert LETTER in asked.last


def test_compliance(server: LlmServer, tmp_path: Path) -> None:
    output = evaluate(server, tmp_path, {"P1": "complies", "P2": "not_applicable"})
    assert (output.compliant, output.needs_review, output.unjudged) == (True, False, [])


def test_a_minor_breach_does_not_decide(server: LlmServer, tmp_path: Path) -> None:
    output = evaluate(server, tmp_path, {"P1": "complies", "P2": "violates"}, OMISSION)
    assert (output.compliant, output.needs_review) == (True, False)


@pytest.mark.parametrize(
    ("finding", "problem"),
    [
        ({**BREACH, "policy_id": "P9"}, "unknown_policy"),
        ({**BREACH, "quote": "guaranteed loss"}, "quote_not_found"),
        ({**BREACH, "policy_quote": "always promise"}, "policy_quote_not_found"),
        ({**OMISSION, "policy_quote": ""}, "policy_quote_not_found"),
    ],
)
def test_a_finding_without_proof_decides_nothing(
    server: LlmServer, tmp_path: Path, finding: dict[str, str], problem: str
) -> None:
    output = evaluate(server, tmp_path, {"P1": "violates", "P2": "complies"}, finding)
    assert (output.compliant, output.needs_review, output.invalid_findings) == (None, True, 1)
    assert [(f.valid, f.problem) for f in output.findings] == [(False, problem)]
    assert evaluate(server, tmp_path, {"P1": "violates"}, finding, invalid_findings="drop").findings == []
    with pytest.raises(PermanentError, match=problem) as caught:
        evaluate(server, tmp_path, {"P1": "violates"}, finding, invalid_findings="fail")
    assert caught.value.code == "invalid_citation"


def test_a_policy_that_is_passed_over_is_named(server: LlmServer, tmp_path: Path) -> None:
    output = evaluate(server, tmp_path, {"P1": "complies"})
    assert (output.compliant, output.needs_review, output.unjudged) == (None, True, ["P2"])


def test_a_verdict_without_a_finding_is_doubtful(server: LlmServer, tmp_path: Path) -> None:
    output = evaluate(server, tmp_path, {"P1": "violates", "P2": "complies"})
    assert (output.compliant, output.needs_review) == (None, True)
