"""IncrementalDetokenizer: token ids, as they are generated, to text that never ends in half a character.

Relies on the tokenizer's own decoder for everything but the byte-level alphabet; knows nothing of answers or stop
strings.
"""

from __future__ import annotations

import codecs
import json
import re
from functools import cache

from engine.tokenizer import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so the most tokens that one character can be spread over."""


class IncrementalDetokenizer:
    """Text deltas of one answer; constant time per token.

    Together the deltas are exactly `Tokenizer.decode` of all tokens: special tokens give no text, bytes that aren't
    UTF-8 give U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._special_ids = tokenizer.special_ids
        decoder = tokenizer.backend.decoder
        kind = json.loads(decoder.__getstate__())["type"] if decoder is not None else None
        self._stream = _ByteLevelStream(tokenizer) if kind == "ByteLevel" else _UnitStream(tokenizer)

    def push(self, token_id: int) -> str:
        """The text that this token makes certain, maybe empty."""
        return "" if token_id in self._special_ids else self._stream.push(token_id)

    def flush(self) -> str:
        """What is left when no more tokens come: an unfinished character as U+FFFD, or a byte run."""
        return self._stream.flush()


class _ByteLevelStream:
    """For byte-level BPE: tokens are bytes, and Python's UTF-8 decoder keeps the unfinished ones."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._backend = tokenizer.backend
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        token = self._backend.id_to_token(token_id)
        return "" if token is None else self._decoder.decode(_token_bytes(token))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


def _token_bytes(token: str) -> bytes:
    """A byte-level token's bytes; a token with characters from outside that alphabet stands for itself."""
    alphabet = _byte_alphabet()
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError:
        return token.encode("utf-8")


@cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable Latin-1 stands for itself, the rest is numbered from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


class _UnitStream:
    """For SentencePiece-like and unknown decoders: a unit of tokens is decoded behind the token before it.

    A unit is one token, with the run of ``<0x..>`` byte tokens before it (one bad byte changes the text of an entire
    run), or the few tokens over which a character is spread. The token before it keeps the decoder from treating the
    unit as the beginning of a text, where it drops a leading space.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._backend = tokenizer.backend
        self._before: list[int] = []
        self._unit: list[int] = []

    def push(self, token_id: int) -> str:
        token = self._backend.id_to_token(token_id)
        if token is None:
            return ""
        self._unit.append(token_id)
        return "" if _BYTE_TOKEN.fullmatch(token) else self._take_unit()

    def flush(self) -> str:
        return self._take_unit(final=True)

    def _take_unit(self, *, final: bool = False) -> str:
        """The unit's text if it is certain, else nothing."""
        if not self._unit:
            return ""
        known = self._decode(self._before)
        text = self._decode(self._before + self._unit)[len(known) :]
        if text.endswith(_REPLACEMENT) and len(self._unit) < _LONGEST_CHARACTER and not final:
            return ""
        self._before, self._unit = self._unit[-1:], []
        return text

    def _decode(self, ids: list[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=True) if ids else ""
