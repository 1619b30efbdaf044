"""The process itself over HTTP: how the engine is, its counters, and how to end it.

Answers at once, also while the model loads.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response
from starlette.background import BackgroundTask

from engine import __version__
from engine.serve import metrics
from engine.serve.services import ServicesDep

router = APIRouter()


@router.get("/health")
async def health(services: ServicesDep) -> dict[str, Any]:
    return asdict(services.host.health()) | {"pid": os.getpid(), "version": __version__}


@router.get("/metrics")
def show_metrics(services: ServicesDep) -> Response:
    return Response(metrics.exposition(services), media_type=metrics.CONTENT_TYPE)


@router.get("/v1/stats")
def stats(services: ServicesDep) -> dict[str, Any]:
    return asdict(services.host.engine().stats())


@router.post("/v1/shutdown")
async def shutdown(services: ServicesDep) -> Response:
    """Ends the process once this answer is on its way."""
    return Response('{"status": "stopping"}', media_type="application/json", background=BackgroundTask(services.end))
