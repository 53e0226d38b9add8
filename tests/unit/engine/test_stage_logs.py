"""What is kept of what stages say is bounded, and what was dropped is said."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flowmason_ray.engine.events import StageLogged, StageStarted
from flowmason_ray.engine.stage_logs import BURST, CHARACTERS, MESSAGE_CHARACTERS, RATE_PER_S, StageLogs


def said(message: str = "x", at: float = 0.0, *, path: str = "a", attempt: int = 0, **fields: Any) -> StageLogged:
    return StageLogged(at=at, path=path, attempt=attempt, level="info", message=message, fields=fields)


def test_what_a_stage_says_is_kept_with_its_attempt() -> None:
    logs = StageLogs()
    assert [k.attempt for k in logs.kept(said())] == [1]
    logs.started(StageStarted(path="b", attempt=3))
    assert [k.attempt for k in logs.kept(said(path="b"))] == [3]
    assert [k.attempt for k in logs.kept(said(path="b", attempt=4))] == [4]


def test_a_flood_is_cut_off_and_counted() -> None:
    logs = StageLogs()
    kept = [k for _ in range(BURST + 500) for k in logs.kept(said())]
    assert len(kept) == BURST
    (note,) = logs.ended("a", 9.0)
    assert note.message.startswith("500 messages were not kept: ")
    assert (note.level, note.fields, note.path, note.at) == ("warning", {"dropped": 500}, "a", 9.0)
    assert not logs.watching
    assert list(logs.ended("a", 9.0)) == []


def test_what_was_dropped_on_the_way_is_counted_too() -> None:
    logs = StageLogs()
    assert list(logs.kept(StageLogged(path="a", level="warning", message="many more", dropped=40))) == []
    (note,) = logs.ended("a", 9.0)
    assert note.fields == {"dropped": 40}
    assert [k.message for k in logs.kept(said("a field of that name", dropped=3))] == ["a field of that name"]


def test_who_was_cut_off_is_heard_again_later() -> None:
    logs = StageLogs()
    for _ in range(BURST + 1):
        list(logs.kept(said()))
    later = list(logs.kept(said("again", at=BURST / 10 / RATE_PER_S + 0.1)))
    assert [k.message.split(":")[0] for k in later] == ["1 message was not kept", "again"]
    assert list(logs.ended("a", 99.0)) == []


def test_a_long_message_is_cut() -> None:
    (kept,) = StageLogs().kept(said("x" * (MESSAGE_CHARACTERS + 1_234)))
    assert kept.message.endswith("x… (1,234 more characters)")


def test_attempts_have_budgets_of_their_own() -> None:
    logs = StageLogs()
    for _ in range(CHARACTERS // MESSAGE_CHARACTERS + 3):
        list(logs.kept(said("x" * MESSAGE_CHARACTERS)))
    assert list(logs.kept(said("short", path="b"))), "another stage"
    kept = list(logs.kept(said("second try", attempt=2)))
    assert [k.message.split(" ")[0] for k in kept] == ["3", "second"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 20_000), st.floats(0, 5)), max_size=60))
def test_nothing_is_lost_without_a_word(messages: list[tuple[str, int, float]]) -> None:
    logs, now, kept = StageLogs(), 0.0, list[StageLogged]()
    for path, size, pause in messages:
        now += pause
        kept += logs.kept(said("y" * size, at=now, path=path))
    for path in "ab":
        kept += logs.ended(path, now)
    dropped = sum(k.fields.get("dropped", 0) for k in kept)
    assert dropped + sum("dropped" not in k.fields for k in kept) == len(messages)
    for path in "ab":
        texts = [k.message for k in kept if k.path == path and "dropped" not in k.fields]
        assert sum(map(len, texts)) <= CHARACTERS + 40 * len(texts)
