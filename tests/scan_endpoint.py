"""An OpenAI-compatible endpoint on loopback, with canned answers, faults and a memory of what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str], Any]
"""From the user's question to what the model says: a text, or an object that is said as JSON."""


class Endpoint(ThreadingHTTPServer):
    """fault: what is wrong with it, "" for nothing; see `_Handler.do_POST`."""

    daemon_threads = True

    def __init__(self, answer: Answer, fault: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.fault = answer, fault
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.leave = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.leave.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append({"path": self.path, **body})
        server.headers.append(dict(self.headers))
        fault = server.fault
        if fault == "busy once" and len(server.asked) == 1:
            self.send_error(503)
        elif fault == "broken":
            self.send_error(500)
        elif fault == "refused":
            self.send_error(401)
        elif fault == "elsewhere":
            self.send_response(307)
            self.send_header("Location", server.url + "/v1/elsewhere")
            self.end_headers()
        elif fault == "silent":
            server.leave.wait(60)
        elif fault == "drip":
            self._begin(1 << 20)
            with contextlib.suppress(ConnectionError):
                while not server.leave.is_set():
                    self.wfile.write(b" ")
                    time.sleep(0.05)
        elif fault == "huge":
            self._begin(64 << 20)
            with contextlib.suppress(ConnectionError):
                for _ in range(64):
                    self.wfile.write(b"x" * (1 << 20))
        elif fault == "no http":
            self.wfile.write(b"\x00\x01\x02 hello\n")
        elif fault == "no completion":
            self._say(b'{"choices": []}')
        elif fault == "no json":
            self._say(b"<html>")
        else:
            said = server.answer(body["messages"][-1]["content"])
            text = said if isinstance(said, str) else json.dumps(said)
            self._say(json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode())

    def _begin(self, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _say(self, content: bytes) -> None:
        self._begin(len(content))
        self.wfile.write(content)
