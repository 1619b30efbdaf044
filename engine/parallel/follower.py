"""A follower: the process of one rank above 0. Loads its shard, then computes what rank 0 tells it.

It ends when rank 0 does: the pipe between them tells. `python -m engine.parallel.follower FD`, FD being its end of it.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from multiprocessing.connection import Connection

import torch

from engine.attention.triton_attention import TritonAttention
from engine.device import on_device
from engine.errors import EngineError
from engine.model import make_kv
from engine.models.decoder import Decoder
from engine.parallel.group import Group, meeting_place
from engine.parallel.messages import EagerStep, Failed, GraphStep, Here, Prepare, Start
from engine.runtime.graphs import Graphs, Size
from engine.runtime.make_runner import prepare_graphs

_SPIN = 0.02
"""Seconds after a step: while an answer is decoded, the next one comes sooner."""

logger = logging.getLogger(__name__)


def main() -> None:
    """Serve until rank 0 ends, or something fails."""
    logging.basicConfig(level=logging.WARNING)
    connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_end_with, args=(connection.fileno(),), daemon=True).start()
    try:
        _serve(connection)
    except Exception as error:
        logger.exception("a follower failed")
        connection.send(Failed(error.message if isinstance(error, EngineError) else f"{error!r}"))
        os._exit(1)  # whatever else would be waited for on the way out, nobody needs


def _end_with(pipe: int) -> None:
    """End this process when the other end of the pipe is closed, even if a collective is waited for meanwhile."""
    poller = select.poll()
    poller.register(pipe, 0)  # hang-ups are told without being asked for
    poller.poll()
    os._exit(0)


def _serve(connection: Connection) -> None:
    start = connection.recv()
    assert isinstance(start, Start)
    if start.config.threads is not None:
        torch.set_num_threads(start.config.threads)
    device = torch.device(start.device)
    with on_device(device):
        torch.empty(1, device=device)
        size = start.config.tensor_parallel_size
        store = meeting_place(size, start.port)
        connection.send(Here())
        rank = _Rank(start, Group(store, start.rank, size, device))
        while True:
            rank.follow(_next_message(connection, _SPIN if device.type == "cuda" else 0.0))


def _next_message(connection: Connection, spin: float) -> Prepare | GraphStep | EagerStep:
    """What rank 0 says next; waited for `spin` seconds without sleeping, since waking up would hold up every token."""
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    deadline = time.monotonic() + spin
    while time.monotonic() < deadline and not poller.poll(0):
        pass
    message: Prepare | GraphStep | EagerStep = connection.recv()
    return message


class _Rank:
    """One rank's model; what it is told it computes with rank 0, and throws the results away."""

    def __init__(self, start: Start, group: Group) -> None:
        self._decoder: Decoder = start.load(group, None)[0]
        _, attention = make_kv(start.config, self._decoder, group)
        assert isinstance(attention, TritonAttention), "make_attention takes no other for several ranks"
        self._attention = attention
        self._device = group.device
        self._graphs: Graphs | None = None

    @torch.inference_mode()
    def follow(self, message: Prepare | GraphStep | EagerStep) -> None:
        if isinstance(message, GraphStep):
            assert self._graphs is not None
            # rank 0 sends nothing before it is done with the last step, so the last plan is on the device by now
            self._graphs.replay(Size(message.tokens, message.block_m), message.data)
        elif isinstance(message, EagerStep):
            self._compute(message)
        else:
            self._graphs = None
            self._graphs = prepare_graphs(self._decoder, self._attention, message.sizes)

    def _compute(self, step: EagerStep) -> None:
        self._attention.begin(step.plan, self._attention.buffers_for(step.plan))
        tokens, positions = (torch.from_numpy(part).to(self._device) for part in (step.tokens, step.positions))
        if not len(step.wanted):
            self._decoder.fill(tokens, positions, self._attention)
            return
        hidden = self._decoder.forward(tokens, positions, self._attention)
        self._decoder.logits(hidden[torch.from_numpy(step.wanted).to(self._device)])


if __name__ == "__main__":
    main()
