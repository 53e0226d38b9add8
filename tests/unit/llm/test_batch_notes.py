"""Batches that were under way when something broke are found again, and nothing is asked twice."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.errors import TemporaryError
from flowmason_ray.llm import anthropic_batches
from flowmason_ray.llm.batch_notes import FOLDER, KEPT_S, BatchNotes, digest_of
from flowmason_ray.llm.hub import close_hub
from flowmason_ray.testing.context import RecordingContext
from flowmason_ray.testing.llm_server import LlmServer, Turn
from tests.llm_kit import asking, model_server

Ask = Callable[..., list[Any]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlmServer]:
    monkeypatch.setattr(anthropic_batches, "POLL_S", 0.05)
    with model_server() as serving:
        serving.batch_polls = 0
        yield serving
    close_hub()


@pytest.fixture
def ask(server: LlmServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Returns a function that asks several things, each as a stage of its own, as a new process would or (`again`) the same one."""

    def those(*words: str, again: bool = False, prefix: str = "say", **more: Any) -> list[Any]:
        if not again:
            close_hub()

        waiting = set(words)

        async def collect(self: Any) -> None:
            """Wait for all that have no answer yet, however long a busy machine takes: when a batch breaks off they come again."""
            while len(self._collecting) < len(waiting):  # noqa: ASYNC110  # nothing tells when one more has come
                await asyncio.sleep(0.01)
            self._send()

        monkeypatch.setattr(anthropic_batches.Batches, "_collect", collect)
        context = replace(asking(server, "anthropic", said={"priority": "batch"}, **more), project_dir=tmp_path)

        async def one(word: str) -> Any:
            try:
                return await _as_stage(context, word).models.generate(f"{prefix} {word}")
            finally:
                waiting.discard(word)

        async def all_of_them() -> list[Any]:
            return await asyncio.gather(*map(one, words), return_exceptions=True)

        return [getattr(each, "text", each) for each in asyncio.run(asyncio.wait_for(all_of_them(), 120))]

    return those


def _as_stage(context: RecordingContext, word: str) -> RecordingContext:
    return replace(context, idempotency_key=f"key-of-{word}")


def sizes(server: LlmServer) -> list[int]:
    """Return how many requests each batch has."""
    return [len(batch["requests"]) for batch in server.batches.values()]


def notes(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((folder / FOLDER).glob("*.json"))]


def test_another_process_takes_the_answers_of_the_batch(server: LlmServer, ask: Ask, tmp_path: Path) -> None:
    assert ask("a", "b", "c") == ["You said: say a", "You said: say b", "You said: say c"]
    (note,) = notes(tmp_path)
    assert (note["batch"], len(note["requests"])) == (next(iter(server.batches)), 3)
    assert ask("b", "c", "d") == ["You said: say b", "You said: say c", "You said: say d"]
    assert sizes(server) == [3, 1], "only what is new is asked"


def test_who_has_had_an_answer_and_asks_again_wants_another_one(server: LlmServer, ask: Ask) -> None:
    ask("a")
    ask("a", again=True)
    assert sizes(server) == [1, 1]


def test_another_question_under_the_same_key_is_asked(server: LlmServer, ask: Ask) -> None:
    ask("a")
    assert ask("a", prefix="shout") == ["You said: shout a"]
    assert sizes(server) == [1, 1]


def test_a_batch_that_is_still_under_way_is_waited_for(server: LlmServer, ask: Ask, tmp_path: Path) -> None:
    ask("a")
    (name,) = server.batches
    server.batches[name]["polls"], server.batch_polls = 0, 3
    assert ask("a") == ["You said: say a"]
    assert sizes(server) == [1]
    assert server.batches[name]["polls"] > 3


def test_a_batch_that_was_made_without_an_answer_is_looked_for(server: LlmServer, ask: Ask, tmp_path: Path) -> None:
    """The connection breaks when the batch has been made: nobody knows its name, nor whether there is one."""
    server.cut_batches = 1
    assert ask("a", "b") == ["You said: say a", "You said: say b"]
    assert sizes(server) == [2]
    assert [note["batch"] for note in notes(tmp_path)] == list(server.batches)


@pytest.mark.parametrize("borne", [20, 0], ids=["the batch goes on", "the request is repeated"])
def test_a_service_that_is_away_for_a_while_costs_nothing(
    borne: int, server: LlmServer, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anthropic_batches, "MOST_FAILED_POLLS", borne)
    server.fail_polls = 2 if borne else 1
    assert ask("a", "b") == ["You said: say a", "You said: say b"]
    assert (sizes(server), server.fail_polls) == ([2], 0)


def test_results_that_break_off_are_read_again(server: LlmServer, ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    """Those who have their answers keep them; the others wait for the same batch once more."""
    gc.collect()  # what other tests have left speaks now
    caplog.clear()
    server.cut_results = 1
    assert ask("a", "b", "c") == ["You said: say a", "You said: say b", "You said: say c"]
    assert sizes(server) == [3]
    assert not [each for each in caplog.records if each.name == "asyncio"], "it logs what nobody has taken"


def test_results_that_never_come_whole_are_an_error_that_can_be_repeated(
    server: LlmServer, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()
    caplog.clear()
    server.cut_results = 1
    first, *others = ask("a", "b", "c", max_retries=0)
    assert first == "You said: say a"
    for other in others:
        assert isinstance(other, TemporaryError)
        assert other.code == "stream_interrupted"
    assert ask("b", "c", again=True, max_retries=0) == ["You said: say b", "You said: say c"]
    assert sizes(server) == [3], "it is not paid for twice"
    gc.collect()
    assert not [each for each in caplog.records if each.name == "asyncio"]


def test_a_batch_of_somebody_elses_is_not_taken_for_ours(server: LlmServer, ask: Ask, tmp_path: Path) -> None:
    ask("x", "y")
    for file in (tmp_path / FOLDER).glob("*.json"):
        file.unlink()  # another project's, with the same key
    (theirs,) = server.batches
    server.cut_batches = 1
    assert ask("a", "b") == ["You said: say a", "You said: say b"]
    assert sizes(server) == [2, 2]
    assert theirs not in [note["batch"] for note in notes(tmp_path)]


def test_a_batch_that_two_look_for_is_found_by_both(
    server: LlmServer, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name was lost, and its requests come again one by one: the second looks for it when the first has found it."""
    ask("a", "b")
    (file,) = (tmp_path / FOLDER).glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "batch": None}))
    batches: Any = anthropic_batches.Batches
    found, turn = batches._found, asyncio.Lock()

    async def one_after_the_other(self: Any, note: Any) -> Any:
        async with turn:
            return await found(self, note)

    monkeypatch.setattr(batches, "_found", one_after_the_other)
    monkeypatch.setattr(anthropic_batches, "MOST_REQUESTS", 1)  # nothing is collected
    assert ask("a", "b") == ["You said: say a", "You said: say b"]
    assert sizes(server) == [2], "nothing is paid for twice"


def test_a_batch_that_was_never_made_is_made(server: LlmServer, ask: Ask, tmp_path: Path) -> None:
    ask("a")
    (file,) = (tmp_path / FOLDER).glob("*.json")
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "batch": None}))
    server.batches.clear()
    assert ask("a") == ["You said: say a"]
    assert (sizes(server), len(notes(tmp_path))) == ([1], 1)


def test_a_batch_that_has_gone_is_made_anew(server: LlmServer, ask: Ask, tmp_path: Path) -> None:
    ask("a", "b")
    server.batches.clear()
    assert ask("a", "b") == ["You said: say a", "You said: say b"]
    assert (sizes(server), len(notes(tmp_path))) == ([2], 1)


def test_a_request_that_failed_in_the_batch_is_asked_anew(server: LlmServer, ask: Ask) -> None:
    def is_b(asked: Any) -> bool:
        return asked.last == "say b"

    server.turn(Turn(status=400, message="no", match=is_b))
    first = ask("a", "b")
    assert (first[0], getattr(first[1], "code", None)) == ("You said: say a", "provider_refused_request")
    server.turn(Turn(status=400, message="no", match=is_b))  # results are made when they are read: the same again
    assert ask("a", "b") == ["You said: say a", "You said: say b"]
    assert sizes(server) == [2, 1]


def test_a_batch_that_is_refused_leaves_no_note(server: LlmServer, ask: Ask, tmp_path: Path) -> None:
    server.refuse_batches = 1
    (failed,) = ask("a")
    assert getattr(failed, "code", None) == "provider_refused_request"
    assert notes(tmp_path) == []


def test_old_notes_and_what_is_none_are_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = BatchNotes(tmp_path, "account")
    assert kept.intend({"a": digest_of({"x": 1})}) is not None
    (file,) = (tmp_path / FOLDER).glob("*.json")
    (file.parent / f"{file.name.partition('-')[0]}-torn.json").write_text("{")
    again = BatchNotes(tmp_path, "account")
    assert len(list(again.all())) == 1
    assert list(BatchNotes(tmp_path, "another account").all()) == []
    monkeypatch.setattr("flowmason_ray.llm.batch_notes.time", lambda: json.loads(file.read_text())["at"] + KEPT_S + 1)
    assert list(again.all()) == []
    assert not file.exists()


def test_without_a_place_for_notes_batches_work_all_the_same(tmp_path: Path) -> None:
    (tmp_path / ".flowmason").write_text("a file where the folder should be")
    nowhere = BatchNotes(tmp_path, "account")
    assert nowhere.intend({"a": "1"}) is None
    assert BatchNotes(None, "account").intend({"a": "1"}) is None
    assert nowhere.known({"b": "1"}) == []
