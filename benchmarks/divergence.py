"""How far a model's next tokens are from what they should be. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Divergence:
    """Of distributions of the next token behind n tokens from the right ones.

    Attributes:
        kl: mean KL(right ‖ found), nats.
        top1: share of tokens behind which both think the same one likeliest.
        same_answer: they do so behind all of the last ones, which an answer would be made of.
    """

    kl: float
    top1: float
    same_answer: bool

    @classmethod
    def of(cls, found: Tensor, right: Tensor, answer: int) -> Divergence:
        """From logits [n, vocab]; the last `answer` of the n tokens are the right answer."""
        right, found = right.log_softmax(-1), found.log_softmax(-1)
        same = right.argmax(-1) == found.argmax(-1)
        return cls(
            kl=float((right.exp() * (right - found)).sum(-1).mean()),
            top1=float(same.float().mean()),
            same_answer=bool(same[-answer - 1 :].all()),
        )
