"""One sequence's share of a step through a stateful model: all its tokens at once, or one by one where it must be.

Relies on the attention's plan; knows nothing of who asked for the step.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from engine.attention.base import AttentionBackend, AttentionRow
from engine.models.language_model import LanguageModel


def advance(
    model: LanguageModel, attention: AttentionBackend, row: AttentionRow, token_ids: Tensor
) -> tuple[Tensor, object | None]:
    """Compute the row's new tokens, int64 [T] on the model's device, from `row.state` on.

    Returns their hidden states [T, hidden] and the state behind them. The row's segment is left as it was.
    """
    if row.state is None or not model.one_by_one:
        return _advance(model, attention, row, token_ids)
    state, hidden = row.state, list[Tensor]()
    for index in range(row.num_tokens):
        reached = copy.copy(row.segment)
        reached.filled += index
        step = replace(row, segment=reached, num_tokens=1, state=state)
        last, state = _advance(model, attention, step, token_ids[index : index + 1])
        hidden.append(last)
    return torch.cat(hidden), state


def _advance(
    model: LanguageModel, attention: AttentionBackend, row: AttentionRow, token_ids: Tensor
) -> tuple[Tensor, object | None]:
    attention.plan([row])
    positions = torch.arange(row.position, row.position + row.num_tokens, device=token_ids.device)
    return model.advance(token_ids, positions, attention, row.state)
