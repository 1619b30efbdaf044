"""What a loaded model has to prove before its KV is trusted, tried on a few dozen tokens in a pool of its own.

That the engine's attention gives what the model's own attention gives; and that KV computed at one place, read at
another, gives what KV computed there would give. Knows no architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.attention.base import AttentionRow
from engine.attention.torch_attention import TorchAttention
from engine.hashing import token_array
from engine.kv.pool import KVPool
from engine.kv.segment import Segment
from engine.kv.virtual_block_table import Placement, VirtualBlockTable
from engine.models.advance import advance
from engine.models.language_model import LanguageModel

_TOKENS = 44
_FIRST_SLICE = 25
# Moving is tried with fewer: every model has to
_MOVED, _ASKED = 16, 6
_BLOCK_SIZE = 16
_FARTHEST = 1000
# Relative distance of logits that rounding alone explains; what is really wrong is many times farther off
_ROUNDING = {torch.float32: 0.01}
_COARSE_ROUNDING = 0.2


def agrees_with(model: LanguageModel, own_logits: Callable[[Tensor], Tensor], *, coarse: bool = False) -> bool:
    """Whether `model`, computing a text in two slices, gives the logits that `own_logits` (ids [T] to [T, vocab]) does.

    Call it in inference mode.

    Args:
        coarse: its products round to fewer bits than its dtype has: some kinds of quantization round activations to 8,
            and the least difference in what comes in may then be one of such a step in what comes out.
    """
    bench = _Bench(model)
    expected = own_logits(bench.ids)
    segment, state, slices = bench.segment(0), None, []
    for count in (_FIRST_SLICE, _TOKENS - _FIRST_SLICE):
        hidden, state = bench.compute(segment, count, bench.table(None, 0), state)
        slices.append(model.logits(hidden))
        if model.stateful:
            # another text in between, which a state that the model keeps for itself would not survive
            bench.compute(bench.segment(0, bench.ids.flip(0)), _FIRST_SLICE, bench.table(None, 0))
    return all(
        _near(ours, theirs, _tolerance(model, coarse))
        for ours, theirs in zip(slices, expected.split_with_sizes([len(part) for part in slices]), strict=True)
    )


def check_moving(model: LanguageModel, *, coarse: bool = False) -> str | None:
    """None if KV of `model` may be read at another place than it was computed at, otherwise why not.

    A text's KV is computed at position 0 and, with nothing before it, at a position further on. Tokens behind the
    latter have to give the same logits over either. All of it is one step, which reads the weights once: on a CPU most
    of the time goes there. Call it in inference mode. `coarse` as for `agrees_with`.
    """
    bench = _Bench(model)
    there = min(_FARTHEST, model.max_position // 2)
    moved, asked = bench.ids[:_MOVED], bench.ids[_MOVED : _MOVED + _ASKED]
    texts, questions = list[AttentionRow](), list[AttentionRow]()
    for computed_at in (0, there):
        text = bench.segment(computed_at, moved)
        texts.append(AttentionRow(bench.table(None, computed_at), text, _MOVED))
        behind = bench.table(Placement(text, 0, _MOVED), there)
        questions.append(AttentionRow(behind, bench.segment(there + _MOVED, asked), _ASKED))
    hidden = bench.together([*texts, *questions])
    over_moved, over_computed_there = model.logits(hidden[-2 * _ASKED :]).tensor_split(2)
    if _near(over_moved, over_computed_there, _tolerance(model, coarse)):
        return None
    return "in a trial, what it computed at one position did not hold at another"


class _Bench:
    """A model with a small pool and attention of its own, and a text that it knows as little as any other."""

    def __init__(self, model: LanguageModel) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(model.vocab_size, (_TOKENS,), generator=generator).to(model.device)
        heads = [(layer.num_kv_heads, layer.head_dim) for layer in model.layers]
        blocks = 4 * math.ceil(_TOKENS / _BLOCK_SIZE)
        pool = KVPool(heads, blocks, _BLOCK_SIZE, dtype=model.dtype, device=model.device)
        self._model = model
        self._attention = TorchAttention(pool, model.rotary, model.layers)
        self._blocks = iter(range(blocks))

    def segment(self, start: int, ids: Tensor | None = None) -> Segment:
        """An empty segment for `ids` (the whole text by default) that is computed at `start`."""
        tokens = token_array((self.ids if ids is None else ids).tolist())
        blocks = [next(self._blocks) for _ in range(math.ceil(len(tokens) / _BLOCK_SIZE))]
        return Segment(b"", tokens, start, blocks, 0)

    def table(self, placement: Placement | None, start: int) -> VirtualBlockTable:
        """What is placed at 0, or nothing, standing at `start` with nothing before it."""
        table = VirtualBlockTable.build([placement] if placement else [], _BLOCK_SIZE)
        return replace(table, starts=table.starts + start, deltas=table.deltas + start, tokens=table.tokens + start)

    def together(self, rows: Sequence[AttentionRow]) -> Tensor:
        """The hidden states of all rows' tokens, computed in one step."""
        self._attention.plan(rows)
        ids = torch.cat([self._next(row.segment, row.num_tokens) for row in rows])
        positions = torch.cat([torch.arange(row.position, row.position + row.num_tokens) for row in rows])
        return self._model.forward(ids, positions.to(ids.device), self._attention)

    def compute(
        self, segment: Segment, count: int, table: VirtualBlockTable, state: object | None = None
    ) -> tuple[Tensor, object | None]:
        """The segment's next `count` tokens behind `table`: their hidden states, and the state behind them."""
        row = AttentionRow(table, segment, count, state)
        hidden, state = advance(self._model, self._attention, row, self._next(segment, count))
        segment.filled += count
        return hidden, state

    def _next(self, segment: Segment, count: int) -> Tensor:
        """The segment's next `count` tokens."""
        tokens = segment.tokens[segment.filled : segment.filled + count].tolist()
        return torch.tensor(tokens, device=self._model.device)


def _tolerance(model: LanguageModel, coarse: bool) -> float:
    return _COARSE_ROUNDING if coarse else _ROUNDING.get(model.dtype, _COARSE_ROUNDING)


def _near(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    """Whether logits [T, vocab] differ by rounding only.

    What most tokens do decides: in a mixture of experts, rounding sends a token to another expert now and then.
    """
    ours, theirs = (logits - logits.mean(-1, keepdim=True) for logits in (ours, theirs))
    distance = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp_min(1e-20)
    return float(distance.nan_to_num(torch.inf).median()) <= tolerance
