"""A plain HTTP server in the place of `vllm serve`."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from typing import Any


class Stub(http.server.ThreadingHTTPServer):
    """Answers as it is told to; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.failing = 0
        self.refused: dict[str | None, str] = {}
        self.cold = 0.0
        self.head = ""
        self.prompt_logprob = -0.5
        self.poison: list[int] | None = None  # of this prompt it fails for ever
        self.answer: bytes | None = None  # in the place of every sample
        self.elsewhere = ""  # where it sends who asks
        self.drips = self.silent = False
        self.takes_adapters = True
        self.keys: set[str | None] = set()
        self.ended = threading.Event()

    def handle_error(self, *_: Any) -> None:
        """Whom it would answer has gone."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answer(http.server.BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        if self.server.silent:
            self.server.ended.wait(20)
        self.reply(200, {})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        self.server.asked.append((self.path, body))
        self.server.keys.add(self.headers.get("Authorization"))
        if self.server.silent:
            self.server.ended.wait(20)
        elif self.server.elsewhere:
            self.send_response(307)
            self.send_header("Location", self.server.elsewhere + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.server.answer is not None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while self.server.drips and not self.server.ended.wait(0.05):
                    self.wfile.write(b" ")
                self.wfile.write(self.server.answer)
        elif body.get("token_ids") and body["token_ids"] == self.server.poison:
            self.reply(500, {"error": "cuda \x1b[2J"})
        elif self.server.failing:
            self.server.failing -= 1
            self.reply(503, {"error": "busy"})
        elif (method := body.get("method")) in self.server.refused:
            self.reply(500, {"error": self.server.refused[method]})
        elif self.path == "/v1/load_lora_adapter" and not self.server.takes_adapters:
            self.reply(404, {"detail": "Not Found"})
        elif method == "head" and self.server.head:
            self.reply(200, {"results": [self.server.head]})
        elif self.path == "/inference/v1/generate":
            params = body["sampling_params"]
            logprob = self.server.cold if params["temperature"] < 0.1 else -0.5
            ids = [7] * min(params["max_tokens"], len(body["token_ids"]))
            content = [{"token_id": one, "logprob": logprob} for one in ids]
            logprobs = {"content": content} if "logprobs" in params else None
            choice = {"token_ids": ids, "logprobs": logprobs, "finish_reason": "length"}
            scores = [
                {str(one): {"logprob": self.server.prompt_logprob}} for one in body["token_ids"]
            ]
            self.reply(200, {"choices": [choice], "prompt_logprobs": [None, *scores[1:]]})
        else:
            self.reply(200, {"success": True})

    def reply(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...
