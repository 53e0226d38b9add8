"""A model server for tests: speaks Anthropic's Messages API and OpenAI's API on the loopback, and does as it is told.

    with LlmServer() as server:
        server.says("Hello")                          # the next answer
        server.fails(529)                             # the next request is refused
        server.says("one two three", cut_after=2)     # the connection breaks in the middle
        settings = ProjectSettings(providers=server.providers())

What is not scripted is answered by `server.answer`, a function from a request to a text; the default fits the schema that
is asked for, or repeats the last words of the user. Tokens are words, so that every count can be foretold (`tokens_in`).
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep
from typing import Any, Self, cast

KEY = "test-key-0123456789"
"""The key that clients present; anything else is refused."""


def tokens_of(text: str) -> list[str]:
    """Return the tokens of a text: words, each with the space behind it."""
    return re.findall(r"\S+\s*|\s+", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that came in."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    at: float
    """When, by the monotonic clock."""
    raw: bytes = b""

    @property
    def system(self) -> str:
        """The instructions."""
        said = self.body.get("system", "")
        if not said:
            said = next(
                (m["content"] for m in self.body.get("messages", ()) if m["role"] in ("system", "developer")), ""
            )
        return _words(said)

    @property
    def last(self) -> str:
        """The words of the last message."""
        messages: Sequence[Mapping[str, Any]] = self.body.get("messages") or ()
        return _words(messages[-1].get("content")) if messages else ""

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The schema that the answer is to fit, if one was sent."""
        format: Any = self.body.get("output_config", {}).get("format") or self.body.get("response_format") or {}
        if "json_schema" in format:
            return format["json_schema"]["schema"]
        return format.get("schema")

    @property
    def tokens_in(self) -> int:
        """How many tokens the request has: the words of its messages and instructions, and one for each tool."""
        texts = [_words(message.get("content")) for message in self.body.get("messages") or ()]
        texts.append(_words(self.body.get("system", "")))
        return sum(len(tokens_of(text)) for text in texts) + len(self.body.get("tools") or ())


def _words(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts: list[str] = []
    for part in cast("list[Mapping[str, Any]]", content or []):
        said = part.get("text", part.get("content", ""))
        parts.append(_words(said))
    return " ".join(filter(None, parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What is done with one request."""

    text: str = ""
    tools: Sequence[tuple[str, Mapping[str, Any]]] = ()
    finish: str | None = None
    """`stop`, `length`, `tool_use`, `refused`; None: what fits."""
    status: int = 200
    retry_after: str | None = None
    error: str | None = None
    """The error's type in the body; None: what fits the status."""
    message: str | None = None
    cut_after: int | None = None
    """Break the connection after so many tokens of the stream."""
    error_after: int | None = None
    """Report `error` in the stream after so many tokens (status 200 has been sent by then)."""
    token_s: float = 0.0
    """Between two tokens of the stream."""
    wait_s: float = 0.0
    """Before anything is sent."""
    cached: int = 0
    """So many of the input's tokens are reported as read from the cache."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further fields of the answer to a recording, such as `usage`."""
    match: Callable[[Asked], bool] | None = None
    """Only for requests that it accepts; None: for the next one."""


class LlmServer:
    """The server; a context manager. `requests` holds what came in, in order."""

    def __init__(self) -> None:
        self.answer: Callable[[Asked], str] = default_answer
        """Answers what is not scripted."""
        self.requests: list[Asked] = []
        self.lacks: set[str] = set()
        """What it refuses, as older servers do: `json_schema`, `tool_choice`, `stream_options`, `temperature`, `seed`,
        `max_completion_tokens`. `stream_usage`: it accepts the wish for counts in a stream, and does not fulfil it."""
        self.headers: dict[str, str] = {}
        """Sent with every answer, such as what is left of a rate limit."""
        self.token_s = 0.0
        self.wait_s = 0.0
        self.busy: set[int] = set()
        self.most_busy = 0
        """Requests whose answer has not begun: now, and at most."""
        self.batches: dict[str, dict[str, Any]] = {}
        self.batch_polls = 1
        """How often a batch is said to be in progress before it has ended."""
        self.cut_batches = 0
        """So many batches are made without an answer: the connection breaks first."""
        self.cut_results = 0
        """So often the results of a batch break off in the middle of the second line."""
        self.refuse_batches = 0
        """So many are refused."""
        self.page: str | None = None
        """A page of HTML that it sends instead of every answer, as a proxy does that wants a sign-in first."""
        self.fail_polls = 0
        """So many looks at a batch find the service overloaded."""
        self._script: deque[Turn] = deque()
        self._lock = threading.Lock()
        self._http: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    # -- the script ---------------------------------------------------------------------------------------------------

    def turn(self, turn: Turn) -> None:
        """Add to the script."""
        with self._lock:
            self._script.append(turn)

    def says(self, text: str, **more: Any) -> None:
        """Answer the next request with a text; `more` as in `Turn`."""
        self.turn(Turn(text=text, **more))

    def says_json(self, value: Any, **more: Any) -> None:
        """Answer the next request with a JSON value."""
        self.turn(Turn(text=json.dumps(value), **more))

    def calls(self, *tools: tuple[str, Mapping[str, Any]], text: str = "", **more: Any) -> None:
        """Answer the next request by wanting tools called: (name, arguments) each."""
        self.turn(Turn(text=text, tools=tools, **more))

    def fails(self, status: int, *, retry_after: str | None = None, times: int = 1, **more: Any) -> None:
        """Refuse the next request, or the next `times`."""
        for _ in range(times):
            self.turn(Turn(status=status, retry_after=retry_after, **more))

    @property
    def unused(self) -> int:
        """How much of the script is left."""
        return len(self._script)

    def take(self, asked: Asked) -> Turn:
        """Return what is done with a request."""
        with self._lock:
            for turn in self._script:
                if turn.match is None or turn.match(asked):
                    self._script.remove(turn)
                    return turn
        return Turn(text=self.answer(asked), token_s=self.token_s, wait_s=self.wait_s)

    # -- the server ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        server = self

        class Handler(_Handler):
            model_server = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        serve = self._http.serve_forever
        self._thread = threading.Thread(target=lambda: serve(poll_interval=0.02), name="llm-server", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._http is not None
        assert self._thread is not None
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def url(self) -> str:
        """The server's address, as Anthropic's SDK wants it (without `/v1`)."""
        assert self._http is not None
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def providers(self, **more: Any) -> dict[str, Any]:
        """Return project settings for providers `anthropic` and `openai` that are this server; `more` goes to both.

        The key is read from the environment variable `TEST_LLM_KEY`, which must hold `KEY`.
        """
        shared: dict[str, Any] = {"api_key": {"env": "TEST_LLM_KEY"}, **more}
        return {
            "anthropic": {"type": "anthropic", "base_url": self.url, "default_model": "claude-test", **shared},
            "openai": {
                "type": "openai_compatible",
                "base_url": f"{self.url}/v1",
                "default_model": "gpt-test",
                "embedding_model": "embed-test",
                **shared,
            },
        }

    def entered(self, asked: Asked) -> None:
        """Note a request."""
        with self._lock:
            self.requests.append(asked)
            self.busy.add(id(asked))
            self.most_busy = max(self.most_busy, len(self.busy))

    def answering(self, asked: Asked) -> None:
        """Note that the answer to a request begins."""
        with self._lock:
            self.busy.discard(id(asked))


class _Handler(BaseHTTPRequestHandler):
    model_server: LlmServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer a request without a body."""
        self._serve(b"")

    def do_POST(self) -> None:
        """Answer a request."""
        self._serve(self.rfile.read(int(self.headers.get("content-length", 0))))

    def _serve(self, raw: bytes) -> None:
        from flowmason_ray.testing.llm_dialects import respond

        is_json = raw.startswith(b"{")
        asked = Asked(
            path=self.path.partition("?")[0],
            body=json.loads(raw) if is_json else {},
            headers={name.lower(): value for name, value in self.headers.items()},
            at=monotonic(),
            raw=raw,
        )
        server = self.model_server
        server.entered(asked)
        try:
            respond(server, asked, self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has gone, as one does that is cancelled
        finally:
            server.answering(asked)

    # -- what dialects use --------------------------------------------------------------------------------------------

    def send_json(self, value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Send a JSON document."""
        self.send_bytes(json.dumps(value).encode(), "application/json", status=status, headers=headers)

    def send_bytes(
        self,
        content: bytes,
        media_type: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        cut_after: int | None = None,
    ) -> None:
        """Send a body; with `cut_after` only so many bytes of it, after which the connection breaks."""
        self.send_response(status)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(content)))
        for name, value in {**self.model_server.headers, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[:cut_after])
        if cut_after is not None:
            self.cut()

    def begin_stream(self, headers: Mapping[str, str]) -> None:
        """Begin to send server-sent events."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        for name, value in {**self.model_server.headers, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_event(self, data: Any, event: str | None = None) -> None:
        """Send one event."""
        text = data if isinstance(data, str) else json.dumps(data)
        content = (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()

    def end_stream(self) -> None:
        """End the events as they should."""
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def cut(self) -> None:
        """Break the connection."""
        self.close_connection = True


Handler = _Handler
"""The type of what dialects send through."""


def default_answer(asked: Asked) -> str:
    """Return JSON that fits the schema, or what was asked."""
    if asked.schema is not None:
        return json.dumps(example_of(asked.schema))
    return f"You said: {' '.join(asked.last.split()[-20:])}"


def example_of(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """Return a value that fits a plain JSON Schema: its first choice everywhere."""
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for key in str(schema["$ref"]).removeprefix("#/").split("/"):
            target = target[key]
        return example_of(target, root)
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return example_of(schema[key][0], root)
    kind: Any = schema.get("type", "object" if "properties" in schema else "string")
    kind = cast("list[Any]", kind)[0] if isinstance(kind, list) else kind
    match kind:
        case "object":
            return {name: example_of(each, root) for name, each in schema.get("properties", {}).items()}
        case "array":
            return [example_of(schema.get("items", {}), root)] * max(1, schema.get("minItems", 1))
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "text".ljust(schema.get("minLength", 0), "x")


def pause(seconds: float) -> None:
    """Wait, when there is something to wait for."""
    if seconds > 0:
        sleep(seconds)
