"""Context: a caller's handle on one workspace's chunks. Thread-safe; every method but reading a stream is quick."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from engine.answers import Answers, check_fidelity
from engine.chat_stream import ChatStream
from engine.chunk import Chunk
from engine.composition import Composition
from engine.config import Fidelity, SamplingParams
from engine.context_manager import ContextManager
from engine.errors import InvalidRequestError
from engine.hashing import TokenArray, content_hash, token_array
from engine.reuse import Residency, assess, assess_piece
from engine.state import EngineState
from engine.types import ChunkInfo, ChunkKind, ChunkPlan, FidelityLabel, Message, Plan, PopulateProgress


class Context:
    """One workspace's ordered chunks.

    A *ref* names a chunk: its hash, a unique prefix of it of ≥ 4 hex digits, a source, or a composition's name. A bad
    one raises UnknownChunkError, AmbiguousChunkError or InvalidRequestError, and then nothing has changed.
    """

    def __init__(self, state: EngineState, answers: Answers, manager: ContextManager) -> None:
        self._state = state
        self._answers = answers
        self._manager = manager
        self.id = manager.id

    # -- chunks ----------------------------------------------------------------------------------------------------

    def add_chunk(
        self,
        text: str,
        *,
        source: str | None = None,
        kind: ChunkKind = ChunkKind.FILE,
        tags: Iterable[str] = (),
        active: bool = True,
    ) -> ChunkInfo:
        """Add a chunk at the end of the order, or replace what `source` named before (an edit).

        An edited chunk goes to the end too, unless it is pinned or the context's order is `fixed`: not at once, but
        with the next exact answer or when background work has made its KV exact there.

        A text that is here already gets one more source. Without a source it is named by its hash.

        Raises:
            EmptyChunkError: there is no text.
            ContextFullError: it alone is larger than the context window.
        """
        if not isinstance(text, str):
            raise InvalidRequestError("A chunk's text must be a string.")
        if kind is ChunkKind.COMPOSITION:
            raise InvalidRequestError("A composition is made by compose().")
        sources = (source or content_name(text),)
        tokens = self._manager.encode(text, kind, sources)
        self._state.check_fits(len(tokens), f"{sources[0]!r} has")
        with self._state.changed:
            self._state.check_open()
            chunk = self._manager.add(Chunk(text, kind, tokens, sources, tuple(dict.fromkeys(tags)), active=active))
            self._state.chunks_changed(self._manager)
            return self._info(chunk.hash)

    def remove_source(self, source: str) -> None:
        """Forget where a text came from; its chunk goes with its last source."""
        with self._state.changed:
            self._manager.remove_source(source)
            self._state.chunks_changed(self._manager)

    def chunks(self) -> list[ChunkInfo]:
        """All chunks in prompt order."""
        with self._state.changed:
            return self._infos()

    def chunk(self, ref: str) -> ChunkInfo:
        with self._state.changed:
            return self._info(self._manager.find(ref).hash)

    def text(self, ref: str) -> str:
        """The chunk's text."""
        with self._state.changed:
            return self._manager.find(ref).text

    def activate(self, *refs: str) -> list[ChunkInfo]:
        """Let the chunks be part of the prompt from the next question on."""
        return self._set_active(refs, True)

    def deactivate(self, *refs: str) -> list[ChunkInfo]:
        """Leave the chunks out of the prompt from the next question on; their KV stays as long as there is room."""
        return self._set_active(refs, False)

    def _set_active(self, refs: Sequence[str], active: bool) -> list[ChunkInfo]:
        with self._state.changed:
            changed = {chunk.hash for chunk in self._manager.set_active(refs, active)}
            self._state.chunks_changed(self._manager)
            return [info for info in self._infos() if info.hash in changed]

    def pin(self, *refs: str) -> list[ChunkInfo]:
        """Let the chunks keep their places in the order when they are edited."""
        return self._set_pinned(refs, True)

    def unpin(self, *refs: str) -> list[ChunkInfo]:
        """Let the chunks go to the end of the order when they are edited, if the context's order is `recency`."""
        return self._set_pinned(refs, False)

    def _set_pinned(self, refs: Sequence[str], pinned: bool) -> list[ChunkInfo]:
        with self._state.changed:
            changed = {chunk.hash for chunk in self._manager.set_pinned(refs, pinned)}
            self._state.chunks_changed(self._manager)
            return [info for info in self._infos() if info.hash in changed]

    def move(self, ref: str, position: int) -> list[ChunkInfo]:
        """Put a chunk at index `position` of the order; returns the new order."""
        with self._state.changed:
            self._manager.move(ref, position)
            self._state.chunks_changed(self._manager)
            return self._infos()

    def compose(self, refs: Sequence[str], name: str) -> ChunkInfo:
        """Name these chunks, in this order, as one. It is active; its parts stay chunks of their own.

        Where it stands in the order the prompt shows its parts, each where it first occurs.
        """
        with self._state.changed:
            chunk = self._manager.compose(refs, name)
            self._state.chunks_changed(self._manager)
            return self._info(chunk.hash)

    def tag(self, ref: str, *tags: str) -> ChunkInfo:
        """Add tags to a chunk."""
        return self._change_tags(ref, add=tags)

    def untag(self, ref: str, *tags: str) -> ChunkInfo:
        """Take tags from a chunk; those it has not are passed over."""
        return self._change_tags(ref, remove=tags)

    def _change_tags(self, ref: str, add: Sequence[str] = (), remove: Sequence[str] = ()) -> ChunkInfo:
        if not all(isinstance(tag, str) and tag for tag in (*add, *remove)):
            raise InvalidRequestError("Tags must be non-empty strings.")
        with self._state.changed:
            kept = [tag for tag in self._manager.find(ref).tags if tag not in remove]
            chunk = self._manager.set_tags(ref, (*kept, *add))
            self._state.chunks_changed(self._manager)
            return self._info(chunk.hash)

    def delete(self, *refs: str) -> list[str]:
        """Delete chunks; returns their hashes."""
        with self._state.changed:
            hashes = self._manager.delete(*refs)
            self._state.chunks_changed(self._manager)
            return hashes

    def clear(self, scope: Literal["all", "outputs"] = "all") -> None:
        """Delete all chunks, or those that answers left behind."""
        if scope not in ("all", "outputs"):
            raise InvalidRequestError(f"scope must be 'all' or 'outputs', not {scope!r}.")
        with self._state.changed:
            self._manager.clear(ChunkKind.OUTPUT if scope == "outputs" else None)
            self._state.chunks_changed(self._manager)

    # -- warmth ----------------------------------------------------------------------------------------------------

    def populate(self, refs: Sequence[str] | None = None) -> Plan:
        """Start computing KV in the background, and return what there is to do.

        Without `refs`: whatever the active composition lacks, until all of it is exact, and from now on again whenever
        it changes. With `refs`: these chunks as if they alone were active.

        Raises:
            ContextFullError: the chunks don't fit the context window, so no question could be asked over them.
        """
        with self._state.changed:
            self._state.check_open()
            manager, scheduler = self._manager, self._state.scheduler
            chosen = None
            if refs is not None:
                leaves = manager.leaves(manager.find(ref) for ref in refs)
                chosen = manager.compose_pieces(leaves, manager.instructions)
            composition = chosen or manager.composition()
            self._state.check_fits(composition.tokens)
            if chosen is not None:
                scheduler.upkeep.append(self._state.upkeep(manager, chosen))
            else:
                manager.kept_up = True
                self._state.populate(manager)
            self._state.changed.notify_all()
            return self._plan(composition, token_array(()), "exact", None)

    def stop_populating(self) -> None:
        """Stop computing KV in the background, until `populate` or a question begins it again; what is there stays."""
        with self._state.changed:
            self._manager.kept_up = False
            self._state.scheduler.drop_upkeep(self._manager)
            self._state.publish(PopulateProgress(self.id, 0, 0))
            self._state.changed.notify_all()

    def wait_populated(self, timeout: float | None = None) -> bool:
        """Wait until no background prefill of this context is left; False after `timeout` seconds."""
        with self._state.changed:
            return self._state.changed.wait_for(
                lambda: all(upkeep.context is not self._manager for upkeep in self._state.scheduler.upkeep), timeout
            )

    # -- asking ----------------------------------------------------------------------------------------------------

    def plan(
        self, messages: str | Sequence[Message], *, fidelity: Fidelity = "auto", budget: float | None = None
    ) -> Plan:
        """What this question would cost now, asked as by `chat`: tokens reused and to prefill, fidelity, and time."""
        check_fidelity(fidelity, budget)
        with self._state.changed:
            composition, tail = self._compose(messages, fidelity, budget)
            return self._plan(composition, tail, fidelity, budget)

    def chat(
        self,
        messages: str | Sequence[Message],
        params: SamplingParams | None = None,
        *,
        fidelity: Fidelity = "auto",
        budget: float | None = None,
        tags: Sequence[str] = (),
    ) -> ChatStream:
        """Answer the conversation over the chunks active now; later changes don't touch this answer.

        Args:
            messages: a question, or turns of which the last is the user's; a leading system message stands in for the
                context's instructions.
            params: sampling; None is greedy up to the window's end.
            fidelity: ``exact`` first computes whatever KV is not exact; ``instant`` takes the KV there is; ``auto``
                is exact if that takes at most `budget` longer, or if the KV there is has read a dropped chunk.
            budget: seconds, also those that an instant answer may spend on computing chunks brought in from elsewhere;
                None takes the engine's `latency_budget`.
            tags: for the output chunk that keeps the answer.

        Raises:
            ContextFullError: the prompt leaves no room for an answer.
            InvalidRequestError: messages, fidelity or budget are not what they must be.
        """
        with self._state.changed:
            composition, tail = self._compose(messages, fidelity, budget)
            if composition is self._manager.settled() and self._manager.settle():
                self._state.chunks_changed(self._manager)
            return self._answers.ask(self._manager, composition, tail, params, fidelity, tags, budget)

    def prompt_tokens(
        self, messages: str | Sequence[Message], *, fidelity: Fidelity = "auto", budget: float | None = None
    ) -> list[int]:
        """The token ids the model would see if this were asked now."""
        with self._state.changed:
            composition, tail = self._compose(messages, fidelity, budget)
            return [*(token for piece in composition.pieces for token in piece.tokens.tolist()), *tail.tolist()]

    def prompt(
        self, messages: str | Sequence[Message], *, fidelity: Fidelity = "auto", budget: float | None = None
    ) -> str:
        """The text the model would see if this were asked now, control tokens spelled out."""
        tokens = self.prompt_tokens(messages, fidelity=fidelity, budget=budget)
        return self._state.model.tokenizer.decode(tokens, skip_special_tokens=False)

    def _compose(
        self, messages: str | Sequence[Message], fidelity: Fidelity, budget: float | None
    ) -> tuple[Composition, TokenArray]:
        """The pieces before the tail, and the tail's tokens."""
        check_fidelity(fidelity, budget)
        manager = self._manager
        turns = [Message(role="user", content=messages)] if isinstance(messages, str) else list(messages)
        tail = token_array(self._state.builder.tail(turns, manager.answers()))
        if turns[0]["role"] == "system":
            return manager.compose_pieces(manager.active_leaves(), turns[0]["content"]), tail
        return self._in_best_order(tail, fidelity, budget), tail

    def _in_best_order(self, tail: TokenArray, fidelity: Fidelity, budget: float | None) -> Composition:
        """The active chunks in their present order, or settled, where that costs an exact answer no more.

        The edited chunks themselves apart: they are computed from their beginnings once, so that their next edits cost
        only what is behind them.
        """
        present, settled = self._manager.composition(), self._manager.settled()
        if present.key == settled.key:
            return settled
        now = self._state.outlook(self._manager, present, tail, fidelity, budget)
        then = self._state.outlook(self._manager, settled, tail, "exact", budget)
        edited = sum(len(chunk.tokens) for chunk in self._manager.going())
        return settled if now.mode == "exact" and then.prefill <= now.prefill + edited else present

    # -- figures ---------------------------------------------------------------------------------------------------

    def _plan(self, composition: Composition, tail: TokenArray, fidelity: Fidelity, budget: float | None) -> Plan:
        names = {chunk.hash: chunk.name for chunk in self._manager}
        outlook = self._state.outlook(self._manager, composition, tail, fidelity, budget)
        chunks = tuple(
            ChunkPlan(piece.chunk, names[piece.chunk], n := len(piece.tokens), count, n - count, residency.fidelity)
            for residency, count in zip(outlook.residencies, outlook.reused, strict=False)
            if (piece := residency.piece).chunk is not None
        )
        total, reused = composition.tokens + len(tail), sum(outlook.reused)
        limit = self._state.max_context
        return Plan(total, reused, total - reused, limit, chunks, outlook.mode, outlook.seconds)

    def _info(self, hash: str) -> ChunkInfo:
        return next(info for info in self._infos() if info.hash == hash)

    def _infos(self) -> list[ChunkInfo]:
        manager, composition = self._manager, self._manager.composition()
        near = self._state.near(manager, composition, 0.0)
        found, kv_hash = assess(self._state.store, composition, near)
        states = {residency.piece.chunk: residency for residency in found}
        for leaf in manager.leaves(manager):
            if leaf.hash not in states:  # an inactive chunk: as if it were appended
                piece = composition.then(leaf.tokens, leaf.hash).pieces[-1]
                states[leaf.hash] = assess_piece(self._state.store, composition, piece, kv_hash, near)[0]
        return [self._chunk_info(chunk, states) for chunk in manager]

    def _chunk_info(self, chunk: Chunk, residencies: dict[str | None, Residency]) -> ChunkInfo:
        leaves = self._manager.leaves([chunk])
        states = [residencies[leaf.hash] for leaf in leaves]
        labels = [state.fidelity for state in states]
        return ChunkInfo(
            hash=chunk.hash,
            kind=chunk.kind,
            name=chunk.name,
            sources=chunk.sources,
            tags=chunk.tags,
            parts=chunk.parts,
            active=chunk.active,
            tokens=sum(len(leaf.tokens) for leaf in leaves),
            warm_tokens=sum(state.instant for state in states),
            fidelity=max(labels, key=list(FidelityLabel).index),
            pinned=chunk.pinned,
        )


def content_name(text: str) -> str:
    """What a chunk without a source is called."""
    return content_hash(text)[:12]
