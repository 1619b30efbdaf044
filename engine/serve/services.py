"""What the routes work with: one `Services` per process, and how a route gets hold of it.

Holds the parts together; each part's behavior is in its own file.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated

import anyio.to_thread
from fastapi import Depends, Path, Request

from engine.errors import EngineError
from engine.serve.answers import Answers
from engine.serve.events import EventHub
from engine.serve.exposure import LOOPBACK_NAMES
from engine.serve.guard import resources
from engine.serve.lifetime import Attendance, Housekeeper
from engine.serve.loading import EngineHost

logger = logging.getLogger(__name__)
FAILED_LINGER = 60.0  # seconds that a failed engine stays to tell why


@dataclass(frozen=True)
class Settings:
    """How the process behaves towards its clients.

    Attributes:
        token: what every request must carry.
        names: what its Host header may say.
        idle_timeout: seconds without a client until the process ends, and without a user until a context is dropped;
            0 means never.
        max_body: bytes of a request's body.
        max_answers: answers running at once.
        max_streams: event streams open at once.
        heartbeat: seconds of silence after which an event stream sends a comment.
        event_interval: least seconds between two deliveries on one event stream.
    """

    token: str
    names: frozenset[str] = LOOPBACK_NAMES
    idle_timeout: float = 600.0
    max_body: int = 64 * 1024 * 1024
    max_answers: int = 256
    max_streams: int = 256
    heartbeat: float = 15.0
    event_interval: float = 1 / 30


@dataclass
class Services:
    """The parts of the server. `end` asks the process to end, `tidy` is done every few seconds; both return at once."""

    host: EngineHost
    settings: Settings
    end: Callable[[], None]
    tidy: Callable[[], None]
    attendance: Attendance = field(default_factory=Attendance)
    hub: EventHub = field(init=False)
    answers: Answers = field(init=False)
    _housekeeping: asyncio.Task[None] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.hub = EventHub(self.settings.max_streams)
        self.answers = Answers(self.settings.max_answers)

    def start(self) -> None:
        """Begin to load the engine and to look after the house. Call on the event loop."""
        self.host.start(on_ready=lambda engine: void(engine.subscribe(self.hub.publish)))
        keeper = Housekeeper(self.attendance, self.idle_timeout, self.drop_context, self.tidy, self.end)
        self._housekeeping = asyncio.create_task(keeper.run())

    def stop(self) -> None:
        """End what would go on by itself: answers and event streams. Idempotent."""
        self.answers.stop_all()
        self.hub.close()
        if self._housekeeping is not None:
            self._housekeeping.cancel()

    def idle_timeout(self) -> float:
        """Seconds, or infinity. A failed engine doesn't wait long: it is only there to tell why."""
        timeout = self.settings.idle_timeout or math.inf
        return min(timeout, FAILED_LINGER) if self.host.failed else timeout

    async def drop_context(self, context: str) -> None:
        """Drop an abandoned context."""
        with suppress(EngineError):  # it may never have existed, or the engine may be on its way out
            engine = self.host.engine()
            await anyio.to_thread.run_sync(engine.drop_context, context)
            logger.info("dropped context %s, which nobody has used for %.0f s", context, self.idle_timeout())


def void(_value: object) -> None:
    """Forget a value."""


def get_services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


ServicesDep = Annotated[Services, Depends(get_services)]
ContextId = Annotated[
    str, Path(alias="id", min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$", description="the context's id")
]


async def used_context_id(request: Request, services: ServicesDep, context: ContextId) -> str:
    """The context in the path; it counts as used until the request has ended."""
    resources(request).enter_context(services.attendance.use_context(context))
    return context


UsedContextId = Annotated[str, Depends(used_context_id)]
