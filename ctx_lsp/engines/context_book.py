"""One context of a server that keeps none itself: its chunks, the prompts they make, and what of them is warm there.

Order, sources, tags and compositions are the business of the engine's own `ContextManager`. Blocking, since counting
tokens may ask the server; knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from ctx_lsp import protocol
from ctx_lsp.engines.openai_prompt import Prompt, chunk_frame, common_length, compose, said
from ctx_lsp.engines.token_counter import TokenCounter
from ctx_lsp.protocol import ChunkInfo, ChunkPlan, ChunksResult, FidelityLabel, Order, Plan
from engine.chunk import Chunk
from engine.chunk_frame import ChunkText, frame
from engine.config import DEFAULT_INSTRUCTIONS
from engine.context_manager import ContextManager
from engine.errors import ContextFullError, InvalidRequestError
from engine.types import ChunkKind, Message


class _Texts:
    """A `PieceBuilder` for chunks that are nothing but text: tokens are the server's."""

    def head(self, instructions: str | None = None) -> Sequence[int]:
        return ()

    def chunk(self, chunk: ChunkText) -> Sequence[int]:
        return ()

    def chunk_text(self, chunk: ChunkText) -> str:
        return frame(chunk)


class ContextBook:
    """The chunks of one context.

    Invariant: all of `_seen` was computed by the server as the beginning of one prompt, the last one it was sent. How
    long it keeps that is its own business, so what counts as warm is a guess until an answer's usage tells.
    """

    def __init__(self, counter: TokenCounter, limit: int) -> None:
        self._counter = counter
        self._limit = limit
        self._chunks = ContextManager("", _Texts(), b"")
        self._seen = ""

    def configure(self, instructions: str | None, order: Order) -> None:
        """None takes the engine's own instructions."""
        self._chunks.set_instructions(DEFAULT_INSTRUCTIONS if instructions is None else instructions)
        self._chunks.set_order(order)

    # -- chunks ----------------------------------------------------------------------------------------------------

    def describe(self) -> ChunksResult:
        warm = self._warm()
        chunks = tuple(self._info(chunk, warm) for chunk in self._chunks)
        active = sum(self._tokens(chunk) for chunk in self._chunks.active_leaves())
        return ChunksResult(chunks=chunks, active_tokens=active, limit=self._limit, estimated=self._counter.estimated)

    def add(
        self, text: str, source: str, kind: str = "file", tags: Sequence[str] = (), active: bool = True
    ) -> ChunkInfo:
        """Adds a text, or replaces what its source named: the edited chunk goes last, unless the order is fixed."""
        if kind not in get_args(protocol.ChunkKind):
            raise InvalidRequestError(f"there are no chunks of the kind {kind!r}")
        chunk_kind = ChunkKind(kind)
        tokens = self._chunks.encode(text, chunk_kind, (source,))
        chunk = Chunk(text, chunk_kind, tokens, (source,), tuple(dict.fromkeys(tags)), active=active)
        needed = self._tokens(chunk)
        if needed > self._limit:
            message = f"{source!r} has {needed:,} tokens, the context has {self._limit:,}"
            raise ContextFullError(message, needed=needed, limit=self._limit)
        chunk = self._chunks.add(chunk)
        self._chunks.settle()
        return self._shown(chunk)

    def text(self, ref: str) -> str:
        return self._chunks.find(ref).text

    def keep_answer(self, text: str) -> str | None:
        """Adds an answer as an inactive chunk; its hash."""
        if not text:
            return None
        turn, source = self._chunks.next_turn()
        return self.add(text, source, "output", (f"turn:{turn}",), active=False).hash

    def remove_source(self, source: str) -> None:
        self._chunks.remove_source(source)

    def set_active(self, refs: Sequence[str], active: bool) -> tuple[ChunkInfo, ...]:
        return tuple(map(self._shown, self._chunks.set_active(refs, active)))

    def set_pinned(self, refs: Sequence[str], pinned: bool) -> tuple[ChunkInfo, ...]:
        return tuple(map(self._shown, self._chunks.set_pinned(refs, pinned)))

    def compose(self, refs: Sequence[str], name: str) -> ChunkInfo:
        return self._shown(self._chunks.compose(refs, name))

    def move(self, ref: str, position: int) -> None:
        self._chunks.move(ref, position)

    def tag(self, ref: str, tags: Sequence[str], remove: bool) -> ChunkInfo:
        kept = [tag for tag in self._chunks.find(ref).tags if tag not in tags]
        return self._shown(self._chunks.set_tags(ref, kept if remove else [*kept, *tags]))

    def delete(self, refs: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._chunks.delete(*refs))

    def clear(self, scope: str) -> None:
        if scope not in ("all", "outputs"):
            raise InvalidRequestError(f"scope must be 'all' or 'outputs', not {scope!r}")
        self._chunks.clear(ChunkKind.OUTPUT if scope == "outputs" else None)

    # -- prompts ---------------------------------------------------------------------------------------------------

    def prompt(self, messages: Sequence[Message] = (), in_system: bool = True) -> Prompt:
        """The active chunks, then the conversation."""
        chunks = self._chunks.active_leaves()
        return compose(self._chunks.instructions, chunks, messages, self._counter.count, in_system)

    def reused(self, prompt: Prompt) -> tuple[int, ...]:
        """Tokens of each piece that should need no computing."""
        return prompt.shared(self._seen)

    def saw(self, prompt: Prompt, answer: str) -> None:
        """The server has computed all of this prompt and given an answer."""
        self._seen = prompt.text + said("assistant", answer)

    def broke_off(self, prompt: Prompt) -> None:
        """The server was stopped somewhere in this prompt: only what it knew of it before is sure."""
        self._seen = prompt.text[: common_length(prompt.text, self._seen)]

    def plan(self, prompt: Prompt, speed: float | None) -> Plan:
        """What the prompt costs now; `speed` is in tokens a second. Raises ContextFullError where counts are exact."""
        needed, reused = prompt.tokens, self.reused(prompt)
        if needed >= self._limit and not self._counter.estimated:
            message = f"the prompt has {needed:,} tokens, the context has {self._limit:,}: deactivate chunks"
            raise ContextFullError(message, needed=needed, limit=self._limit)
        prefill = needed - sum(reused)
        return Plan(
            tokens=needed,
            reused=sum(reused),
            prefill=prefill,
            limit=self._limit,
            chunks=chunk_plans(prompt, reused),
            mode="exact",
            time_to_first_token=None if speed is None else prefill / speed,
            estimated=self._counter.estimated,
        )

    # -- figures ---------------------------------------------------------------------------------------------------

    def _shown(self, chunk: Chunk) -> ChunkInfo:
        return self._info(chunk, self._warm())

    def _warm(self) -> dict[str, int]:
        prompt = self.prompt()
        reused = self.reused(prompt)
        return {piece.chunk.hash: n for piece, n in zip(prompt.pieces, reused, strict=True) if piece.chunk is not None}

    def _tokens(self, chunk: Chunk) -> int:
        return self._counter.count(chunk_frame(chunk))

    def _info(self, chunk: Chunk, warm: dict[str, int]) -> ChunkInfo:
        leaves = self._chunks.leaves([chunk])
        warm_tokens = sum(warm.get(leaf.hash, 0) for leaf in leaves)
        kind: Any = chunk.kind.value
        return ChunkInfo(
            hash=chunk.hash,
            kind=kind,
            name=chunk.name,
            sources=chunk.sources,
            tags=chunk.tags,
            parts=chunk.parts,
            active=chunk.active,
            tokens=sum(self._tokens(leaf) for leaf in leaves),
            warm_tokens=warm_tokens,
            fidelity=_label(warm_tokens),
            pinned=chunk.pinned,
        )


def chunk_plans(prompt: Prompt, reused: Sequence[int], *, used: bool = False) -> tuple[ChunkPlan, ...]:
    """The chunks' shares of a prompt of which so much is reused; `used` says that an answer has read it."""
    return tuple(
        ChunkPlan(
            hash=piece.chunk.hash,
            name=piece.chunk.name,
            tokens=piece.tokens,
            reused=count,
            prefill=piece.tokens - count,
            fidelity="exact" if used else _label(count),
        )
        for piece, count in zip(prompt.pieces, reused, strict=True)
        if piece.chunk is not None
    )


def _label(reused: int) -> FidelityLabel:
    """A prefix cache holds nothing but exact KV."""
    return "exact" if reused else "cold"
