"""How the URIs of `ctx:` documents are spelled, and what they name. Pure functions.

ctx:/chunk/<hash>/<name>              a chunk's text; the name is for people, and for the highlighting
ctx:/prompt/<conversation>?<question> the prompt of this question, or of one without words
ctx:/answer/<turn>.md                 an answer that was asked for by `ctx.explain`
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from ctx_lsp.protocol import ChunkInfo
from engine.errors import EngineError

SCHEME = "ctx"
_HASH = re.compile("[0-9a-f]{4,64}")


class UnknownDocumentError(EngineError):
    """A URI that names no document of this server, or one that is gone."""

    code = "unknown_document"
    status = 404


@dataclass(frozen=True)
class ChunkDocument:
    hash: str
    name: str


@dataclass(frozen=True)
class PromptDocument:
    conversation_id: str
    question: str


@dataclass(frozen=True)
class AnswerDocument:
    turn_id: str


Document = ChunkDocument | PromptDocument | AnswerDocument


def chunk_uri(chunk: ChunkInfo) -> str:
    return f"{SCHEME}:/chunk/{chunk.hash}/{quote(chunk.name.lstrip('/'))}"


def prompt_uri(conversation_id: str, question: str) -> str:
    query = f"?{quote(question, safe='')}" if question else ""
    return f"{SCHEME}:/prompt/{quote(conversation_id, safe='')}{query}"


def answer_uri(turn_id: str) -> str:
    return f"{SCHEME}:/answer/{quote(turn_id, safe='')}.md"


def parse(uri: str) -> Document:
    """Raises UnknownDocumentError."""
    scheme, _, path = uri.partition(":/")
    path, _, query = path.partition("?")
    kind, _, rest = path.partition("/")
    if scheme == SCHEME and rest:
        hash, _, name = rest.partition("/")
        if kind == "chunk" and _HASH.fullmatch(hash):
            return ChunkDocument(hash, unquote(name))
        if kind == "prompt":
            return PromptDocument(unquote(rest), unquote(query))
        if kind == "answer":
            return AnswerDocument(unquote(rest).removesuffix(".md"))
    forms = "ctx:/chunk/<hash>/<name>, ctx:/prompt/<conversation> and ctx:/answer/<turn>.md"
    raise UnknownDocumentError(f"{uri} names no document; they are {forms}", uri=uri)
