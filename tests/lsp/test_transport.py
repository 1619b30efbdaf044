"""Framing: messages are found whatever pieces they come in."""

from __future__ import annotations

import asyncio
import io
import json
import os
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ctx_lsp.rpc.transport import MessageReader, MessageWriter, frame, parse, read_body, write_all


@given(bodies=st.lists(st.binary(max_size=50)))
def test_what_is_framed_is_read(bodies: list[bytes]) -> None:
    stream = io.BytesIO(b"".join(frame(body) for body in bodies))
    assert [read_body(stream) for _ in bodies] == bodies
    assert read_body(stream) is None


@given(cut=st.integers(0, 25))
def test_a_message_that_breaks_off_is_none(cut: int) -> None:
    whole = frame(b"123456789")
    assert len(whole) == 30
    assert read_body(io.BytesIO(whole[: cut + 4])) is None


def test_a_later_length_counts() -> None:
    assert read_body(io.BytesIO(b"Content-Length: 99\r\nContent-Length: 2\r\n\r\nab")) == b"ab"


def test_what_is_no_json_is_an_error_value() -> None:
    assert isinstance(parse(b"{"), ValueError)
    assert isinstance(parse(b"\xff"), ValueError)
    assert parse(b'{"a": 1}') == {"a": 1}


async def test_a_writer_and_a_reader_over_a_pipe() -> None:
    receiving, sending = os.pipe()
    received: list[Any] = []
    ended = asyncio.Event()
    reader = MessageReader(os.fdopen(receiving, "rb"), received.append, ended.set)
    reader.start()
    writer = MessageWriter(partial(write_all, sending))
    messages = [{"number": number, "text": "x" * 1000} for number in range(300)]
    for message in messages:
        writer.write(frame(json.dumps(message).encode()))
    writer.close()
    os.close(sending)
    await asyncio.wait_for(ended.wait(), 30)
    assert received == messages


async def test_writing_to_nobody_does_no_harm() -> None:
    receiving, sending = os.pipe()
    os.close(receiving)
    writer = MessageWriter(partial(write_all, sending))
    for _ in range(10):
        writer.write(b"x" * 100_000)
    writer.close()
    os.close(sending)
