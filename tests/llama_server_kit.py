"""A server of OpenAI's chat API over real llama.cpp with the tiny model: keeps an account of its own, which ours must equal."""

from __future__ import annotations

import importlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any, Self


class LlamaServer:
    """The server; a context manager. One answer is made at a time, as the model's memory is one."""

    def __init__(self, model: Path) -> None:
        library: Any = importlib.import_module("llama_cpp")
        self._llama = library.Llama(model_path=str(model), n_ctx=512, verbose=False)
        self._model_lock = threading.Lock()
        self._count_lock = threading.Lock()
        self.answers: dict[str, str] = {}
        """By what was asked: what was said."""
        self.input_tokens = self.output_tokens = self.calls = 0
        self.busy = self.most_busy = 0
        self.times: list[float] = []
        """When requests came, by the monotonic clock."""

    def __enter__(self) -> Self:
        server = self

        class Handler(_Handler):
            owner = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self._llama.close()

    def provider(self, **more: Any) -> dict[str, Any]:
        """Return project settings for a provider that is this server."""
        address = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        return {"type": "openai_compatible", "base_url": address, "default_model": "tiny", **more}

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the model; note what it took."""
        with self._count_lock:
            self.times.append(monotonic())
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 16
        try:
            with self._model_lock:
                made: Any = self._llama.create_chat_completion(body["messages"], max_tokens=limit, seed=1)
        finally:
            with self._count_lock:
                self.busy -= 1
        usage = made["usage"]
        with self._count_lock:
            self.calls += 1
            self.input_tokens += usage["prompt_tokens"]
            self.output_tokens += usage["completion_tokens"]
            self.answers[body["messages"][-1]["content"]] = made["choices"][0]["message"]["content"]
        return made


class _Handler(BaseHTTPRequestHandler):
    owner: LlamaServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Answer, as a whole or as a stream."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        made = self.owner.answer(body)
        if not body.get("stream"):
            self._send(json.dumps(made).encode(), "application/json")
            return
        head = {"id": made["id"], "object": "chat.completion.chunk", "created": made["created"], "model": made["model"]}
        choice = made["choices"][0]
        delta = {"role": "assistant", "content": choice["message"]["content"]}
        chunks: list[dict[str, Any]] = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]},
            {**head, "choices": [], "usage": made["usage"]},
        ]
        lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        self._send(lines.encode(), "text/event-stream")

    def _send(self, content: bytes, media_type: str) -> None:
        self.send_response(200)
        self.send_header("content-type", media_type)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
