"""Rules that are judged without a model: the same data always gives the same verdict, and every verdict says where.

A rule holds when everything that it asks for holds. What it asks for: comparisons of fields, regular expressions (RE2: no
pattern takes for ever), terms that must or must not be said, an expression of the language that pipelines use, and lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from flowmason_ray.components.builtin.field_conditions import field_tests
from flowmason_ray.components.builtin.json_paths import MISSING, InvalidPath, find, located, parse_path, pointer_of
from flowmason_ray.components.compliance.terms import spans_of
from flowmason_ray.errors import ExpressionError, PermanentError
from flowmason_ray.spec.expressions import DictScope, Expression, ExpressionSyntaxError, parse_expression
from flowmason_ray.spec.language.budget import Fault
from flowmason_ray.spec.language.regexes import compiled
from flowmason_ray.spec.source import join_pointer

Severity = Literal["error", "warning", "info"]
MAX_PLACES = 50
"""Places that one rule names; more are only counted."""


class Rule(BaseModel):
    """A rule."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, description="Its id; results name it.")
    description: str | None = Field(default=None, description="What it is for; said when it does not hold.")
    severity: Severity = Field(default="error", description="How bad it is when it does not hold.")
    when: str | None = Field(
        default=None, description="An expression over 'data': the rule only counts where it is true."
    )
    path: str | None = Field(
        default=None, description="Where the rule looks: $.a.b, $.items[*].text. Default: the whole value."
    )
    fields: dict[str, Any] = Field(
        default={}, description="Comparisons: {path: value} or {path: {operator: value}} as in `filter`."
    )
    expression: str | None = Field(
        default=None, description="An expression over 'data' and 'value' (what 'path' finds)."
    )
    matches: str | None = Field(default=None, description="A regular expression that some text must match.")
    not_matches: str | None = Field(default=None, description="A regular expression that no text may match.")
    required_terms: list[str] = Field(default=[], description="Terms that must be said, as whole words, in any case.")
    forbidden_terms: list[str] = Field(default=[], description="Terms that must not be said.")
    min_length: int | None = Field(default=None, ge=0, description="Least characters of a text, or items of a list.")
    max_length: int | None = Field(default=None, ge=0, description="Most characters of a text, or items of a list.")


class Place(BaseModel):
    """Where a rule does not hold."""

    path: str = Field(
        description="A JSON pointer into the data; '' is all of it, and what a JMESPath expression in 'path' has made."
    )
    start: int | None = Field(default=None, description="In a text: where it begins, counted in characters from 0.")
    end: int | None = Field(default=None, description="Where it ends, exclusive.")
    line: int | None = Field(default=None, description="The line, from 1.")
    text: str | None = Field(default=None, description="What stands there.")


class Verdict(BaseModel):
    """What came of a rule."""

    rule_id: str = Field(description="The rule.")
    status: Literal["passed", "failed", "skipped"] = Field(description="skipped: its 'when' is not true.")
    severity: Severity = Field(description="The rule's severity.")
    message: str = Field(description="What does not hold, or that all does.")
    where: list[Place] = Field(default=[], description=f"The places, at most {MAX_PLACES}.")
    count: int = Field(default=0, description="How many places there are.")


@dataclass(frozen=True, slots=True)
class _Miss:
    message: str
    places: Sequence[Place] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """What a rule looks at: the value, its JSON pointer, and the values that the path has found, each with its own.

    `is_one`: whether the value stands in the data as it is, and is no list of values that the path has gathered.
    """

    value: Any
    at: str
    parts: Sequence[tuple[str, Any]]
    is_one: bool = True


def judge(rule: Rule, data: Any) -> Verdict:
    """Judge one rule.

    Raises:
        PermanentError: the rule is none: a path, pattern or expression does not parse (`invalid_rule`).
    """
    if rule.when is not None and not _true(rule, rule.when, {"data": data, "value": data}):
        return Verdict(rule_id=rule.id, status="skipped", severity=rule.severity, message="It does not apply here.")
    misses = list(_misses(rule, data, _found(rule, data)))
    if not misses:
        return Verdict(rule_id=rule.id, status="passed", severity=rule.severity, message="It holds.")
    places = [place for miss in misses for place in miss.places]
    said = "; ".join(miss.message for miss in misses)
    return Verdict(
        rule_id=rule.id,
        status="failed",
        severity=rule.severity,
        message=f"{rule.description}: {said}" if rule.description else said,
        where=places[:MAX_PLACES],
        count=sum(max(miss.count, len(miss.places)) for miss in misses),
    )


def _found(rule: Rule, data: Any) -> _Found:
    if rule.path is None:
        return _Found(data, "", [("", data)])
    try:
        value = find(data, rule.path)
    except InvalidPath as exc:
        raise PermanentError(f"Rule {rule.id!r}: {exc}", code="invalid_rule") from exc
    steps = parse_path(rule.path.strip())
    if steps is None:
        return _Found(value, "", [("", text) for _, text in _texts(value, "")], is_one=False)
    parts = list(located(data, steps))
    return _Found(value, pointer_of(data, steps), parts, is_one=all(isinstance(step, str | int) for step in steps))


def _misses(rule: Rule, data: Any, found: _Found) -> Iterator[_Miss]:
    value = found.value
    if value is MISSING:
        yield _Miss(f"there is nothing at {rule.path!r}")
        return
    yield from _field_misses(rule, found)
    if rule.expression is not None and not _true(rule, rule.expression, {"data": data, "value": value}):
        yield _Miss(f"{rule.expression!r} is not true", [Place(path=found.at)])
    texts = [text for at, part in found.parts for text in _texts(part, at)]
    if rule.matches is not None or rule.not_matches is not None:
        _check_unicode(rule, texts)
    if rule.matches is not None:
        pattern = _pattern(rule, rule.matches)
        if not any(pattern.search(text) for _, text in texts):
            yield _Miss(f"nothing matches {rule.matches!r}")
    if rule.not_matches is not None:
        pattern = _pattern(rule, rule.not_matches)
        places, count = _places((at, text, (m.span() for m in pattern.finditer(text))) for at, text in texts)
        if count:
            yield _Miss(f"{rule.not_matches!r} matches {count} time(s)", places, count)
    if not all(term.strip() for term in (*rule.required_terms, *rule.forbidden_terms)):
        raise PermanentError(f"Rule {rule.id!r}: a term is empty.", code="invalid_rule")
    for term in rule.required_terms:
        if not any(True for _, text in texts for _ in spans_of(term, text)):
            yield _Miss(f"{term!r} is not said")
    for term in rule.forbidden_terms:
        places, count = _places((at, text, spans_of(term, text)) for at, text in texts)
        if count:
            yield _Miss(f"{term!r} is said {count} time(s)", places, count)
    yield from _length_misses(rule, found)


def _field_misses(rule: Rule, found: _Found) -> Iterator[_Miss]:
    try:
        tests = field_tests(rule.fields)
    except PermanentError as exc:
        raise PermanentError(f"Rule {rule.id!r}: {exc.message}", code="invalid_rule") from exc
    for test in tests:
        field = test.find(found.value)
        missing = field is MISSING and test.needs_value
        if missing or not test.holds(field):
            shown = "is not there" if field is MISSING else f"is {_short(field)}"
            within = pointer_of(found.value, parse_path(test.path.strip()) or ()) if found.is_one else ""
            place = Place(path=found.at + within, text=None if field is MISSING else _short(field))
            yield _Miss(f"{test.path!r} {shown}, expected {test.operator} {test.wanted!r}", [place])


def _length_misses(rule: Rule, found: _Found) -> Iterator[_Miss]:
    value, place = found.value, Place(path=found.at)
    if rule.min_length is None and rule.max_length is None:
        return
    if not isinstance(value, str | list):
        yield _Miss("its length is asked for, and it is neither a text nor a list", [place])
        return
    length = len(cast("str | list[Any]", value))
    if rule.min_length is not None and length < rule.min_length:
        yield _Miss(f"its length is {length}, at least {rule.min_length} is asked for", [place])
    if rule.max_length is not None and length > rule.max_length:
        yield _Miss(f"its length is {length}, at most {rule.max_length} is allowed", [place])


def _true(rule: Rule, source: str, variables: dict[str, Any]) -> bool:
    try:
        return bool(_parsed(rule, source).evaluate(DictScope(variables)))
    except ExpressionError as exc:
        if exc.code == "missing_value":  # what is not there does not fulfil anything
            return False
        raise PermanentError(f"Rule {rule.id!r}: {source!r}: {exc.message}", code="invalid_rule") from exc


def _parsed(rule: Rule, source: str) -> Expression:
    try:
        return parse_expression(source)
    except ExpressionSyntaxError as exc:
        raise PermanentError(f"Rule {rule.id!r}: {source!r}: {exc.message}", code="invalid_rule") from exc


def _pattern(rule: Rule, source: str) -> Any:
    try:
        return compiled(source)
    except Fault as exc:
        raise PermanentError(f"Rule {rule.id!r}: {exc}", code="invalid_rule") from exc


def _check_unicode(rule: Rule, texts: Iterable[tuple[str, str]]) -> None:
    """Refuse texts in which RE2 cannot search."""
    for where, text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise PermanentError(
                f"Rule {rule.id!r}: the text at {where!r} is not valid Unicode: character {exc.start} is half of a surrogate pair.",
                code="invalid_input",
            ) from None


def _texts(value: Any, at: str) -> Iterator[tuple[str, str]]:
    """Yield every text inside a value with its JSON pointer (`at`: the one of the value), without recursion."""
    left: list[tuple[str, Any]] = [(at, value)]
    while left:
        where, each = left.pop()
        if isinstance(each, str):
            yield where, each
        elif isinstance(each, dict):
            inner = cast("dict[str, Any]", each)
            left += [(where + join_pointer(key), v) for key, v in reversed(inner.items())]
        elif isinstance(each, list):
            left += [(where + join_pointer(n), v) for n, v in reversed(list(enumerate(cast("list[Any]", each))))]


def _places(found: Iterable[tuple[str, str, Iterable[tuple[int, int]]]]) -> tuple[list[Place], int]:
    """Return the first places of what was found in texts (pointer, text, spans), and how many there are."""
    places: list[Place] = []
    count = 0
    for where, text, spans in found:
        line, counted = 1, 0
        for start, end in spans:
            count += 1
            if len(places) < MAX_PLACES:
                line, counted = line + text.count("\n", counted, start), start
                places.append(Place(path=where, start=start, end=end, line=line, text=text[start:end][:200]))
    return places, count


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
