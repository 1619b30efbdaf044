"""A stand-in for `engine.Engine` without tensors: the same facade, words as tokens, answers that repeat one word.

Answers are computed by a thread of their own, whether anybody reads them or not, as in the real engine: only
`cancel` stops them. Failures are injected through `Script`.
"""

from __future__ import annotations

import hashlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from engine.config import EngineConfig, Fidelity, Order, SamplingParams
from engine.errors import (
    AmbiguousChunkError,
    ContextFullError,
    EmptyChunkError,
    EngineBusyError,
    EngineError,
    InvalidRequestError,
    UnknownChunkError,
    UnknownContextError,
)
from engine.types import (
    ChatDelta,
    ChatDone,
    ChatEvent,
    ChunkInfo,
    ChunkKind,
    ChunkPlan,
    ChunksChanged,
    EngineEvent,
    FidelityLabel,
    Message,
    Plan,
    PopulateProgress,
    StopReason,
    Timing,
    Usage,
)

ENDLESS = 1 << 30
WORD = "wört "
THOUGHT = "hm "


@dataclass
class Script:
    """How answers go.

    Attributes:
        thoughts: words before the answer, which `max_tokens` counts, too.
        words: length of an answer that `max_tokens` does not cut.
        pause: seconds between two words.
        error_after: raise this many words into the answer; None never does.
        opened: set when `chat` was called.
        proceed: answers wait for it before each word.
    """

    words: int = 5
    thoughts: int = 0
    pause: float = 0.0
    error_after: int | None = None
    error: Exception = field(default_factory=lambda: EngineError("the device caught fire"))
    opened: threading.Event = field(default_factory=threading.Event)
    proceed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.proceed.set()


class Question(NamedTuple):
    """What was asked."""

    messages: list[Message]
    params: SamplingParams
    fidelity: str
    budget: float | None
    tags: tuple[str, ...]


@dataclass(frozen=True)
class FakeStats:
    tokens_prefilled: int
    tokens_decoded: int
    contexts: int
    running: int


class FakeEngine:
    """See `engine.Engine`."""

    def __init__(self, config: EngineConfig | None = None, *, script: Script | None = None, max_context: int = 1000):
        self.config = config or EngineConfig(model="fake-model")
        self.model_name = self.config.model
        self.max_context = max_context
        self.device = "cpu"
        self.dtype = "float32"
        self.exact_only: str | None = None
        self.script = script or Script()
        self.closed = threading.Event()
        self.lock = threading.RLock()
        self.questions: list[Question] = []
        self.plans: list[tuple[str, float | None]] = []
        self.decoded = 0
        self.running: set[FakeStream] = set()
        self._contexts: dict[str, FakeContext] = {}
        self._subscribers: list[Callable[[EngineEvent], None]] = []

    def context(
        self, id: str = "default", *, instructions: str | None = None, order: Order | None = None
    ) -> FakeContext:
        self.check_open()
        with self.lock:
            context = self._contexts.setdefault(id, FakeContext(self, id))
            context.instructions = context.instructions if instructions is None else instructions
            context.order = order or context.order
            return context

    def get_context(self, id: str) -> FakeContext:
        with self.lock:
            if id not in self._contexts:
                raise UnknownContextError(f"there is no context {id!r}")
            return self._contexts[id]

    def drop_context(self, id: str) -> None:
        with self.lock:
            self.get_context(id)
            del self._contexts[id]

    def chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *, fidelity: Fidelity = "auto"
    ) -> FakeStream:
        return self.ask(None, messages, params, fidelity, None, ())

    def ask(
        self,
        context: FakeContext | None,
        messages: Sequence[Message],
        params: SamplingParams | None,
        fidelity: str,
        budget: float | None,
        tags: tuple[str, ...],
    ) -> FakeStream:
        self.check_open()
        params = params or SamplingParams()
        self.questions.append(Question(list(messages), params, fidelity, budget, tags))
        chunks = context.plans() if context else ()
        prompt = sum(chunk.tokens for chunk in chunks) + sum(len(message["content"].split()) for message in messages)
        if prompt >= self.max_context:
            raise ContextFullError("too long", needed=prompt + 1, limit=self.max_context)
        stream = FakeStream(self, prompt, params, chunks)
        self.running.add(stream)
        self.script.opened.set()
        threading.Thread(target=stream.compute, daemon=True).start()
        return stream

    def subscribe(self, callback: Callable[[EngineEvent], None]) -> Callable[[], None]:
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def emit(self, event: EngineEvent) -> None:
        for callback in list(self._subscribers):
            callback(event)

    def stats(self) -> FakeStats:
        return FakeStats(0, self.decoded, len(self._contexts), len(self.running))

    def check_open(self) -> None:
        if self.closed.is_set():
            raise EngineBusyError("the engine has stopped")

    def reset(self) -> None:
        """As new, but for its subscribers."""
        with self.lock:
            self.script = Script()
            self.questions, self.plans, self.decoded = [], [], 0
            self._contexts = {}

    def close(self) -> None:
        self.closed.set()
        for stream in list(self.running):
            stream.cancel()


class FakeStream(Iterator[ChatEvent]):
    """See `engine.chat_stream.ChatStream`."""

    def __init__(self, engine: FakeEngine, prompt: int, params: SamplingParams, chunks: tuple[ChunkPlan, ...]):
        self._engine = engine
        self._prompt = prompt
        self._params = params
        self._chunks = chunks
        self._cancelled = threading.Event()
        self._queue: queue.SimpleQueue[ChatEvent | Exception] = queue.SimpleQueue()
        self._ended = False

    def compute(self) -> None:
        script, words = self._engine.script, 0
        all_words = script.thoughts + script.words
        most = min(all_words, self._params.max_tokens or ENDLESS)
        reason: StopReason = "stop" if all_words <= most else "length"
        while words < most:
            if script.error_after == words:
                self._end(script.error)
                return
            while not script.proceed.wait(0.01) and not self._cancelled.is_set():
                pass
            if self._cancelled.wait(script.pause) if script.pause else self._cancelled.is_set():
                reason = "cancelled"
                break
            words += 1
            with self._engine.lock:
                self._engine.decoded += 1
            self._queue.put(ChatDelta(WORD) if words > script.thoughts else ChatDelta(THOUGHT, "reasoning"))
        thoughts = min(words, script.thoughts)
        usage = Usage(self._prompt, 1, self._prompt - 1, words, thoughts)
        timing = Timing(0.0, 0.1, 0.2, 10.0)
        text, reasoning = WORD * (words - thoughts), THOUGHT * thoughts
        self._end(ChatDone(reason, text, usage, timing, self._chunks, None, reasoning))

    def _end(self, event: ChatEvent | Exception) -> None:
        self._engine.running.discard(self)
        self._queue.put(event)

    def __next__(self) -> ChatEvent:
        if self._ended:
            raise StopIteration
        event = self._queue.get()
        self._ended = not isinstance(event, ChatDelta)
        if isinstance(event, Exception):
            raise event
        return event

    def cancel(self) -> None:
        self._cancelled.set()

    def close(self) -> None:
        self.cancel()
        self._ended = True


class FakeContext:
    """See `engine.context.Context`."""

    def __init__(self, engine: FakeEngine, id: str) -> None:
        self.id = id
        self.instructions: str | None = None
        self.order: Order = "recency"
        self._engine = engine
        self._chunks: dict[str, ChunkInfo] = {}
        self._texts: dict[str, str] = {}

    def add_chunk(
        self,
        text: str,
        *,
        source: str | None = None,
        kind: ChunkKind = ChunkKind.FILE,
        tags: Sequence[str] = (),
        active: bool = True,
    ) -> ChunkInfo:
        if not text:
            raise EmptyChunkError("a chunk needs text")
        hash_ = hashlib.sha256(text.encode()).hexdigest()
        sources = (source,) if source else ()
        tokens = len(text.split())
        info = ChunkInfo(
            hash_, kind, source or hash_[:8], sources, tuple(tags), (), active, tokens, 0, FidelityLabel.COLD, False
        )
        self._chunks[hash_] = info
        self._texts[hash_] = text
        self._changed()
        return info

    def remove_source(self, source: str) -> None:
        del self._chunks[self._find(source).hash]
        self._changed()

    def chunks(self) -> list[ChunkInfo]:
        return list(self._chunks.values())

    def chunk(self, ref: str) -> ChunkInfo:
        return self._find(ref)

    def text(self, ref: str) -> str:
        return self._texts[self._find(ref).hash]

    def activate(self, *refs: str) -> list[ChunkInfo]:
        return [self._replace(ref, active=True) for ref in refs]

    def deactivate(self, *refs: str) -> list[ChunkInfo]:
        return [self._replace(ref, active=False) for ref in refs]

    def pin(self, *refs: str) -> list[ChunkInfo]:
        return [self._replace(ref, pinned=True) for ref in refs]

    def unpin(self, *refs: str) -> list[ChunkInfo]:
        return [self._replace(ref, pinned=False) for ref in refs]

    def move(self, ref: str, position: int) -> list[ChunkInfo]:
        info = self._find(ref)
        order = [chunk for chunk in self._chunks.values() if chunk is not info]
        order.insert(position, info)
        self._chunks = {chunk.hash: chunk for chunk in order}
        return order

    def compose(self, refs: Sequence[str], name: str) -> ChunkInfo:
        parts = tuple(self._find(ref).hash for ref in refs)
        composed = self.add_chunk("".join(self._texts[part] for part in parts), source=name, kind=ChunkKind.COMPOSITION)
        return self._replace(composed.hash, parts=parts)

    def tag(self, ref: str, *tags: str) -> ChunkInfo:
        return self._replace(ref, tags=tuple(dict.fromkeys(self._find(ref).tags + tags)))

    def untag(self, ref: str, *tags: str) -> ChunkInfo:
        return self._replace(ref, tags=tuple(tag for tag in self._find(ref).tags if tag not in tags))

    def delete(self, *refs: str) -> list[str]:
        hashes = [self._find(ref).hash for ref in refs]
        for hash_ in hashes:
            del self._chunks[hash_]
        self._changed()
        return hashes

    def clear(self, scope: str = "all") -> None:
        kept = {} if scope == "all" else {h: c for h, c in self._chunks.items() if c.kind is not ChunkKind.OUTPUT}
        self._chunks = kept
        self._changed()

    def populate(self, refs: Sequence[str] | None = None) -> Plan:
        for ref in refs or ():
            self._find(ref)
        plan = self.plan([])
        self._engine.emit(PopulateProgress(self.id, plan.tokens, plan.tokens))
        return plan

    def stop_populating(self) -> None:
        self._engine.emit(PopulateProgress(self.id, 0, 0))

    def prompt(
        self, messages: str | Sequence[Message], *, fidelity: Fidelity = "auto", budget: float | None = None
    ) -> str:
        self._engine.plans.append((fidelity, budget))
        said = [messages] if isinstance(messages, str) else [message["content"] for message in messages]
        return "|".join([*(self._texts[plan.hash] for plan in self.plans()), *said])

    def plans(self) -> tuple[ChunkPlan, ...]:
        active = [chunk for chunk in self._chunks.values() if chunk.active]
        return tuple(ChunkPlan(c.hash, c.name, c.tokens, 0, c.tokens, FidelityLabel.COLD) for c in active)

    def plan(
        self, messages: str | Sequence[Message], *, fidelity: Fidelity = "auto", budget: float | None = None
    ) -> Plan:
        self._engine.plans.append((fidelity, budget))
        texts = [messages] if isinstance(messages, str) else [message["content"] for message in messages]
        tokens = sum(plan.tokens for plan in self.plans()) + sum(len(text.split()) for text in texts)
        return Plan(tokens, 0, tokens, self._engine.max_context, self.plans(), mode="exact", time_to_first_token=None)

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        fidelity: Fidelity = "auto",
        budget: float | None = None,
        tags: Sequence[str] = (),
    ) -> FakeStream:
        if any(message["role"] == "system" for message in messages[1:]):
            raise InvalidRequestError("only the first message may be a system message")
        return self._engine.ask(self, messages, params, fidelity, budget, tuple(tags))

    def _find(self, ref: str) -> ChunkInfo:
        found = [c for c in self._chunks.values() if ref in c.sources or (len(ref) >= 4 and c.hash.startswith(ref))]
        if not found:
            raise UnknownChunkError(f"no chunk matches {ref!r}")
        if len(found) > 1:
            raise AmbiguousChunkError(f"{ref!r} matches several", candidates=[chunk.hash for chunk in found])
        return found[0]

    def _replace(self, ref: str, **changes: object) -> ChunkInfo:
        info = replace(self._find(ref), **changes)  # type: ignore[arg-type]
        self._chunks[info.hash] = info
        self._changed()
        return info

    def _changed(self) -> None:
        self._engine.emit(ChunksChanged(self.id))


def texts_with_equal_prefix(digits: int = 4) -> tuple[str, str, str]:
    """Two texts whose hashes begin alike, and that beginning."""
    seen: dict[str, str] = {}
    for number in itertools.count():
        text = f"text {number}"
        prefix = hashlib.sha256(text.encode()).hexdigest()[:digits]
        if prefix in seen:
            return seen[prefix], text, prefix
        seen[prefix] = text
    raise AssertionError("unreachable")
