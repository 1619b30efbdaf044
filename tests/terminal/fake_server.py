"""A language server without an engine: speaks the protocol, and what it does depends on the question.

`python fake_server.py LOG` appends every message it receives to LOG as a line of JSON. Questions:
"slow" streams words until it is cancelled, "fail" answers an error, "die" ends the process, "garbage" sends what is no
JSON-RPC; anything else is answered in Markdown, "think" after a thought. Files are "tokenized" into words.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
from pathlib import Path

LIMIT = 4096
COMMANDS = ("/load", "/context", "/activate", "/deactivate", "/clear", "/help")
ANSWER = "It is set in `retry.py`:\n\n```python\nattempts = 5  # tries\n```\n\nYou asked: **{question}**"


THOUGHT = "They ask me to think.\nSo I do."


class Failure(Exception):
    def __init__(self, code, message, data):
        super().__init__(message)
        self.error = {"code": code, "message": message, "data": data}


class FakeServer:
    def __init__(self, log):
        self.log = log
        self.tasks = {}
        self.chunks = []
        self.next_id = 1000
        self.options = {}
        self.state = "starting"

    async def serve(self, reader):
        while (message := await read_message(reader)) is not None:
            with self.log.open("a") as log:
                log.write(json.dumps(message) + "\n")
            method = message.get("method")
            if method == "exit":
                return
            if method == "$/cancelRequest":
                self.tasks[message["params"]["id"]].cancel()
            elif method and "id" in message:
                self.tasks[message["id"]] = asyncio.create_task(self.answer(message))
                self.tasks[message["id"]].add_done_callback(functools.partial(answer_if_cancelled, message["id"]))

    async def answer(self, message):
        handler = getattr(self, "on_" + message["method"].replace("/", "_"))
        try:
            send({"id": message["id"], "result": await handler(message.get("params") or {})})
        except Failure as failure:
            send({"id": message["id"], "error": failure.error})

    async def on_initialize(self, params):
        self.options = params["initializationOptions"]
        self.root = Path(params["rootUri"].removeprefix("file://"))
        return {"capabilities": {"experimental": {"ctx": {"version": 1, "slash": True}}}}

    async def on_shutdown(self, params):
        return None

    def status(self, message="", progress=None):
        return {
            "state": self.state,
            "message": message,
            "model": self.options.get("model", "fake-model"),
            "device": "cpu",
            "progress": progress,
            "activeTokens": sum(chunk["tokens"] for chunk in self.chunks),
            "limit": LIMIT,
            "populate": None,
        }

    async def on_ctx_status(self, params):
        return self.status()

    async def on_ctx_chunks(self, params):
        await self.load_model()
        return {"chunks": self.chunks, "activeTokens": 0, "limit": LIMIT}

    async def load_model(self):
        self.state = "loading"
        for tenth in range(0, 11, 5):
            notify("ctx/status/didChange", self.status("Loading fake-model", tenth / 10))
            await asyncio.sleep(0)
        self.state = "ready"
        notify("ctx/status/didChange", self.status("Ready"))
        if notice := os.environ.get("FAKE_SERVER_NOTICE"):
            notify("window/showMessage", {"type": 2, "message": notice})

    async def on_workspace_executeCommand(self, params):
        assert params["command"] == "ctx.load"
        await self.load_model()
        argument = params["arguments"][0]
        paths = sorted(self.root.glob("*.py")) if argument["discover"] else [Path(p) for p in argument["paths"]]
        self.request("window/workDoneProgress/create", {"token": "load"})
        notify("$/progress", {"token": "load", "value": {"kind": "begin", "title": "Loading files", "percentage": 0}})
        loaded, skipped = [], []
        for path in paths:
            if path.suffix == ".bin":
                skipped.append({"path": path.name, "reason": "not text"})
            else:
                loaded.append(chunk(path.name, path.read_text()))
        notify("$/progress", {"token": "load", "value": {"kind": "report", "message": "done", "percentage": 100}})
        notify("$/progress", {"token": "load", "value": {"kind": "end"}})
        self.chunks += loaded
        return {"markdown": f"{len(loaded)} loaded", "data": {"loaded": loaded, "skipped": skipped}}

    async def on_ctx_chat(self, params):
        question = params["text"]
        if question == "fail":
            raise Failure(-32803, "the context is full: 5000 of 4096 tokens", {"code": "context_full", "needed": 5000})
        if question == "die":
            print("Traceback …\nRuntimeError: out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        if question == "garbage":
            sys.stdout.buffer.write(b"Hello?\r\n\r\n")
            sys.stdout.flush()
            await asyncio.Event().wait()
        if question == "slow":
            await self.stream_for_ever(params["turnId"])
        text = ANSWER.format(question=question)
        thought = THOUGHT if question == "think" else ""
        deltas = [*pieces(thought, "reasoning"), *pieces(text, "answer")]
        for seq, delta in enumerate(deltas):
            notify("ctx/chat/delta", {"turnId": params["turnId"], "seq": seq, **delta})
            await asyncio.sleep(0)
        result = self.result(params, text)
        result["usage"]["reasoningTokens"] = len(thought.split())
        return {**result, "reasoning": thought}

    async def stream_for_ever(self, turn):
        seq = 0
        while True:
            notify("ctx/chat/delta", {"turnId": turn, "seq": seq, "text": f"word{seq} "})
            seq += 1
            await asyncio.sleep(0.01)

    def result(self, params, text):
        tokens = sum(chunk["tokens"] for chunk in self.chunks)
        plans = [
            {"hash": c["hash"], "name": c["name"], "tokens": c["tokens"], "reused": c["tokens"], "prefill": 0}
            | {"fidelity": "near"}
            for c in self.chunks
        ]
        return {
            "turnId": params["turnId"],
            "conversationId": "default",
            "text": text,
            "stopReason": "stop",
            "usage": {
                "promptTokens": tokens + 12,
                "reusedTokens": tokens,
                "prefilledTokens": 12,
                "completionTokens": len(text.split()),
            },
            "timing": {"queued": 0.0, "timeToFirstToken": 0.25, "total": 1.5, "tokensPerSecond": 8.0},
            "chunks": plans,
            "fidelity": "near" if plans else "exact",
            "output": "f" * 64,
        }

    async def on_ctx_slash(self, params):
        name = params["text"].split()[0]
        if name == "/wait":
            await asyncio.Event().wait()
        if name not in COMMANDS:
            raise Failure(-32602, f"unknown command {name}; /help lists them", {"code": "invalid_request"})
        rows = "".join(f"| {c['name']} | {c['tokens']} |\n" for c in self.chunks)
        return {"markdown": f"| file | tokens |\n|---|---|\n{rows}", "data": None}

    async def on_ctx_slash_complete(self, params):
        found = [name for name in COMMANDS if name.startswith(params["text"])]
        return {
            "items": [{"label": name, "insertText": name + " ", "detail": f"about {name}"} for name in found],
            "start": 0,
        }

    def request(self, method, params):
        send({"id": self.next_id, "method": method, "params": params})
        self.next_id += 1


def pieces(text, kind):
    return [{"text": text[start : start + 7], "kind": kind} for start in range(0, len(text), 7)]


def chunk(name, text):
    return {
        "hash": "a" * 64,
        "kind": "file",
        "name": name,
        "sources": [name],
        "tags": [],
        "parts": [],
        "active": True,
        "tokens": len(text.split()),
        "warmTokens": 0,
        "fidelity": "cold",
        "pinned": False,
    }


def answer_if_cancelled(identifier, task):
    """Also where the task was cancelled before its first step."""
    if task.cancelled():
        send({"id": identifier, "error": {"code": -32800, "message": "cancelled"}})


def notify(method, params):
    send({"method": method, "params": params})


def send(message):
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    sys.stdout.buffer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    sys.stdout.flush()


async def read_message(reader):
    length = 0
    while (line := await reader.readline()) not in (b"\r\n", b""):
        length = int(line.split(b":")[1])
    return json.loads(await reader.readexactly(length)) if line else None


async def main():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await FakeServer(Path(sys.argv[1])).serve(reader)


if __name__ == "__main__":
    asyncio.run(main())
