"""`fm mcp serve`, with the SDK's own client, by stdio and by HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.cli_kit import ROOT

TOKEN = "a-token-for-tests-0123"
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "FLOWMASON_MCP_TOKEN": TOKEN}

GREET = {
    "name": "Greet somebody",
    "version": "1.2.0",
    "description": "Greets somebody by name.",
    "input_schema": {
        "type": "object", "properties": {"name": {"type": "string", "minLength": 2}}, "required": ["name"],
    },
    "stages": [{"id": "loud", "component_type": "loud", "config": {"text": "Hello {{ input.name }}"}}],
    "output": {"text": "{{ stages.loud.text }}"},
}  # fmt: skip

LOUD = '''
import subprocess
from pydantic import BaseModel
from flowmason_ray import operator

@operator(effect="pure")
class Loud:
    """Prints a lot, itself and through a child."""

    class Input(BaseModel):
        text: str

    class Output(BaseModel):
        text: str

    def execute(self, input, context):
        print("printed by a component")
        subprocess.run(["echo", "printed by a child"], check=True)
        return {"text": input.text.upper()}
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "flowmason.json").write_text('{"name": "greetings"}')
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "loud.py").write_text(LOUD)
    (tmp_path / "greet.pipeline.json").write_text(json.dumps(GREET))
    base = {"name": "Base", "abstract": True, "stages": [{"id": "x", "component_type": "abstract"}]}
    (tmp_path / "base.pipeline.json").write_text(json.dumps(base))
    (tmp_path / "broken.pipeline.json").write_text('{"name": ')
    return tmp_path


Talk = Callable[[Client], Awaitable[None]]


def by_stdio(project: Path, talk: Talk, *options: str) -> None:
    command = ["-m", "flowmason_ray", "mcp", "serve", "--project", str(project), *options]

    async def run() -> None:
        parameters = StdioServerParameters(command=sys.executable, args=command, env=ENVIRONMENT, cwd=str(project))
        async with asyncio.timeout(120), Client(parameters) as client:
            await talk(client)

    asyncio.run(run())


@contextmanager
def http_server(project: Path, *options: str, **environment: str) -> Generator[tuple[str, list[str]]]:
    """Start the server; return its address and what it said before."""
    command = [sys.executable, "-m", "flowmason_ray", "mcp", "serve", "--http", "127.0.0.1:0", *options]
    env = {**os.environ, **ENVIRONMENT, **environment}
    env = {name: value for name, value in env.items() if value}
    with subprocess.Popen(
        command, cwd=project, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            said = [process.stderr.readline()]
            address = re.search(r"http://\S+", said[0])
            assert address is not None, said[0] + process.stderr.read()
            if "FLOWMASON_MCP_TOKEN" not in env:
                said.append(process.stderr.readline())
            yield address[0], said
        finally:
            process.kill()


@asynccontextmanager
async def client_of(address: str, token: str = TOKEN) -> AsyncGenerator[Client]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60) as http,
        Client(streamable_http_client(address, http_client=http)) as client,
    ):
        yield client


def by_http(project: Path, talk: Talk, *options: str) -> None:
    async def run(address: str) -> None:
        async with asyncio.timeout(120), client_of(address) as client:
            await talk(client)

    with http_server(project, *options) as (address, _):
        asyncio.run(run(address))


@pytest.fixture(params=[by_stdio, by_http], ids=["stdio", "http"])
def talking(request: pytest.FixtureRequest) -> Callable[..., None]:
    return request.param


async def document(client: Client, tool: str, **arguments: Any) -> Any:
    """Call a tool; return its document."""
    result = await client.call_tool(tool, arguments)
    assert result.content[0].type == "text"
    assert json.loads(result.content[0].text) == result.structured_content
    return {**result.structured_content, "is_error": result.is_error}


def test_a_conversation(talking: Callable[..., None], project: Path) -> None:
    async def talk(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert sorted(tools) == [
            "list_pipelines", "list_runs", "run_greet_somebody", "run_pipeline", "show_run", "validate_pipeline",
        ]  # fmt: skip
        greet = tools["run_greet_somebody"]
        assert greet.input_schema["properties"] == GREET["input_schema"]["properties"]  # type: ignore[index]
        assert greet.description is not None
        assert "Greets somebody by name." in greet.description
        assert tools["list_runs"].annotations is not None
        assert tools["list_runs"].annotations.read_only_hint
        listed = await document(client, "list_pipelines")
        assert {p["pipeline"]: p.get("tool") for p in listed["pipelines"]} == {
            "base.pipeline.json": None, "greet.pipeline.json": "run_greet_somebody",
        }  # fmt: skip
        assert [b["pipeline"] for b in listed["broken"]] == ["broken.pipeline.json"]
        seen: list[float] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            seen.append(progress)

        ran = await client.call_tool("run_greet_somebody", {"name": "Ada"}, progress_callback=note)
        assert ran.structured_content["output"] == {"text": "HELLO ADA"}
        assert ran.structured_content["status"] == "succeeded"
        assert seen
        again = await document(client, "run_pipeline", pipeline="greet.pipeline.json", input={"name": "Bob"})
        assert again["output"] == {"text": "HELLO BOB"}
        runs = await document(client, "list_runs", limit=5)
        assert [run["run_id"] for run in runs["runs"]] == [again["run_id"], ran.structured_content["run_id"]]
        shown = await document(client, "show_run", run="last")
        assert (shown["status"], shown["output"]) == ("succeeded", {"text": "HELLO BOB"})

    talking(project, talk)


def test_what_goes_wrong_is_told(talking: Callable[..., None], project: Path) -> None:
    (project / "wrong.pipeline.json").write_text(
        json.dumps({**GREET, "name": "Wrong", "output": "{{ stages.lod.text }}"})
    )
    fails = {**GREET, "name": "Fails", "input_schema": None, "stages": [
        {"id": "loud", "component_type": "loud", "config": {"text": "{{ input.missing }}"}}]}  # fmt: skip
    (project / "fails.pipeline.json").write_text(json.dumps({k: v for k, v in fails.items() if v is not None}))

    (project / ".env").write_text("PASSWORD=hunter2")
    (project / "link.pipeline.json").symlink_to(".env")
    (project / ".hidden").mkdir()
    (project / ".hidden" / "x.pipeline.json").write_text("hunter2")

    async def talk(client: Client) -> None:
        async def problem(tool: str, **arguments: Any) -> Any:
            found = await document(client, tool, **arguments)
            assert found["is_error"], found
            return found

        assert "lod" in json.dumps(await problem("run_pipeline", pipeline="wrong.pipeline.json", input={"name": "Ada"}))
        checked = await document(client, "validate_pipeline", pipeline="wrong.pipeline.json")
        assert (checked["is_error"], checked["ok"]) == (False, False)
        assert checked["problems"][0]["nearest"] == "loud"
        assert (await document(client, "validate_pipeline", pipeline="greet.pipeline.json"))["ok"]
        assert "'name'" in json.dumps(await problem("run_greet_somebody"))
        failed = await problem("run_fails")
        assert (failed["status"], failed["error"]["code"]) == ("failed", "missing_value")
        for path in ("../x.pipeline.json", "/etc/passwd", "nope.pipeline.json"):
            assert (await problem("run_pipeline", pipeline=path))["status"] == "invalid"
        for tool in ("run_pipeline", "validate_pipeline"):
            for path in (".env", "flowmason.json", "link.pipeline.json", ".hidden/x.pipeline.json", "."):
                told = json.dumps(await problem(tool, pipeline=path))
                assert "hunter2" not in told
                assert str(project) not in told
        listed = json.dumps(await document(client, "list_pipelines"))
        assert "broken.pipeline.json" in listed
        assert "hunter2" not in listed
        assert str(project) not in listed
        said = await document(client, "validate_pipeline", pipeline="broken.pipeline.json")
        assert said["problems"][0]["file"] == "broken.pipeline.json"
        assert "run_fails" in json.dumps(await problem("run_fail"))
        assert (await problem("show_run", run="r_nothing"))["error"]["code"] == "run_not_found"
        assert "limit" in json.dumps(await problem("list_runs", limit=0))
        # After all that it still works, and sees new files.
        (project / "new.pipeline.json").write_text(json.dumps({**GREET, "name": "New"}))
        assert (await document(client, "run_new", name="Eve"))["output"] == {"text": "HELLO EVE"}

    talking(project, talk)


SLOW = '''
import asyncio
from pydantic import BaseModel
from flowmason_ray import operator

@operator(effect="pure")
class Slow:
    """Leaves a mark, then waits for ever."""

    class Input(BaseModel):
        pass

    class Output(BaseModel):
        pass

    async def execute(self, input, context):
        (context.project_dir / "begun").write_text("")
        await asyncio.sleep(3600)
'''


def test_a_call_that_is_cancelled_cancels_its_run(talking: Callable[..., None], project: Path) -> None:
    (project / "components" / "slow.py").write_text(SLOW)
    slow: dict[str, Any] = {"name": "Slow", "stages": [{"id": "slow", "component_type": "slow", "config": {}}]}
    (project / "slow.pipeline.json").write_text(json.dumps(slow))

    async def talk(client: Client) -> None:
        call = asyncio.create_task(client.call_tool("run_slow", {}))
        while not (project / "begun").exists():  # noqa: ASYNC110  # another process makes it
            await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        # What is only computed does not wait for the disk: it may have begun before the run is recorded.
        while not (runs := (await document(client, "list_runs"))["runs"]) or runs[0]["status"] == "running":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        assert runs[0]["status"] == "cancelled"

    talking(project, talk)


def test_read_only(project: Path) -> None:
    async def talk(client: Client) -> None:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {"list_pipelines", "validate_pipeline", "list_runs", "show_run"}
        for tool, arguments in (
            ("run_greet_somebody", {"name": "Ada"}),
            ("run_pipeline", {"pipeline": "greet.pipeline.json"}),
        ):
            assert (await document(client, tool, **arguments))["is_error"]
        assert (await document(client, "list_runs"))["runs"] == []

    by_stdio(project, talk, "--read-only")


def test_nothing_but_the_protocol_on_stdout(project: Path) -> None:
    def request(number: int, method: str, **params: Any) -> str:
        return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})

    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    lines = [
        request(1, "initialize", **about),
        json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        request(2, "tools/call", name="run_greet_somebody", arguments={"name": "Ada"}),
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "flowmason_ray", "mcp", "serve"], cwd=project, env={**os.environ, **ENVIRONMENT},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n".join(lines) + "\n")
        process.stdin.flush()
        printed = [process.stdout.readline(), process.stdout.readline()]
        rest, errors = process.communicate(timeout=120)  # closes its input: it ends
    said = [json.loads(line) for line in [*printed, *rest.splitlines()] if line.strip()]
    assert [each["id"] for each in said if "id" in each] == [1, 2]
    assert said[-1]["result"]["structuredContent"]["output"] == {"text": "HELLO ADA"}
    assert "printed by a component" in errors
    assert "printed by a child" in errors
    assert process.returncode == 0


def post(address: str, headers: dict[str, str]) -> int:
    """Send a ping; return the status of the answer."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    return httpx.post(address, json=body, headers=headers, timeout=60).status_code


def test_http_needs_the_token(project: Path) -> None:
    accept = {"accept": "application/json, text/event-stream"}
    with http_server(project) as (address, said):
        assert TOKEN not in "".join(said)
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": TOKEN},
            {"authorization": f"Basic {TOKEN}"},
        ):
            assert post(address, {**accept, **headers}) == 401
        known = {**accept, "authorization": f"Bearer {TOKEN}"}
        assert post(address, {**known, "host": "evil.example"}) in (403, 421)
        assert post(address, {**known, "origin": "http://evil.example"}) == 403
        assert post(address, known) not in (401, 403, 421)


def test_names_of_hosts_can_be_added(project: Path) -> None:
    known = {"accept": "application/json, text/event-stream", "authorization": f"Bearer {TOKEN}"}
    options = ("--http", "0.0.0.0:0", "--allow-host", "Tools.example.org", "--allow-host", "fd00::1")
    with http_server(project, *options) as (address, _):
        address = address.replace("0.0.0.0", "127.0.0.1")

        def status(host: str, **more: str) -> int:
            return post(address, {**known, "host": host, **more})

        for host in ("tools.example.org", "tools.example.org:8443", "[fd00::1]:80", "127.0.0.1:80", "localhost:1"):
            assert status(host) not in (401, 403, 421), host
        assert status("tools.example.org", origin="https://tools.example.org") not in (403, 421)
        for host in ("evil.example", "x.tools.example.org", "tools.example.org.evil.example", "0.0.0.0:80"):
            assert status(host) in (403, 421), host
        assert status("tools.example.org", origin="https://evil.example") == 403


def test_without_a_token_one_is_made(project: Path) -> None:
    async def run(address: str, token: str) -> int:
        async with asyncio.timeout(120), client_of(address, token) as client:
            return len((await client.list_tools()).tools)

    with http_server(project, FLOWMASON_MCP_TOKEN="") as (address, said):
        found = re.search(r"Bearer (\S{20,})'", said[1])
        assert found is not None
        assert asyncio.run(run(address, found[1])) == 6


@pytest.mark.parametrize(
    ("address", "token", "said"),
    [
        ("0.0.0.0:0", "", "other machines can connect"),
        ("127.0.0.1:0", "short", "at least 16"),
        ("127.0.0.1", TOKEN, "write HOST:PORT"),
        ("127.0.0.1:0 --allow-host http://x", TOKEN, "without scheme and port"),
        ("127.0.0.1:99999", TOKEN, "write HOST:PORT"),
        ("203.0.113.7:80", TOKEN, "cannot listen"),
    ],
)
def test_what_is_refused_at_the_start(project: Path, address: str, token: str, said: str) -> None:
    env = {**os.environ, **ENVIRONMENT, "FLOWMASON_MCP_TOKEN": token}
    if not token:
        del env["FLOWMASON_MCP_TOKEN"]
    command = [sys.executable, "-m", "flowmason_ray", "mcp", "serve", "--http", *address.split()]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
