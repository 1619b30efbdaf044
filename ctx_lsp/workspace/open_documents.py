"""The documents that the client has open, with their texts as it has them, and which of them an editor shows.

Knows LSP's text synchronization; knows nothing of files or chunks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lsprotocol import types

from ctx_lsp.client.text_sync import apply_changes

logger = logging.getLogger(__name__)


@dataclass
class OpenDocument:
    """A document as the client has it. `home`: the URI of the notebook that it is a cell of, else its own."""

    uri: str
    home: str
    source: str
    version: int
    text: str


class OpenDocuments:
    """Open documents by URI.

    Invariant: `_by_source` has, for each source of an open document, the URIs of those documents in the order in which
    they were opened; the first one speaks for the source.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._by_uri: dict[str, OpenDocument] = {}
        self._by_source: dict[str, list[str]] = {}
        self._visible: frozenset[str] | None = None

    def __iter__(self) -> Iterator[OpenDocument]:
        return iter(self._by_uri.values())

    def open(self, document: OpenDocument) -> None:
        """A document that is open already is opened anew."""
        self.close(document.uri)
        self._by_uri[document.uri] = document
        self._by_source.setdefault(document.source, []).append(document.uri)

    def change(
        self, uri: str, version: int, changes: Sequence[types.TextDocumentContentChangeEvent]
    ) -> OpenDocument | None:
        document = self._by_uri.get(uri)
        if document is None:
            logger.warning("a change to %s, which is not open", uri)
            return None
        document.text = apply_changes(document.text, changes, self._encoding)
        document.version = version
        return document

    def close(self, uri: str) -> OpenDocument | None:
        document = self._by_uri.pop(uri, None)
        if document is not None:
            uris = self._by_source[document.source]
            uris.remove(uri)
            if not uris:
                del self._by_source[document.source]
        return document

    def show(self, uris: Iterable[str]) -> list[OpenDocument]:
        """Only these are in a tab or an editor. Returns the documents for which that is news."""
        before = {document.uri for document in self if self.shows(document)}
        self._visible = frozenset(uris)
        return [document for document in self if (document.uri in before) != self.shows(document)]

    def shows(self, document: OpenDocument) -> bool:
        """Whether the user can see it; a client that never says which ones are seen shows them all."""
        return self._visible is None or not self._visible.isdisjoint((document.uri, document.home))

    def get(self, uri: str) -> OpenDocument | None:
        return self._by_uri.get(uri)

    def of_source(self, source: str) -> OpenDocument | None:
        uris = self._by_source.get(source)
        return self._by_uri[uris[0]] if uris else None
