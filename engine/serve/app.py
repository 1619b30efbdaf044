"""The HTTP application: routes, gate and errors put together over an `EngineHost`.

Knows neither sockets nor processes: `server` and `main` do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI

from engine import __version__
from engine.serve import chat_routes, context_routes, errors, event_routes, process_routes
from engine.serve.guard import Gate
from engine.serve.loading import EngineHost
from engine.serve.services import Services, Settings


def create_app(
    host: EngineHost, settings: Settings, end: Callable[[], None], tidy: Callable[[], None] = lambda: None
) -> FastAPI:
    """The application; the engine begins to load when it starts.

    Args:
        host: of the engine, not started yet.
        settings: how to behave towards clients.
        end: called on the event loop when the process shall end; must return at once.
        tidy: called on the event loop every few seconds; must return at once.
    """
    services = Services(host, settings, end, tidy)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        services.start()
        yield
        services.stop()

    app = FastAPI(
        title="ctx-engine",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    clients = services.attendance.clients
    app.add_middleware(Gate, token=settings.token, names=settings.names, max_body=settings.max_body, clients=clients)
    errors.install(app)
    for module in (process_routes, chat_routes, context_routes, event_routes):
        app.include_router(module.router)
    return app
