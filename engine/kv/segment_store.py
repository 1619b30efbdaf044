"""All segments whose KV is in the pool: found by hash, grown, shared with others, evicted when room is needed.

Knows nothing of contexts: who asks says which keys are worth keeping.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence, Set

import numpy as np

from engine.errors import OutOfMemoryError
from engine.hashing import TokenArray, extend_hash
from engine.kv.block_manager import BlockManager
from engine.kv.segment import Segment

_WORTH_COPYING = 8
"""Tokens of a block that was begun which a segment copies rather than computes, at least."""


class SegmentStore:
    """Segments by key, and by the prefix they were computed under.

    Invariants: each segment is stored under its key and under its prefix hash; every used block is owned by exactly the
    stored or private segments that list it; a pinned segment is never evicted.
    """

    def __init__(
        self,
        blocks: BlockManager,
        block_size: int,
        active_keys: Callable[[], Set[bytes]],
        *,
        stateful: bool = False,
        copy: Callable[[int, int, int], None] | None = None,
    ) -> None:
        """`stateful`: the model carries a state from token to token, which only whole segments keep: none is shared.

        `copy`: copies so many slots' KV from one place to another; None where computing them anew costs no more.
        """
        self.blocks = blocks
        self.block_size = block_size
        self.stateful = stateful
        self._active_keys = active_keys
        self._copy = copy
        self._by_key: dict[bytes, Segment] = {}
        self._by_prefix: dict[bytes, dict[bytes, Segment]] = {}
        self._private: dict[int, Segment] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: bytes) -> Segment | None:
        """The segment with this key, computed or in growth."""
        return self._by_key.get(key)

    def shareable(self, prefix_hash: bytes, tokens: TokenArray) -> tuple[Segment | None, int]:
        """The segment under the same prefix that begins with most of `tokens`, and how many of them can be shared.

        Whole, computed blocks: their KV is exact for `tokens`, and nobody writes to them any more. And where KV can be
        copied, what is computed of the block behind them, if that is worth it.
        """
        best: Segment | None = None
        most = 0
        if self.stateful:
            return None, 0
        for segment in self._by_prefix.get(prefix_hash, {}).values():
            length = min(segment.filled, len(tokens))
            differs = np.flatnonzero(segment.tokens[:length] != tokens[:length])
            common = int(differs[0]) if len(differs) else length
            if (common := self._worth_sharing(common)) > most:
                best, most = segment, common
        return best, most

    def _worth_sharing(self, tokens: int) -> int:
        begun = tokens % self.block_size
        return tokens if self._copy is not None and begun >= _WORTH_COPYING else tokens - begun

    def ready(self, prefix_hash: bytes, tokens: TokenArray) -> int:
        """How many of `tokens` a segment opened for them now would hold already."""
        segment = self._by_key.get(extend_hash(prefix_hash, tokens))
        return segment.filled if segment else self.shareable(prefix_hash, tokens)[1]

    def open(self, prefix_hash: bytes, tokens: TokenArray, start: int, seen: frozenset[str] = frozenset()) -> Segment:
        """The segment for `tokens` under `prefix_hash`, pinned: the stored one, else a new one that shares what it can.

        `seen` goes to a new one.

        Raises:
            OutOfMemoryError: pinned segments leave too few blocks.
        """
        segment = self._by_key.get(extend_hash(prefix_hash, tokens))
        if segment is None:
            segment = self._create(prefix_hash, tokens, start, len(tokens), seen)
            self._by_key[segment.key] = segment
            self._by_prefix.setdefault(prefix_hash, {})[segment.key] = segment
        self.pin(segment)
        return segment

    def open_private(self, prefix_hash: bytes, tokens: TokenArray, start: int) -> Segment:
        """A new segment that only its owner sees, with at least its last token still to be computed.

        It may grow by `append`, and must end in `publish` or `discard`.
        """
        segment = self._create(prefix_hash, tokens, start, len(tokens) - 1)
        self._private[id(segment)] = segment
        return segment

    def _create(
        self,
        prefix_hash: bytes,
        tokens: TokenArray,
        start: int,
        share_at_most: int,
        seen: frozenset[str] = frozenset(),
    ) -> Segment:
        donor, shared = self.shareable(prefix_hash, tokens[:share_at_most])
        blocks = donor.blocks[: shared // self.block_size] if donor else []
        # taken before room is made, so that evicting the donor can't free them
        self.blocks.retain(blocks)
        try:
            own = self._allocate(-(-len(tokens) // self.block_size) - len(blocks), after=blocks[-1] if blocks else None)
        except OutOfMemoryError:
            self.blocks.release(blocks)
            raise
        if donor is not None:
            self._copy_begun(donor.blocks[len(blocks) :], own, shared % self.block_size)
        segment = Segment(prefix_hash, tokens, start, [*blocks, *own], shared, seen)
        if donor is not None:
            segment.read = {
                piece: np.pad(read[:shared], (0, len(tokens) - shared)) for piece, read in donor.read.items()
            }
        return segment

    def _copy_begun(self, source: Sequence[int], target: Sequence[int], tokens: int) -> None:
        """Copy the first `tokens` slots of the first block of `source` to that of `target`.

        Whatever became of the source meanwhile, should its segment have been evicted: until the next step is computed
        nobody writes to it.
        """
        if tokens and self._copy is not None and source[0] != target[0]:
            self._copy(source[0] * self.block_size, target[0] * self.block_size, tokens)

    def append(self, segment: Segment, token: int) -> None:
        """Add a token, not yet computed, to a private segment."""
        if len(segment.tokens) == len(segment.blocks) * self.block_size:
            segment.blocks += self._allocate(1, after=segment.blocks[-1])
        segment.tokens = np.append(segment.tokens, np.int32(token))

    def has_room(self, segment: Segment, count: int) -> bool:
        """Whether a private segment can grow by `count` tokens now; evicts for it, but takes nothing."""
        lacking = -(-(len(segment.tokens) + count) // self.block_size) - len(segment.blocks)
        self._evict(lacking)
        return self.blocks.free >= lacking

    def reserve(self, segment: Segment, count: int) -> int:
        """Blocks for `count` tokens more than a private segment has; returns for how many there is room.

        None is taken that leaves a growing segment without one for its next token; `trim` gives them back.
        """
        lacking = -(-(len(segment.tokens) + count) // self.block_size) - len(segment.blocks)
        if lacking > 0:
            self._evict(lacking + len(self._private))
            if self.blocks.free >= lacking + len(self._private):
                segment.blocks += self.blocks.allocate(lacking, after=segment.blocks[-1])
        return min(count, len(segment.blocks) * self.block_size - len(segment.tokens))

    def trim(self, segment: Segment) -> None:
        """Free the blocks of a private segment that hold none of its tokens."""
        needed = -(-len(segment.tokens) // self.block_size)
        self.blocks.release(segment.blocks[needed:])
        del segment.blocks[needed:]

    def publish(self, segment: Segment) -> None:
        """End a private segment and keep its computed tokens for others to share.

        They go to a segment of their own: a step under way may still read where this one's tokens lie.
        """
        del self._private[id(segment)]
        tokens = segment.tokens[: segment.filled].copy()
        blocks = segment.blocks[: -(-segment.filled // self.block_size)]
        kept = Segment(segment.prefix_hash, tokens, segment.start, blocks, segment.filled, segment.seen)
        kept.read, kept.state = segment.read, segment.state
        self.blocks.release(segment.blocks[len(blocks) :])
        if not blocks or kept.key in self._by_key:
            self.blocks.release(blocks)
            return
        self._by_key[kept.key] = kept
        self._by_prefix.setdefault(kept.prefix_hash, {})[kept.key] = kept
        self._touch(kept)

    def discard(self, segment: Segment) -> None:
        """End a private segment and free what it held."""
        del self._private[id(segment)]
        self.blocks.release(segment.blocks)

    def pin(self, segment: Segment) -> None:
        segment.pins += 1
        self._touch(segment)

    def unpin(self, segment: Segment) -> None:
        assert segment.pins > 0, "unpinned more often than pinned"
        segment.pins -= 1

    def _touch(self, segment: Segment) -> None:
        self._clock += 1
        segment.last_used = self._clock

    def _allocate(self, count: int, after: int | None = None) -> list[int]:
        """Blocks, evicting if need be: inactive before active, least recently used first."""
        self._evict(count)
        if count > self.blocks.free:
            raise OutOfMemoryError(
                "The KV pool is held by running answers. Ask again when one has ended, or raise kv_cache_tokens.",
                needed=count * self.block_size,
                free=self.blocks.free * self.block_size,
            )
        return self.blocks.allocate(count, after)

    def _evict(self, count: int) -> None:
        """Free blocks until there are `count`, or no more that may go."""
        if self.blocks.free >= count:
            return
        active = self._active_keys()
        idle = [segment for segment in self._by_key.values() if segment.pins == 0]
        for segment in sorted(idle, key=lambda segment: (segment.key in active, segment.last_used)):
            if self.blocks.free >= count:
                return
            self._remove(segment)

    def _remove(self, segment: Segment) -> None:
        del self._by_key[segment.key]
        siblings = self._by_prefix[segment.prefix_hash]
        del siblings[segment.key]
        if not siblings:
            del self._by_prefix[segment.prefix_hash]
        self.blocks.release(segment.blocks)

    def check_integrity(self, pins: Sequence[Segment]) -> None:
        """Assert the class's invariants, and that `pins` are all the pins there are."""
        held = Counter(map(id, pins))
        assert all(segment.pins == held.pop(key, 0) for key, segment in ((id(s), s) for s in self._by_key.values()))
        assert not held, "a pinned segment is not stored"
        owners = [*self._by_key.values(), *self._private.values()]
        self.blocks.check_integrity(segment.blocks for segment in owners)
        for key, segment in self._by_key.items():
            assert key == segment.key == extend_hash(segment.prefix_hash, segment.tokens), "a key is out of date"
            assert self._by_prefix[segment.prefix_hash][key] is segment, "a segment is missing under its prefix"
        assert sum(map(len, self._by_prefix.values())) == len(self._by_key), "stray segments under a prefix"
        for segment in owners:
            assert 0 <= segment.filled <= len(segment.tokens) <= len(segment.blocks) * self.block_size
            assert segment.pins >= 0
            assert len(set(segment.blocks)) == len(segment.blocks), "a block occurs twice in a segment"
