"""The contexts of an engine without a model: chunks that are only text, and what it is told to do wrong.

One word is one token. Knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any


@dataclass
class Behavior:
    """What the fake does.

    Attributes:
        load_seconds: until /health says ready.
        load_error: the model can't be loaded, for this reason.
        exit_at_start: the process ends with this code and a message before it can be reached.
        limit: tokens of the context.
        answer, thoughts: the words of every answer, and those before it.
        exact_only: why all questions are answered as exact.
        die_after, stall_after: so many words into an answer the process dies, or the answer stands still.
        error_after: so many words into an answer it ends with an error.
        stall_adding_after: a context that has so many chunks takes no more, and the request stands still.
        prefills: whether what is asked to be computed ahead is there at once, or never.
    """

    load_seconds: float = 0.0
    load_error: str | None = None
    exit_at_start: int | None = None
    limit: int = 1000
    answer: list[str] = field(default_factory=lambda: ["A ", "plain ", "answer."])
    thoughts: list[str] = field(default_factory=list)
    exact_only: str | None = None
    die_after: int | None = None
    stall_after: int | None = None
    error_after: int | None = None
    stall_adding_after: int | None = None
    prefills: bool = True


@dataclass(frozen=True)
class Chunk:
    text: str
    kind: str
    sources: tuple[str, ...]
    tags: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    active: bool = True
    pinned: bool = False
    warm: bool = False

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def tokens(self) -> int:
        return len(self.text.split())

    def info(self) -> dict[str, Any]:
        return {
            "hash": self.hash,
            "kind": self.kind,
            "name": self.sources[0],
            "sources": list(self.sources),
            "tags": list(self.tags),
            "parts": list(self.parts),
            "active": self.active,
            "tokens": self.tokens,
            "warm_tokens": self.tokens if self.warm else 0,
            "fidelity": "exact" if self.warm else "cold",
            "pinned": self.pinned,
        }


class ApiError(Exception):
    def __init__(self, status: int, code: str, message: str, **data: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": code, "type": code, "message": message, "param": None, "data": data}}


class Fake:
    """All state of the process, behind one lock."""

    def __init__(self, behavior: Behavior, model: str, token: str) -> None:
        self.behavior = behavior
        self.model = model
        self.token = token
        self.started = time.monotonic()
        self.lock = threading.RLock()
        self.contexts: dict[str, list[Chunk]] = {}
        self.instructions: dict[str, str | None] = {}
        self.orders: dict[str, str | None] = {}
        self.plans: list[dict[str, Any]] = []
        self.streams: dict[int, tuple[str, queue.SimpleQueue[tuple[str, Any]]]] = {}
        self.chats: list[dict[str, Any]] = []
        self.calls: list[str] = []

    def health(self) -> dict[str, Any]:
        loading = time.monotonic() - self.started < self.behavior.load_seconds
        status = "loading" if loading else "failed" if self.behavior.load_error else "ready"
        return {
            "status": status,
            "message": self.behavior.load_error or "reading weights" if status != "ready" else "ready",
            "progress": 0.5 if loading else None,
            "model": self.model,
            "device": "cpu" if status == "ready" else None,
            "dtype": "float32",
            "max_context": self.behavior.limit,
            "exact_only": self.behavior.exact_only,
            "stages": [{"message": "starting", "seconds": 0.5}, {"message": "Waking up", "seconds": 2.0}],
            "pid": os.getpid(),
            "version": "0",
        }

    def stats(self) -> dict[str, Any]:
        names = ("tokens_prefilled", "tokens_decoded", "running", "queued", "segments", "blocks_used", "steps")
        return dict.fromkeys(names, 0) | {"contexts": len(self.contexts), "blocks_total": 10, "block_size": 64}

    def state(self) -> dict[str, Any]:
        contexts = {
            id: [chunk.info() | {"text": chunk.text} for chunk in chunks] for id, chunks in self.contexts.items()
        }
        return {
            "contexts": contexts,
            "instructions": list(self.instructions.values()),
            "orders": list(self.orders.values()),
            "chats": self.chats,
            "plans": self.plans,
            "calls": self.calls,
        }

    # -- contexts --------------------------------------------------------------------------------------------------

    def chunks(self, id: str) -> list[Chunk]:
        if id not in self.contexts:
            raise ApiError(404, "unknown_context", f"no context {id}")
        return self.contexts[id]

    def find(self, id: str, ref: str) -> Chunk:
        chunks = self.chunks(id)
        for chunk in chunks:
            if ref in chunk.sources:
                return chunk
        found = [chunk for chunk in chunks if len(ref) >= 4 and chunk.hash.startswith(ref)]
        if len(found) > 1:
            raise ApiError(409, "ambiguous_chunk", f"{ref} is ambiguous", candidates=[chunk.hash for chunk in found])
        if not found:
            raise ApiError(404, "unknown_chunk", f"no chunk {ref}")
        return found[0]

    def put(self, id: str, old: Chunk, new: Chunk) -> Chunk:
        chunks = self.chunks(id)
        chunks[chunks.index(old)] = new
        return new

    def describe(self, id: str) -> dict[str, Any]:
        chunks = self.chunks(id)
        tokens = {chunk.hash: chunk.tokens for chunk in chunks}
        shown = {hash for chunk in chunks if chunk.active for hash in chunk.parts or (chunk.hash,)}
        active = sum(tokens.get(hash, 0) for hash in shown)
        return {
            "id": id,
            "chunks": [chunk.info() for chunk in chunks],
            "active_tokens": active,
            "limit": self.behavior.limit,
        }

    def add(self, id: str, body: dict[str, Any]) -> dict[str, Any]:
        if not body["text"]:
            raise ApiError(400, "empty_chunk", "the chunk is empty")
        chunks, source = self.chunks(id), body.get("source") or f"text-{len(self.chunks(id))}"
        kind, tags = body.get("kind", "file"), tuple(body.get("tags", ()))
        new = Chunk(body["text"], kind, (source,), tags, active=body.get("active", True))
        if new.tokens > self.behavior.limit:
            message = f"{source!r} has {new.tokens} tokens, the limit is {self.behavior.limit}"
            raise ApiError(413, "context_full", message, needed=new.tokens, limit=self.behavior.limit)
        old = next((chunk for chunk in chunks if source in chunk.sources), None)
        same = next((chunk for chunk in chunks if chunk.hash == new.hash), None)
        if old is not None and old is same:
            return old.info()
        if same is not None:
            if old is not None:
                self.remove_source(id, source)
            return self.put(id, same, replace(same, sources=(*same.sources, source))).info()
        if old is None:
            chunks.append(new)
        elif len(old.sources) == 1:
            self.put(id, old, replace(new, active=old.active, tags=old.tags, pinned=old.pinned))
        else:
            self.put(id, old, replace(old, sources=tuple(name for name in old.sources if name != source)))
            chunks.append(replace(new, active=old.active, tags=old.tags))
        return self.find(id, source).info()

    def remove_source(self, id: str, source: str) -> None:
        for chunk in list(self.chunks(id)):
            rest = tuple(name for name in chunk.sources if name != source)
            if not rest:
                self.chunks(id).remove(chunk)
            elif rest != chunk.sources:
                self.put(id, chunk, replace(chunk, sources=rest))

    def act(self, id: str, action: str, body: dict[str, Any]) -> dict[str, Any]:
        """One POST below a context."""
        match action:
            case "chunks":
                return self.add(id, body)
            case "activate" | "deactivate":
                found = [self.find(id, ref) for ref in body["refs"]]
                changed = [self.put(id, chunk, replace(chunk, active=action == "activate")) for chunk in found]
                return {"chunks": [chunk.info() for chunk in changed]}
            case "pin" | "unpin":
                found = [self.find(id, ref) for ref in body["refs"]]
                changed = [self.put(id, chunk, replace(chunk, pinned=action == "pin")) for chunk in found]
                return {"chunks": [chunk.info() for chunk in changed]}
            case "delete":
                found = [self.find(id, ref) for ref in body["refs"]]
                self.contexts[id] = [chunk for chunk in self.chunks(id) if chunk not in found]
                return {"deleted": [chunk.hash for chunk in found]}
            case "move":
                chunk = self.find(id, body["ref"])
                self.chunks(id).remove(chunk)
                self.chunks(id).insert(body["position"], chunk)
                return {"chunks": [chunk.info() for chunk in self.chunks(id)]}
            case "compose":
                parts = [self.find(id, ref) for ref in body["refs"]]
                if not parts:
                    raise ApiError(400, "invalid_request", "a composition needs at least one chunk")
                text = "".join(part.text for part in parts) + "\0composed"
                hashes = tuple(part.hash for part in parts)
                self.chunks(id).append(Chunk(text, "composition", (body["name"],), parts=hashes))
                return self.find(id, body["name"]).info()
            case "tag" | "untag":
                chunk = self.find(id, body["ref"])
                kept = [tag for tag in chunk.tags if tag not in body["tags"]]
                tags = tuple(kept + (body["tags"] if action == "tag" else []))
                return self.put(id, chunk, replace(chunk, tags=tags)).info()
            case "remove_source":
                self.remove_source(id, body["source"])
                return {}
            case "clear":
                keep = [] if body["scope"] == "all" else [c for c in self.chunks(id) if c.kind != "output"]
                self.contexts[id] = keep
                return {}
            case "populate":
                plan = self.plan(id, 0)
                if self.behavior.prefills:
                    self.contexts[id] = [replace(chunk, warm=chunk.active) for chunk in self.chunks(id)]
                return plan
            case "stop_populating":
                self.publish(id, "populate_progress", {"context": id, "done": 0, "total": 0})
                return {}
            case "prompt":
                texts = [chunk.text for chunk in self.chunks(id) if chunk.active]
                return {"text": "|".join(["<head>", *texts, *(message["content"] for message in body["messages"])])}
            case "plan":
                self.plans.append(body)
                return self.plan(id, sum(len(message["content"].split()) for message in body["messages"]))
        raise ApiError(404, "unknown_route", f"no action {action}")

    def plan(self, id: str, tail: int) -> dict[str, Any]:
        active = [chunk for chunk in self.chunks(id) if chunk.active]
        tokens = sum(chunk.tokens for chunk in active) + tail
        if tokens > self.behavior.limit:
            message = f"the prompt has {tokens} tokens, the limit is {self.behavior.limit}"
            raise ApiError(413, "context_full", message, needed=tokens, limit=self.behavior.limit)
        reused = sum(chunk.tokens for chunk in active if chunk.warm)
        parts = [self.chunk_plan(chunk) for chunk in active]
        counts = {"tokens": tokens, "reused": reused, "prefill": tokens - reused, "limit": self.behavior.limit}
        return counts | {"chunks": parts, "mode": "exact", "time_to_first_token": 0.25}

    @staticmethod
    def chunk_plan(chunk: Chunk) -> dict[str, Any]:
        reused = chunk.tokens if chunk.warm else 0
        fidelity = "exact" if chunk.warm else "cold"
        names = ("hash", "name", "tokens")
        plan = {name: chunk.info()[name] for name in names}
        return plan | {"reused": reused, "prefill": chunk.tokens - reused, "fidelity": fidelity}

    # -- events ----------------------------------------------------------------------------------------------------

    def publish(self, context: str, name: str, data: Any) -> None:
        for wanted, mailbox in list(self.streams.values()):
            if wanted == context:
                mailbox.put((name, data))
