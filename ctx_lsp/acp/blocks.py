"""A prompt's content blocks as a question and what it is about.

Knows content blocks; how a file is read is the caller's business.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urldefrag

from acp.schema import (
    AudioContentBlock,
    EmbeddedResourceContentBlock,
    ImageContentBlock,
    ResourceContentBlock,
    TextContentBlock,
    TextResourceContents,
)

from ctx_lsp.protocol import Position, Range
from engine.errors import EngineError

Block = TextContentBlock | ImageContentBlock | AudioContentBlock | ResourceContentBlock | EmbeddedResourceContentBlock

_LINES = re.compile(r"L(\d+)(?:[-:]L?(\d+))?")


class UnusableBlockError(EngineError):
    """A block of the prompt can't be understood by a model of texts."""

    code = "unusable_content"
    status = 400


@dataclass(frozen=True)
class Resource:
    """A document that the prompt names. `text` is there where the client sent it along; `range` where it is a part."""

    uri: str
    text: str | None = None
    range: Range | None = None


@dataclass(frozen=True)
class Prompt:
    """Links to what is no file stay in the text, as Markdown."""

    text: str
    resources: tuple[Resource, ...]


def read(blocks: Sequence[Block]) -> Prompt:
    """Raises UnusableBlockError."""
    texts: list[str] = []
    resources: list[Resource] = []
    for block in blocks:
        if isinstance(block, TextContentBlock):
            texts.append(block.text)
        elif isinstance(block, ResourceContentBlock) and not block.uri.startswith("file:"):
            texts.append(f"[{block.name}]({block.uri})")
        else:
            resources.append(_resource(block))
            texts.append(_mention(resources[-1]))
    return Prompt("".join(texts).strip(), tuple(dict.fromkeys(resources)))


def _resource(block: Block) -> Resource:
    if isinstance(block, ResourceContentBlock):
        return _part(block.uri, None)
    if isinstance(block, EmbeddedResourceContentBlock) and isinstance(block.resource, TextResourceContents):
        return _part(block.resource.uri, block.resource.text)
    what = block.type if not isinstance(block, EmbeddedResourceContentBlock) else f"binary {block.resource.uri}"
    raise UnusableBlockError(f"the model reads texts alone, not {what}")


def _part(uri: str, text: str | None) -> Resource:
    """Clients name lines in the fragment, e.g. `#L10:20`. A link to a part is read whole."""
    document, fragment = urldefrag(uri)
    lines = _LINES.search(fragment)
    if lines is None or text is None:
        return Resource(document, text)
    first = max(0, int(lines[1]) - 1)
    end = max(first + 1, int(lines[2] or lines[1]))
    return Resource(document, text, Range(start=Position(line=first, character=0), end=Position(line=end, character=0)))


def _mention(resource: Resource) -> str:
    """Where the user named the file; its text stands before the question."""
    return resource.uri.rpartition("/")[2] or resource.uri
