"""A server of OpenAI's API without a model, in this process: it speaks several dialects and fails on demand.

One word is one token. Like a server with one slot it still has the KV of the last prompt, and tells how much of the
next one begins with the same words.
"""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any, Literal

from tests.lsp.fake_http import Answering

Dialect = Literal["vllm", "llamacpp", "llama-cpp-python", "bare"]
OWNERS = {"vllm": "vllm", "llamacpp": "llamacpp", "llama-cpp-python": "me", "bare": "somebody"}


@dataclass
class FakeOpenAI:
    """What it does, and what it saw.

    Attributes:
        token: every request but /health and the list of models must carry it.
        tells_cache: usage says how many tokens were cached.
        stall_prefill, stall_after: prompts are never computed to their end; answers stand still after so many words.
        break_after: the connection breaks after so many words.
        requests: bodies of chat completions, in order.
        ended: how each of them ended.
    """

    dialect: Dialect = "llamacpp"
    model: str = "fake"
    token: str | None = None
    limit: int = 1000
    answer: list[str] = field(default_factory=lambda: ["A ", "plain ", "answer."])
    thoughts: list[str] = field(default_factory=list)
    has_system: bool = True
    tells_cache: bool = True
    loading: bool = False
    stall_prefill: bool = False
    stall_after: int | None = None
    break_after: int | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    ended: list[str | None] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def questions(self) -> list[dict[str, Any]]:
        return [body for body in self.requests if body.get("max_tokens") != 1]

    @property
    def warmings(self) -> list[dict[str, Any]]:
        return [body for body in self.requests if body.get("max_tokens") == 1]


def words(body: dict[str, Any]) -> list[str]:
    """The prompt's tokens."""
    return [word for message in body["messages"] for word in (f"<{message['role']}>", *message["content"].split())]


class Handler(Answering):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: FakeOpenAI

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        fake = self.fake
        if self.path == "/health":
            return self.send_json({"status": "ok"} if fake.dialect == "llamacpp" else {})
        if fake.loading:
            return self.refuse(503, "Loading model")
        if self.path == "/v1/models":
            model: dict[str, Any] = {"id": fake.model, "object": "model", "owned_by": OWNERS[fake.dialect]}
            if fake.dialect == "vllm":
                model["max_model_len"] = fake.limit
            return self.send_json({"object": "list", "data": [model]})
        if self.path == "/props" and fake.dialect == "llamacpp":
            return self.send_json({"default_generation_settings": {"n_ctx": fake.limit}})
        self.refuse(404, "no such path")

    def do_POST(self) -> None:
        fake, body = self.fake, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if fake.token is not None and self.headers.get("Authorization") != f"Bearer {fake.token}":
            return self.refuse(401, "Invalid API Key")
        if self.path == "/tokenize" and fake.dialect in ("vllm", "llamacpp"):
            key = "prompt" if fake.dialect == "vllm" else "content"
            tokens = list(range(len(body[key].split())))
            return self.send_json({"tokens": tokens} | ({"count": len(tokens)} if fake.dialect == "vllm" else {}))
        if self.path == "/apply-template" and fake.dialect == "llamacpp":
            return self.send_json({"prompt": "".join(f"<|{m['role']}|>{m['content']}" for m in body["messages"])})
        if self.path != "/v1/chat/completions":
            return self.refuse(404, "no such path")
        if not fake.has_system and body["messages"][0]["role"] == "system":
            return self.refuse(400, "System role not supported")
        self.complete(body)

    def complete(self, body: dict[str, Any]) -> None:
        fake, number = self.fake, len(self.fake.requests)
        fake.requests.append(body)
        fake.ended.append(None)
        tokens = words(body)
        if len(tokens) >= fake.limit:
            fake.ended[number] = "refused"
            message = f"This model's maximum context length is {fake.limit} tokens. You requested {len(tokens)} tokens"
            return self.refuse(400, message)
        cached = next((n for n, (a, b) in enumerate(zip(tokens, fake.seen, strict=False)) if a != b), len(fake.seen))
        self.begin_stream()
        if (fake.stall_prefill and self.wait_for_end()) or self.is_gone():
            fake.ended[number] = "cancelled"
            return
        fake.seen = tokens
        said = [("reasoning_content", word) for word in fake.thoughts] + [("content", word) for word in fake.answer]
        for count, (kind, word) in enumerate(said[: body.get("max_tokens")]):
            if count == fake.break_after:
                fake.ended[number] = "broken"
                self.close_connection = True
                return
            if (count == fake.stall_after and self.wait_for_end()) or self.is_gone():
                fake.ended[number] = "cancelled"
                return
            self.send_event({"choices": [{"index": 0, "delta": {kind: word}, "finish_reason": None}]})
        fake.ended[number] = "stop"
        finish = "length" if len(said) > body.get("max_tokens", len(said)) else "stop"
        self.send_event({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
        if body.get("stream_options", {}).get("include_usage"):
            self.send_event({"choices": [], "usage": self.usage(tokens, cached, said)})
        self.send_piece("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def usage(self, tokens: list[str], cached: int, said: list[Any]) -> dict[str, Any]:
        usage: dict[str, Any] = {"prompt_tokens": len(tokens), "completion_tokens": len(said)}
        return usage | ({"prompt_tokens_details": {"cached_tokens": cached}} if self.fake.tells_cache else {})

    def is_gone(self, seconds: float = 0.0) -> bool:
        readable, _, _ = select.select([self.connection], [], [], seconds)
        self.close_connection = self.close_connection or bool(readable)
        return bool(readable)

    def wait_for_end(self) -> bool:
        """Until the client has gone; False if the test lets it go on before."""
        while self.fake.stall_prefill or self.fake.stall_after is not None:
            if self.is_gone(0.02):
                return True
        return False

    def refuse(self, status: int, message: str) -> None:
        self.send_json({"error": {"message": message, "code": status, "type": "error"}}, status)

    def send_event(self, data: Any) -> None:
        self.send_piece(f"data: {json.dumps(data)}\n\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are nothing unusual here."""


@contextmanager
def serving(fake: FakeOpenAI, port: int = 0) -> Iterator[FakeOpenAI]:
    """Serves at `fake.url` inside the block."""
    handler = type("FakeHandler", (Handler,), {"fake": fake})
    server = _Server(("127.0.0.1", port), handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.stall_prefill, fake.stall_after = False, None
        server.shutdown()
        server.server_close()
        thread.join()
