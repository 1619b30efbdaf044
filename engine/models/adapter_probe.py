"""What a transformers model does in its attention layers, found out by one pass over a few tokens.

Nothing here knows a family by name. In the probing pass attention returns zeros, so what reaches a layer depends on
the token alone; the rotary modules return chosen patterns instead of angles, one per token, so each layer's queries
and keys tell which of their dims turn with which, by which column of which rotary module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import UnsupportedModelError
from engine.models.adapter_attention import MaskFunction
from engine.models.adapter_rotary import Angles
from engine.models.language_model import LayerSpec
from engine.models.rotary import Pairing

_TOKENS = 3
_COLUMN_BITS = 9
_SOURCE_BITS = 8
# Each pattern's place among a token's copies
_PLAIN, _TURNED = 0, 1
_COSINE = _TURNED + 1
_SINE = _COSINE + _COLUMN_BITS
_SOURCE = _SINE + _COLUMN_BITS
_PATTERNS = _SOURCE + _SOURCE_BITS
# Tensors that attention may be given and that the engine's knows, or that say nothing new
_KNOWN = {"s_aux", "position_ids", "cu_seq_lens_q", "cu_seq_lens_k"}
# How far rounding may take a number from another that it would equal
_ROUNDING = {torch.float32: 1e-3}
_COARSE_ROUNDING = 0.06


@dataclass(frozen=True)
class Probed:
    """One layer: how it attends, with `rotary` left open, and how it is rotated.

    Attributes:
        source: number of the rotary module's call it uses; None if it rotates nothing, or if that can't be told.
        pairing: how it applies that; None in the same cases.
        problem: why KV of it can't be moved, in words for the user; None if nothing speaks against it.
    """

    spec: LayerSpec
    source: int | None
    pairing: Pairing | None
    problem: str | None


class ProbingPass:
    """The attention of the probing pass; afterwards `layers` has what each call has shown, `dtype` that of values.

    The pass runs over `tokens(vocab_size)`, with `angles` as what the rotary modules return.
    """

    def __init__(self, max_position: int) -> None:
        self.layers: list[Probed] = []
        self.dtype: torch.dtype | None = None
        self._max_position = max_position
        self._windows: list[int | None] = []
        self._masks: list[Tensor] = []

    def attend(self, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Any) -> Tensor:
        self._refuse_the_unknown(q, k, mask, options)
        samples = torch.cat([x[0].transpose(0, 1).reshape(_PATTERNS, -1, x.shape[-1]) for x in (q, k)], 1)
        rotation = _rotation(samples.float(), _ROUNDING.get(q.dtype, _COARSE_ROUNDING))
        self.dtype = v.dtype
        scaling = options.get("scaling")
        sinks = options.get("s_aux")
        spec = LayerSpec(
            num_heads=q.shape[1],
            num_kv_heads=k.shape[1],
            head_dim=k.shape[-1],
            scale=float(q.shape[-1] ** -0.5 if scaling is None else scaling),
            rotary=None,
            window=self._window(mask, options),
            softcap=options.get("softcap"),
            sinks=None if sinks is None else sinks.detach().float(),
        )
        self.layers.append(Probed(spec, *rotation))
        return v.new_zeros(1, q.shape[2], q.shape[1], v.shape[-1])

    def mask(self, function: MaskFunction, options: Any) -> Tensor:
        """A mask that is no mask: all its entries are the number of the window, which survives any slicing."""
        self._windows.append(_window_of(function, self._max_position))
        length, number = _TOKENS * _PATTERNS, float(len(self._masks))
        place = {name: options.get(name) for name in ("dtype", "device")}
        self._masks.append(torch.full((1, 1, length, length), number, **place))
        return self._masks[-1]

    def _refuse_the_unknown(self, q: Tensor, k: Tensor, mask: Tensor | None, options: Any) -> None:
        """UnsupportedModelError for attention that is more than the engine's, even if a short text does not show it."""
        strange = [name for name, value in options.items() if isinstance(value, Tensor) and name not in _KNOWN]
        if strange:
            raise UnsupportedModelError(f"its attention takes {', '.join(strange)}")
        if k.shape[2] != q.shape[2]:
            raise UnsupportedModelError("its keys are not one for each token")
        if mask is not None and mask.untyped_storage().data_ptr() not in {
            own.untyped_storage().data_ptr() for own in self._masks
        }:
            raise UnsupportedModelError("its layers change the attention mask")

    def _window(self, mask: Tensor | None, options: Any) -> int | None:
        if mask is None:
            window = options.get("sliding_window")
            return None if window is None else int(window)
        return self._windows[int(mask.flatten()[0])]


def tokens(vocab_size: int, device: torch.device) -> Tensor:
    """Token ids of the probing pass, int64 [T]: a few tokens, one after the other, and that once per pattern."""
    chosen = torch.linspace(vocab_size // 3, vocab_size - 1 - vocab_size // 3, _TOKENS).long()
    return chosen.repeat(_PATTERNS).to(device)


def angles(source: int, cos: Tensor, sin: Tensor) -> Angles:
    """What the rotary call number `source` returns in the probing pass, in the shape and dtype of its own.

    A number is spelled in the cosines (or sines) of several copies of a token: 2 for a one, 1 for a zero.
    """
    columns = torch.arange(cos.shape[-1], device=cos.device)
    new_cos, new_sin = torch.ones(_PATTERNS, len(columns)), torch.zeros(_PATTERNS, len(columns))
    new_cos[_TURNED], new_sin[_TURNED] = 0, 1
    for bit in range(_COLUMN_BITS):
        spelled = 1.0 + (columns >> bit & 1).float().cpu()
        new_cos[_COSINE + bit] = spelled
        new_cos[_SINE + bit], new_sin[_SINE + bit] = 0, spelled
    for bit in range(_SOURCE_BITS):
        new_cos[_SOURCE + bit] = 1 + (source + 1 >> bit & 1)
    return _like(new_cos, cos), _like(new_sin, sin)


def depends_on_earlier_tokens(hidden: Tensor) -> bool:
    """Whether hidden states [T, hidden] of the probing pass differ between copies of a token.

    Attention brought nothing and all stood at one position, so only a state carried from token to token can.
    """
    copies = hidden.reshape(_PATTERNS, _TOKENS, -1)
    return differ(copies[:1].expand_as(copies), copies)


def differ(hidden: Tensor, other: Tensor) -> bool:
    """Whether hidden states differ by more than rounding. Attention brought nothing, so there is little of that."""
    distance = (hidden.float() - other.float()).norm(dim=-1) / hidden.float().norm(dim=-1)
    return float(distance.median()) > _ROUNDING.get(hidden.dtype, _COARSE_ROUNDING) / 10


def _like(pattern: Tensor, angles: Tensor) -> Tensor:
    rows = pattern.repeat_interleave(_TOKENS, 0)
    return rows.to(angles.device, angles.dtype).expand(angles.shape).contiguous()


def _rotation(samples: Tensor, tolerance: float) -> tuple[int | None, Pairing | None, str | None]:
    """Read source, pairing and problem from a layer's queries and keys, [patterns, samples, head_dim]."""
    plain, turned = samples[_PLAIN], samples[_TURNED]
    size = plain.norm(dim=0).clamp_min(1e-20)
    rotated = (turned - plain).norm(dim=0) / size > tolerance
    if not rotated.any():
        return None, None, None
    partner, sign, found = _partners(plain, turned, tolerance)
    cosines, fits = _spelled(samples[_COSINE:_SINE], plain, tolerance)
    sines, fits_too = _spelled(samples[_SINE:_SOURCE], turned, tolerance)
    sources, one_source = _spelled(samples[_SOURCE:], plain, tolerance)
    found &= fits & fits_too & one_source & (cosines == sines)
    # turning is mutual: what i takes from j with one sign, j takes from i with the other
    dims = torch.arange(len(partner), device=partner.device)
    found &= rotated[partner] & (partner[partner] == dims) & (sign[partner] == -sign)
    source = int(sources[rotated][0]) - 1
    if not (found[rotated].all() and (sources[rotated] == source + 1).all() and source >= 0):
        return None, None, "its rotary embedding does more than turn pairs of dims"
    still = ~rotated
    pairing = Pairing(
        column=tuple(None if rest else column for column, rest in zip(cosines.tolist(), still.tolist(), strict=True)),
        partner=tuple(torch.where(still, dims, partner).tolist()),
        sign=tuple(sign.masked_fill(still, 0).tolist()),
    )
    return source, pairing, None


def _partners(plain: Tensor, turned: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """For each dim of `turned` the dim of `plain` it equals up to its sign, that sign, and whether it really does."""
    sizes = plain.norm(dim=0).clamp_min(1e-20)
    likeness = (turned / turned.norm(dim=0).clamp_min(1e-20)).T @ (plain / sizes)
    partner = likeness.abs().argmax(1)
    sign = likeness.gather(1, partner[:, None])[:, 0].sign().long()
    away = (turned - plain[:, partner] * sign).norm(dim=0) / sizes[partner]
    return partner, sign, away <= tolerance


def _spelled(patterns: Tensor, unit: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """The number spelled for each dim, and whether what stands there is 1 or 2 times `unit` throughout."""
    size = (unit * unit).sum(0).clamp_min(1e-20)
    digits = ((patterns * unit).sum(1) / size).round().clamp(1, 2)
    away = (patterns - digits[:, None] * unit).norm(dim=1) / size.sqrt()
    numbers = sum((digits[bit] - 1).long() << bit for bit in range(len(digits)))
    assert isinstance(numbers, Tensor)
    return numbers, (away <= 2 * tolerance).all(0)


def _window_of(function: MaskFunction, max_position: int) -> int | None:
    """The window that a mask is, None if every earlier token is seen.

    Raises:
        UnsupportedModelError: it is another pattern.
    """
    window: int | None = None
    for query in (max_position - 2, max_position // 2, max_position // 3, 0):
        keys = torch.arange(query + 2)
        nought = torch.zeros_like(keys)
        try:
            seen = function(nought, nought, torch.full_like(keys, query), keys).expand(keys.shape)
        except Exception as error:
            raise UnsupportedModelError(f"its attention mask can't be read: {error}") from error
        if window is None and query == max_position - 2:
            window = int(seen.sum())
        if not torch.equal(seen, (keys <= query) & (keys > query - (window or 0))):
            raise UnsupportedModelError("its tokens see neither all earlier tokens nor a sliding window of them")
    return None if window == max_position - 1 else window
