"""StopChecker: finds stop strings in an answer as its text arrives in pieces. Knows nothing of tokens."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass
class _Node:
    """A prefix of one or more stop strings.

    Attributes:
        depth: its length in characters.
        found: length of the longest stop string that ends here, 0 if none does.
        suffix: the node of the longest proper suffix that is a prefix of a stop string too; None for the root.
    """

    depth: int
    found: int = 0
    children: dict[str, _Node] = field(default_factory=dict)
    suffix: _Node | None = None


class StopChecker:
    """Passes text on as soon as it can't be part of a stop string any more.

    How the text is cut into deltas makes no difference: the answer ends at the first character that completes a stop
    string, and before that string begins (of several that end there, the longest). Constant time per character, by
    an Aho-Corasick automaton.

    Invariant: what is held back is the longest end of the text so far that begins a stop string.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._root = self._at = _automaton(stop)
        self._held = ""
        self.stopped = False

    def push(self, delta: str) -> tuple[str, bool]:
        """Take more text; returns the text that is safe to emit now, and whether a stop string has appeared.

        After that nothing is emitted any more.
        """
        if self.stopped:
            return "", True
        text = self._held + delta
        for position, character in enumerate(delta, start=len(self._held) + 1):
            self._at = _step(self._at, character)
            if self._at.found:
                self.stopped, self._held = True, ""
                return text[: position - self._at.found], True
        safe = len(text) - self._at.depth
        self._held = text[safe:]
        return text[:safe], False

    def flush(self) -> str:
        """The answer is over: what was held back did not become a stop string."""
        held, self._held, self._at = self._held, "", self._root
        return held


def _step(node: _Node, character: str) -> _Node:
    while character not in node.children:
        if node.suffix is None:
            return node
        node = node.suffix
    return node.children[character]


def _automaton(stop: tuple[str, ...]) -> _Node:
    root = _Node(0)
    for string in stop:
        node = root
        for character in string:
            node = node.children.setdefault(character, _Node(node.depth + 1))
        node.found = len(string)
    waiting = deque([root])
    while waiting:
        parent = waiting.popleft()
        for character, child in parent.children.items():
            child.suffix = root if parent.suffix is None else _step(parent.suffix, character)
            child.found = max(child.found, child.suffix.found)
            waiting.append(child)
    return root
