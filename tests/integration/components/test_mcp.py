"""mcp_list_tools and mcp_tool_call against a real server, as a program and by HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from flowmason_ray import run
from flowmason_ray.components.builtin.mcp_list_tools import McpListTools
from flowmason_ray.components.builtin.mcp_tool_call import McpToolCall
from flowmason_ray.errors import PermanentError, StageError, TemporaryError
from flowmason_ray.settings import ProjectSettings
from flowmason_ray.testing.context import RecordingContext
from tests.mcp_kit import TOKEN, http_server, stdio_settings


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with http_server() as url:
        yield url


@pytest.fixture(params=["stdio", "http"])
def context(
    request: pytest.FixtureRequest, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RecordingContext:
    """A project whose server `notes` is reached by one transport or the other."""
    monkeypatch.setenv("NOTES_TOKEN", TOKEN)
    by_http = {"url": address, "headers": {"Authorization": {"secret": "NOTES_TOKEN"}}}
    return context_with(tmp_path, notes=stdio_settings() if request.param == "stdio" else by_http)


def context_with(folder: Path, **servers: Any) -> RecordingContext:
    return RecordingContext(project_dir=folder, settings=ProjectSettings.model_validate({"mcp_servers": servers}))


def call(context: RecordingContext, tool: str, **more: Any) -> McpToolCall.Output:
    given = McpToolCall.Input.model_validate({"server": "notes", "tool": tool, **more})
    return asyncio.run(McpToolCall().execute(given, context))


def refused(context: RecordingContext, tool: str, **more: Any) -> StageError:
    with pytest.raises(StageError) as caught:
        call(context, tool, **more)
    return caught.value


def test_a_servers_tools(context: RecordingContext) -> None:
    listed = asyncio.run(McpListTools().execute(McpListTools.Input(server="notes"), context))
    tools = {tool.name: tool for tool in listed.tools}
    assert listed.count == len(tools) == 9
    assert (listed.server_name, listed.server_version, listed.instructions) == ("notes", "1.2.3", "Ask for notes.")
    assert listed.protocol_version >= "2025"
    search = tools["search"]
    assert (search.title, search.description, search.effect) == ("Find notes", "Find notes.", "read_only")
    assert search.input_schema["properties"]["limit"]["default"] == 3
    assert search.output_schema is not None
    assert (tools["put"].effect, tools["slow"].effect) == ("idempotent", "effectful")


def test_a_call(context: RecordingContext) -> None:
    output = call(context, "search", arguments={"query": "leave", "limit": 2})
    assert output.data == {"query": "leave", "found": ["note 0", "note 1"]}
    assert output.effect == "read_only"
    assert output.is_error is False
    assert output.parts[0]["type"] == "text"


def test_texts_that_are_json_are_read(context: RecordingContext) -> None:
    assert call(context, "text", arguments={"value": '{"a": [1]}'}).data == {"a": [1]}
    plain = call(context, "text", arguments={"value": "Grüße 🦆\nzwei"})
    assert (plain.content, plain.data) == ("Grüße 🦆\nzwei", None)
    assert call(context, "text", arguments={"value": "{no json"}).data is None


def test_progress_is_shown(context: RecordingContext) -> None:
    assert call(context, "steps").content == "done"
    assert context.progressed == [(1, 3), (2, 3), (3, 3)]
    assert context.messages("info") == ["step 1", "step 2", "step 3"]


def test_errors_of_a_tool(context: RecordingContext) -> None:
    error = refused(context, "fail")
    assert isinstance(error, PermanentError)
    assert error.code == "mcp_tool_error"
    assert "the notes are gone" in error.message
    output = call(context, "fail", fail_on_error=False)
    assert output.is_error
    assert "the notes are gone" in output.content


def test_what_is_refused_before_the_call(context: RecordingContext, tmp_path: Path) -> None:
    near = refused(context, "serch")
    assert (near.code, "Did you mean 'search'?" in near.message) == ("unknown_tool", True)
    wrong = refused(context, "search", arguments={"limit": "many"})
    assert wrong.code == "mcp_invalid_arguments"
    assert "'query' is a required property" in wrong.message
    assert "/limit" in wrong.message
    target = tmp_path / "x"
    assert refused(context, "put", arguments={"path": str(target)}, require_effect="read_only").code == "mcp_effect"
    assert not target.exists()
    assert (
        call(context, "put", arguments={"path": str(target)}, require_effect="idempotent").content == f"wrote {target}"
    )
    assert call(context, "search", arguments={"query": "x"}, require_effect="idempotent").effect == "read_only"


def test_an_answer_that_does_not_come(context: RecordingContext, tmp_path: Path) -> None:
    again = refused(context, "slow_look", arguments={"seconds": 600}, timeout=6)
    assert isinstance(again, TemporaryError)
    assert again.code == "mcp_timeout"
    begun = tmp_path / "begun"
    for limit in (6, 20, 60):  # connecting has to fit into it too, which takes its time on a busy machine
        doubt = refused(context, "slow", arguments={"path": str(begun), "seconds": 600}, timeout=limit)
        if begun.exists():
            break
    assert isinstance(doubt, PermanentError)
    assert doubt.code == "mcp_in_doubt"
    assert begun.read_text() == "begun"


def test_a_program_gets_what_it_is_given_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME_SECRET", "not for servers")
    monkeypatch.setenv("OUR_KEY", "k-123")
    context = context_with(tmp_path, notes=stdio_settings(env={"NOTES_KEY": {"secret": "OUR_KEY"}}))
    call(context, "put", arguments={"path": str(tmp_path / "seen")})
    assert (tmp_path / "seen").read_text() == "k-123 None"
    monkeypatch.delenv("OUR_KEY")
    assert refused(context, "put", arguments={"path": "x"}).code == "missing_secret"


def test_a_server_that_dies_in_the_middle_leaves_doubt(tmp_path: Path) -> None:
    error = refused(context_with(tmp_path, notes=stdio_settings()), "die")
    assert error.code == "mcp_in_doubt"
    assert "out of memory" in error.message


SERVER_THAT_TELLS = """
import os, runpy, sys
with open(sys.argv.pop(), "a") as file:
    file.write(f"{os.getpid()}\\n")
runpy.run_module("tests.mcp_kit", run_name="__main__")
"""


def test_each_call_has_a_program_of_its_own_and_leaves_none(tmp_path: Path) -> None:
    told, begun = tmp_path / "told", tmp_path / "begun"
    context = context_with(tmp_path, notes=stdio_settings(args=["-c", SERVER_THAT_TELLS, str(told)]))
    for _ in range(2):
        call(context, "search", arguments={"query": "x"})

    async def cancelled() -> None:
        attempt = asyncio.create_task(slow_call(context, begun, seconds=600))
        await appears(begun, attempt)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt

    asyncio.run(cancelled())
    processes = [int(line) for line in told.read_text().split()]
    assert len(set(processes)) == len(processes) == 3
    assert alive(told) == []


SERVER_THAT_STAYS = """
import os, runpy, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
closing = sys.argv.pop()
with open(sys.argv.pop(), "a") as file:
    file.write(f"{os.getpid()}\\n")
runpy.run_module("tests.mcp_kit", run_name="__main__")
open(closing, "w").close()
time.sleep(600)
"""
"""It has been told to end, and neither does, nor lets itself be ended by SIGTERM."""


class Stays:
    """A project whose server does not end by itself, and what the server leaves in files."""

    def __init__(self, folder: Path) -> None:
        self.told, self.closing, self.begun = folder / "told", folder / "closing", folder / "begun"
        self.server = stdio_settings(args=["-c", SERVER_THAT_STAYS, str(self.told), str(self.closing)])
        self.context = context_with(folder, notes=self.server)

    def gone(self) -> bool:
        """Wait until all of its programs have been ended."""
        until = monotonic() + 60
        while (left := alive(self.told)) and monotonic() < until:
            sleep(0.05)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return not left


@pytest.fixture
def stays(tmp_path: Path) -> Stays:
    return Stays(tmp_path)


def alive(told: Path) -> list[int]:
    return [pid for pid in map(int, told.read_text().split()) if Path(f"/proc/{pid}").exists()]


async def slow_call(
    context: RecordingContext, begun: Path, *, seconds: float, limit_s: float = 60
) -> McpToolCall.Output:
    given = {"server": "notes", "tool": "slow", "arguments": {"path": str(begun), "seconds": seconds}}
    return await McpToolCall().execute(McpToolCall.Input.model_validate({**given, "timeout": limit_s}), context)


async def ended_as(attempt: Coroutine[Any, Any, McpToolCall.Output]) -> McpToolCall.Output | StageError:
    try:
        return await attempt
    except StageError as exc:
        return exc


async def appears(path: Path, attempt: asyncio.Task[Any]) -> None:
    while not path.exists():  # noqa: ASYNC240  # a file is the only thing that both see
        assert not attempt.done()
        await asyncio.sleep(0.02)


def test_an_answer_counts_though_the_limit_falls_into_the_closing(stays: Stays) -> None:
    """Closing takes 4 s here: one of these limits falls into it, unless the machine is very slow."""
    for limit_s in (3, 6, 9, 12, 60):
        ended = asyncio.run(ended_as(slow_call(stays.context, stays.begun, seconds=0, limit_s=limit_s)))
        if not isinstance(ended, StageError):
            break
        # Connecting has taken too long. It must not say so of a call that was answered: that would be repeated.
        assert ended.code == "mcp_in_doubt" or not stays.begun.exists()
        stays.begun.unlink(missing_ok=True)
    assert isinstance(ended, McpToolCall.Output)
    assert ended.content == "done"
    assert stays.gone()


def test_an_answer_counts_though_the_attempt_is_cancelled_in_the_closing(stays: Stays) -> None:
    async def answered() -> McpToolCall.Output:
        attempt = asyncio.create_task(slow_call(stays.context, stays.begun, seconds=0))
        await appears(stays.closing, attempt)
        attempt.cancel()
        return await attempt

    assert asyncio.run(answered()).content == "done"
    assert stays.gone()


def test_a_program_that_stays_is_ended_though_nobody_waits_for_that(stays: Stays) -> None:
    async def cancelled_twice() -> None:
        attempt = asyncio.create_task(slow_call(stays.context, stays.begun, seconds=600))
        await appears(stays.begun, attempt)
        attempt.cancel()
        await appears(stays.closing, attempt)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt

    asyncio.run(cancelled_twice())
    assert stays.gone()


def test_a_program_that_stays_is_ended_after_its_stages_time_limit(stays: Stays, tmp_path: Path) -> None:
    (tmp_path / "flowmason.json").write_text(json.dumps({"mcp_servers": {"notes": stays.server}}))
    config = {"server": "notes", "tool": "slow", "arguments": {"path": str(stays.begun), "seconds": 600}}
    file = tmp_path / "slow.pipeline.json"
    for limit_ms in (4_000, 15_000, 60_000):  # connecting has to fit into it
        stage = {"id": "slow", "component_type": "mcp_tool_call", "timeout_ms": limit_ms, "config": config}
        file.write_text(json.dumps({"name": "slow", "stages": [stage]}))
        result = run(file, on="local")
        assert result.status == "failed"
        if stays.begun.exists():
            break
    assert stays.begun.exists()
    assert stays.gone()


@pytest.mark.parametrize(
    ("server", "code"),
    [
        ({"command": "/no/such/program"}, "mcp_connect"),
        ({"command": sys.executable, "args": ["-c", "raise SystemExit('broken setup')"]}, "mcp_connect"),
        ({"command": sys.executable, "args": ["-c", "import time; time.sleep(600)"], "timeout_s": 3}, "mcp_timeout"),
        ({"url": "http://127.0.0.1:1/mcp"}, "mcp_connect"),
    ],
)
def test_servers_that_cannot_be_reached(tmp_path: Path, server: dict[str, Any], code: str) -> None:
    error = refused(context_with(tmp_path, notes=server), "search", arguments={"query": "x"})
    assert error.code == code
    if "broken setup" in str(server):
        assert "broken setup" in error.message


def test_a_server_that_knows_us_not(address: str, tmp_path: Path) -> None:
    error = refused(context_with(tmp_path, notes={"url": address}), "search", arguments={"query": "x"})
    assert error.code in ("mcp_connect", "mcp_error")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    error = refused(context_with(tmp_path, notes=stdio_settings()), "x", server="note")
    assert (error.code, "Did you mean 'notes'?" in error.message) == ("unknown_mcp_server", True)
    assert "There is none yet" in refused(context_with(tmp_path), "x").message


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({}, "either 'command' or 'url'"),
        ({"command": "x", "url": "http://x"}, "either 'command' or 'url'"),
        ({"url": "ftp://x"}, "http://"),
        ({"url": "http://x", "args": ["a"]}, "belong to 'command'"),
        ({"command": "x", "headers": {"a": "b"}}, "belong to 'url'"),
        ({"url": "http://x", "headers": {"Authorization": "Bearer x"}}, "is a secret"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, server: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        context_with(tmp_path, notes=server)
