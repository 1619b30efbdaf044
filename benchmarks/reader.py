"""The engine's own prefill without its threads: brings a context's KV about in a chosen way and reads logits over it.

Chunks, reuse, repairs and attention are the engine's very code; only scheduling is left out. Knows nothing of cases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.attention.base import AttentionRow
from engine.chunk import Chunk
from engine.chunk_kv import ChunkKV
from engine.context_manager import ContextManager
from engine.hashing import TokenArray, extend_hash, token_array
from engine.kv.block_manager import BlockManager
from engine.kv.segment_store import SegmentStore
from engine.model import LoadedModel
from engine.prompt import PromptBuilder
from engine.repair import Repair, plan_repairs
from engine.reuse import NearKV
from engine.runtime.prefill import Prefill, Tail
from engine.runtime.runner import Runner
from engine.runtime.scheduler import StepRow
from engine.types import ChunkKind, FidelityLabel

_SLICE_TOKENS = 256
"""Where nothing else is wanted; nobody waits for these slices."""


@dataclass(frozen=True)
class Mode:
    """A way of using near KV; `foreign_tokens` as for `plan_repairs`."""

    repair: Repair
    foreign_tokens: int | None = 0


class Reader:
    """One model's KV, and contexts over it that are read at once instead of asked."""

    def __init__(self, model: LoadedModel, block_size: int, slice_tokens: int | None) -> None:
        self._model = model
        self._slice_tokens = slice_tokens or _SLICE_TOKENS
        self._builder = PromptBuilder(model.tokenizer)
        self._runner = Runner(model.decoder, model.attention, model.device)
        self._store = SegmentStore(BlockManager(model.pool.num_blocks), block_size, lambda: frozenset())

    def context(
        self, world: str, files: Iterable[tuple[str, str]], kv: Mapping[str, ChunkKV] | None = None
    ) -> ContextManager:
        """A context of these (path, text) in fixed order, whose chunks' KV is known to be `kv`.

        KV of one `world` is never found in another.
        """
        base_hash = extend_hash(self._model.fingerprint, token_array(list(world.encode())))
        manager = ContextManager("benchmark", self._builder, base_hash)
        manager.order = "fixed"
        for path, text in files:
            add(manager, path, text)
        manager.kv.update(kv or {})
        return manager

    def tail(self, question: str) -> Sequence[int]:
        """Token ids of what follows the chunks when `question` is asked."""
        return self._builder.tail([{"role": "user", "content": question}])

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        return self._model.tokenizer.encode(text, special=False)

    def compute(self, manager: ContextManager, mode: Mode | None) -> Prefill:
        """Bring the KV of what is active about and remember where it is.

        `mode` None computes whatever isn't exact; else near KV is used, repaired as it says. Close the result.
        """
        composition = manager.composition()
        near = None
        if mode is not None:
            repairs = plan_repairs(
                self._store, composition, manager.kv, manager.versions(), mode.repair, mode.foreign_tokens
            )
            near = NearKV(manager.kv, repairs, mode.repair)
        prefill = Prefill(self._store, composition, near)
        while slices := prefill.next_slices(self._slice_tokens):
            rows = [StepRow(manager, piece.row, piece.tokens, 0) for piece in slices]  # type: ignore[arg-type]
            prefill.advanced(self._runner.run(rows)[1])
        manager.remember_kv(prefill.kv)
        return prefill

    @torch.inference_mode()
    def logits(self, prefill: Prefill, tokens: Sequence[int]) -> Tensor:
        """Logits behind each of `tokens`, which follow what `prefill` has placed; float32 [n, vocab]. Keeps no KV."""
        array = token_array(list(tokens))
        with _Opened(self._store, prefill, array) as tail:
            row = AttentionRow(prefill.table, tail.segment, len(array))
            self._model.attention.plan([row])
            ids = torch.tensor(list(tokens), device=self._model.device)
            positions = torch.arange(row.position, row.position + len(array), device=self._model.device)
            return self._model.decoder.logits(self._model.decoder.forward(ids, positions, self._model.attention))

    @torch.inference_mode()
    def greedy(self, prefill: Prefill, tail: Sequence[int], count: int) -> list[int]:
        """The next `count` tokens behind `tail`, likeliest first; fewer if the answer ends."""
        answer: list[int] = []
        with _Opened(self._store, prefill, token_array(list(tail))) as opened:
            while True:
                piece = opened.next_slice(self._slice_tokens)
                logits, results = self._runner.run([StepRow(opened, piece.row, piece.tokens, piece.samples)])  # type: ignore[arg-type]
                opened.advanced(results[0].state)
                if logits is None:
                    continue
                token = int(logits[0].argmax())
                if len(answer) == count or token in self._model.tokenizer.eos_token_ids:
                    return answer
                answer.append(token)
                opened.append(token)


class _Opened:
    """A tail that leaves nothing behind."""

    def __init__(self, store: SegmentStore, prefill: Prefill, tokens: TokenArray) -> None:
        self._store = store
        self._tail = Tail(store, prefill, tokens)

    def __enter__(self) -> Tail:
        return self._tail

    def __exit__(self, *_: object) -> None:
        self._store.discard(self._tail.segment)


def add(manager: ContextManager, path: str, text: str) -> str:
    """Add or edit a file; returns its hash."""
    return manager.add(Chunk(text, ChunkKind.FILE, manager.encode(text, ChunkKind.FILE, (path,)), (path,))).hash


def cost(prefill: Prefill) -> float:
    """Share of the chunks' tokens that were computed."""
    used = prefill.used.values()
    return sum(computed for _, computed, _ in used) / max(1, sum(reused + computed for reused, computed, _ in used))


def labels(prefill: Prefill) -> set[FidelityLabel]:
    return {label for _, _, label in prefill.used.values()}
