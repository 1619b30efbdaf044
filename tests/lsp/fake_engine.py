"""An engine without a model, behind the engine's HTTP API, with failures on demand.

Run as a module with the arguments of `ctx-engine`. What it does is set by the environment variable FAKE_ENGINE and by
POST /fake/behavior (JSON objects of `Behavior`'s fields); GET /fake/state tells what it saw.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import secrets
import select
import sys
import threading
import time
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from engine.serve import runtime_file
from engine.serve.claim import claim
from engine.serve.runtime_file import RuntimeInfo
from tests.lsp.fake_contexts import ApiError, Behavior, Fake
from tests.lsp.fake_http import Answering

CLOSED = "closed"
"""A file of this name in the runtime folder says that the test is over."""


class Handler(Answering):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: Fake

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.route()

    do_POST = do_PUT = do_DELETE = do_GET

    def route(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}") if length else {}
        url = urlsplit(self.path)
        try:
            if self.headers.get("Authorization") != f"Bearer {self.fake.token}":
                raise ApiError(401, "unauthorized", "wrong token")
            self.answer(url.path, parse_qs(url.query), body)
        except ApiError as error:
            self.send_json(error.body, error.status)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self, path: str, query: dict[str, list[str]], body: Any) -> None:
        fake = self.fake
        if path.startswith("/fake/"):
            return self.answer_test(path, body)
        if path == "/health":
            return self.send_json(fake.health())
        if path == "/v1/shutdown":
            self.send_json({"status": "stopping"})
            os._exit(0)
        if path == "/v1/events":
            return self.stream_events(query["context"][0])
        if fake.health()["status"] != "ready":
            raise ApiError(503, "engine_loading", "loading")
        if path == "/v1/stats":
            return self.send_json(fake.stats())
        if path == "/v1/chat/completions":
            return self.stream_chat(body)
        self.answer_context(path, body)

    def answer_context(self, path: str, body: Any) -> None:
        id, _, action = (unquote(part) for part in path.removeprefix("/v1/contexts/").partition("/"))
        fake = self.fake
        while action == "chunks" and len(fake.contexts[id]) == fake.behavior.stall_adding_after:
            if self.client_gone(0.05):
                raise ConnectionResetError
        with fake.lock:
            fake.calls.append(f"{self.command} {action}".strip())
            if self.command == "PUT":
                fake.contexts.setdefault(id, [])
                fake.instructions[id] = body.get("instructions")
                fake.orders[id] = body.get("order")
            elif self.command == "DELETE":
                fake.chunks(id)
                del fake.contexts[id]
                return self.send_json({})
            elif self.command == "POST":
                result = fake.act(id, action, body)
                fake.publish(id, "chunks_changed", {"context": id})
                return self.send_json(result)
            elif action.startswith("chunks/"):
                chunk = fake.find(id, action.removeprefix("chunks/"))
                return self.send_json(chunk.info() | {"text": chunk.text})
            self.send_json(fake.describe(id))

    def answer_test(self, path: str, body: Any) -> None:
        with self.fake.lock:
            if path == "/fake/behavior":
                self.fake.behavior = replace(self.fake.behavior, **body)
            if path == "/fake/publish":
                self.fake.publish(body["context"], body["name"], body["data"])
            self.send_json(self.fake.state())

    # -- streams ---------------------------------------------------------------------------------------------------

    def send_event(self, data: Any, name: str = "") -> None:
        head = f"event: {name}\n" if name else ""
        self.send_piece(f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n")

    def client_gone(self, seconds: float = 0.0) -> bool:
        readable, _, _ = select.select([self.connection], [], [], seconds)
        return bool(readable)

    def stream_events(self, context: str) -> None:
        mailbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.begin_stream()
        self.send_piece(": listening\n\n")
        self.fake.streams[id(self)] = (context, mailbox)
        try:
            while not self.client_gone():
                try:
                    name, data = mailbox.get(timeout=0.05)
                except queue.Empty:
                    continue
                self.send_event(data, name)
        finally:
            del self.fake.streams[id(self)]
            self.close_connection = True

    def stream_chat(self, body: dict[str, Any]) -> None:
        fake, context = self.fake, body["context"]
        with fake.lock:
            plan = fake.plan(context, sum(len(message["content"].split()) for message in body["messages"]))
            seen = {chunk.sources[0]: chunk.text for chunk in fake.chunks(context) if chunk.active}
            record: dict[str, Any] = {"body": body, "seen": seen, "generated": 0, "ended": None}
            fake.chats.append(record)
        self.begin_stream()
        self.send_event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        deltas = [{"reasoning_content": word} for word in fake.behavior.thoughts]
        for delta in [*deltas, *({"content": word} for word in fake.behavior.answer)]:
            if self.interrupt(record):
                return
            record["generated"] += 1
            self.send_event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if self.interrupt(record):
            return
        record["ended"] = "stop"
        self.send_event(self.closing(context, plan, "".join(fake.behavior.answer)))
        self.end_stream()

    def interrupt(self, record: dict[str, Any]) -> bool:
        """Fails where it is told to; True if the answer must not go on."""
        behavior, generated = self.fake.behavior, record["generated"]
        if generated == behavior.die_after:
            os._exit(9)
        if generated == behavior.error_after:
            self.send_event(ApiError(500, "out_of_memory", "no room to go on").body)
            self.end_stream()
            return True
        while generated == self.fake.behavior.stall_after:
            if self.client_gone(0.05):
                break
        if self.client_gone():
            record["ended"] = "cancelled"
            self.close_connection = True
            return True
        return False

    def end_stream(self) -> None:
        self.send_piece("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def closing(self, context: str, plan: dict[str, Any], text: str) -> dict[str, Any]:
        fake = self.fake
        with fake.lock:
            number = sum(chunk.kind == "output" for chunk in fake.chunks(context)) + 1
            chunk = {"text": text, "source": f"answer {number}", "kind": "output", "active": False}
            output = fake.add(context, chunk)
            fake.publish(context, "chunks_changed", {"context": context})
        tokens, reused = plan["tokens"], plan["reused"]
        usage = {
            "prompt_tokens": tokens,
            "reused_tokens": reused,
            "prefilled_tokens": tokens - reused,
            "completion_tokens": len(fake.behavior.thoughts) + len(fake.behavior.answer),
            "reasoning_tokens": len(fake.behavior.thoughts),
        }
        timing = {"queued": 0.0, "time_to_first_token": 0.01, "total": 0.02, "tokens_per_second": 100.0}
        ctx = {
            "stop_reason": "stop",
            "usage": usage,
            "timing": timing,
            "chunks": plan["chunks"],
            "output": output["hash"],
        }
        return {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "ctx": ctx}


def end_with_the_test(folder: Path) -> None:
    """A test may be over before its engine is up; then nobody is left to kill it."""
    tests = int(os.environ.get("FAKE_ENGINE_TESTS", os.getpid()))
    while runtime_file.pid_alive(tests) and not (folder / CLOSED).exists():
        time.sleep(0.2)
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "device", "dtype", "kv-dtype", "kv-cache-tokens", "max-context", "threads", "idle-timeout"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--runtime-file", type=Path, required=True)
    options = parser.parse_args()
    behavior = Behavior(**json.loads(os.environ.get("FAKE_ENGINE", "{}")))
    if behavior.exit_at_start is not None:
        sys.exit(f"no such device: {options.device}")
    claimed = claim(options.runtime_file)
    if isinstance(claimed, RuntimeInfo):
        return
    token = secrets.token_hex(8)
    Handler.fake = Fake(behavior, options.model, token)
    threading.Thread(target=end_with_the_test, args=(options.runtime_file.parent,), daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_address[1]}"
    info = RuntimeInfo(url, token, os.getpid(), options.model, "0", time.time())
    runtime_file.write(options.runtime_file, info)
    server.serve_forever()


if __name__ == "__main__":
    main()
