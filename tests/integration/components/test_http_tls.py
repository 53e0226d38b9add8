"""`http_request` connects to a judged address, and still checks the certificate against the name in the URL."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flowmason_ray.components.builtin import http_exchange
from flowmason_ray.components.builtin.http_request import HttpRequest
from flowmason_ray.errors import TemporaryError
from flowmason_ray.testing.context import RecordingContext, allowing
from tests.servers_kit import make_certificate

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make a certificate"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "DNS:api.test")


@pytest.fixture
def port(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    key, cert = certificate

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that does not like the certificate hangs up: that is tested

    server = Quiet(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    real = http_exchange.httpx.create_ssl_context

    def trusting(*, verify: bool, trust_env: bool) -> ssl.SSLContext:
        made = real(verify=verify, trust_env=trust_env)
        if verify:
            made.load_verify_locations(cert)
        return made

    def here(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

    monkeypatch.setattr(http_exchange, "_trust", lambda verify: trusting(verify=bool(verify), trust_env=False))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # a stand-in
    monkeypatch.setattr(socket, "getaddrinfo", here)
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def get(url: str, **options: Any) -> HttpRequest.Output:
    context = RecordingContext(settings=allowing("127.0.0.0/8"))
    return asyncio.run(HttpRequest().execute(HttpRequest.Input.model_validate({"url": url, **options}), context))


def test_the_certificate_of_the_name_is_accepted(port: int):
    assert get(f"https://api.test:{port}/").body == "ok"


def test_a_certificate_of_another_name_is_refused(port: int):
    with pytest.raises(TemporaryError, match=r"other\.test") as caught:
        get(f"https://other.test:{port}/")
    assert caught.value.code == "http_connect"


def test_verification_can_be_switched_off(port: int):
    assert get(f"https://other.test:{port}/", verify_ssl=False).body == "ok"
