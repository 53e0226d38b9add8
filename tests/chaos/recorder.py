"""The outside world: an HTTP server that remembers every request, and does a thing once per idempotency key."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class World:
    """What has been done to the world, in all runs."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    reserved: dict[str, str] = field(default_factory=dict[str, str])
    """Idempotency key → what was reserved with it: done once, however often it is asked for."""
    keys: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    """What was reserved → the keys that it was asked for with."""
    asked: Counter[str] = field(default_factory=Counter[str])
    """What → how often it was asked to be reserved."""
    charged: Counter[str] = field(default_factory=Counter[str])
    """What → how often it was charged. Every request charges again: there is no key."""
    begun: Counter[str] = field(default_factory=Counter[str])
    """What → how often a pure stage began to work on it."""
    address: str = ""

    def take(self, action: str, what: str, key: str) -> dict[str, Any]:
        """Do what a request asks."""
        with self.lock:
            if action == "reserve":
                self.asked[what] += 1
                self.keys.setdefault(what, set()).add(key)
                self.reserved.setdefault(key, what)
                return {"reserved": self.reserved[key]}
            if action == "charge":
                self.charged[what] += 1
                return {"charged": what}
            self.begun[what] += 1
            return {}


@contextmanager
def world() -> Generator[World]:
    """Serve a world on a loopback port."""
    state = World()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_PUT(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            answer = state.take(self.path.strip("/"), body["what"], self.headers.get("idempotency-key", ""))
            text = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def handle(self) -> None:
            with suppress(ConnectionError):  # the client was killed
                super().handle()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that was killed is no error."""

    server = Server(("127.0.0.1", 0), Handler)
    state.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
