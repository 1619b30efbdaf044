"""Drafts by prompt lookup: an answer about code repeats code, so what once followed its last tokens may follow again.

Knows token ids only; whether a draft is worth its time, and whether it was right, is said elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.hashing import TokenArray

_LENGTHS = (1, 3, 7, 15)
"""With the token before them these are steps of a power of two of tokens, as kernels and graphs like them."""

_LONGEST_MATCH = 16
"""Tokens of agreement beyond which more of it says nothing more."""

_LEAST_MATCH, _STRICTEST_MATCH = 2, 8
"""Tokens that must agree while drafts prove right, and once they have all proved wrong."""


class Drafter:
    """The tokens that an answer may repeat: its prompt, then what it has said itself.

    Prompt lookup decoding (Saxena 2023). The stream is scanned, not indexed: there is nothing to build before the first
    draft nor to keep in step, and to compare a prompt with one token takes a microsecond per few thousand tokens, far
    less than reading their KV.

    Attributes:
        length: most tokens of the next draft; grows as drafts are accepted whole and shrinks as they aren't.
    """

    def __init__(self, prompt: Sequence[TokenArray]) -> None:
        """`prompt`: its pieces in order, int32 [n] each. They are put together when the first draft is asked for."""
        self._prompt = prompt
        self._stream = np.empty(0, dtype=np.int32)
        self._filled = 0
        self._prompt_tokens = 0
        self._rung = 1
        self._least_match = _LEAST_MATCH

    @property
    def length(self) -> int:
        return _LENGTHS[self._rung]

    def draft(self, answer: Sequence[int], count: int) -> TokenArray:
        """Up to `count` tokens, and up to `length`, that may follow; int32, none if the last ones stand nowhere else.

        They are those behind the longest match of the last tokens, behind the latest of several. A match that reaches
        up to where it began is taken to go on in circles.

        Args:
            answer: all that was said so far; begins with what it was the last time.
        """
        self._extend(answer)
        stream = self._stream[: self._filled]
        begin = _behind_match(stream, self._least_match)
        count = min(count, self.length)
        if begin is None or count < 1:
            return stream[:0]
        return np.resize(stream[begin : begin + count], count)

    def verified(self, drafted: int, accepted: int) -> None:
        """Of a draft of so many tokens so many were right."""
        if accepted == drafted:
            self._rung = min(self._rung + 1, len(_LENGTHS) - 1)
        elif 2 * accepted < drafted:
            self._rung = max(self._rung - 1, 0)
        self._least_match = min(self._least_match + 1, _STRICTEST_MATCH) if not accepted else _LEAST_MATCH

    def _extend(self, answer: Sequence[int]) -> None:
        """Take in what is new of the answer."""
        if not self._filled:
            self._stream = np.concatenate(self._prompt)
            self._prompt_tokens = self._filled = len(self._stream)
        new = answer[self._filled - self._prompt_tokens :]
        if self._filled + len(new) > len(self._stream):
            self._stream = np.concatenate((self._stream, np.empty_like(self._stream, shape=self._filled + len(new))))
        self._stream[self._filled : self._filled + len(new)] = new
        self._filled += len(new)


def _behind_match(stream: TokenArray, least_match: int) -> int | None:
    """Where the stream goes on behind the latest of the longest earlier occurrences of its end; None without one."""
    if len(stream) <= _LEAST_MATCH:
        return None
    # two tokens at once: of a common one alone there are too many
    ends = np.flatnonzero((stream[1:-1] == stream[-1]) & (stream[:-2] == stream[-2])) + 1
    matched = _LEAST_MATCH
    while len(ends) and matched < _LONGEST_MATCH:
        longer = ends[ends >= matched]
        longer = longer[stream[longer - matched] == stream[-1 - matched]]
        if not len(longer):
            break
        ends = longer
        matched += 1
    return int(ends[-1]) + 1 if len(ends) and matched >= least_match else None
