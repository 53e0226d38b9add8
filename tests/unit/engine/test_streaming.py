"""Growing texts, as they are shown: few events, everything in order, an end to it, and no secret, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowmason_ray.engine import streaming
from flowmason_ray.engine.secrecy import Masking
from flowmason_ray.engine.streaming import LiveText

SECRETS = ("abcd", "abab", "cdcdabcdz", "aaaab")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "INTERVAL_S", 0.0)


def shown(parts: list[str], secrets: tuple[str, ...] = SECRETS, *, flush: bool = True) -> list[str]:
    events: list[str] = []
    live = LiveText(events.append, Masking(secrets))
    for part in parts:
        live.add(part)
    if flush:
        live.flush()
    return events


@given(st.lists(st.text("abcdz", max_size=6), max_size=12))
def test_no_secret_is_shown_however_it_is_cut(parts: list[str]) -> None:
    text = "".join(shown(parts))
    assert not [each for each in SECRETS if each in text]
    assert "".join(shown(parts, ())) == "".join(parts), "without secrets nothing is changed"


@given(st.lists(st.text("xyz", max_size=6), max_size=12))
def test_what_is_no_secret_is_shown_whole(parts: list[str]) -> None:
    assert "".join(shown(parts)) == "".join(parts)


def test_only_what_may_be_a_secret_is_held_back() -> None:
    assert shown(["key: ", "hun", "ter two!"], ("hunter two",)) == ["key: ", "***!"]
    assert shown(["key: ", "hun", "gry"], ("hunter two",)) == ["key: ", "hungry"]
    assert shown(["key: hun"], ("hunter two",)) == ["key: ", "hun"]
    assert shown(["key: hun"], ("hunter two",), flush=False) == ["key: "]


def test_there_is_an_end_to_it() -> None:
    text = "".join(shown(["x" * 150_000] * 3))
    assert len(text) < streaming.MOST_CHARS + 100
    assert text.endswith("(the rest is not shown)")
