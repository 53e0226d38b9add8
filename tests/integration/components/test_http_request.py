"""`http_request` against real servers on the loopback interface, and the attacks that must not reach them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from flowmason_ray.components.builtin.http_request import HttpRequest
from flowmason_ray.errors import PermanentError, StageError, TemporaryError
from flowmason_ray.testing.context import RecordingContext, allowing


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    port: int
    seen: list[Seen] = field(default_factory=list[Seen])
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(
        default_factory=dict[str, tuple[int, dict[str, str], bytes]]
    )

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


def serve() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("content-length", 0))
            headers = {k.lower(): v for k, v in self.headers.items()}
            here.seen.append(Seen(self.command, self.path, headers, self.rfile.read(length)))
            path = self.path.partition("?")[0]
            if path == "/slow":
                done.wait(20)
            status, extra, body = here.answers.get(path, (200, {"content-type": "application/json"}, b'{"ok": true}'))
            self.send_response(status)
            for name, value in extra.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client hung up: that is tested
                    self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here, done = Server(server.server_address[1]), threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield here
    done.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serve()


@pytest.fixture
def other() -> Iterator[Server]:
    yield from serve()


def call(url: str, *allow: str, **options: Any) -> HttpRequest.Output:
    context = RecordingContext(settings=allowing(*(allow or ("127.0.0.1",))), idempotency_key="key-7")
    return asyncio.run(HttpRequest().execute(HttpRequest.Input.model_validate({"url": url, **options}), context))


def refusal(url: str, *allow: str, **options: Any) -> StageError:
    with pytest.raises(StageError) as caught:
        call(url, *allow, **options)
    return caught.value


def test_a_json_answer_is_parsed(server: Server):
    out = call(server.url("/x"), params={"a": [1, 2], "b": None, "c": "ü"})
    assert out.success
    assert (out.status_code, out.body, out.body_encoding) == (200, {"ok": True}, "json")
    assert out.headers["content-type"] == "application/json"
    assert out.url == server.url("/x")
    assert server.seen[0].path == "/x?a=1&a=2&c=%C3%BC"
    assert server.seen[0].headers["host"] == f"127.0.0.1:{server.port}"
    assert "idempotency-key" not in server.seen[0].headers


def test_bodies_forms_and_the_idempotency_key(server: Server):
    call(server.url(), method="POST", body={"a": 1})
    call(server.url(), method="PUT", body="plain ü", headers={"Content-Type": "text/x"})
    call(server.url(), method="PATCH", form={"a": "1", "b": "x y"}, headers={"Idempotency-Key": "mine"})
    one, two, three = server.seen
    assert (json.loads(one.body), one.headers["content-type"]) == ({"a": 1}, "application/json")
    assert one.headers["idempotency-key"] == "key-7"
    assert (two.body.decode(), two.headers["content-type"]) == ("plain ü", "text/x")
    assert three.body == b"a=1&b=x+y"
    assert three.headers["idempotency-key"] == "mine"


@pytest.mark.parametrize("what", ["params", "form"])
@pytest.mark.parametrize(
    ("value", "found"), [({"b": 1}, "an object"), ([1, {"b": 1}], "an object"), ([[1]], "a list in a list")]
)
def test_fields_that_nest_are_refused(server: Server, what: str, value: Any, found: str):
    """Each server wants them written in its own way; Python's, which was sent, none does."""
    error = refusal(server.url(), method="POST", **{what: {"good": 1, "a": value}})
    assert (error.code, server.seen) == ("http_invalid_request", [])
    assert f"'{what}': field 'a' holds {found}" in error.message


def test_fields_of_a_form(server: Server):
    call(server.url(), method="POST", form={"a": [1, 2.5, "x"], "b": True, "c": None, "d": "ü"})
    assert server.seen[0].body == b"a=1&a=2.5&a=x&b=true&c=&d=%C3%BC"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (nested(100_000), "nest too deeply"),
        ({"n": 10**5000}, "4300 digits"),
        ({"a": "\ud800"}, "surrogate"),
        ("\ud800", "surrogate"),
    ],
)
def test_a_body_that_cannot_be_written_is_refused(server: Server, body: Any, words: str):
    error = refusal(server.url(), method="POST", body=body)
    assert (error.code, server.seen) == ("http_invalid_request", [])
    assert words in error.message


def test_json_that_cannot_be_read_is_a_text(server: Server):
    for text in ("[" * 100_000, "[" * 100_000 + "]" * 100_000, "9" * 5000):
        server.answers["/much"] = (200, {"content-type": "application/json"}, text.encode())
        out = call(server.url("/much"))
        assert (out.body_encoding, out.body) == ("text", text)


def test_authentication(server: Server):
    call(server.url(), auth={"type": "bearer", "token": "t0k"})
    call(server.url(), auth={"type": "basic", "username": "u", "password": "p"})
    call(f"http://u:p@127.0.0.1:{server.port}/")
    sent = [s.headers["authorization"] for s in server.seen]
    assert sent == ["Bearer t0k", "Basic dTpw", "Basic dTpw"]


def test_texts_bytes_and_wrong_json(server: Server):
    server.answers["/text"] = (200, {"content-type": "text/plain; charset=latin-1"}, "grün".encode("latin-1"))
    server.answers["/bytes"] = (200, {"content-type": "image/png"}, b"\x89\xff")
    server.answers["/bad"] = (200, {"content-type": "application/json"}, b"{oops")
    assert (call(server.url("/text")).body, call(server.url("/bytes")).body) == ("grün", "if8=")
    assert (call(server.url("/bad")).body, call(server.url("/bad")).body_encoding) == ("{oops", "text")


def test_a_4xx_status_is_data_unless_asked_otherwise(server: Server):
    server.answers["/no"] = (404, {}, b"nope")
    out = call(server.url("/no"))
    assert (out.success, out.status_code, out.body) == (False, 404, "nope")
    assert refusal(server.url("/no"), raise_for_status=True).code == "http_status"
    assert call(server.url("/no"), expect_status=[404]).success
    assert "expected 200 or 201" in refusal(server.url("/no"), expect_status=[200, 201]).message


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_temporary_and_retry_after_is_honoured(server: Server, status: int):
    server.answers["/busy"] = (status, {"retry-after": "7"}, b"")
    error = refusal(server.url("/busy"))
    assert isinstance(error, TemporaryError)
    assert (error.code, error.delay, error.details) == ("http_status", timedelta(seconds=7), {"status_code": status})
    assert call(server.url("/busy"), expect_status=[status]).success


def test_timeouts_and_refused_connections_are_temporary(server: Server):
    error = refusal(server.url("/slow"), timeout=0.2)
    assert isinstance(error, TemporaryError)
    assert error.code == "http_timeout"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = refusal(f"http://127.0.0.1:{free.getsockname()[1]}/")
    assert isinstance(error, TemporaryError)
    assert error.code == "http_connect"


def test_a_body_is_read_up_to_the_limit_after_decompression(server: Server):
    server.answers["/bomb"] = (200, {"content-encoding": "gzip"}, gzip.compress(b"0" * 5_000_000))
    assert refusal(server.url("/bomb"), max_response_bytes=100_000).code == "http_too_large"
    assert len(call(server.url("/bomb")).body) == 5_000_000


def test_redirects_are_followed_and_counted(server: Server):
    server.answers["/a"] = (302, {"location": "/b"}, b"")
    server.answers["/loop"] = (302, {"location": "/loop"}, b"")
    out = call(server.url("/a"), method="POST", body={"x": 1})
    assert (out.status_code, out.url) == (200, server.url("/b"))
    assert [(s.method, s.body) for s in server.seen] == [("POST", b'{"x":1}'), ("GET", b"")]
    assert call(server.url("/a"), follow_redirects=False).status_code == 302
    assert refusal(server.url("/loop")).code == "http_redirects"


def test_307_keeps_method_and_body(server: Server):
    server.answers["/a"] = (307, {"location": "/b"}, b"")
    call(server.url("/a"), method="POST", body="text")
    assert [(s.method, s.body) for s in server.seen] == [("POST", b"text")] * 2


def test_credentials_do_not_follow_to_another_origin(server: Server, other: Server):
    server.answers["/a"] = (302, {"location": other.url("/b")}, b"")
    server.answers["/same"] = (302, {"location": "/b"}, b"")
    auth = {"type": "bearer", "token": "t"}
    call(server.url("/a"), auth=auth)
    assert "authorization" not in other.seen[0].headers
    # A key may stand in any header; what any client sends may follow.
    call(
        server.url("/a"),
        headers={"X-Api-Key": "k", "X-Whatever": "k", "Cookie": "k", "Accept": "text/x", "User-Agent": "me"},
    )
    followed = other.seen[-1].headers
    assert "k" not in followed.values()
    assert (followed["accept"], followed["user-agent"]) == ("text/x", "me")
    assert server.seen[-1].headers["x-whatever"] == "k"
    call(server.url("/same"), auth=auth)
    assert server.seen[-1].headers["authorization"] == "Bearer t"


INSIDE = [
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.1:{port}/",
    "http://127.1:{port}/",
    "http://0.0.0.0:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[64:ff9b::7f00:1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[fe80::1]:{port}/",
    "http://[fc00::1]:{port}/",
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/",
    "http://172.16.3.4/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
    "http://168.63.129.16/machine/?comp=goalstate",
    "http://[::ffff:168.63.129.16]/",
    "http://[64:ff9b::a83f:8110]/",
    "http://[3fff::1]/",
    "http://198.18.0.1/",
    "http://255.255.255.255/",
    "http://user:pw@127.0.0.1:{port}/",
    "http://example.com@127.0.0.1:{port}/",
]


@pytest.mark.parametrize("url", INSIDE)
def test_inside_addresses_are_blocked_however_they_are_spelt(server: Server, url: str):
    error = refusal(url.format(port=server.port), "not-this-host")
    assert isinstance(error, PermanentError)
    assert error.code == "http_blocked"
    assert server.seen == []


def test_octal_spellings_are_no_urls_at_all(server: Server):
    assert refusal(server.url(host="0177.0.0.1")).code == "http_invalid_request"


@pytest.mark.parametrize("url", ["http://2130706433:{port}/", "http://127.1:{port}/", "http://localhost:{port}/"])
def test_positive_control_a_guard_that_looks_at_the_text_only_is_fooled(server: Server, url: str):
    address = url.format(port=server.port)
    assert "127.0.0.1" not in address  # what a weak guard checks
    httpx.get(address, trust_env=False)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("allow", "reached"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:{port}", True),
        ("127.0.0.0/8", True),
        ("127.0.0.1:1", False),
        ("10.0.0.0/8", False),
        ("localhost", False),
        ("::/0", False),
    ],
)
def test_the_allow_list_takes_names_ports_and_ranges(server: Server, allow: str, reached: bool):
    entry = allow.format(port=server.port)
    if reached:
        assert call(server.url(), entry).success
    else:
        assert refusal(server.url(), entry).code == "http_blocked"


def test_the_message_says_what_to_allow(server: Server):
    assert f"'127.0.0.1:{server.port}' to 'http.allow_hosts'" in refusal(server.url(), "x").message


def test_a_redirect_inside_is_blocked(server: Server, other: Server):
    server.answers["/a"] = (302, {"location": other.url("/secret")}, b"")
    server.answers["/file"] = (302, {"location": "file:///etc/passwd"}, b"")
    assert refusal(server.url("/a"), f"127.0.0.1:{server.port}").code == "http_blocked"
    assert refusal(server.url("/file")).code == "http_blocked"
    assert other.seen == []
    # Positive control: a client that judges the first URL only gets through.
    assert httpx.get(server.url("/a"), follow_redirects=True, trust_env=False).status_code == 200
    assert len(other.seen) == 1


class Rebinding:
    """A resolver that answers with a public address first and with loopback ever after."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        self.asked += 1
        address = "198.41.0.4" if self.asked == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port)))]


def test_dns_rebinding_reaches_nothing(server: Server, monkeypatch: pytest.MonkeyPatch):
    resolver = Rebinding()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    error = refusal(server.url("/", host="rebind.test"), "x", timeout=1.0)
    assert error.code in ("http_timeout", "http_connect")
    assert resolver.asked == 1
    assert server.seen == []
    # Positive control: judging one look-up and connecting by another is what the attack is made for.
    resolver.asked = 0
    assert resolver("rebind.test", server.port)[0][4][0] == "198.41.0.4"
    httpx.get(server.url("/", host="rebind.test"), trust_env=False)
    assert len(server.seen) == 1


def test_one_inside_address_among_many_blocks_the_host(server: Server, monkeypatch: pytest.MonkeyPatch):
    def both(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, int(port))) for a in ("198.41.0.4", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert refusal(server.url("/", host="mixed.test"), "x").code == "http_blocked"


def test_the_host_header_is_the_name_and_the_connection_goes_to_the_judged_address(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    def fixed(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

    monkeypatch.setattr(socket, "getaddrinfo", fixed)
    out = call(server.url("/", host="api.test"), f"api.test:{server.port}")
    assert out.url == server.url("/", host="api.test")
    assert server.seen[0].headers["host"] == f"api.test:{server.port}"


def test_a_proxy_in_the_environment_is_ignored(server: Server, other: Server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTP_PROXY", other.url())
    monkeypatch.setenv("ALL_PROXY", other.url())
    call(server.url())
    assert other.seen == []


@pytest.mark.parametrize(
    "options",
    [
        {"url": "ftp://example.com/"},
        {"url": "no url"},
        {"url": "http://"},
        {"url": "http://[::1"},
        {"body": 1, "form": {}},
        {"headers": {"x": "a\r\nInjected: 1"}},
        {"headers": {"x y": "1"}},
        {"headers": {"x": "ü€"}},
    ],
)
def test_what_cannot_be_sent_is_a_permanent_error(server: Server, options: dict[str, Any]):
    url = options.pop("url", server.url())
    error = refusal(url, **{"method": "POST", **options})
    assert isinstance(error, PermanentError)
    assert error.code == "http_invalid_request"
    assert server.seen == []


def test_no_secret_in_any_message(server: Server):
    server.answers["/500"] = (500, {}, b"")
    server.answers["/away"] = (302, {"location": "http://10.0.0.1/?k=s3cret"}, b"")
    base = f"http://u:s3cret@127.0.0.1:{server.port}"
    for error in (
        refusal(f"{base}/500?key=s3cret", params={"t": "s3cret"}, headers={"x-api-key": "s3cret"}),
        refusal(f"{base}/slow?key=s3cret", timeout=0.1),
        refusal(f"{base}/x?key=s3cret", "none"),
        refusal(f"{base}/away?key=s3cret"),
        refusal("ftp://u:s3cret@example.com/?s3cret"),
        refusal(f"{base}/x", headers={"x": "s3cret\r\n"}),
        refusal(f"{base}/x", headers={"x": "s3cret€"}),
        refusal(f"http://u:s3cret:x@127.0.0.1:{server.port}:9/"),
    ):
        assert "s3cret" not in f"{error} {error.__cause__} {error.details}"
    assert "s3cret" not in call(f"{base}/ok?key=s3cret").url
    shown = repr(HttpRequest.Input(url="http://x", auth={"type": "bearer", "token": "s3cret"}))  # pyright: ignore[reportArgumentType]  # pydantic takes the object
    assert "s3cret" not in shown
