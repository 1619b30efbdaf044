"""The rotary modules of a transformers model, taken over: what they say is recorded, replaced, and read into tables.

A model rotates with whatever its rotary modules return, so replacing their output by the identity leaves queries and
keys unrotated. Knows nothing of attention, nor of how a model applies what a rotary module returns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Angles = tuple[Tensor, Tensor]
"""Cosines and sines of some positions, each [..., T, columns]."""


class NotUnderstood(Exception):
    """The model's positions work in a way that can't be taken over; the message says which, in words for the user."""


@dataclass(frozen=True)
class Source:
    """One call of a rotary module in a forward pass, with what it was called with."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def key(self) -> tuple[object, ...]:
        """The same for calls that differ in tensors only: those ask for the same angles."""
        named = sorted(self.kwargs.items())
        words = [(name, value) for name, value in [*enumerate(self.args), *named] if not isinstance(value, Tensor)]
        return (id(self.module), *map(repr, words))

    def at(self, positions: Tensor) -> Angles:
        """Its cosines and sines for `positions`, int64 [n]: float32 [n, columns] each."""
        args = [_positioned(value, positions) for value in self.args]
        kwargs = {name: _positioned(value, positions) for name, value in self.kwargs.items()}
        # forward, not the module's call: that one has our hook
        cos, sin = _angles(self.module.forward(*args, **kwargs))
        return cos.reshape(-1, *cos.shape[-2:])[0].float(), sin.reshape(-1, *sin.shape[-2:])[0].float()


Replace = Callable[[int, Tensor, Tensor], Angles]
"""From a source's number and the angles it gives, to the angles that the model gets."""


def identity(source: int, cos: Tensor, sin: Tensor) -> Angles:
    return torch.ones_like(cos), torch.zeros_like(sin)


class RotaryModules:
    """All rotary modules of a model.

    Attributes:
        sources: the different calls seen so far, numbered in the order of their first.
        replace: what the model gets instead of their angles; None leaves them alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self.sources: list[Source] = []
        self.replace: Replace | None = None
        self._numbers: dict[tuple[object, ...], int] = {}
        for module in model.modules():
            if "Rotary" in type(module).__name__:
                module.register_forward_hook(self._called, with_kwargs=True)

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if self.replace is None:
            return None
        source = Source(module, args, kwargs)
        number = self._numbers.setdefault(source.key, len(self._numbers))
        if number == len(self.sources):
            self.sources.append(source)
        cos, sin = self.replace(number, *_angles(output))
        if isinstance(output, Tensor):
            return torch.complex(cos, sin).to(output.dtype)
        return type(output)((cos, sin))


def _angles(output: Any) -> Angles:
    """What a rotary module returned as cosines and sines: two real tensors, or a complex one."""
    if isinstance(output, Tensor) and output.is_complex():
        return output.real, output.imag
    pair = isinstance(output, tuple | list) and len(output) == 2 and all(isinstance(part, Tensor) for part in output)
    if not pair or output[0].shape != output[1].shape or output[0].dim() < 2:
        raise NotUnderstood("its rotary embedding returns something other than cosines and sines")
    return output[0], output[1]


def _positioned(value: Any, positions: Tensor) -> Any:
    """An argument of a rotary module with other positions; the activations, of which it reads the dtype, in float32."""
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point():
        return torch.zeros(1, 1, 1, dtype=torch.float32, device=value.device)
    return positions.expand(*value.shape[:-1], len(positions))
