"""What cold runs over one set of files say: their KV, the attention that each token paid, and their answers.

Compositions are tuples of pieces, the head first. Knows nothing of what is done to KV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from benchmarks.fidelity_sets import Loaded
from benchmarks.repairs_decoder import KV, PlainDecoder
from engine.chunk_frame import ChunkText
from engine.prompt import PromptBuilder
from engine.tokenizer import Tokenizer
from engine.types import ChunkKind

ANSWER_TOKENS = 40
EDIT_ROOM = 64
"""Tokens that an edit may add to a file."""

Piece = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Cold:
    """A composition computed cold.

    Attributes:
        starts: the slot at which each piece begins, and the end.
        paid: float32 [tokens, pieces] on the CPU, the attention that each token paid to each piece.
    """

    pieces: tuple[Piece, ...]
    ids: Piece
    starts: tuple[int, ...]
    kv: KV
    paid: Tensor


@dataclass(frozen=True, eq=False)
class Asked:
    """A question and its cold answer.

    Attributes:
        kind: of the question.
        ids: int64, the tail and the answer but for its last token.
        question, answer: rows of `ids` from which on the question stands and the answer is foretold.
        log_probs: float32 [rows from `question` on, vocab] of the cold run.
    """

    kind: str
    ids: Tensor
    question: int
    answer: int
    log_probs: Tensor


class Colds:
    """Cold runs over the files of one set, each made once.

    Attributes:
        head: the piece before the files.
        files: one piece for each.
    """

    def __init__(self, decoder: PlainDecoder, tokenizer: Tokenizer, loaded: Loaded) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.loaded = loaded
        self._builder = PromptBuilder(tokenizer)
        self.head: Piece = self._builder.head()
        self.files = tuple(self.file(path, text) for path, text in loaded.files)
        self._made: dict[tuple[Piece, ...], Cold] = {}
        self._asked: dict[tuple[tuple[Piece, ...], str], Asked] = {}
        tail = max(len(self._tail(text)) for _, text in loaded.questions)
        self._room = len(self.head) + sum(map(len, self.files)) + EDIT_ROOM + tail + ANSWER_TOKENS

    def file(self, path: str, text: str) -> Piece:
        return self._builder.chunk(ChunkText(text=text, sources=(path,), kind=ChunkKind.FILE, name=path))

    def _tail(self, question: str) -> Piece:
        return self._builder.tail([{"role": "user", "content": question}])

    def empty(self) -> KV:
        """KV with room for any composition of the set, a question and its answer."""
        return self.decoder.empty(self._room)

    def tensor(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor(ids, dtype=torch.int64, device=self.decoder.device)

    def cold(self, pieces: Sequence[Piece]) -> Cold:
        """The composition's KV, computed at once."""
        key = tuple(pieces)
        if key not in self._made:
            self._made[key] = self._make(key)
        return self._made[key]

    def _make(self, pieces: tuple[Piece, ...]) -> Cold:
        ids = tuple(token for piece in pieces for token in piece)
        kv, paid = self.empty(), torch.zeros(len(ids), len(ids), device=self.decoder.device)
        self.decoder.run(self.tensor(ids), torch.arange(len(ids), device=self.decoder.device), kv, paid=paid)
        starts = tuple(accumulate(map(len, pieces), initial=0))
        by_piece = torch.stack([paid[:, a:b].sum(1) for a, b in pairwise(starts)], 1)
        return Cold(pieces, ids, starts, kv, by_piece.cpu())

    def ask(self, cold: Cold, kind: str, question: str) -> Asked:
        """The greedy answer over the composition, and what was foretold at each row from the question on."""
        key = cold.pieces, kind
        if key not in self._asked:
            tail, other = self._tail(question), self._tail("~" + question)
            begin = next(i for i, (a, b) in enumerate(zip(tail, other, strict=False)) if a != b)
            ids = self.tensor([*tail, *self._greedy(cold, tail)[:-1]])
            log_probs = self.log_probs(cold.kv, len(cold.ids), ids, begin)
            self._asked[key] = Asked(kind, ids, begin, len(tail) - 1, log_probs)
        return self._asked[key]

    def _greedy(self, cold: Cold, tail: Piece) -> list[int]:
        answer: list[int] = []
        ids, at = tail, len(cold.ids)
        while True:
            slots = torch.arange(at, at + len(ids), device=self.decoder.device)
            hidden = self.decoder.run(self.tensor(ids), slots, cold.kv)
            answer.append(int(self.decoder.logits(hidden[-1:]).argmax()))
            if answer[-1] in self.tokenizer.eos_token_ids or len(answer) == ANSWER_TOKENS:
                return answer
            at += len(ids)
            ids = (answer[-1],)

    def log_probs(self, kv: KV, slots: int, ids: Tensor, begin: int, bias: Tensor | None = None) -> Tensor:
        """Log-probabilities at rows `begin` … of `ids`, read behind so many slots of `kv`; `bias` as for `run`."""
        places = torch.arange(slots, slots + len(ids), device=self.decoder.device)
        hidden = self.decoder.run(ids, places, kv, bias=bias)
        return self.decoder.logits(hidden[begin:]).log_softmax(-1)

    def mass(self, kv: KV, slots: int, asked: Asked) -> Tensor:
        """Float32 [slots] on the CPU: the attention that a question's tokens pay to each slot, mean per token."""
        ids = asked.ids[: asked.answer + 1]
        paid = torch.zeros(len(ids), slots + len(ids), device=self.decoder.device)
        self.decoder.run(ids, torch.arange(slots, slots + len(ids), device=self.decoder.device), kv, paid=paid)
        return paid[asked.question :, :slots].mean(0).cpu()
